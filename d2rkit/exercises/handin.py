"""What was checked and predicted so far: for the student on the screen, for the lecturer as JSON.

A hand-in is a summary, not a proof: it is a text file on the student's machine. It carries the checked code,
so that a lecturer can run it again.
"""

from __future__ import annotations

import html
import json
import platform
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from d2rkit.core.files import read_json, write_atomically
from d2rkit.exercises import answers as predictions
from d2rkit.exercises.checking import PASSED, SYMBOLS, UNWRITTEN, Result
from d2rkit.exercises.settings import title
from d2rkit.reporting.html_table import LEFT, html_table

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
SESSION = uuid.uuid4().hex[:8]  # tells this kernel's attempts from those of other notebooks
_checked: dict[str, dict] = {}  # this session's results by exercise


def record(result: Result) -> None:
    """Remember `result`. A pass stays a pass, whatever is tried afterwards; attempts are counted."""
    before = _checked.get(result.name)
    tries = before["tries"].get(SESSION, 0) if before else 0
    entry = {
        "title": result.title,
        "status": result.status,
        "step": next((step.name for step in result.steps if not step.passed), ""),
        "hint": result.hint,
        "steps_passed": sum(step.passed for step in result.steps),
        "seconds": result.seconds,
        "tries": {SESSION: tries + (result.status != UNWRITTEN)},
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": result.code,
    }
    _checked[result.name] = _merge(before, entry)


def forget() -> None:
    """Start anew in this session (files are left alone)."""
    _checked.clear()


def _merge(old: Mapping | None, new: Mapping) -> dict:
    """The better-known of two entries. Attempts are kept by session, so saving twice counts nothing twice."""
    if old is None:
        return dict(new)
    passed_before = old["status"] == PASSED and new["status"] != PASSED
    kept = old if passed_before or new["status"] == UNWRITTEN else new
    return {**kept, "tries": {**old["tries"], **new["tries"]}}


def attempts(entry: Mapping) -> int:
    return sum(entry["tries"].values())


