"""A panel: controls over a picture and its numbers in words.

It is three pure functions and a list of controls:

    compute(**settings) -> frozen dataclass      draw(data) -> matplotlib Figure      words(data) -> HTML

`Panel` ties them together with ipywidgets. Pictures travel through `widgets.Image.value` and text through
`widgets.HTML.value`: no Output widget, no figure known to pyplot, so nothing is duplicated, nothing piles up in
memory, and an error appears in the panel, in words.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from d2rkit.panels.base import StaticFigure, error_words, to_png
from d2rkit.panels.controls import Choice, Control, Slider


class Panel:
    """Controls over a picture and its numbers in words; display `.widget`.

    controls: setting -> Slider or Choice. compute: settings as keywords -> data; draw: data -> Figure;
    words: data -> HTML. Everything runs once on construction and after each change of a control.
    An exception in any of the three is shown in the panel, and nowhere else; the last good picture stays."""

    def __init__(
        self,
        title: str,
        controls: Mapping[str, Slider | Choice],
        compute: Callable[..., Any],
        draw: Callable[[Any], Figure],
        words: Callable[[Any], str],
    ):
        self.title, self.compute, self.draw, self.words = title, compute, draw, words
        self.controls = {name: Control(spec) for name, spec in controls.items()}
        self.data: Any = None
        fitting = widgets.Layout(max_width="100%", margin="0", object_fit="contain")
        self.picture = widgets.Image(format="png", layout=fitting)
        self.text, self.message = widgets.HTML(), widgets.HTML()
        self.reset = widgets.Button(description="Back to the start", tooltip="All controls as they were")
        self.reset.on_click(self._on_reset)
        rows = [control.row for control in self.controls.values()]
        columns = "repeat(auto-fill, minmax(28em, 1fr))"  # one, two or three, as the page is wide
        grid = widgets.Box(rows, layout=widgets.Layout(display="grid", grid_template_columns=columns))
        heading = widgets.HTML(f"<h3 style='margin:0'>{html.escape(title)}</h3>")
        self.widget = widgets.VBox([heading, grid, self.reset, self.message, self.picture, self.text])
        self._quiet = False
        for control in self.controls.values():
            control.main.observe(self._on_change, names="value")
        self.refresh()

    @property
    def settings(self) -> dict[str, Any]:
        return {name: control.main.value for name, control in self.controls.items()}

    @property
    def error(self) -> str:
        """The error that the panel shows; empty if there is none."""
        return self.message.value

    def set(self, **values: Any) -> None:
        """Move several controls, and compute once."""
        self._quiet = True
        try:
            for name, value in values.items():
                if name not in self.controls:
                    raise ValueError(f"{self.title} has no control {name!r}; it has {', '.join(self.controls)}")
                self.controls[name].main.value = value
        finally:
            self._quiet = False
        self.refresh()

    def refresh(self) -> None:
        try:
            self.data = self.compute(**self.settings)
            self.picture.value, width = to_png(self.draw(self.data))
            self.picture.layout.width = f"{width}px"
            self.text.value = self.words(self.data)
            self.message.value = ""
        except Exception as error:  # the one place where every error of a panel ends, in words
            self.message.value = error_words(error, self.data is not None)

    def static(self, **changes: Any) -> StaticFigure:
        """The picture at the current settings, or at others, as an ordinary image with its words as text:
        it outlives the kernel and needs no widgets. Leaves the panel as it is; errors are raised here."""
        data = self.compute(**{**self.settings, **changes}) if changes or self.data is None else self.data
        return StaticFigure(*to_png(self.draw(data)), self.words(data))

    def _on_change(self, change: Any) -> None:
        if not self._quiet:
            self.refresh()

    def _on_reset(self, button: Any) -> None:
        self.set(**{name: control.spec.value for name, control in self.controls.items()})
