"""Panel of notebook 05: a whole training run, live. It can be paused and resumed, and made to fail on purpose.

The run itself is a `training_session.Session`. Its thread never touches a widget: it leaves a new `Curves` behind
and asks the kernel's event loop to show it.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import ipywidgets as widgets

from d2rkit.core.validation import nearest
from d2rkit.data.datasets import ImageData
from d2rkit.experiments.experiment import Experiment
from d2rkit.methods.catalogue import METHODS, get_method
from d2rkit.panels import base
from d2rkit.panels.base import StaticFigure
from d2rkit.panels.controls import Choice, Control, Slider
from d2rkit.panels.training_curves import draw, words
from d2rkit.panels.training_session import (
    SCENARIOS,
    Curves,
    Scenario,
    Session,
    fewer,
    small,
    with_wrong_labels,
)
from d2rkit.training.guides import by_method


class LiveTraining:
    """Start, pause and resume a run and watch its curves; display `.widget`.

    The controls take effect at the next Start; Resume goes on with the run as it was begun. Only one panel
    trains at a time: starting another pauses this one."""

    _active: ClassVar[LiveTraining | None] = None

    def __init__(
        self, data: ImageData, experiment: Experiment | None = None, start: str = "sound",
        scenarios: Mapping[str, Scenario] = SCENARIOS,
    ):  # fmt: skip
        """data: its training images are thinned out as the controls say. experiment: what the controls change
        (default: the small digits pair). scenarios: name -> where the controls can jump to; start: one of them."""
        self.data, self.experiment, self.scenarios = data, experiment or small(), dict(scenarios)
        if start not in self.scenarios:
            raise nearest(start, self.scenarios, "scenario")
        most = len(data.train)
        specs = {
            "scenario": Choice("Scenario", start, {s.words: name for name, s in self.scenarios.items()}),
            "method": Choice("Method", self.experiment.method, {m.title: name for name, m in METHODS.items()}),
            "epochs": Slider("Epochs", 8, 1, 100, 1, "How often every training image is seen"),
            "lr": Slider("Learning rate", 0.2, 0.01, 2.0, 0.01, "Peak learning rate of SGD"),
            "warmup": Slider("Warm-up, epochs", 2.0, 0.0, 5.0, 0.5, "Over which the learning rate rises from 0"),
            "w_clean": Slider("Weight: clean", 2.0, 0.0, 40.0, 1.0, "Weight of D2R's KL term on clean images"),
            "w_adv": Slider("Weight: adversarial", 15.0, 0.0, 60.0, 1.0, "Weight of D2R's KL term on attacked images"),
            "images": Slider("Training images", most, 1, most, 1, "The first so many, of every class alike"),
            "wrong": Slider("Wrong labels, %", 0, 0, 50, 5, "Share of training images given another class"),
        }
        self.controls = {name: Control(spec) for name, spec in specs.items()}
        self.buttons = {
            name: widgets.Button(description=name.capitalize(), tooltip=tip, layout=widgets.Layout(width="7em"))
            for name, tip in (
                ("start", "Train from the beginning with the settings above"),
                ("pause", "Stop after this step and save everything"),
                ("resume", "Go on at exactly the step where it stopped"),
            )
        }
        self.bar = widgets.FloatProgress(min=0.0, max=1.0, description="Progress", layout=widgets.Layout(width="30em"))
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%", object_fit="contain"))
        self.text, self.message = widgets.HTML(), widgets.HTML()
        heading = widgets.HTML(f"<h3 style='margin:0'>{html.escape(f'Training, live · {data.name}')}</h3>")
        rows = [control.row for control in self.controls.values()]
        grid = widgets.HBox(rows, layout=widgets.Layout(flex_flow="row wrap", align_items="center"))
        row = widgets.HBox([*self.buttons.values(), self.bar], layout=widgets.Layout(flex_flow="row wrap"))
        self.widget = widgets.VBox([heading, grid, row, self.message, self.picture, self.text])
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # no kernel: whoever uses the panel calls show()
            self._loop = None
        self._home, self._waiting = threading.get_ident(), False
        self._drawn, self._rest = None, 0.0  # what the picture shows; when it may change again
        self.session: Session
        self._on_scenario()
        self.controls["scenario"].main.observe(self._on_scenario, names="value")
        for name, button in self.buttons.items():
            button.on_click(partial(self._on_button, getattr(self, name)))
        self._guarded(self._prepare)

    # What the buttons do, also for a notebook's cells and the tests.
    def start(self) -> None:
        """Begin anew, in the background."""
        self._prepare()
        self.resume()

    def pause(self) -> None:
        self.session.pause()
        self.show()

    def resume(self) -> None:
        """Go on with the run as it was begun; nothing happens if it is done or running."""
        if self.session.curves.status in ("ready", "paused"):
            self._take_turn()
            self.session.train_in_background()
            self.show()

    def train_to_end(self) -> Curves:
        """Begin anew and come back when all epochs are done; the panel follows. ■ pauses: Resume goes on."""
        self._prepare()
        self._take_turn()
        self.session.train()
        self.show()
        return self.session.curves

    @property
    def settings(self) -> dict[str, Any]:
        return {name: control.main.value for name, control in self.controls.items()}

    @property
    def error(self) -> str:
        return self.message.value

    def set(self, **values: Any) -> None:
        """Move controls; a scenario first, since it moves the others."""
        for name in sorted(values, key=lambda name: name != "scenario"):
            if name not in self.controls:
                raise ValueError(f"the training panel has no control {name!r}; it has {', '.join(self.controls)}")
            self.controls[name].main.value = values[name]

    def plan(self) -> Experiment:
        """The experiment that the controls stand for."""
        at = self.settings
        changes = dict(self.scenarios[at["scenario"]].changes)
        if get_method(at["method"]).objective.__name__ == "d2r":
            changes["loss"] = {**changes.get("loss", {}), "w_clean": at["w_clean"], "w_adv": at["w_adv"]}
        same = {name: at[name] for name in ("epochs", "lr", "warmup")}
        return by_method(replace(self.experiment, **same, **changes), at["method"])

    def static(self) -> StaticFigure:
        """The run so far as an ordinary image with its words."""
        curves = self.session.curves
        return base.still(draw(curves), words(curves))

    def show(self) -> None:
        """Bring the widgets up to the session; only in the thread that made them."""
        self._waiting = False
        curves = self.session.curves
        self.bar.value, self.bar.description = curves.done, f"{curves.done:.0%}"
        self.buttons["start"].disabled = curves.status == "running"
        self.buttons["pause"].disabled = curves.status != "running"
        self.buttons["resume"].disabled = curves.status != "paused"
        self.text.value = words(curves)
        # Drawing takes from the training, so: only what is new, and while it runs a fifth of the time at most.
        seen = (id(self.session), len(curves.history), curves.pauses, curves.status)
        began = time.monotonic()
        if seen != self._drawn and not (curves.status == "running" and began < self._rest):
            self.picture.value, width = base.to_png(draw(curves))
            self.picture.layout.width = f"{width}px"
            self._drawn, self._rest = seen, began + 5 * (time.monotonic() - began)
        if self.session.error:
            self.message.value = base.error_words(self.session.error, True)

    def _prepare(self) -> None:
        if hasattr(self, "session"):
            self.session.pause()
        data = with_wrong_labels(fewer(self.data, self.settings["images"]), self.settings["wrong"] / 100)
        self.session = Session(self.plan(), data, self._notify)
        self.message.value = ""
        self.show()

    def _take_turn(self) -> None:
        other, LiveTraining._active = LiveTraining._active, self
        if other is not None and other is not self and other.session.running:
            other.pause()

    def _notify(self) -> None:
        if threading.get_ident() == self._home:
            self.show()
        elif self._loop is not None and not self._waiting:
            self._waiting = True
            with contextlib.suppress(RuntimeError):  # the kernel is going down
                self._loop.call_soon_threadsafe(self._guarded, self.show)

    def _on_button(self, act: Callable[[], None], button: Any) -> None:
        self._guarded(act)

    def _guarded(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # the one place where every error of the buttons ends, in words
            self.message.value = base.error_words(error, bool(self.picture.value))

    def _on_scenario(self, change: Any = None) -> None:
        settings = dict(self.scenarios[self.settings["scenario"]].settings)
        settings["images"] = min(settings["images"], len(self.data.train))
        self.set(**settings)
