"""A figure that is kept while sliders move: what stands still is drawn once, what moves is drawn over it each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.spines import Spine

Place = tuple[float, float, float, float]  # left, bottom, width, height, in shares of the figure
STILL = 0.5  # zorder of what nothing moves under, ticks (set_axisbelow) among it; the rest is drawn each time


@dataclass(frozen=True)
class Furnished:
    """Axes, what they were furnished for, and the artists that they had then."""

    ax: Axes
    key: tuple
    furniture: frozenset[Artist]

    def clear(self) -> None:
        """Take away what has been drawn on them since."""
        for artist in set(self.ax.get_children()) - self.furniture:
            artist.remove()
        self.ax.set_prop_cycle(None)  # the first colour is the first again

    def upper(self) -> list[Artist]:
        """What moves, and the furniture that may lie over it, from below to above."""
        hidden = (Axis, Spine) if not self.ax.axison else ()
        shown = [a for a in self.ax.get_children() if a is not self.ax.patch and not isinstance(a, hidden)]
        return sorted((a for a in shown if a.zorder > STILL), key=attrgetter("zorder"))


class Stage(Figure):
    """A Figure on which `axes_at` gives the same axes again, without what moved; it looks like a new one each time."""

    def __init__(self, **figure: Any):
        super().__init__(**figure)
        self._furnished: dict[Place, Furnished] = {}
        self._still: Any = None  # the pixels of what stands still

    def axes_at(self, place: Place, furnish: Callable[..., None], *key: Any) -> Axes:
        """Axes at `place` as furnish(ax, *key) makes them, with limits, ticks, texts and legend; made anew only for
        another key. Ticks, axis labels, and furniture that has the zorder STILL, are drawn below what moves."""
        before = self._furnished.pop(place, None)
        if before is not None and before.key == (furnish, *key):
            before.clear()
            self._furnished[place] = before
            return before.ax
        if before is not None:
            before.ax.remove()
        self._still, ax = None, self.add_axes(place)
        furnish(ax, *key)
        ax.set_axisbelow(True)
        self._furnished[place] = Furnished(ax, (furnish, *key), frozenset(ax.get_children()))
        return ax

    def draw(self, renderer: Any) -> None:
        """Like any Figure's; but what stands still is drawn only when it is new."""
        if not self._furnished or self.canvas.is_saving():  # savefig() may have other sizes, colours and formats
            return super().draw(renderer)
        upper = [artist for axes in self._furnished.values() for artist in axes.upper()]
        if self._still is None:
            for artist in upper:
                artist.set_animated(True)  # left out by super().draw()
            super().draw(renderer)
            self._still = renderer.copy_from_bbox(self.bbox)
        else:
            renderer.restore_region(self._still)
        for artist in upper:
            artist.draw(renderer)
