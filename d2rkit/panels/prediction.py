"""Predict, commit, reveal: a question that is answered, and stored, before anything answers it.

    eps = Prediction("02/eps", "At which ε does the network fall below 50 %?", between=(0, 32), unit="/255")
    eps                                           # the last line of a cell shows it
    eps.reveal(actual, words=words, picture=made)  # so does that of a later cell

Until the answer is committed, `reveal` shows neither `actual` nor words nor picture, and none of them is in the cell's
output: it says "commit your prediction first" and has a button that shows them anyway. It follows by itself when the
answer is committed. A notebook that is run from top to bottom runs through. Whatever else the later cell shows, and
every text below it, is seen before the commit: what answers the question belongs into `words` and `picture`.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from d2rkit.core.validation import check_number, shown
from d2rkit.exercises import answers
from d2rkit.exercises.answers import CONFIDENCES
from d2rkit.panels import base
from d2rkit.panels.base import StaticFigure, plain_text
from d2rkit.panels.questions import (
    OUTCOME,
    Options,
    Shown,
    choosing,
    heading,
    kept,
    lettered,
    problem,
    row,
    status,
    stored,
)
from d2rkit.reporting.html_table import html_table

COMMIT_FIRST = "Commit your prediction first"
CALIBRATED = {
    (True, "guess"): "Right. You called it a guess: can you now explain why it had to be so?",
    (True, "fairly sure"): "Right, and you were fairly sure.",
    (True, "certain"): "Right, and you were certain.",
    (False, "guess"): "Not what happened. You called it a guess, so no assumption of yours was refuted.",
    (False, "fairly sure"): "Not what happened, though you were fairly sure: which of your reasons fails?",
    (False, "certain"): "Not what happened, though you were certain. Such surprises teach the most: find the "
    "step of your argument that does not hold.",
}


# -- words ------------------------------------------------------------------------------------------------
def outcome(entry: Mapping[str, Any], note: str = "") -> str:
    """HTML: the student's answer beside what came out. note: an interval, say, that goes with what came out."""
    came = answers.answer_words(entry, "actual") + (f" ({note})" if note else "")
    if "answer" not in entry:
        return status("What came out", f"You committed no prediction. The result: {came}.", base.GREY)
    rows = [("You predicted", f"{answers.answer_words(entry)} ({entry['confidence']})"), ("Result", came)]
    if entry["kind"] == "number":
        rows.append(("You were", answers.distance_words(entry)))
    style = "text-align:left;padding-right:1em;white-space:nowrap;vertical-align:top"
    table = html_table((), rows, columns=(f"style='{style}'", "style='text-align:left'"))
    verdict = CALIBRATED[entry["right"], entry["confidence"]]
    verdict += " You answered after it had been shown." if entry.get("late") else ""
    head, colour = ("✔ As you predicted", base.BLUE) if entry["right"] else ("✘ Not as you predicted", base.RED)
    return status(head, verdict, colour, table)


def as_html(words: str) -> str:
    """words of a reveal: HTML if it begins with a tag, else plain text. Keys scroll what has a table."""
    told = words if not words or words.lstrip().startswith("<") else base.sentence(words)
    return f"<div tabindex='0' role='region' aria-label='In numbers'>{told}</div>" if "<table" in told else told


def as_image(picture: StaticFigure | Figure | None) -> str:
    if picture is None:
        return ""
    if isinstance(picture, Figure):
        picture = StaticFigure(*base.to_png(picture), "")
    data = base64.b64encode(picture.png).decode()
    alt = html.escape(plain_text(picture.description), quote=True)
    return f"<img src='data:image/png;base64,{data}' width='{picture.width}' style='max-width:100%' alt='{alt}'>"


