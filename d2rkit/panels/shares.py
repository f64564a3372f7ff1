"""A share of images, said the same way in every panel: rounded from counts, with an interval that holds at 0 and 100 %.

`sqrt(p (1 - p) / n)` calls "none of 8" certain. Wilson's interval does not: none of 8 is 0 to 32 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from numpy.typing import ArrayLike

from d2rkit.core.validation import check_count, check_number


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


@dataclass(frozen=True)
class Share:
    """`right` of `n` images."""

    right: int
    n: int

    @classmethod
    def of(cls, flags: ArrayLike) -> Share:
        """Of (N,) bool, a tensor's or an array's."""
        return cls(int(flags.sum()), len(flags))

    @property
    def value(self) -> float:
        return self.right / self.n if self.n else math.nan

    @property
    def low(self) -> float:
        return interval(self.right, self.n)[0]

    @property
    def high(self) -> float:
        return interval(self.right, self.n)[1]

    @property
    def error(self) -> tuple[list[float], list[float]]:
        """How far the interval reaches to either side: `xerr` of a picture, as ([below], [above])."""
        return [self.value - self.low], [self.high - self.value]

    @property
    def percent(self) -> str:
        """`3 %`: halves round up whatever their type, and 0 % and 100 % mean none and all."""
        if not self.n:
            return "–"
        whole = (200 * self.right + self.n) // (2 * self.n)
        if whole == 0 and self.right:
            return "< 1 %"
        return "> 99 %" if whole == 100 and self.right < self.n else f"{whole} %"

    @property
    def counted(self) -> str:
        """`1 of 40`."""
        return f"{self.right} of {self.n}"

    def __str__(self) -> str:
        """`3 % (0 to 13 %)`: with its 95 % interval."""
        if not self.n:
            return "–"
        return f"{self.percent} ({100 * self.low:.0f} to {100 * self.high:.0f} %)"
