"""A share of images, said the same way in every panel: rounded from counts, with an interval that holds at 0 and 100 %.

`sqrt(p (1 - p) / n)` calls "none of 8" certain. Wilson's interval does not: none of 8 is 0 to 32 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from d2rkit.core.binomial import interval


@dataclass(frozen=True)
class Share:
    """`right` of `n` images."""

    right: int
    n: int

    @classmethod
    def of(cls, flags: ArrayLike) -> Share:
        """Of (N,) bool, a tensor's or an array's."""
        held = np.asarray(flags)
        return cls(int(held.sum()), held.size)

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
