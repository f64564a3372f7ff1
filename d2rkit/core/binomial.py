"""The error of a share: how far accuracies on other images of the same kind would lie from one on these."""

from __future__ import annotations

import math


def standard_error(share: float, n: int) -> float:
    """Binomial standard error of a share of n independent images, sqrt(p (1 - p) / n).

    At 0 and 1 that is 0, as if n images had proven that no image is different. There it is how far Wilson's interval
    (1927) of the same confidence, one standard error, reaches: 1 / (n + 1). ValueError for no images."""
    if n < 1:
        raise ValueError(f"a share of {n} images has no standard error")
    return math.sqrt(share * (1 - share) / n) if 0 < share < 1 else 1 / (n + 1)
