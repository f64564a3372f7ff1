"""Lower and upper bounds of robust accuracy, and what must never be: an image that is proven and broken."""

import numpy as np
import pytest

from d2rkit.evaluation.sandwich import Sandwich, at_radius

PROVEN = np.array([True, True, False, False, False])
SURVIVED = np.array([True, True, True, False, False])


def test_what_is_known_and_what_is_open():
    sandwich = Sandwich(PROVEN, SURVIVED, 15 / 255)
    assert (sandwich.lower, sandwich.upper, sandwich.decided) == (0.4, 0.6, 0.8)
    assert sandwich.open.tolist() == [False, False, True, False, False] and not len(sandwich.contradictions)
    text = sandwich.report()
    assert "between 40.0% and 60.0%" in text and "80.0% of the images are decided" in text
    assert "CONTRADICTION" not in text


def test_a_planted_contradiction_is_reported_and_decides_nothing():
    survived = SURVIVED.copy()
    survived[1] = False
    sandwich = Sandwich(PROVEN, survived, 0.1)
    assert sandwich.contradictions.tolist() == [1] and sandwich.decided == 0.6
    assert "CONTRADICTION on 1 of them (number 1)" in sandwich.report()


def test_radii_give_the_sandwich_at_any_eps():
    proven, broken = np.array([0.1, 0.03, -1.0, 0.0]), np.array([np.inf, 0.05, 0.0, 0.02])
    expected = {0.0: (3, 3), 0.02: (2, 2), 0.03: (2, 2), 0.04: (1, 2), 0.05: (1, 1), 0.2: (0, 1)}
    for eps, (safe, left) in expected.items():
        sandwich = at_radius(proven, broken, eps)
        assert (sandwich.proven.sum(), sandwich.survived.sum()) == (safe, left) and not len(sandwich.contradictions)
    assert at_radius([0.1], [0.05], 0.07).contradictions.tolist() == [0]


@pytest.mark.parametrize("survived", [SURVIVED[:3], SURVIVED.astype(int), SURVIVED[None]])
def test_flags_that_do_not_belong_together_are_refused(survived):
    with pytest.raises(ValueError, match="flags"):
        Sandwich(PROVEN, survived, 0.1)
