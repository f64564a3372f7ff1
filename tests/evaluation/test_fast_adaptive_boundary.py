"""FAB-T side by side finds what the package's finds, class after class."""

import pytest
import torch
from pyautoattack.fab_projections import projection_linf as packages_projection
from pyautoattack.fab_pt import FABAttack_PT

from d2rkit.evaluation.autoattack.fast_adaptive_boundary import projection_linf
from d2rkit.evaluation.autoattack.upstream import SideBySideFAB
from tests.acceleration.test_folding import folded


def planes(kind):
    """Points in [0, 1] and hyperplanes: some that pass near, some beyond the box, some with weights of zero."""
    generator = torch.Generator().manual_seed(0)
    points, w = torch.rand(64, 50, generator=generator).double(), torch.randn(64, 50, generator=generator).double()
    if kind == "zeros":
        w[:, ::3] = 0
        points[:, 1::4] = torch.rand(64, 1, generator=generator).double().round()
    far = {"near": 0.5, "zeros": 2.0, "beyond": 200.0}[kind]
    return points, w, (w * points).sum(1) + far * torch.randn(64, generator=generator).double()


@pytest.mark.parametrize("kind", ["near", "zeros", "beyond"])
def test_steps_to_the_boundary_are_the_packages_and_the_smallest(kind):
    points, w, b = planes(kind)
    moved = projection_linf(points, w, b)
    torch.testing.assert_close(moved, packages_projection(points, w, b), atol=1e-9, rtol=0)
    reached = points + moved
    assert reached.min() >= -1e-12 and reached.max() <= 1 + 1e-12 and not moved[w == 0].any()
    on_plane = ((w * reached).sum(1) - b).abs() < 1e-9
    assert on_plane.sum() == {"near": 64, "zeros": 64, "beyond": 3}[kind]
    # Nothing within a slightly smaller cube reaches the plane: its best corner stays on this side.
    gap = (w * points).sum(1) - b
    short = 0.999 * moved.abs().amax(1, keepdim=True)
    side = -w.sign() * gap.sign()[:, None]
    best = (points + side * short).clamp(0, 1)
    assert (((w * best).sum(1) - b) * gap.sign())[on_plane].min() > 0
    # Where the plane lies outside the box, the corner of the box that is nearest to it is reached.
    corner = torch.where(side == 0, points, side.clamp(0, 1))
    torch.testing.assert_close(reached[~on_plane], corner[~on_plane], atol=1e-12, rtol=0)


def test_a_point_on_the_boundary_stays():
    points, w, _ = planes("near")
    assert projection_linf(points, w, (w * points).sum(1)).abs().max() < 1e-12


def test_a_hyperplane_that_is_none_holds_nothing_up(monkeypatch):
    points, w, b = planes("near")
    expected = projection_linf(points, w, b)
    w[0], w[1] = torch.nan, 0.0
    sums, vecdot = [], torch.linalg.vecdot
    monkeypatch.setattr(torch.linalg, "vecdot", lambda *a: sums.append(1) or vecdot(*a))
    moved = projection_linf(points, w, b)
    assert torch.equal(moved[2:], expected[2:]) and not moved[1].any() and len(sums) < 2 * w.shape[1] / 2


@pytest.fixture(scope="module")
def sample(digits):
    return digits.test.pixels(slice(0, 40)), digits.test.labels[:40]


def package(model, x, y, norm, eps):
    attack = FABAttack_PT(
        model, norm=norm, eps=eps, n_restarts=1, n_iter=30, targeted=True, seed=0, device=torch.device("cpu")
    )
    return attack.perturb(x, y)


def side_by_side(model, x, y, norm, eps, rows):
    attack = SideBySideFAB(model, norm=norm, eps=eps, seed=0, device=torch.device("cpu"), rows=rows)
    attack.n_iter = 30
    return attack, attack.perturb(x, y)


@pytest.fixture
def in_float64(monkeypatch):
    """The package computes in float64 too. Where two ways are equally short rounding decides, and in float32 each CPU
    decides otherwise."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.25), ("L2", 1.2)])
@pytest.mark.parametrize("rows", [1, 100, 1000])
def test_the_same_images_as_class_after_class(trained, sample, in_float64, norm, eps, rows):
    model, x, y = folded(trained.target).double(), sample[0].double(), sample[1]
    expected = package(model, x, y, norm, eps)
    _, ours = side_by_side(model, x, y, norm, eps, rows)
    changed = (expected != x).flatten(1).any(1)
    assert torch.equal((ours != x).flatten(1).any(1), changed) and 0 < changed.sum() < 40
    torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)
    length = (ours - x).flatten(1).norm(p=torch.inf if norm == "Linf" else 2, dim=1)
    with torch.no_grad():
        assert (length <= eps).all() and (model(ours[changed]).argmax(1) != y[changed]).all()


def test_batches_are_as_large_as_allowed(trained, sample, monkeypatch):
    x, y = sample
    sizes = []
    run = SideBySideFAB.attack_single_run
    monkeypatch.setattr(
        SideBySideFAB, "attack_single_run", lambda self, x, *a, **k: sizes.append(len(x)) or run(self, x, *a, **k)
    )
    with torch.no_grad():
        right = (trained.target(x).argmax(1) == y).sum().item()
    side_by_side(trained.target, x, y, "Linf", 1e-6, rows=3 * right)
    assert sizes == [3 * right] * 3
    sizes.clear()
    side_by_side(trained.target, x, y, "Linf", 1e-6, rows=1)
    assert sizes == [right] * 9


def test_an_image_at_the_boundary_does_not_shift_the_others_targets(trained, sample, in_float64, monkeypatch):
    target, x, y = trained.target.double(), sample[0].double(), sample[1]
    expected = package(target, x, y, "Linf", 0.25)
    attack = SideBySideFAB(target, norm="Linf", eps=0.25, seed=0, device=torch.device("cpu"), rows=1000)
    attack.n_iter = 30
    label = FABAttack_PT._get_predicted_label
    calls = []

    def rounded_otherwise(self, images):
        calls.append(1)
        labels = label(self, images)
        return torch.where(torch.arange(len(labels)) == 0, (labels + 1) % 10, labels) if len(calls) == 1 else labels

    monkeypatch.setattr(FABAttack_PT, "_get_predicted_label", rounded_otherwise)
    x_adv = attack.perturb(x, y)
    torch.testing.assert_close(x_adv[1:], expected[1:], atol=1e-9, rtol=0)


def test_nothing_to_attack_is_no_error(trained, sample):
    x, _ = sample
    with torch.no_grad():
        wrong = (trained.target(x).argmax(1) + 1) % 10
    _, x_adv = side_by_side(trained.target, x, wrong, "Linf", 0.25, rows=100)
    assert torch.equal(x_adv, x)
