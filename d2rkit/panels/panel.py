"""A panel: controls over a picture and its numbers in words.

It is three pure functions and a list of controls:

    compute(**settings) -> frozen dataclass      draw(data) -> matplotlib Figure      words(data) -> HTML

`draw` may also take `ghost`, the data of the previous setting, to be drawn in grey under the new; `frame`, which holds
axes still from one picture to the next; and `made`, the last picture's figure, to be drawn on again (see stage.py).
`Panel` ties all this together with ipywidgets. Pictures and text travel through `widgets.HTML.value`: no Output widget,
no figure known to pyplot, so nothing is duplicated, nothing piles up in memory, and an error appears in the panel, in
words.
"""

from __future__ import annotations

import html
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from d2rkit.panels.axes import Frame
from d2rkit.panels.base import StaticFigure, error_words, first_sentence, to_png
from d2rkit.panels.controls import Choice, Control, Controlled, Slider, grid
from d2rkit.panels.picture import Picture, Sheet, heading
from d2rkit.panels.takeaway import links
from d2rkit.panels.touch import make_touch


@dataclass(frozen=True)
class Shown:
    """What a panel shows, or showed at its previous setting."""

    settings: Mapping[str, Any]
    labels: Mapping[str, str]  # the settings as the student saw them
    data: Any
    words: str
    sheet: Sheet


