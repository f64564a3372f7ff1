"""Labelled points in the plane that one can move, add and remove: with the pointer in a picture, or by numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from d2rkit.panels.touch import from_picture, to_picture

MOST = 400  # points; every one costs time at every move


@dataclass(frozen=True)
class Points:
    """xy: (N, 2) in [0, 1]; labels: (N,) class numbers. Every change is a new object."""

    xy: np.ndarray
    labels: np.ndarray

    def tensors(self) -> tuple[Tensor, Tensor]:
        """As images of two pixels, (N, 2, 1, 1), and labels."""
        return torch.from_numpy(self.xy).view(-1, 2, 1, 1), torch.from_numpy(self.labels)

    def moved(self, number: int, x: float, y: float) -> Points:
        xy = self.xy.copy()
        xy[number] = np.clip((x, y), 0, 1)
        return Points(xy, self.labels)

    def added(self, x: float, y: float, label: int) -> Points:
        if len(self.labels) >= MOST:
            raise ValueError(f"there are {MOST} points already, the most that this panel trains on; remove some")
        xy = np.vstack([self.xy, np.clip((x, y), 0, 1)]).astype(self.xy.dtype)
        return Points(xy, np.append(self.labels, label).astype(self.labels.dtype))

    def removed(self, number: int) -> Points:
        if (self.labels == self.labels[number]).sum() == 1:
            raise ValueError("this is the last point of its class; the networks need one of each")
        keep = np.arange(len(self.labels)) != number
        return Points(self.xy[keep], self.labels[keep])


class PointEditor:
    """Widgets that change `points`; display `.row`. `action` and `label` say what the pointer does."""

    def __init__(self, points: Points, classes: Mapping[str, int], changed: Callable[[str], None]):
        """classes: what a menu calls them -> class number. changed: called with what was done, in words."""
        self.original = self.points = points
        self.classes, self._changed = dict(classes), changed
        actions = {"moves a point": "move", "removes a point": "remove"}
        actions |= {f"adds {name}": f"add {label}" for name, label in self.classes.items()}
        style = {"description_width": "auto"}
        self.pointer = widgets.Dropdown(
            options=list(actions.items()), description="In the maps, the pointer", style=style,
            layout=widgets.Layout(width="auto"),
        )  # fmt: skip
        narrow = widgets.Layout(width="auto", max_width="7em")
        self.number = widgets.BoundedIntText(1, min=1, max=1, description="Point", style=style, layout=narrow)
        self.x, self.y = (
            widgets.BoundedFloatText(0.5, min=0, max=1, step=0.01, description=name, style=style, layout=narrow)
            for name in ("x", "y")
        )
        self.label = widgets.Dropdown(
            options=list(self.classes.items()), description="Class", style=style, layout=widgets.Layout(width="auto")
        )
        self.buttons = {
            name: widgets.Button(description=name, tooltip=tip, layout=widgets.Layout(width="auto"))
            for name, tip in (
                ("Move", "Puts the point of this number at x, y"),
                ("Add", "A new point of this class at x, y"),
                ("Remove", "Takes the point of this number away"),
                ("Original points", "As they were"),
            )
        }
        acts = (
            lambda: self.move(self.number.value - 1, self.x.value, self.y.value),
            lambda: self.add(self.x.value, self.y.value, cast(int, self.label.value)),
            lambda: self.remove(self.number.value - 1),
            self.restore,
        )
        for button, act in zip(self.buttons.values(), acts, strict=True):
            button.on_click(partial(self._on_button, act))
        self.number.observe(self._on_number, names="value")
        self.message = widgets.HTML()
        parts = [self.pointer, self.number, self.x, self.y, self.label, *self.buttons.values(), self.message]
        layout = widgets.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 0.5em", overflow="visible")
        self.row = widgets.HBox(parts, layout=layout)
        self._touch: Any = None
        self._axes: list[Axes] = []
        self._count()
        self._on_number()

    def follow(self, touch: Any, axes: list[Axes]) -> None:
        """Let the pointer do it, too. axes: where each of the maps lies in the picture."""
        self._touch, self._axes = touch, axes
        corners = [(*to_picture(ax, 0, 1), *to_picture(ax, 1, 0)) for ax in axes]
        touch.areas = [{"left": a, "top": b, "width": c - a, "height": d - b} for a, b, c, d in corners]
        touch.live = False  # the networks train anew when the point is let go
        self.pointer.observe(self._on_pointer, names="value")
        self._count()

    def on_touch(self, message: Mapping[str, Any]) -> None:
        """What the pointer did in one of the maps."""
        if message["kind"] == "add":
            inside = [from_picture(ax, message["x"], message["y"]) for ax in self._axes]
            x, y = next(p for p in inside if 0 <= p[0] <= 1 and 0 <= p[1] <= 1)
            self.add(x, y, int(str(self.pointer.value).split()[1]))
            return
        which, number = map(int, message["name"].split("/"))
        if message["kind"] == "remove":
            self.remove(number)
        else:
            self.move(number, *from_picture(self._axes[which], message["x"], message["y"]))

    def _on_pointer(self, change: Any) -> None:
        self._touch.action = change["new"].split()[0]

    def move(self, number: int, x: float, y: float) -> None:
        self.number.value = number + 1
        self._take(self.points.moved(number, x, y), f"point {number + 1} moved to ({x:.2f}, {y:.2f})")

    def add(self, x: float, y: float, label: int) -> None:
        names = {value: name for name, value in self.classes.items()}
        self._take(self.points.added(x, y, label), f"{names[label]} added at ({x:.2f}, {y:.2f})")

    def remove(self, number: int) -> None:
        self._take(self.points.removed(number), f"point {number + 1} removed")

    def restore(self) -> None:
        self._take(self.original, "the original points again")

    def _take(self, points: Points, what: str) -> None:
        self.points, self.message.value = points, ""
        self._count()
        self._on_number()
        self._changed(what)

    def _count(self) -> None:
        self.number.max = len(self.points.labels)
        things = []
        for which, ax in enumerate(self._axes):
            for number, place in enumerate(self.points.xy):
                x, y = to_picture(ax, *place)
                things.append({"name": f"{which}/{number}", "x": x, "y": y})
        if self._touch is not None:
            self._touch.things = things

    def _on_number(self, change: Any = None) -> None:
        """The fields follow the number."""
        number = self.number.value - 1
        self.x.value, self.y.value = (round(float(v), 2) for v in self.points.xy[number])
        self.label.value = int(self.points.labels[number])

    def _on_button(self, act: Callable[[], None], button: Any) -> None:
        self.attempt(act)

    def attempt(self, act: Callable[[], None]) -> None:
        """Do it, or say here why it cannot be done."""
        try:
            act()
        except ValueError as error:
            self.message.value = f"<span role='alert'>{error}.</span>"
