"""The error of a share: how far accuracies on other images of the same kind would lie from one on these."""

from __future__ import annotations

import math
from statistics import NormalDist

from d2rkit.core.validation import check_count, check_number


def standard_error(share: float, n: int) -> float:
    """Binomial standard error of a share of n independent images, sqrt(p (1 - p) / n).

    At 0 and 1 that is 0, as if n images had proven that no image is different. There it is how far Wilson's interval
    (1927) of the same confidence, one standard error, reaches: 1 / (n + 1). ValueError for no images."""
    if n < 1:
        raise ValueError(f"a share of {n} images has no standard error")
    return math.sqrt(share * (1 - share) / n) if 0 < share < 1 else 1 / (n + 1)


def interval(right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for a share of `right` among `n` images (Wilson 1927), in [0, 1]; n = 0 knows nothing: (0, 1).
    ValueError for impossible counts or a level outside (0, 1)."""
    check_count("n", n)
    check_count("right", right, high=n)
    check_number("level", level, high=1)
    if level in (0, 1):
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if n == 0:
        return 0.0, 1.0
    u = NormalDist().inv_cdf((1 + level) / 2)
    p, centre = right / n, right / n + u * u / (2 * n)
    half = u * math.sqrt(p * (1 - p) / n + (u / (2 * n)) ** 2)
    low, high = ((centre + side * half) / (1 + u * u / n) for side in (-1, 1))
    return (0.0 if right == 0 else max(low, 0.0)), (1.0 if right == n else min(high, 1.0))
