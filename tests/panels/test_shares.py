import numpy as np
import pytest
import torch

from d2rkit.core.binomial import interval
from d2rkit.panels.shares import Share


def test_wilson_solves_its_own_equation():
    """The ends are where the score test's statistic is exactly u: |p - t| = u sqrt(t (1 - t) / n)."""
    for right, n in ((1, 8), (20, 60), (199, 200)):
        for end in interval(right, n):
            assert abs(right / n - end) == pytest.approx(1.959964 * (end * (1 - end) / n) ** 0.5, rel=1e-5)


def test_none_and_all_are_not_certain():
    assert interval(0, 8) == (0.0, pytest.approx(0.3244, abs=1e-4))
    assert interval(8, 8)[0] == pytest.approx(1 - interval(0, 8)[1])
    assert interval(0, 0) == (0.0, 1.0)


def test_the_interval_covers_what_it_says():
    """At n = 20 the true share lies inside in 90 to 99 % of draws, also close to 0, where p ± 2 SE misses it."""
    rng = np.random.default_rng(0)
    for truth in (0.03, 0.3, 0.9):
        draws = rng.binomial(20, truth, 4_000)
        inside = np.mean([low <= truth <= high for low, high in (interval(int(k), 20) for k in draws)])
        assert 0.86 < inside <= 1


@pytest.mark.parametrize(
    ("right", "n", "words"),
    [
        (1, 40, "3 % (0 to 13 %)"),
        (0, 8, "0 % (0 to 32 %)"),
        (8, 8, "100 % (68 to 100 %)"),
        (1, 400, "< 1 % (0 to 1 %)"),
    ],
)
def test_words(right, n, words):
    assert str(Share(right, n)) == words


def test_a_half_rounds_one_way_whatever_holds_it():
    for flags in (np.arange(40) < 1, torch.arange(40) < 1):
        assert Share.of(flags).percent == "3 %"  # f"{…:.0%}" says 2 % of a double and 3 % of a float32
    assert Share(199, 200).percent == "> 99 %"


@pytest.mark.parametrize(("right", "n"), [(3, 2), (-1, 2), (1, 0.5)])
def test_impossible_counts(right, n):
    with pytest.raises(ValueError, match=r"right|n "):
        interval(right, n)
