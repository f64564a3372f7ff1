import math

import pytest
import torch
from scipy.stats import binomtest, norm

from d2rkit.core.binomial import interval, standard_error
from d2rkit.evaluation.evaluate import Evaluation
from d2rkit.panels.shares import Share
from d2rkit.reporting import significance

ONE_SIGMA = 2 * norm.cdf(1) - 1


@pytest.mark.parametrize("n", [1, 7, 397, 10_000])
def test_where_all_or_none_are_right_it_is_as_far_as_wilsons_interval_reaches(n):
    for right in (0, n):
        wilson = binomtest(right, n).proportion_ci(ONE_SIGMA, method="wilson")
        assert standard_error(right / n, n) == pytest.approx(wilson.high - wilson.low)


@pytest.mark.parametrize(("right", "n"), [(1, 397), (30, 100), (5_000, 10_000)])
def test_elsewhere_it_is_the_binomial_one(right, n):
    assert standard_error(right / n, n) == pytest.approx(math.sqrt(right * (n - right) / n**3), rel=1e-9)
    wilson = binomtest(right, n).proportion_ci(ONE_SIGMA, method="wilson")
    assert standard_error(right / n, n) == pytest.approx((wilson.high - wilson.low) / 2, rel=0.15)


def test_no_images_have_none():
    with pytest.raises(ValueError, match="a share of 0 images has no standard error"):
        standard_error(0.0, 0)


@pytest.mark.parametrize("right", [0, 30, 100])
def test_tables_panels_and_commands_have_the_same(right):
    flags = torch.arange(100) < right
    expected = standard_error(right / 100, 100)
    assert Evaluation(0.1, {"pgd20": flags}).standard_error("pgd20") == expected > 0
    assert significance.standard_error(flags) == expected
    assert (Share.of(flags).low, Share.of(flags).high) == interval(right, 100)
