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
from d2rkit.panels.controls import Choice, Control, Controlled, Slider, grid
from d2rkit.panels.panel import Box
from d2rkit.panels.picture import Picture, Sheet, heading
from d2rkit.panels.scrubber import Scrubber
from d2rkit.panels.takeaway import links
from d2rkit.panels.touch import make_touch
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


def has_d2r_loss(at: Mapping[str, Any]) -> bool:
    """Whether the method of these settings has D2R's weights."""
    return get_method(at["method"]).objective.__name__ == "d2r"


class LiveTraining(Controlled):
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
        self._first, self._begun = start, None
        most = len(data.train)
        specs = {
            "scenario": Choice("Scenario", start, {s.words: name for name, s in self.scenarios.items()}),
            "method": Choice("Method", self.experiment.method, {m.title: name for name, m in METHODS.items()}),
            "epochs": Slider("Epochs", 8, 1, 100, 1, "How often every training image is seen"),
            "lr": Slider("Learning rate", 0.2, 0.01, 2.0, 0.01, "Peak learning rate of SGD"),
            "warmup": Slider(
                "Warm-up, epochs",
                2.0,
                0.0,
                5.0,
                0.5,
                "Over which the learning rate rises from 0",
                when=lambda at: self._changes(at).get("schedule", self.experiment.schedule) == "cosine",
            ),
            "w_clean": Slider(
                "Weight: clean", 2.0, 0.0, 40.0, 1.0, "Weight of D2R's KL term on clean images", when=has_d2r_loss
            ),
            "w_adv": Slider(
                "Weight: adversarial",
                15.0,
                0.0,
                60.0,
                1.0,
                "Weight of D2R's KL term on attacked images",
                when=has_d2r_loss,
            ),
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
                ("reset", "All controls as they were when the panel was made"),
            )
        }
        self.bar = widgets.FloatProgress(min=0.0, max=1.0, description="Progress", layout=widgets.Layout(width="30em"))
        self.picture, self.text, self.message, self.take = Picture(), widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.waiting = widgets.HTML()  # what was changed since the run began
        self.title = f"Training, live · {data.name}"
        rows = grid([control.row for control in self.controls.values()])
        row = widgets.HBox([*self.buttons.values(), self.bar], layout=widgets.Layout(flex_flow="row wrap"))
        self.scrub = Scrubber("Epoch", self._on_scrub)
        self.text.add_class("d2rkit-words")
        parts = [heading(self.title), rows, row, self.waiting, self.message, self.picture, self.scrub.row, self.text]
        self.widget = Box(self.title, [*parts, self.take, *filter(None, [make_touch()])])
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:  # no kernel: whoever uses the panel calls show()
            self._loop = None
        self._home, self._waiting = threading.get_ident(), False
        self._drawn, self._rest = None, 0.0  # what the picture shows; when it may change again
        self.session: Session
        self._on_scenario()
        self.controls["scenario"].main.observe(self._on_scenario, names="value")
        for control in self.controls.values():
            control.main.observe(self._on_control, names="value")
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

    def reset(self) -> None:
        """The controls as they were when the panel was made; a run goes on as it was begun."""
        self.set(scenario=self._first)
        self._on_scenario()

    def set(self, **values: Any) -> None:
        """Move controls; a scenario first, since it moves the others."""
        self.move({name: values[name] for name in sorted(values, key=lambda name: name != "scenario")})

    def plan(self) -> Experiment:
        """The experiment that the controls stand for."""
        at = self.settings
        changes = self._changes(at)
        if has_d2r_loss(at):
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
        epochs = len(curves.history)
        self.scrub.over(range(1, epochs + 1), alive=epochs > 1 and curves.status != "running")
        self.text.value = words(curves)
        # Drawing takes from the training, so: only what is new, and while it runs a fifth of the time at most.
        seen = (id(self.session), len(curves.history), curves.pauses, curves.status)
        began = time.monotonic()
        if seen != self._drawn and not (curves.status == "running" and began < self._rest):
            self._put(draw(curves))
            self._drawn, self._rest = seen, began + 5 * (time.monotonic() - began)
        if self.session.error:
            self.message.value = base.error_words(self.session.error, True)

    def _put(self, made: base.Figure) -> None:
        sheet = Sheet.of(made, f"{self.title}: {base.first_sentence(self.text.value)}")
        self.picture.show(sheet)
        self.take.value = links(self.title, sheet, self.text.value)

    def _on_scrub(self, epoch: int) -> None:
        """Look at one epoch of the run so far."""
        curves = self.session.curves
        self.text.value = words(curves, epoch)
        self._put(draw(curves, epoch))

    def _prepare(self) -> None:
        if hasattr(self, "session"):
            self.session.pause()
        data = with_wrong_labels(fewer(self.data, self.settings["images"]), self.settings["wrong"] / 100)
        self.session, self._begun = Session(self.plan(), data, self._notify), self.settings
        self.message.value = ""
        self._on_control()
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

    def _changes(self, at: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self.scenarios[at["scenario"]].changes)

    def _on_control(self, change: Any = None) -> None:
        """Grey out what does nothing; say what waits for the next Start."""
        at = self.settings
        for control in self.controls.values():
            control.grey_out(at)
        waiting = [
            f"{control.spec.label} {control.shown(at[name])}"
            for name, control in self.controls.items()
            if self._begun is not None and at[name] != self._begun[name] and not control.main.disabled
        ]
        self.waiting.value = html.escape(f"Changed, for the next Start: {'; '.join(waiting)}.") if waiting else ""

    def _on_scenario(self, change: Any = None) -> None:
        settings = dict(self.scenarios[self.settings["scenario"]].settings)
        settings["images"] = min(settings["images"], len(self.data.train))
        self.set(**settings)
