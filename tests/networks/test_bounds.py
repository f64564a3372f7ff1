"""Bounds of a network's answers: sound against sampling, attacks and exact minima; the matrices are the network."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from d2rkit.methods import attacks
from d2rkit.networks import bounds
from d2rkit.networks.architectures import build_model
from d2rkit.networks.bounds import affine_layers, box, certified, certified_radius, margin_bounds
from d2rkit.networks.normalisation import Normalize
from tests.pretend_device import pretend

EPS = 0.1


def chain(layers, x):
    x = x.flatten(1)
    for number, (weight, bias) in enumerate(layers):
        x = (x.relu() if number else x) @ weight.T + bias
    return x


def small_cnn():
    network = build_model("cnn-4", 10, 8, 1)
    for norm in network.norms:  # statistics that are not those of a fresh network
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        nn.init.uniform_(norm.running_var, 0.3, 2.0)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network.eval()


def strided():
    conv = (nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AvgPool2d(3))
    return nn.Sequential(Normalize([0.4], [0.3]), nn.Sequential(*conv), nn.Flatten(), nn.Linear(4, 10))


def mlp(*sizes):
    layers = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


NETWORKS = {"small CNN": small_cnn, "strided": strided, "MLP": lambda: mlp(64, 20, 15, 10)}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]()


@pytest.fixture
def images():
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_matrices_are_the_network(network, images):
    layers = affine_layers(network, (1, 8, 8))
    expected = network(images)
    assert torch.allclose(chain(layers, images.double()).float(), expected, atol=1e-5) and expected.std() > 1e-3
    assert next(network.parameters()).dtype == torch.float32


def test_no_point_of_the_box_falls_below_the_bounds(network, images):
    """Random points, random corners, and where PGD and C&W end."""
    layers, y = affine_layers(network, (1, 8, 8)), network(images).argmax(1)
    low, high = box(images.double(), EPS)
    generator = torch.Generator().manual_seed(2)
    points = [low + (high - low) * torch.rand(low.shape, generator=generator) for _ in range(200)]
    points += [torch.where(torch.rand(low.shape, generator=generator) < 0.5, low, high) for _ in range(200)]
    for attack in (attacks.pgd_ce, attacks.cw):
        points.append(attack(network, images, y, eps=EPS, step_size=EPS / 4, steps=40).double().flatten(1))
    least = torch.stack([(z := chain(layers, p)).gather(1, y[:, None]) - z for p in points]).amin(0)
    interval, linear = (margin_bounds(layers, low, high, y, how) for how in bounds.HOW)
    others = ~torch.isinf(interval)
    assert others.sum(1).eq(9).all() and (linear[others] <= least[others] + 1e-9).all()
    assert (interval <= linear).all() and (interval < linear - 1e-3).any()


def test_without_room_the_bounds_are_the_margins(network, images):
    layers, y = affine_layers(network, (1, 8, 8)), torch.arange(6)
    z = chain(layers, images.double())
    for how in bounds.HOW:
        lower = margin_bounds(layers, *box(images.double(), 0.0), y, how)
        expected = (z.gather(1, y[:, None]) - z).scatter(1, y[:, None], torch.inf)
        assert torch.allclose(lower, expected, atol=1e-8)


def exact_minimum(layers, row, low, high):
    """Least value of row times the output, by a linear programme for each pattern of which ReLUs are on."""
    hidden, best = [len(b) for _, b in layers[:-1]], np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=sum(hidden)):
        weight, bias, limits, bound = np.eye(len(low)), np.zeros(len(low)), [], []
        for (w, b), on in zip(layers[:-1], np.split(np.array(pattern), np.cumsum(hidden)[:-1]), strict=True):
            weight, bias = w @ weight, w @ bias + b
            sign = np.where(on, -1, 1)[:, None]  # on: w x + b >= 0
            limits.append(sign * weight)
            bound.append(-sign[:, 0] * bias)
            weight, bias = on[:, None] * weight, on * bias
        w, b = layers[-1]
        optimum = linprog(
            row @ w @ weight, np.concatenate(limits), np.concatenate(bound),
            bounds=list(zip(low, high, strict=True)),
        )  # fmt: skip
        if optimum.status == 0:
            best = min(best, optimum.fun + row @ (w @ bias + b))
    return best


@pytest.mark.parametrize("seed", range(3))
def test_the_bounds_lie_below_the_exact_minimum(seed):
    torch.manual_seed(seed)
    layers = affine_layers(mlp(2, 3, 3, 3), (2, 1, 1))
    x, y, eps = torch.rand(1, 2, 1, 1).double(), torch.tensor([seed]), 0.3
    low, high = box(x, eps)
    numbers = [(w.numpy(), b.numpy()) for w, b in layers]
    lower = {how: margin_bounds(layers, low, high, y, how)[0] for how in bounds.HOW}
    points = low + (high - low) * torch.rand(4000, 2).double()
    for c in {0, 1, 2} - {seed}:
        row = np.eye(3)[seed] - np.eye(3)[c]
        exact = exact_minimum(numbers, row, low[0].numpy(), high[0].numpy())
        sampled = (chain(layers, points) @ torch.from_numpy(row)).min().item()
        assert lower["ibp"][c] <= lower["crown"][c] <= exact + 1e-7 <= sampled + 2e-7
        assert exact - 0.5 < lower["crown"][c] and sampled < exact + 0.05  # and not far below it


def test_where_no_relu_changes_its_mind_linear_bounds_are_exact():
    torch.manual_seed(0)
    network = mlp(4, 6, 5, 3)
    for layer in network[1::2][:2]:
        nn.init.constant_(layer.bias, 5.0)
    layers, x, y = affine_layers(network, (4, 1, 1)), torch.rand(1, 4, 1, 1).double(), torch.tensor([1])
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=4))).double()
    low, high = box(x, 0.1)
    z = chain(layers, (low + high) / 2 + corners * (high - low) / 2)
    exact = (z[:, 1:2] - z).amin(0)
    lower = margin_bounds(layers, low, high, y)[0]
    assert lower[[0, 2]].tolist() == pytest.approx(exact[[0, 2]].tolist(), abs=1e-9)
    assert (margin_bounds(layers, low, high, y, "ibp")[0][[0, 2]] < exact[[0, 2]] - 1e-3).all()


def test_radii_are_proven_and_stop_where_the_proof_does(images):
    torch.manual_seed(0)
    network = mlp(64, 20, 15, 10)
    layers, y = affine_layers(network, (1, 8, 8)), network(images).argmax(1)
    y[0] = (y[0] + 1) % 10
    radius = certified_radius(layers, images, y, most=0.2, halvings=6)
    assert radius[0] == -1 and (radius[1:] > 0).all() and not certified(layers, images, y, 0.0)[0]
    for i in range(1, 6):
        one = images[i : i + 1], y[i : i + 1]
        assert certified(layers, *one, radius[i].item()) and not certified(layers, *one, radius[i].item() + 0.2 / 64)
    assert (certified_radius(layers, images, y, most=0.2, how="ibp")[1:] < radius[1:]).all()
    assert (certified_radius(layers, images, y, most=1e-4)[1:] == 1e-4).all()


def test_gradients_of_interval_bounds_are_there():
    from d2rkit.training.certified import relu_mlp, worst_case

    network, x, y = relu_mlp(0), torch.rand(5, 1, 8, 8), torch.arange(5)
    z = worst_case(network, x, y, 0.05)
    assert (z.gather(1, y[:, None]) == 0).all()
    z.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in list(network.parameters())[:-1])


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def hooked():
    network = mlp(64, 5, 3)
    network[1].register_forward_hook(lambda module, inputs, output: output + 1)
    network.register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


NO_CHAINS = {
    "a forward of its own": lambda: nn.Sequential(nn.Flatten(), Residual(nn.Linear(64, 64)), nn.ReLU(), mlp(64, 3)),
    "BatchNorm of batches": lambda: nn.Sequential(
        nn.BatchNorm2d(1, track_running_stats=False), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ),
    "hooks": hooked,
}


@pytest.mark.parametrize("kind", NO_CHAINS)
def test_nothing_is_proven_of_a_network_that_only_looks_like_a_chain(kind):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="it is not the chain of its modules"):
        affine_layers(NO_CHAINS[kind](), (1, 8, 8))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_proofs_are_made_on_the_cpu_wherever_network_and_images_lie(images, kind):
    torch.manual_seed(0)
    network, y = small_cnn(), torch.arange(6)
    expected = certified_radius(affine_layers(network, (1, 8, 8)), images, y, halvings=2)
    with pretend(kind) as gpu:
        layers = affine_layers(network.to(gpu.device), (1, 8, 8))
        radii = certified_radius(layers, images.to(gpu.device), y.to(gpu.device), halvings=2)
        assert not gpu.holds(radii) and torch.equal(radii, expected)


def test_networks_without_bounds_are_refused():
    with pytest.raises(ValueError, match="SiLU"):
        affine_layers(nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.SiLU()), (1, 8, 8))
    layers, x = affine_layers(mlp(64, 5, 3), (1, 8, 8)), torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="did you mean 'crown'"):
        certified(layers, x, torch.tensor([0, 1]), 0.1, "crwn")
    with pytest.raises(ValueError, match="labels"):
        certified(layers, x, torch.tensor([0, 3]), 0.1)
