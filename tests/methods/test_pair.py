"""The pair's forwards, and the contexts that put everything back."""

import pytest
import torch
from torch import nn

from d2rkit.methods.pair import GuidedPair, eval_mode, frozen


class Recorder(nn.Module):
    def __init__(self, name, log):
        super().__init__()
        self.name, self.log = name, log
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.log.append((self.name, x.item()))
        return x * self.weight


X, X_ADV = torch.tensor(1.0), torch.tensor(2.0)


def test_order_of_forwards_is_as_released():
    log = []
    pair = GuidedPair(Recorder("f", log), Recorder("g", log))
    logits = pair(X, X_ADV)
    assert log == [("f", 2), ("f", 1), ("g", 1)]
    assert [part.item() for part in logits[:3]] == [1, 2, 1] and logits.guide_adv is None
    log.clear()
    pair(X, X_ADV, clean_first=True)
    assert log == [("f", 1), ("f", 2), ("g", 1)]


def test_what_is_not_needed_is_not_forwarded():
    log = []
    pair = GuidedPair(Recorder("f", log), Recorder("g", log))
    assert pair(None, X_ADV)[::2] == (None, None) and log == [("f", 2)]
    log.clear()
    assert pair(X, None, guide_only=True)[:2] == (None, None) and log == [("g", 1)]
    log.clear()
    assert GuidedPair(Recorder("f", log))(X, X_ADV).guide_clean is None and len(log) == 2


def test_frozen_thaws_what_was_thawed_only():
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    with pytest.raises(RuntimeError, match="on purpose"), frozen(net):
        assert not net.weight.requires_grad
        raise RuntimeError("on purpose")
    assert net.weight.requires_grad and not net.bias.requires_grad


def test_eval_mode_puts_every_submodule_back():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train()
    net[1].eval()
    with pytest.raises(RuntimeError, match="on purpose"), eval_mode(net):
        assert not net.training and not net[0].training and not net[1].training
        raise RuntimeError("on purpose")
    assert net.training and net[0].training and not net[1].training
