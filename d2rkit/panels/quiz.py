"""A quiz of three to five questions, with a reason for every wrong choice.

    Quiz("01/quiz", [
        Question("Which network do labels reach in D2R?", right="b", options=[
            ("the target", "labels reach the target only through the guide's logits"),
            ("the guide", ""),
        ]), ...
    ]).widget

The first choice is what is stored; after a wrong one the student reads why and tries again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import ipywidgets as widgets

from d2rkit.exercises import answers
from d2rkit.panels import base
from d2rkit.panels.questions import Shown, choosing, heading, kept, lettered, problem, status, stored


def capitalised(reason: str) -> str:
    """A reason as a sentence; one that begins with a symbol (x′, g(x), p_f) keeps it: X′ would be another thing."""
    first = reason.split(maxsplit=1)[0].rstrip(",.:;")
    return reason[0].upper() + reason[1:] if first.isalpha() and first not in ("f", "g", "p", "x", "y") else reason


@dataclass(frozen=True)
class Question:
    """text; options: 2 to 5 pairs of a choice and why it is wrong (for the right one: why it is right, or ""),
    whose letters are a, b, c; right: the letter of the right one. ValueError if a wrong choice has no reason."""

    text: str
    options: Sequence[tuple[str, str]]
    right: str

    def __post_init__(self) -> None:
        lettered([text for text, _ in self.options])
        keys = ascii_lowercase[: len(self.options)]
        if self.right not in tuple(keys):
            raise ValueError(f"the right choice of {self.text!r} is one of {', '.join(keys)}, not {self.right!r}")
        silent = [key for key, (_, why) in zip(keys, self.options, strict=True) if not why and key != self.right]
        if silent:
            raise ValueError(f"{self.text!r} has no reason for the wrong choice {', '.join(silent)}")


class Quiz(Shown):
    """Three to five questions; display `.widget`. name: NOTEBOOK/NAME, e.g. "01/quiz"; the answers are stored as
    NAME-1, NAME-2, ... ValueError for another number of questions."""

    def __init__(self, name: str, questions: Sequence[Question]):
        answers.split(name)
        if not 3 <= len(questions) <= 5:
            raise ValueError(f"{name}: a quiz has 3 to 5 questions, not {len(questions)}")
        self.parts = [Part(f"{name}-{i}", i, question) for i, question in enumerate(questions, 1)]
        self.score = widgets.HTML()
        for part in self.parts:
            part.button.on_click(lambda _: self._count())
        self.widget = widgets.VBox([*(part.widget for part in self.parts), self.score])
        self._count()

    def _count(self) -> None:
        firsts = sum(bool(part.tries) and part.tries[0] == part.question.right for part in self.parts)
        done = sum(part.done for part in self.parts)
        text = f"{done} of {len(self.parts)} answered; {firsts} right at the first try."
        self.score.value = base.sentence(text) if any(part.tries for part in self.parts) else ""

    def __repr__(self) -> str:
        return "\n".join(f"{part.number}. {part.question.text}" for part in self.parts)


class Part:
    """One question of a quiz."""

    def __init__(self, name: str, number: int, question: Question):
        self.name, self.number, self.question = name, number, question
        options = lettered([text for text, _ in question.options])
        self.reasons = dict(zip(options, (why for _, why in question.options), strict=True))
        self.about = {"kind": "quiz", "question": question.text, "options": options}
        self.tries: list[str] = []
        self.field = choosing(options, "Your choice")
        self.button = widgets.Button(description="Answer", tooltip=f"Answer question {number}")
        self.button.on_click(lambda _: self.submit())
        self.message = widgets.HTML()
        self.widget = widgets.VBox(
            [heading(f"Question {number}", question.text), self.field.widget, self.button, self.message],
            layout=widgets.Layout(margin="0 0 .8em 0"),
        )
        self._load()

    @property
    def done(self) -> bool:
        return self.question.right in self.tries

    def submit(self) -> None:
        if self.field.value is None:
            self.message.value = problem("Choose one of the options.")
        elif not self.done:
            self.tries.append(self.field.value)
            self._show(self._store())

    def _store(self) -> str:
        right = self.question.right
        facts: dict[str, Any] = {"answer": self.tries[0], "right": self.tries[0] == right, "tries": self.tries}
        return stored(self.name, **self.about, **facts, actual=right, when=answers.now())[1]

    def _load(self) -> None:
        entry = kept(self.name, self.message)
        tries = entry.get("tries", [])
        same = all(entry.get(key) == value for key, value in self.about.items())
        if same and isinstance(tries, list) and tries and set(tries) <= set(self.reasons):
            self.tries = list(tries)
            self.field.value = tries[-1]
            self._show()

    def _show(self, note: str = "") -> None:
        choice = self.tries[-1]
        why = self.reasons[choice]
        said = capitalised(why)
        if self.done:
            self.field.disabled = self.button.disabled = True
            first = "" if len(self.tries) == 1 else f" (try {len(self.tries)})"
            self.message.value = status(f"✔ {choice}) is right{first}", said, base.BLUE)
        else:
            again = f"{said.rstrip('.')}. Choose again."
            self.message.value = status(f"✘ Not {choice})", again, base.RED)
        self.message.value += problem(note) if note else ""