# -- the question -----------------------------------------------------------------------------------------
class Prediction(Shown):
    """A question to answer before the answer is seen; the last line of a cell shows it, as does its `.widget`.

    name: NOTEBOOK/QUESTION, e.g. "02/eps"; the answer is stored under it (see `exercises.answers`).
    options: of a choice, 2 to 5, keys -> texts, or texts whose keys are a, b, c.
    between, unit: of a number, the lowest and highest it can be, and e.g. "%".
    ValueError for anything else. An answer that is stored and still fits the question is shown, locked."""

    def __init__(
        self, name: str, question: str, *, options: Sequence[str] | Mapping[str, str] | None = None,
        between: tuple[float, float] | None = None, unit: str = "",
    ):  # fmt: skip
        answers.split(name)
        if (options is None) == (between is None):
            raise ValueError(f"{name}: a prediction has either options or a range (between), not both and not none")
        self.name, self.question, self.between = name, question, between
        self.about: dict[str, Any] = {"question": question}
        if options is not None:
            self.about |= {"kind": "choice", "options": lettered(options)}
            self.field: Any = choosing(self.about["options"], "Your answer")
        else:
            assert between is not None
            check_number("low", between[0], -math.inf, math.inf)
            check_number("high", between[1], between[0], math.inf)
            self.about |= {"kind": "number", "unit": unit}
            span = f"{between[0]:g} to {between[1]:g}" + (f" ({unit})" if unit else "")
            # Sent once, when it is left: single letters are held back while the kernel is busy, and Commit, which is
            # not, would overtake them.
            self.field = widgets.Text(
                description="Your number", placeholder=span, tooltip=f"{question} A number, {span}",
                continuous_update=False,
                style={"description_width": "initial"},
                layout=widgets.Layout(width=f"{9 + 0.6 * len(span):.0f}em", max_width="99%"),  # beside its label
            )  # fmt: skip
        self.sure = Options({word: word for word in CONFIDENCES}, "Confidence", across=True)
        self.button = widgets.Button(
            description="Commit",
            tooltip="Store this prediction; it cannot be changed afterwards",
            button_style="primary",
        )
        self.button.on_click(lambda _: self.commit())
        self.message = widgets.HTML()
        field = getattr(self.field, "widget", self.field)
        sure = row(widgets.HTML("Confidence"), self.sure.widget, self.button)
        self.widget = widgets.VBox([heading("Predict", question), field, sure, self.message])
        self.entry: dict[str, Any] = dict(self.about)
        self._reveal: Reveal | None = None
        self._load()

    @property
    def committed(self) -> bool:
        return "answer" in self.entry

    @property
    def answer(self) -> str | float | None:
        return self.entry.get("answer")

    def commit(self) -> None:
        """Store the answer and lock it; says what is missing instead if something is."""
        if self.committed:
            return
        try:
            value = self._value()
            if self.sure.value is None:
                raise ValueError("say how sure you are: guess, fairly sure or certain")
        except ValueError as error:
            self.message.value = problem(f"{error}.")
            return
        late = {"late": True} if self.entry.get("seen") else {}
        given = {"answer": value, "confidence": self.sure.value, "when": answers.now(), **late}
        self._lock(self._store(**given))
        if self._reveal is not None:
            self._reveal.refresh()

    def reveal(
        self, actual: str | float, *, words: str = "", picture: StaticFigure | Figure | None = None,
        interval: tuple[float, float] | None = None, close: float | None = None,
    ) -> Reveal:  # fmt: skip
        """What came out, beside the committed answer; for a later cell than the question's.

        actual: an option's key, or a number. words: what there is to say, plain text or HTML; picture: what there is
        to see; both stay hidden until the answer is committed. interval: a 95 % interval around a number.
        A number within `interval`, or within `close` of actual (5 % of the range unless told), counts as right."""
        if self.about["kind"] == "choice":
            if actual not in self.about["options"]:
                raise ValueError(f"{self.name}: {shown(actual)} is none of {', '.join(self.about['options'])}")
            return self._revealing({"actual": actual}, lambda answer: answer == actual, "", words, picture)
        check_number("actual", actual, -math.inf, math.inf)
        came, (lowest, highest) = float(actual), self._range()
        near = 0.05 * (highest - lowest) if close is None else close
        low, high = interval if interval is not None else (came, came)
        note = f"95 % interval {low:.3g} to {high:.3g}" if interval is not None else ""

        def right(answer: float) -> bool:
            return low <= answer <= high or abs(answer - came) <= near

        return self._revealing({"actual": came}, right, note, words, picture)

    def _revealing(
        self, came: dict, right: Callable[[Any], bool], note: str, words: str, picture: StaticFigure | Figure | None
    ) -> Reveal:
        def show() -> str:
            facts = came | ({"right": right(self.answer)} if self.committed else {})
            unstored = self._store(**facts) if self.committed else self._store(seen=answers.now())
            entry = {**self.entry, **facts}
            return outcome(entry, note) + (problem(unstored) if unstored else "") + as_html(words) + as_image(picture)

        self._reveal = Reveal(self, show)
        return self._reveal

    def _range(self) -> tuple[float, float]:
        assert self.between is not None, "only a number has a range"
        return self.between

    def _value(self) -> str | float:
        if self.about["kind"] == "choice":
            if self.field.value is None:
                raise ValueError("choose one of the options")
            return self.field.value
        low, high = self._range()
        text = self.field.value.strip().removesuffix(self.about["unit"]).strip().replace(",", ".").replace("−", "-")
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise ValueError(f"write a number from {low:g} to {high:g}, not {shown(self.field.value)}")
        return value

    def _store(self, **facts: Any) -> str:
        """Write; a sentence if that failed, and then the answer lives as long as the kernel."""
        entry, note = stored(self.name, **self.about, **facts)
        self.entry = {**self.entry, **entry}
        return note

    def _load(self) -> None:
        entry = kept(self.name, self.message)
        if {key: entry.get(key) for key in self.about} == self.about:  # else it answered an older question
            self.entry = entry
        if self.committed:
            self._lock()

    def _lock(self, note: str = "") -> None:
        for part in (self.field, self.sure, self.button):
            part.disabled = True
        self.field.value = f"{self.answer:g}" if self.about["kind"] == "number" else self.answer
        self.sure.value = self.entry["confidence"]
        self.button.description = "Committed"
        given = f"{answers.answer_words(self.entry)} ({self.entry['confidence']})"
        text = f"You predicted: {given}. Read on to see what comes out."
        self.message.value = (problem(note) if note else "") + status("Committed", text, base.BLUE)

    def __repr__(self) -> str:
        given = f"you predicted {answers.answer_words(self.entry)}" if self.committed else "not committed yet"
        return f"Predict. {self.question} ({given})"


class Reveal(Shown):
    """What came out, once the prediction is committed; made by `Prediction.reveal`."""

    def __init__(self, prediction: Prediction, show: Callable[[], str]):
        self._prediction, self._show = prediction, show
        self.text = widgets.HTML()
        self.text.add_class(OUTCOME)
        self.anyway = widgets.Button(
            description="Show anyway", tooltip="Show the outcome without a prediction; the hand-in will say so"
        )
        self.anyway.on_click(lambda _: self.show())
        self.widget = widgets.VBox([self.text, self.anyway])
        self.refresh()

    def refresh(self) -> None:
        if self._prediction.committed:
            self.show()
        else:
            ask = f"{COMMIT_FIRST}: answer the question above and press Commit."
            self.text.value = status("Hidden", ask, base.GREY)

    def show(self) -> None:
        self.text.value = self._show()
        self.anyway.layout.display = "none"

    def __repr__(self) -> str:
        return plain_text(self.text.value)
