"""Networks laid out for speed: the same function to rounding, the widest convolutions contiguous on a CPU."""

import copy
import pickle

import pytest
import torch
from torch import nn

from d2rkit.acceleration.memory_format import WIDE, restore, set_memory_format
from d2rkit.networks.architectures import build_model
from tests.acceleration.odd_networks import stir
from tests.acceleration.test_folding import folded


def layouts(network, x):
    """For each convolution, by name: its output channels, and whether image and weight are channels_last in it."""
    layout_of = {}

    def note(name):
        def hook(conv, inputs, output):
            tensors = (inputs[0], conv.weight, output)
            layout_of[name] = conv.out_channels, *(t.is_contiguous(memory_format=torch.channels_last) for t in tensors)

        return hook

    hooks = [m.register_forward_hook(note(n)) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    network(x)
    for hook in hooks:
        hook.remove()
    return layout_of


@pytest.mark.parametrize("name", ["preactresnet18", "resnet18-guide", "wrn-10-1"])
def test_logits_and_all_gradients_are_equal_to_rounding(name):
    torch.manual_seed(0)
    plain = stir(build_model(name, 10, 32)).double()
    arranged, x = set_memory_format(copy.deepcopy(plain)), torch.rand(2, 3, 32, 32).double().requires_grad_()
    torch.testing.assert_close(arranged(x), plain(x), rtol=1e-9, atol=1e-9)
    for network in (plain, arranged):
        network.train()
    of = [torch.autograd.grad(net(x).square().sum(), [x, *net.parameters()]) for net in (plain, arranged)]
    for ours, theirs in zip(*of, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("prepare", [set_memory_format, folded, lambda network: folded(set_memory_format(network))])
def test_on_a_cpu_only_the_widest_convolutions_are_contiguous(prepare):
    layout_of = layouts(prepare(build_model("preactresnet18", 10, 32)), torch.rand(2, 3, 32, 32))
    wide = {name: last for name, (channels, *last) in layout_of.items() if channels >= WIDE}
    narrow = {name: last for name, (channels, *last) in layout_of.items() if channels < WIDE}
    assert set(wide) == {"layer4.0.shortcut.0"} | {f"layer4.{block}.conv{i}" for block in (0, 1) for i in (1, 2)}
    assert not any(image or out for image, _, out in wide.values())
    del wide["layer4.0.shortcut.0"]  # for a 1x1 weight both layouts are one
    assert not any(weight for _, weight, _ in wide.values())
    del narrow["conv1"]  # takes images as they come
    assert len(narrow) == 14 and all(all(last) for last in narrow.values())


def test_an_arranged_network_can_be_arranged_again_copied_and_sent_to_another_process():
    network = set_memory_format(set_memory_format(build_model("preactresnet18", 10, 32)))
    for same in (network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert len(same.layer4[0].conv2._forward_pre_hooks) == 1
        assert not same.layer3[0].conv2._forward_pre_hooks


def test_what_was_arranged_can_be_restored():
    plain = build_model("preactresnet18", 10, 32)
    restored = restore(set_memory_format(copy.deepcopy(plain)))
    assert not any(module._forward_pre_hooks for module in restored.modules())
    for ours, theirs in zip(restored.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


def test_elsewhere_than_on_a_cpu_all_is_channels_last():
    moved = set_memory_format(set_memory_format(build_model("preactresnet18", 10, 32)).to("meta"))
    assert not any(module._forward_pre_hooks for module in moved.modules())
    assert moved.layer4[1].conv2.weight.is_contiguous(memory_format=torch.channels_last)


class Volume(nn.Module):
    """Channels as a third dimension, and a wide convolution that is called by keyword."""

    def __init__(self):
        super().__init__()
        self.volume, self.wide, self.head = nn.Conv3d(1, 2, 3, padding=1), nn.Conv2d(6, 512, 1), nn.Linear(512, 10)

    def forward(self, x):
        return self.head(self.wide(input=self.volume(x.unsqueeze(1)).flatten(1, 2)).relu().mean((2, 3)))


def test_weights_of_five_dimensions_and_calls_by_keyword_are_as_welcome():
    torch.manual_seed(0)
    network, x = Volume(), torch.rand(2, 3, 8, 8)
    before = network(x)
    torch.testing.assert_close(set_memory_format(network)(x), before)
    assert torch.equal(restore(network)(x), before)
