"""APGD that leaves out fooled images fools the same ones as the package's."""

import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

from d2rkit.evaluation.autoattack.auto_pgd import StillRight
from d2rkit.evaluation.autoattack.upstream import leave_out_fooled
from tests.acceleration.test_folding import folded

EPS = 0.15


@pytest.fixture(scope="module")
def sample(trained_once, digits):
    model = folded(trained_once.target)
    x, y = digits.test.pixels(slice(0, 80)), digits.test.labels[:80]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    return model, x[right], y[right]


class Counted(torch.nn.Module):
    """The network, and how many images it was asked about in each call."""

    def __init__(self, network):
        super().__init__()
        self.network, self.sizes = network, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.network(x)


def attacked(kind, network, x, y, eps=EPS, sparing=False):
    network = Counted(network)
    options = {"eps": eps, "seed": 3, "device": torch.device("cpu")}
    attack = APGDAttack_targeted(network, **options) if kind == "targeted" else APGDAttack(network, **options)
    if sparing:
        leave_out_fooled(attack)
    return attack.perturb(x, y), network.sizes


@pytest.mark.parametrize("kind", ["ce", "targeted"])
def test_the_same_images_are_fooled_by_less_work(sample, kind):
    model, x, y = sample
    (plain, sizes), (sparing, fewer) = (attacked(kind, model, x, y, sparing=s) for s in (False, True))
    with torch.no_grad():
        fooled = [model(images).argmax(1) != y for images in (plain, sparing)]
    assert torch.equal(*fooled) and 0 < fooled[0].sum() < len(x)
    assert (sparing - x).abs().max() <= EPS + 1e-6 and torch.equal(sparing[~fooled[1]], x[~fooled[1]])
    assert len(fewer) == len(sizes) and sum(fewer) < sum(sizes)


def test_where_all_are_fooled_one_image_is_still_computed(sample):
    model, x, y = sample
    adversarial, sizes = attacked("ce", model, x, y, eps=1.0, sparing=True)
    with torch.no_grad():
        assert (model(adversarial).argmax(1) != y).all()
    assert sizes[-1] == 1 and len(sizes) > 100


def test_images_left_out_look_right_and_have_no_gradient():
    network, y = torch.nn.Linear(2, 3, bias=False), torch.tensor([0, 1, 2])
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    still = StillRight(network, y)
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, -1.0]])  # the second is wrong
    assert still(x).argmax(1).tolist() == [0, 0, 2]
    x = x.clone().requires_grad_()
    logits = still(x)
    assert logits.argmax(1).tolist() == [0, 1, 2]
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert gradient[[0, 2]].all() and not gradient[1].any()
