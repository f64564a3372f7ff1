"""One training step in one process: what is added up, what is cleared, and what stops it."""

import copy

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.pair import GuidedPair
from d2rkit.training.recipe import Recipe
from d2rkit.training.step import TrainState, guide_step, training_step

LR = 0.1


@pytest.fixture
def pair():
    """Without BatchNorm: the loss on a batch is a mean over its images."""
    torch.manual_seed(0)
    nets = (nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double() for _ in "fg")
    return GuidedPair(*nets)


@pytest.fixture
def batch(digits):
    return digits.train.pixels(slice(0, 13)).double(), digits.train.labels[:13]


def step(pair, x, y, *, method="lbgat0", micro_batch=0, times=1, momentum=0.0):
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(pair, torch.optim.SGD(pair.parameters(), LR, momentum))
    recipe = Recipe(method, eps=0.1, step_size=0.05, steps=0, micro_batch=micro_batch)
    for _ in range(times):
        start = torch.Generator().manual_seed(0)
        result = training_step(TrainState(fabric, model, pair, optimizer, METHODS[method], recipe, start), x, y)
    return result


def test_gradients_are_of_this_step_alone(pair, batch):
    """A second step on a pair that has made a first equals a first step on a pair with those weights."""
    again = copy.deepcopy(pair)
    step(pair, *batch, times=2)
    step(again, *batch)
    for parameter in again.parameters():
        parameter.grad = None
    step(again, *batch)
    for a, b in zip(pair.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


GUIDED = ("lbgat0", "rslad", "rslad-online", "peeraid", "adaad", "iad", "dgad", "adr", "ikl-guided")


@pytest.mark.parametrize(("method", "micro_batch"), [(GUIDED[0], n) for n in (1, 5, 12)] + [(m, 4) for m in GUIDED])
def test_micro_batches_of_one_process_add_up(pair, batch, method, micro_batch, monkeypatch):
    """13 images in pieces of unlike size give the step, the loss and the accuracy of all at once."""
    from d2rkit.methods import attacks

    monkeypatch.setattr(attacks, "gaussian_start", lambda x, generator=None: 0.01 * torch.ones_like(x))
    monkeypatch.setattr(attacks, "uniform_start", lambda x, eps, generator=None: 0.01 * torch.ones_like(x))
    pieces = copy.deepcopy(pair)
    whole, right = step(pair, *batch, method=method)
    parts, right_parts = step(pieces, *batch, method=method, micro_batch=micro_batch)
    for a, b in zip(pair.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(parts.total, whole.total)
    asked = METHODS[method]
    names = {"adv"} | ({"clean"} if asked.needs_clean else set()) | ({"guide"} if asked.needs_guide_clean else set())
    assert right.keys() == right_parts.keys() == names | ({"guide_adv"} if asked.needs_guide_adv else set())
    for name in right:
        torch.testing.assert_close(right_parts[name], right[name])
        assert 0 <= right[name] <= len(batch[0])


@pytest.mark.parametrize("micro_batch", [0, 4])
def test_the_guides_own_step_is_a_step_down_its_cross_entropy(pair, batch, micro_batch):
    x, y = batch
    by_hand = copy.deepcopy(pair.guide)
    nn.functional.cross_entropy(by_hand(x), y).backward()
    fabric = Fabric(accelerator="cpu", devices=1)
    target = copy.deepcopy(pair.target.state_dict())
    model, optimizer = fabric.setup(pair, torch.optim.SGD(pair.parameters(), LR))
    recipe = Recipe("lbgat0", micro_batch=micro_batch)
    state = TrainState(fabric, model, pair, optimizer, METHODS["lbgat0"], recipe, torch.Generator())
    loss, right = guide_step(state, x, y)
    for weight, expected in zip(pair.guide.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(weight, expected - LR * expected.grad, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(target[name], value) for name, value in pair.target.state_dict().items())
    assert right.keys() == {"guide"} and loss.total > 0
