"""The controls of a panel: a number with a slider and a field, or a menu."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets

When = Callable[[Mapping[str, Any]], bool]  # settings of the whole panel -> whether this control does anything


@dataclass(frozen=True)
class Slider:
    """A number. `help` is the tooltip; integers if `step` and `value` are. Where `when` says that the other settings
    leave it without effect, it is greyed out."""

    label: str
    value: float
    low: float
    high: float
    step: float
    help: str = ""
    when: When | None = None


@dataclass(frozen=True)
class Choice:
    """One of `options`: what is shown -> what `compute` receives. `when`: as for a Slider."""

    label: str
    value: Any
    options: Mapping[str, Any]
    help: str = ""
    when: When | None = None


class Control:
    """A control's widgets: `main` holds the value; a slider has a numeric field of the same value beside it."""

    main: Any  # a Dropdown, an IntSlider or a FloatSlider

    def __init__(self, spec: Slider | Choice):
        self.spec = spec
        style = {"description_width": "8.2em"}  # longer labels take two lines
        if isinstance(spec, Choice):
            self.main = widgets.Dropdown(
                options=list(spec.options.items()), value=spec.value, description=spec.label, style=style,
                layout=widgets.Layout(width="auto", flex="1 1 auto", min_width="0"),
            )  # fmt: skip
            self.number, parts = None, [self.main]
        else:
            whole = all(isinstance(v, int) for v in (spec.value, spec.low, spec.high, spec.step))
            slider, field = (
                (widgets.IntSlider, widgets.BoundedIntText)
                if whole
                else (widgets.FloatSlider, widgets.BoundedFloatText)
            )
            limits = {"value": spec.value, "min": spec.low, "max": spec.high, "step": spec.step}
            self.main = slider(
                **limits, description=spec.label, continuous_update=False, readout=False, style=style,
                layout=widgets.Layout(width="auto", flex="1 1 auto", min_width="0"),
            )  # fmt: skip
            # Its label is there for screen readers only: the slider's says the same to the eye.
            self.number = field(
                **limits, description=spec.label, style={"description_width": "0"},
                layout=widgets.Layout(width="4.8em", flex="0 0 auto"),
            )  # fmt: skip
            self.number.add_class("d2rkit-field")
            # A browser's slider counts in steps and arrives at 0.09000000000000001, which no field has room for.
            short = (lambda value: round(value, 10)), (lambda value: value)
            widgets.link((self.main, "value"), (self.number, "value"), short)
            parts = [self.main, self.number]
        self.row = widgets.HBox(parts, layout=widgets.Layout(align_items="center", overflow="visible"))
        for widget in filter(None, (self.main, self.number)):
            # ipywidgets 7 and 8 have different names for the tooltip
            name = "tooltip" if "tooltip" in widget.trait_names() else "description_tooltip"
            setattr(widget, name, spec.help or spec.label)

    def shown(self, value: Any) -> str:
        """A value as the student sees it."""
        if isinstance(self.spec, Choice):  # the menu's present options: a panel may have changed them
            return next((label for label, option in self.main.options if option == value), str(value))
        return f"{value:g}"

    def grey_out(self, settings: Mapping[str, Any]) -> None:
        """Dead where it does nothing at these settings of the panel, alive elsewhere."""
        dead = self.spec.when is not None and not self.spec.when(settings)
        for widget in filter(None, (self.main, self.number)):
            widget.disabled = dead
        (self.row.add_class if dead else self.row.remove_class)("d2rkit-off")


class Controlled:
    """What has controls, and a message for what went wrong with them."""

    title: str
    controls: dict[str, Control]
    message: widgets.HTML

    @property
    def settings(self) -> dict[str, Any]:
        return {name: control.main.value for name, control in self.controls.items()}

    @property
    def error(self) -> str:
        """The error that is shown; empty if there is none."""
        return self.message.value

    def move(self, values: Mapping[str, Any]) -> None:
        """Set controls, in this order. ValueError for one that there is not."""
        for name, value in values.items():
            if name not in self.controls:
                raise ValueError(f"{self.title} has no control {name!r}; it has {', '.join(self.controls)}")
            self.controls[name].main.value = value


def grid(rows: Sequence[widgets.Widget]) -> widgets.Box:
    """Controls in one, two or three columns, as the page is wide: a slider of 260 px or more always fits."""
    columns = "repeat(auto-fill, minmax(min(33em, 100%), 1fr))"
    layout = widgets.Layout(display="grid", grid_template_columns=columns, grid_gap="0 1.5em", overflow="visible")
    return widgets.Box(rows, layout=layout)