class Panel(Controlled):
    """Controls over a picture and its numbers in words; display `.widget`.

    controls: setting -> Slider or Choice. compute: settings as keywords -> data; draw: data -> Figure;
    words: data -> HTML. Everything runs once on construction and after each change of a control.
    An exception in any of the three is shown in the panel, and nowhere else; the last good picture stays.

    "Back to the start" brings back the settings that the panel had when `.widget` was first asked for: those it was
    made with, and what its notebook has `.set()` since."""

    def __init__(
        self,
        title: str,
        controls: Mapping[str, Slider | Choice],
        compute: Callable[..., Any],
        draw: Callable[..., Figure],
        words: Callable[[Any], str],
    ):
        self.title, self.compute, self.draw, self.words = title, compute, draw, words
        self.controls = {name: Control(spec) for name, spec in controls.items()}
        self.data: Any = None
        self._shown: Shown | None = None
        self._note = ""
        self._before: Shown | None = None
        self._held: Shown | None = None  # what was shown when a drag began
        self._frame = Frame()
        self._made: Figure | None = None  # the figure of the picture that is shown
        self._start: dict[str, Any] | None = None  # from when the panel is displayed
        self.picture, self.text, self.message = Picture(), widgets.HTML(), widgets.HTML()
        self.changed, self.take = widgets.HTML(), widgets.HTML()
        self.busy = widgets.HTML(layout=widgets.Layout(width="8em"))
        self.reset = widgets.Button(description="Back to the start", tooltip="All controls as they were")
        self.reset.on_click(self._on_reset)
        self.keep = widgets.Checkbox(
            value=self._draws("ghost"), description="Keep the previous setting", indent=False,
            layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        self.keep.observe(self._on_keep, names="value")
        row = widgets.HBox(
            [self.reset, self.keep, self.busy],
            layout=widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 1em", overflow="visible"),
        )
        rows = grid([control.row for control in self.controls.values()])
        self.more = widgets.VBox([], layout=widgets.Layout(overflow="visible"))  # what some panels have besides
        self.touch = make_touch(self.on_touch)
        parts = [heading(title), rows, row, self.message, self.picture, self.more, self.changed, self.text, self.take]
        self.box = Box(title, [*parts, *filter(None, [self.touch])])
        self.text.add_class("d2rkit-words")
        self._quiet = False
        for control in self.controls.values():
            control.main.observe(self._on_change, names="value")
        self.refresh()

    @property
    def widget(self) -> Box:
        """What a notebook displays."""
        if self._start is None:
            self._start = self.settings
        return self.box

    @property
    def opening(self) -> dict[str, Any]:
        """The settings the panel opened with, whatever was moved since."""
        return dict(self._start or self.settings)

    def set(self, **values: Any) -> None:
        """Move several controls, and compute once."""
        self._quiet = True
        try:
            self.move(values)
        finally:
            self._quiet = False
        self.refresh()

    def drag(self, done: bool, **values: Any) -> None:
        """The same for a moment of a drag: until it is `done`, the ghost is what was shown when it began."""
        self._held = self._held or self._shown
        if any(self.settings[name] != value for name, value in values.items()):
            self.set(**values)
        if done:
            self._held = None

    def on_touch(self, message: Mapping[str, Any]) -> None:
        """Something in the picture was dragged (see touch.py); panels that can be touched say what it does."""

    def refresh(self, note: str = "") -> None:
        """Compute and show what the controls stand for. note: what was changed besides them."""
        settings = self.settings
        for control in self.controls.values():
            control.grey_out(settings)
        self.busy.value = "computing…"  # on its way to the page before the work begins
        self.picture.dim(self._shown is not None)
        try:
            data = self.compute(**settings)
            if self._shown is not None and (note or settings != self._shown.settings):
                self._before, self._note = self._held or self._shown, note
                if any(isinstance(self.controls[name].spec, Choice) for name in self._moved(settings)):
                    self._frame.clear()
            self._show(settings, data)
            self.message.value = ""
        except Exception as error:  # the one place where every error of a panel ends, in words
            self.message.value = error_words(error, self._shown is not None)
        finally:
            self.picture.dim(False)
            self.busy.value = ""

    def static(self, **changes: Any) -> StaticFigure:
        """The picture as an ordinary image with its words as text: it outlives the kernel and needs no widgets.

        Without changes at the current settings; with changes at the opening settings and these changes, so that what a
        reveal shows does not depend on where the sliders were left. Leaves the panel as it is; raises its errors."""
        data = self.compute(**{**self.opening, **changes}) if changes or self.data is None else self.data
        return StaticFigure(*to_png(self.draw(data)), self.words(data))

    def _show(self, settings: Mapping[str, Any], data: Any) -> None:
        self.data, self._shown = data, self._paint(settings, data)

    def _paint(self, settings: Mapping[str, Any], data: Any) -> Shown:
        """Put picture and words of `data` on the page."""
        text, ghost = self.words(data), self._before if self.keep.value else None
        extras: dict[str, Any] = {"frame": self._frame} if self._draws("frame") else {}
        if ghost is not None and self._draws("ghost"):
            extras["ghost"] = ghost.data
        if self._draws("made"):
            extras["made"], self._made = self._made, None  # a figure is not kept after an error in the midst of it
        self._made = self.draw(data, **extras)
        sheet = Sheet.of(self._made, f"{self.title}: {first_sentence(text)}")
        small = ghost.sheet if ghost is not None and not self._draws("ghost") else None
        self.picture.show(sheet, small, "the previous setting")
        self.text.value = text
        self.changed.value = self._change_words(ghost, settings)
        self.take.value = links(self.title, sheet, text)
        labels = {name: control.shown(settings[name]) for name, control in self.controls.items()}
        return Shown(settings, labels, data, text, sheet)

    def _change_words(self, ghost: Shown | None, settings: Mapping[str, Any]) -> str:
        """What was changed, from what to what, and what the panel said before."""
        if ghost is None:
            return ""
        moves = [self._note] if self._note else []
        moves += [
            f"{control.spec.label} {ghost.labels[name]} → {control.shown(settings[name])}"
            for name, control in self.controls.items()
            if ghost.settings[name] != settings[name]
        ]
        said = f"Changed: {'; '.join(moves) or 'nothing'}. Before: {first_sentence(ghost.words)}"
        return f"<p class='d2rkit-changed'>{html.escape(said)}</p>"

    def _moved(self, settings: Mapping[str, Any]) -> list[str]:
        return [name for name, value in settings.items() if self._shown and self._shown.settings[name] != value]

    def _draws(self, what: str) -> bool:
        return what in inspect.signature(self.draw).parameters

    def _on_change(self, change: Any) -> None:
        if not self._quiet:
            self.refresh()

    def _on_keep(self, change: Any) -> None:
        if self._shown is not None:
            self._show(self._shown.settings, self._shown.data)

    def _on_reset(self, button: Any) -> None:
        self.set(**(self._start or {name: control.spec.value for name, control in self.controls.items()}))


class Box(widgets.VBox):
    """What a panel is displayed as. Where there are no widgets (GitHub, a notebook opened again) a sentence is left."""

    def __init__(self, title: str, children: list[widgets.Widget]):
        super().__init__(children, layout=widgets.Layout(overflow="visible"))
        self.title = title
        self.add_class("d2rkit-panel")

    def _repr_mimebundle_(self, **keywords: Any) -> dict[str, Any]:
        bundle: dict[str, Any] = super()._repr_mimebundle_(**keywords) or {}
        bundle["text/plain"] = f"The panel “{self.title}” is alive only while its notebook runs: run this cell."
        return bundle
