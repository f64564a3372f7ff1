"""Axes that hold still while a slider moves, so that what moves in the picture is the data."""

from __future__ import annotations

import math

from matplotlib.axes import Axes


class Frame:
    """Limits of axes that are remembered from picture to picture.

    They grow by round steps when the data leave them, and shrink only when the data fill less than a quarter."""

    def __init__(self) -> None:
        self._limits: dict[str, tuple[float, float]] = {}

    def clear(self) -> None:
        """Begin anew: another kind of picture follows."""
        self._limits.clear()

    def hold(self, name: str, low: float, high: float) -> tuple[float, float]:
        """Limits with [low, high] inside for the axis called `name`: those it had, if they still do."""
        before = self._limits.get(name)
        if before and before[0] <= low and high <= before[1] and 4 * (high - low) >= before[1] - before[0]:
            return before
        if before and 4 * (high - low) >= before[1] - before[0]:
            low, high = min(low, before[0]), max(high, before[1])
        self._limits[name] = rounded(low, high)
        return self._limits[name]

    def hold_y(self, ax: Axes, name: str, low: float, high: float) -> None:
        ax.set_ylim(*self.hold(name, low, high))

    def hold_x(self, ax: Axes, name: str, low: float, high: float) -> None:
        ax.set_xlim(*self.hold(name, low, high))


def rounded(low: float, high: float) -> tuple[float, float]:
    """The next round numbers outwards: multiples of 1, 2 or 5 times a power of ten, four to ten of them."""
    size = high - low
    if not (math.isfinite(size) and size > 0):
        return low - 0.5, high + 0.5
    power = 10.0 ** math.floor(math.log10(size / 4))
    step = max(s for s in (power, 2 * power, 5 * power) if 4 * s <= size * (1 + 1e-9))
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
