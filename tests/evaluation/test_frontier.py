"""The optimal frontier against every classifier there is, against closed forms, and against its own proof."""

import itertools
import math

import numpy as np
import pytest

from d2rkit.evaluation import frontier as module
from d2rkit.evaluation.frontier import PARTS, accuracies, frontier, optimum


def plain(decision, masses, reach):
    """Point by point, place by place."""
    height, width = decision.shape
    clean = robust = 0
    for c, i, j in itertools.product((0, 1), range(height), range(width)):
        clean += masses[c, i, j] * (decision[i, j] == c)
        ball = decision[max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
        robust += masses[c, i, j] * bool((ball == c).all())
    return clean, robust


def every_classifier(shape):
    cells = math.prod(shape)
    bits = (np.arange(2**cells)[:, None] >> np.arange(cells)) & 1
    return bits.astype(bool).reshape(-1, *shape)


@pytest.mark.parametrize(("shape", "reach"), [((1, 9), 0), ((2, 5), 1), ((3, 3), 1), ((3, 3), 2)])
def test_no_classifier_is_better(shape, reach):
    """Against all 2^9 or 2^10 of them, each judged point by point."""
    rng = np.random.default_rng(reach)
    decisions = every_classifier(shape)
    masses = rng.integers(0, 9, (2, *shape)) * (rng.random((2, *shape)) < 0.7)
    scores = np.array([plain(d, masses, reach) for d in decisions])
    assert [accuracies(d, masses, reach) for d in decisions[::17]] == [tuple(s) for s in scores[::17].tolist()]
    limits = frontier(masses, reach)
    for best in limits.optima:
        weights = [PARTS - best.weight, best.weight]
        assert best.value == (scores @ weights).max() == np.dot(plain(best.decision, masses, reach), weights)
    shares = scores / masses.sum()
    assert shares[:, 0].max() == limits.bayes / limits.total
    for clean, robust in shares:
        assert robust <= limits.most_robust(clean) + 1e-9 and clean <= limits.most_clean(robust) + 1e-9


def gaussians(side, gap, sd, total=10**6):
    places = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(places, places)
    densities = np.stack([np.exp(-((x - 0.5 - s * gap / 2) ** 2 + (y - 0.5) ** 2) / (2 * sd**2)) for s in (-1, 1)])
    return np.round(total * densities / densities.sum()).astype(int)


@pytest.mark.parametrize(("gap", "sd", "reach"), [(0.3, 0.1, 2), (0.3, 0.1, 5), (0.24, 0.12, 4)])
def test_two_equal_gaussians_have_the_closed_form_and_no_trade(gap, sd, reach):
    """Right are Phi(gap / 2 sd) and Phi((gap / 2 - eps) / sd), both of the same classifier (Bhagoji et al. 2019)."""
    side = 50
    limits = frontier(gaussians(side, gap, sd), reach)
    expected = [0.5 * (1 + math.erf((gap / 2 - eps) / (sd * math.sqrt(2)))) for eps in (0, reach / side)]
    # the grid is even and the border runs between two columns: the sums are midpoint rules of the integrals
    assert limits.points == pytest.approx(np.tile(expected, (len(limits.points), 1)), abs=2e-3)
    assert limits.trade == pytest.approx((0, 0), abs=1e-6)


def test_a_rare_island_is_given_up_for_robustness():
    """1 x 9 places, reach 1: class 0 everywhere but for a single place of class 1, too narrow to be defended."""
    masses = np.zeros((2, 3, 9), int)
    masses[0, 1, :] = 10
    masses[0, 1, 4], masses[1, 1, 4] = 0, 12
    limits = frontier(masses, 1)
    assert limits.optima[0].decision[1, 4] and not limits.optima[-1].decision[1].any()
    assert limits.points[0].tolist() == [1.0, 60 / 92] and limits.points[-1].tolist() == [80 / 92, 80 / 92]
    assert limits.trade == pytest.approx((12 / 92, 20 / 92))
    # half of each is on the line between them, and nothing lies above it
    middle = limits.points[[0, -1]].mean(0)
    assert limits.most_robust(middle[0]) == pytest.approx(middle[1], abs=1e-9)
    assert limits.most_clean(middle[1]) == pytest.approx(middle[0], abs=1e-9)


def test_without_an_attacker_it_is_the_larger_mass():
    masses = np.random.default_rng(1).integers(1, 50, (2, 5, 6))
    best = optimum(masses, 0, 32)
    tie = masses[0] == masses[1]
    assert np.array_equal(best.decision[~tie], (masses[1] > masses[0])[~tie]) and np.array_equal(best.free, tie)
    assert best.clean == best.robust == masses.max(0).sum()


def test_a_cut_that_is_not_the_best_is_noticed(monkeypatch):
    """The proof is looked at: with a classifier that differs from the cut, the flow no longer agrees."""
    masses = np.random.default_rng(2).integers(1, 50, (2, 5, 6))
    real = module.breadth_first_order
    monkeypatch.setattr(module, "breadth_first_order", lambda graph, start, **k: real(graph, start, **k)[:1])
    with pytest.raises(AssertionError, match="flow"):
        optimum(masses, 1, 32)


@pytest.mark.parametrize(
    ("masses", "reach", "words"),
    [
        (np.ones((3, 2, 2), int), 0, "shape"),
        (np.ones((2, 2, 2)), 0, "whole numbers"),
        (-np.ones((2, 2, 2), int), 0, "whole numbers"),
        (np.zeros((2, 2, 2), int), 0, "sum to"),
        (np.full((2, 2, 2), 2**22), 0, "sum to"),
        (np.ones((2, 2, 2), int), 2, "reach"),
    ],
)
def test_bad_input_in_words(masses, reach, words):
    with pytest.raises(ValueError, match=words):
        frontier(masses, reach)
