"""Intervals over seeds against a textbook's example and scipy."""

import numpy as np
import pytest
from scipy import stats

from d2rkit.reporting.over_seeds import excludes_zero, interval_words, mean_interval
from d2rkit.reporting.significance import Difference


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ((-0.048, -0.095, -0.0003), "-4.80 (-9.50 to -0.03)"),  # the side of 0 is seen
        ((-0.048, -0.095, 0.0003), "-4.8 (-9.5 to +0.0)"),
        ((-1e-17, -1e-17, 1e-17), "+0.0 (+0.0 to +0.0)"),
        ((1e-9, 1e-10, 2e-9), "+0.0000 (+0.0000 to +0.0000)"),  # there is an end to it
    ],
)
def test_the_words_of_an_interval(difference, words):
    assert interval_words(Difference(*difference)) == words
    whole = Difference(*(100 * value for value in difference))
    assert interval_words(whole, scale=1) == words


def test_five_seeds_by_hand():
    """Mean 3, standard deviation sqrt(2.5), t 2.776 for four degrees of freedom."""
    interval = mean_interval([1, 2, 3, 4, 5])
    half = 2.7764451 * (2.5 / 5) ** 0.5
    assert interval == pytest.approx((3, 3 - half, 3 + half), abs=1e-6)
    assert excludes_zero(interval) and not excludes_zero(mean_interval([-1, 2, -3, 4, 0]))


def test_several_questions_make_wider_intervals():
    values = list(np.random.default_rng(0).normal(size=7))
    low, high = mean_interval(values, questions=4)[1:]
    scale = np.std(values, ddof=1) / 7**0.5
    assert (low, high) == pytest.approx(stats.t.interval(1 - 0.05 / 4, 6, np.mean(values), scale), rel=1e-9)


def test_it_covers_as_often_as_it_says():
    draws = np.random.default_rng(1).normal(0.3, 1, size=(4000, 5))
    hits = [low <= 0.3 <= high for _, low, high in (mean_interval(list(row)) for row in draws)]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("differences", [[], [1.0], [1.0, float("nan")]])
def test_what_has_no_interval(differences):
    with pytest.raises(ValueError, match="two or more finite differences"):
        mean_interval(differences)


@pytest.mark.parametrize("level", [0, 1, 1.5])
def test_a_level_lies_between(level):
    with pytest.raises(ValueError, match="level"):
        mean_interval([1, 2], level=level)