@dataclass(frozen=True)
class Report:
    """exercises: one entry an exercise, by name, the student's own ones too; student: as given to `report`;
    answers: predictions and quiz answers by name (see `answers`); problems: one sentence a file of answers that could
    not be read."""

    exercises: dict[str, dict]
    student: str = ""
    answers: dict[str, dict] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def passed(self) -> int:
        return sum(entry["status"] == PASSED for entry in self.exercises.values())

    def as_dict(self) -> dict:
        versions = {name: _version(name) for name in ("d2rkit", "torch", "numpy")} | {
            "python": platform.python_version()
        }
        return {
            "format": FORMAT,
            "student": self.student,
            "passed": self.passed,
            "of": len(self.exercises),
            "exercises": self.exercises,
            "answers": self.answers,
            "versions": versions,
        }

    def save(self, path: str | Path = "handin.json") -> Report:
        """Write JSON, together with what an earlier notebook wrote there; return the report of both.

        ValueError if the file is there and is no hand-in of this kit."""
        path, mine = Path(path), dict(self.exercises)
        student, answers = self.student, self.answers
        if path.exists():
            before = read_handin(path)
            student = student or before.get("student", "")
            answers = predictions.merged(before.get("answers", {}), answers)
            for name, entry in before["exercises"].items():
                mine[name] = _merge(entry, mine.get(name) or _unwritten(entry["title"]))
        titled, _ = with_titles(mine)  # an earlier notebook may have been checked under others
        whole = Report(titled, student, answers, self.problems)
        with write_atomically(path) as draft:
            draft.write_text(json.dumps(whole.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return whole

    def __repr__(self) -> str:
        lines = [
            f"{self.student + ': ' if self.student else ''}{self.passed} of {len(self.exercises)} exercises passed"
        ]
        for name, entry in self.exercises.items():
            tries = f", attempts: {attempts(entry)}" if attempts(entry) else ""
            lines.append(f"  {SYMBOLS[entry['status']]} {name:<16} {entry['status']}{tries}")
        lines += [f"  {name:<16} {text}" for name, text in self._answered()]
        return "\n".join([*lines, *self.problems])

    def _answered(self) -> list[tuple[str, str]]:
        """Predictions, each in words, then one line for each quiz."""
        lines, quizzes = [], {}
        for name, entry in self.answers.items():
            if entry["kind"] == "quiz":
                quizzes.setdefault(name.rpartition("-")[0], []).append(bool(entry.get("right")))
            elif words := predictions.line(entry):
                lines.append((name, words))
        return lines + [
            (name, f"{sum(right)} of {len(right)} right at the first try") for name, right in quizzes.items()
        ]

    def _repr_html_(self) -> str:
        checked = [
            (entry["title"], f"{SYMBOLS[entry['status']]} {entry['status']}", attempts(entry))
            for entry in self.exercises.values()
        ]
        answered = self._answered()
        predicted = html_table((), answered, columns=LEFT) if answered else ""
        heading = "<p><strong>Predictions and quizzes</strong></p>" if answered else ""
        who = f"{html.escape(self.student)}: " if self.student else ""
        problems = "".join(f"<p role='alert'>{html.escape(problem)}</p>" for problem in self.problems)
        return (
            f"<p><strong>{who}{self.passed} of {len(self.exercises)} exercises passed</strong></p>"
            f"{html_table(('exercise', 'status', 'attempts'), checked, columns=LEFT)}"
            f"{heading}{predicted}{problems}"
        )


def report(student: str = "") -> Report:
    """All exercises as checked in this session, and all predictions; `save` adds what the other notebooks checked."""
    from d2rkit.exercises import NAMES, OWN, exercise

    checked = {name: _checked.get(name) or _unwritten(exercise(name).title) for name in (*NAMES, *OWN)}
    answered, problems = predictions.load_all()
    checked, fault = with_titles(checked)
    return Report(checked, student, answered, (*problems, *fault))


def with_titles(exercises: Mapping[str, dict]) -> tuple[dict[str, dict], list[str]]:
    """The entries with the lecturer's titles of today, or as they are with a sentence about a file that is wrong."""
    try:
        return {name: {**entry, "title": title(name, entry["title"])} for name, entry in exercises.items()}, []
    except ValueError as error:
        return dict(exercises), [f"the lecturer's file cannot be used: {error}"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that was never installed
        return "not installed"


def _unwritten(title: str) -> dict:
    return {
        "title": title, "status": UNWRITTEN, "step": "", "hint": "", "steps_passed": 0, "seconds": 0.0, "tries": {},
        "when": "", "code": "",
    }  # fmt: skip


def read_handin(path: str | Path) -> dict:
    """A hand-in file; ValueError if it is damaged or something else."""
    path = Path(path)
    try:
        content = read_json(path)
        fault = _fault(content)
    except ValueError as error:
        content, fault = {}, str(error).removeprefix(f"{path} ").removeprefix("is damaged: ")
        fault = f"it breaks off or was edited: {fault}" if isinstance(error.__cause__, json.JSONDecodeError) else fault
    if fault:
        raise ValueError(f"{path} is no hand-in of d2rkit ({fault}); move it away or choose another name")
    if content["format"] != FORMAT:
        raise ValueError(f"{path} is a hand-in of another format; move it away or choose another name")
    return content


def _fault(content: object) -> str:
    """What of a hand-in has not the shape or type it should have; empty if all has."""
    if not isinstance(content, dict) or not {"format", "exercises"} <= content.keys():
        return "it has no format and exercises"
    exercises = content["exercises"]
    if not isinstance(exercises, dict) or not isinstance(content.get("student", ""), str):
        return "student must be a text, exercises a mapping"
    for name, entry in exercises.items():
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("title", "status")):
            return f"exercise {name!r} has no title and status"
        if entry["status"] not in SYMBOLS:
            return f"exercise {name!r} has the status {entry['status']!r}"
        tries = entry.get("tries")
        if not isinstance(tries, dict) or not all(type(n) is int and 0 <= n < 10**6 for n in tries.values()):
            return f"the attempts of exercise {name!r} are no counts"
        if not all(isinstance(entry.get(key, ""), str) for key in ("hint", "code", "step")):
            return f"hint, step and code of exercise {name!r} must be texts"
    return predictions.fault(content.get("answers", {}))


def collect(folder: str | Path) -> pd.DataFrame:
    """One row a hand-in (every *.json below `folder`): student, passed, status of each exercise, attempts.

    A file that cannot be read, or is no hand-in, gets a row too, with the reason in `problem`."""
    import pandas as pd  # here, because students' notebooks do not need it and it takes a second

    rows = []
    for file in sorted(Path(folder).rglob("*.json")):
        try:
            handin = read_handin(file)
        except (ValueError, OSError) as error:
            rows.append({"file": file.name, "problem": str(error)})
            continue
        # First what students choose, so that an exercise called "passed" changes no count.
        statuses = {name: entry["status"] for name, entry in handin["exercises"].items()}
        facts = {
            "file": file.name, "student": handin.get("student", ""), "problem": "",
            "passed": sum(status == PASSED for status in statuses.values()),
            "attempts": sum(attempts(entry) for entry in handin["exercises"].values()),
        }  # fmt: skip
        rows.append(facts | statuses | facts)
    return pd.DataFrame(rows)
