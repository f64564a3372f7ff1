"""What a difference is worth over seeds: Student's interval of a mean, exact for a few numbers.

`significance` speaks of other images for these trained networks; this speaks of other seeds for these images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from d2rkit.core.validation import check_number, shown
from d2rkit.reporting.significance import Difference


def mean_interval(differences: Sequence[float] | np.ndarray, *, level: float = 0.95, questions: int = 1) -> Difference:
    """The mean of one difference a seed, and Student's t interval around it. questions: of how many intervals this is
    one; each is made wide enough that all of them hold together with `level` (Bonferroni). ValueError for fewer than
    two differences, or for what is no finite number."""
    check_number("level", level, high=1)
    if level in (0, 1):
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if len(differences) < 2 or not all(math.isfinite(d) for d in differences):
        raise ValueError(f"an interval needs two or more finite differences, not {shown(list(differences))}")
    count = len(differences)
    mean = math.fsum(differences) / count
    variance = math.fsum((d - mean) ** 2 for d in differences) / (count - 1)
    half = t_quantile(1 - (1 - level) / questions, count - 1) * math.sqrt(variance / count)
    return Difference(mean, mean - half, mean + half)


def excludes_zero(difference: Difference) -> bool:
    return difference.low > 0 or difference.high < 0


def t_quantile(level: float, freedom: int) -> float:
    """t with P(|T| < t) = level, for T of Student's distribution with `freedom` degrees of freedom."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """P(|T| < t): the finite sums of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range((freedom - odd) // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
