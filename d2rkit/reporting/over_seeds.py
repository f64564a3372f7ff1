"""What a difference is worth over seeds: Student's interval of a mean, exact for a few numbers.

`significance` speaks of other images for these trained networks; this speaks of other seeds for these images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from d2rkit.core.validation import check_number, shown
from d2rkit.reporting.significance import Difference


def mean_interval(differences: Sequence[float] | np.ndarray, *, level: float = 0.95, questions: int = 1) -> Difference:
    """The mean of one difference per seed, and Student's t interval around it. questions: of how many intervals this is
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
    half = stdtrit(count - 1, 1 - (1 - level) / questions / 2) * math.sqrt(variance / count)
    return Difference(mean, mean - half, mean + half)


def excludes_zero(difference: Difference) -> bool:
    return difference.low > 0 or difference.high < 0


def interval_words(difference: Difference, places: int = 1, *, scale: float = 100) -> str:
    """A difference times `scale` with its interval: "-4.8 (-9.5 to -0.1)". With more decimals than `places` where it
    takes them to see on which side of 0 the interval ends, and never with -0.0."""
    numbers, most = [scale * value for value in difference], places + 3
    while places < most and excludes_zero(difference) and not all(round(number, places) for number in numbers):
        places += 1
    mean, low, high = (f"{round(number, places) + 0.0:+.{places}f}" for number in numbers)
    return f"{mean} ({low} to {high})"
