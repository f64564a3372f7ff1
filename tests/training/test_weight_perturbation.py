import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2rkit.training.loop import fit
from d2rkit.training.recipe import Recipe
from d2rkit.training.weight_perturbation import perturbed_weights
from tests.conftest import make_pair


def test_weights_move_by_gamma_along_the_ascent_and_come_back():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).double()
    x, y = torch.rand(5, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0, 1])
    before = copy.deepcopy(network.state_dict())

    def loss():
        return F.cross_entropy(network(x), y)

    value = loss().item()
    network.load_state_dict(before)
    (gradient,) = torch.autograd.grad(loss(), [network[3].weight])
    network.load_state_dict(before)
    with perturbed_weights(network, loss, 0.01, network):
        inside = {name: w.clone() for name, w in network.state_dict().items()}
        assert loss().item() > value
    for name, w in before.items():
        if w.ndim > 1:
            move = inside[name] - w
            torch.testing.assert_close(move.norm(), 0.01 * w.norm())
        else:
            # Neither biases nor BatchNorm are perturbed, and its statistics do not see the ascent's forward.
            assert torch.equal(inside[name], w)
    move = inside["3.weight"] - before["3.weight"]
    assert F.cosine_similarity(move.flatten(), gradient.flatten(), dim=0) > 1 - 1e-9
    for name, w in network.state_dict().items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(w, before[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["pgd-at-awp", "trades-awp", "d2r-cag-awp"])
def test_methods_train_with_it_after_the_warm_up(few_digits, method):
    recipe = Recipe(
        method, epochs=2, batch_size=40, lr=0.05, eps=0.1, step_size=0.05, steps=1, padding=0, val_steps=1, awp_warmup=1
    )
    plain = Recipe(**{**recipe.__dict__, "method": method.removesuffix("-awp")})
    with_awp = fit(make_pair(), few_digits, recipe, device="cpu").history
    without = fit(make_pair(), few_digits, plain, device="cpu").history
    assert with_awp[0]["loss"] == without[0]["loss"]
    assert with_awp[1]["loss"] > without[1]["loss"]  # the loss is taken at the worst weights nearby


def test_frozen_and_unused_weights_are_left_alone():
    torch.manual_seed(0)
    network = nn.ModuleDict({"used": nn.Linear(4, 3), "frozen": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
    network["frozen"].requires_grad_(False)
    before, x, y = copy.deepcopy(network.state_dict()), torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])

    def loss():
        return F.cross_entropy(network["frozen"](network["used"](x)), y)

    with perturbed_weights(network, loss, 0.01, network):
        moved = {name for name, w in network.state_dict().items() if not torch.equal(w, before[name])}
    assert moved == {"used.weight"}


def test_a_step_moves_the_batchnorm_statistics_of_guide_and_target_once(few_digits):
    recipe = Recipe(
        "d2r-cag-awp", epochs=1, batch_size=40, lr=0.05, eps=0.1, step_size=0.05, steps=1, padding=0, val_steps=1,
        awp_warmup=0,
    )  # fmt: skip
    pair = make_pair()
    fit(pair, few_digits, recipe, device="cpu")
    moves = {name: int(count) for name, count in pair.named_buffers() if name.endswith("num_batches_tracked")}
    assert {name.split(".")[0] for name in moves} == {"target", "guide"}
    guide = {count for name, count in moves.items() if name.startswith("guide")}
    # The target forwards clean and attacked images.
    assert {count for name, count in moves.items() if name.startswith("target")} == {2 * count for count in guide}
