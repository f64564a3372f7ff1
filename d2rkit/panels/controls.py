"""The controls of a panel: a number with a slider and a field, or a menu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets


@dataclass(frozen=True)
class Slider:
    """A number. `help` is the tooltip; integers if `step` and `value` are."""

    label: str
    value: float
    low: float
    high: float
    step: float
    help: str = ""


@dataclass(frozen=True)
class Choice:
    """One of `options`: what is shown -> what `compute` receives."""

    label: str
    value: Any
    options: Mapping[str, Any]
    help: str = ""


class Control:
    """A control's widgets: `main` holds the value; a slider has a numeric field of the same value beside it."""

    def __init__(self, spec: Slider | Choice):
        self.spec = spec
        style = {"description_width": "9.5em"}
        if isinstance(spec, Choice):
            options = list(spec.options.items())
            layout = widgets.Layout(width="27em", max_width="99%")
            self.main = widgets.Dropdown(
                options=options, value=spec.value, description=spec.label, style=style, layout=layout
            )
            self.number, self.row = None, self.main
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
                layout=widgets.Layout(width="21em"),
            )  # fmt: skip
            self.number = field(**limits, layout=widgets.Layout(width="5.2em"))
            widgets.link((self.main, "value"), (self.number, "value"))
            self.row = widgets.HBox([self.main, self.number])
        for widget in filter(None, (self.main, self.number)):
            # ipywidgets 7 and 8 have different names for the tooltip, which is also the field's accessible name
            name = "tooltip" if "tooltip" in widget.trait_names() else "description_tooltip"
            setattr(widget, name, spec.help or spec.label)
