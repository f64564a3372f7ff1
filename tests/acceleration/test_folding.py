"""Folded twins: the same function to rounding, half the layers."""

import copy
import shutil
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode

from d2rkit.acceleration.attack_copies import AttackCopies, attack_copy
from d2rkit.acceleration.folding import Affine, FoldedCopy
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from tests.acceleration.odd_networks import stir
from tests.conftest import make_pair

NETWORKS = [("wrn-10-1", 32, 3), ("preactresnet18", 16, 3), ("resnet18-guide", 16, 3), ("cnn-4", 8, 1), ("mlp-8", 2, 1)]


def images(size, channels):
    return torch.rand((4, size) if channels == 1 and size == 2 else (4, channels, size, size))


def folded(network):
    return FoldedCopy(network).twin


def logits(network, x):
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize(("name", "size", "channels"), NETWORKS)
def test_logits_and_gradients_are_equal_to_rounding(name, size, channels):
    torch.manual_seed(0)
    network, x = stir(build_model(name, 10, size, channels)).double(), images(size, channels).double().requires_grad_()
    twin = folded(network)
    torch.testing.assert_close(logits(twin, x), logits(network, x), rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(net(x).square().sum(), x)[0] for net in (network, twin)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_a_batch_norm_behind_a_convolution_is_gone_and_others_are_one_multiply_add():
    twin = folded(stir(build_model("wrn-10-1", 10)))
    left = [name for name, module in twin.named_modules() if isinstance(module, Affine)]
    assert left == [f"block{i}.layer.0.bn1" for i in (1, 2, 3)] + ["bn1"]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in twin.modules())
    assert not any(isinstance(m, Affine) for m in folded(build_model("cnn-4", 10, 8, 1)).modules())


def test_a_norm_without_weights_of_its_own_is_one_multiply_add_too():
    norm = stir(nn.Sequential(nn.BatchNorm2d(3)))[0]
    bare = nn.BatchNorm2d(3, affine=False).eval()
    bare.running_mean, bare.running_var = norm.running_mean, norm.running_var
    x = torch.rand(4, 3, 5, 5)
    for module in (norm, bare):
        torch.testing.assert_close(Affine(module)(x), module(x), rtol=1e-5, atol=1e-6)
    assert Affine(norm)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.thorough
def test_a_compiled_twin_follows_the_network():
    torch.manual_seed(0)
    network, x = stir(build_model("cnn-4", 10, 8, 1)), images(8, 1).requires_grad_()
    twin = AttackCopies(GuidedPair(network), compiled=True)
    for seed in (1, 2):
        stir(network, seed)
        attacked = twin.refresh(x).target
        torch.testing.assert_close(logits(attacked, x), logits(network, x), rtol=1e-4, atol=1e-5)
        gradients = [torch.autograd.grad(net(x).square().sum(), x)[0] for net in (network, attacked)]
        torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_the_network_itself_is_left_alone():
    network = stir(build_model("cnn-4", 10, 8, 1)).train()
    before = copy.deepcopy(network.state_dict())
    twin = folded(network)
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert not twin.training and not any(p.requires_grad for p in twin.parameters())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(("name", "size", "channels"), NETWORKS)
def test_refresh_follows_the_network_through_training(name, size, channels):
    torch.manual_seed(0)
    network, x = build_model(name, 10, size, channels), images(size, channels)
    twin = FoldedCopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    stir(network, seed=1)
    assert not torch.allclose(logits(twin.twin, x), logits(network, x), atol=1e-2)
    torch.testing.assert_close(logits(twin.refresh(), x), logits(network, x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guide", [True, False])
def test_a_pair_has_twins_of_what_it_has(guide):
    pair, x = make_pair(guide=guide).eval(), torch.rand(3, 1, 8, 8)
    twins = AttackCopies(pair).refresh(x)
    torch.testing.assert_close(logits(twins.target, x), logits(pair.target, x), rtol=1e-4, atol=1e-5)
    assert (twins.guide is not None) == guide
    if guide:
        torch.testing.assert_close(logits(twins.guide, x), logits(pair.guide, x), rtol=1e-4, atol=1e-5)


class Branching(nn.Module):
    """torch.fx cannot follow a branch on a value."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x):
        out = self.bn(self.conv(x))
        return (out if out.mean() > 0 else -out).mean((2, 3))


def test_a_network_that_cannot_be_traced_is_attacked_itself(caplog):
    network, x = stir(Branching()), torch.rand(2, 1, 6, 6)
    copied = attack_copy(network, x)
    assert copied.network is network and "torch.fx cannot trace it" in copied.reason
    twins = AttackCopies(GuidedPair(network))
    assert all(twins.refresh(x).target is network for _ in range(2))
    assert [r.getMessage() for r in caplog.records].count(
        f"the target is attacked as it is, not in a faster copy: {copied.reason}"
    ) == 1


def old_refresh(twin):
    """Each layer by itself, as torch's own helper does it."""
    for conv, norm in twin.folds:
        old, bn = twin.network.get_submodule(conv), twin.network.get_submodule(norm)
        yield (
            conv,
            fuse_conv_bn_weights(old.weight, old.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias),
        )


@pytest.mark.parametrize(("name", "size", "channels"), NETWORKS)
def test_all_layers_at_once_are_each_layer_by_itself_bit_for_bit(name, size, channels):
    network = stir(build_model(name, 10, size, channels))
    twin = FoldedCopy(network)
    stir(network, seed=3)
    twin.refresh()
    for conv, (weight, bias) in old_refresh(twin):
        ours = twin.twin.get_submodule(conv)
        assert torch.equal(ours.weight, weight) and torch.equal(ours.bias, bias)
    for affine in twin.affine:
        ours, fresh = twin.twin.get_submodule(affine), Affine(network.get_submodule(affine))
        assert torch.equal(ours.scale, fresh.scale) and torch.equal(ours.shift, fresh.shift)


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func._schema.name.split("::")[-1]] += 1
        return func(*args, **(kwargs or {}))


def test_refresh_takes_few_kernels():
    """One for each folded convolution, and a dozen for all that are as long as a channel."""
    twin = FoldedCopy(stir(build_model("preactresnet18", 10, 32)))
    with Operators() as operators:
        twin.refresh()
    kernels = {k: n for k, n in operators.seen.items() if k not in ("view", "detach", "alias")}
    assert sum(kernels.values()) <= len(twin.folds) + 20, kernels


@pytest.mark.parametrize(("name", "size", "channels"), NETWORKS)
def test_bfloat16_weights_give_what_autocast_gives_without_its_casts(name, size, channels):
    torch.manual_seed(0)
    network, x = stir(build_model(name, 10, size, channels)), images(size, channels)
    kept, cast = FoldedCopy(network), FoldedCopy(network)
    cast.cast(torch.bfloat16, x)
    results = {}
    for key, twin in (("kept", kept), ("cast", cast)):
        twin.refresh()
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), Operators() as operators:
            results[key] = twin.twin(x), operators.seen["_to_copy"]
    assert torch.equal(results["cast"][0], results["kept"][0])
    assert results["cast"][1] <= 2 < results["kept"][1]  # the images, and at most the logits


@pytest.mark.parametrize(("guide", "uses"), [(True, True), (True, False), (False, True)])
def test_a_guide_has_a_copy_only_where_the_attack_uses_it(guide, uses):
    pair, x = make_pair(guide=guide).eval(), torch.rand(3, 1, 8, 8)
    attacked = AttackCopies(pair, guide=uses).refresh(x)
    assert attacked.target is not pair.target
    assert (attacked.guide is pair.guide) == (not (guide and uses))
