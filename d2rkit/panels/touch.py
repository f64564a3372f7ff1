"""The one widget of the kit with a script of its own: `touch.js` names slider handles, copies, and lets parts of a
picture be dragged. It comes with anywidget; without it, panels have all but these, and say so nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import traitlets
from matplotlib.axes import Axes

try:
    import anywidget
except ImportError:  # not part of [lab] before 0.3
    anywidget = None

Handler = Callable[[Mapping[str, Any]], None]
SCRIPT = Path(__file__).parent / "touch.js"

if anywidget is not None:

    class Touch(anywidget.AnyWidget):
        """things: {"name", "x", "y", "ring"}, what can be grasped and where it lies, in shares of the picture from its
        top left corner; areas: {"left", "top", "width", "height"}, where something can be added; action: what the
        pointer does, "move", "add", "remove" or "none"; live: whether moves are told before the end; answered: the
        number of the last message that was dealt with."""

        _esm = SCRIPT.read_text(encoding="utf-8")
        things = traitlets.List().tag(sync=True)
        areas = traitlets.List().tag(sync=True)
        action = traitlets.Unicode("move").tag(sync=True)
        live = traitlets.Bool(True).tag(sync=True)
        answered = traitlets.Int(0).tag(sync=True)


def make_touch(handle: Handler | None = None) -> Touch | None:
    """The widget, to be put among a panel's children; None without anywidget. handle: gets every message: "kind"
    ("move", "add", "remove"), "name", "x", "y", "done"."""
    if anywidget is None:
        return None
    touch = Touch(layout=widgets.Layout(display="none"))

    def answer(widget: Any, message: Mapping[str, Any], buffers: Sequence) -> None:
        try:
            if handle is not None:
                handle(message)
        finally:
            touch.answered = message["number"]

    touch.on_msg(answer)
    return touch


def to_picture(ax: Axes, x: float, y: float) -> tuple[float, float]:
    """A place in the data of `ax` as shares of its picture, from the top left corner."""
    ax.apply_aspect()
    across, up = ax.figure.transFigure.inverted().transform(ax.transData.transform((x, y)))
    return float(across), float(1 - up)


def from_picture(ax: Axes, across: float, down: float) -> tuple[float, float]:
    """The reverse."""
    ax.apply_aspect()
    x, y = ax.transData.inverted().transform(ax.figure.transFigure.transform((across, 1 - down)))
    return float(x), float(y)
