"""Going through what is over, a training or a story: play, pause, step, or jump with a slider or a field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

PAUSE = 500  # milliseconds from one moment to the next


class Scrubber:
    """A Play button, a slider and a field of the same whole number. Shows nothing by itself; display `.row`."""

    def __init__(self, label: str, look: Callable[[int], None], help: str = ""):
        """look: called with every moment that is chosen. help: the tooltip."""
        self._look, self._quiet = look, False
        limits = {"min": 0, "max": 1, "value": 0}
        self.play = widgets.Play(**limits, interval=PAUSE, layout=widgets.Layout(flex="0 0 auto", width="auto"))
        self.slider = widgets.IntSlider(
            **limits, description=label, readout=False, continuous_update=False, style={"description_width": "8.2em"},
            layout=widgets.Layout(width="auto", flex="1 1 20em", min_width="0"),
        )  # fmt: skip
        self.field = widgets.BoundedIntText(
            **limits, description=label, style={"description_width": "0"},
            layout=widgets.Layout(width="4.8em", flex="0 0 auto"),
        )  # fmt: skip
        self.field.add_class("d2rkit-field")
        self.parts = (self.play, self.slider, self.field)
        for part in self.parts:
            name = "tooltip" if "tooltip" in part.trait_names() else "description_tooltip"
            setattr(part, name, help or f"{label} of the training to look at")
        widgets.link((self.play, "value"), (self.slider, "value"))
        widgets.link((self.slider, "value"), (self.field, "value"))
        self.slider.observe(self._on_move, names="value")
        self.row = widgets.HBox(
            [self.slider, self.field, self.play], layout=widgets.Layout(align_items="center", overflow="visible")
        )

    def over(self, moments: range, alive: bool = True) -> None:
        """The moments there are, of even distance; the last one is chosen, without a look."""
        self._quiet = True
        try:
            low, high = (moments[0], moments[-1]) if len(moments) else (0, 1)
            for part in self.parts:
                part.disabled = not alive
                if (part.min, part.max, part.step) != (low, high, moments.step):
                    part.max = max(high, part.max)  # never below the other end, not even for a moment
                    part.min, part.max, part.step = low, high, moments.step
            self.slider.value = high
        finally:
            self._quiet = False

    def point_at(self, moment: int) -> None:
        """Choose a moment without a look."""
        self._quiet = True
        try:
            self.slider.value = moment
        finally:
            self._quiet = False

    def _on_move(self, change: Any) -> None:
        if not self._quiet:
            self._look(change["new"])
