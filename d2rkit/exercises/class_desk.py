"""What a class handed in: who is stuck where, which misconceptions, what was predicted, whose code is alike.

    page = class_desk("handins/")        # computed: plain data
    page.save("class.html")              # one offline page, and class.csv beside it

Reads what `report().save(...)` writes. A file that is no hand-in is named with one sentence and stops nothing.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2rkit.core.digests import bytes_digest
from d2rkit.core.files import write_atomically
from d2rkit.core.paths import check_path, new_file
from d2rkit.exercises import NAMES
from d2rkit.exercises.alike import Alike, alike
from d2rkit.exercises.checking import NOT_YET, PASSED, UNKNOWN, UNWRITTEN
from d2rkit.exercises.handin import attempts, read_handin
from d2rkit.exercises.settings import current, general, said, step_name, title

if TYPE_CHECKING:
    from d2rkit.exercises.rerun import Again, Limits


@dataclass(frozen=True)
class StudentExercise:
    """One student's exercise. step, hint: where the last check stopped, empty if it passed. again: what running the
    code once more gave, where that was asked for."""

    status: str = UNWRITTEN
    step: str = ""
    hint: str = ""
    attempts: int = 0
    code: str = ""
    title: str = ""
    again: Again | None = None

    @property
    def begun(self) -> bool:
        return self.status != UNWRITTEN or self.attempts > 0

    @property
    def differs(self) -> bool:
        """Does running it again contradict what was handed in?"""
        if self.again is None or self.again.status == UNKNOWN:
            return False
        return (self.again.status == PASSED) != (self.status == PASSED)


@dataclass(frozen=True)
class Student:
    """name: as in the file, else the file's own name; file: below the folder; digest: of all else that it says."""

    name: str
    file: str
    cells: dict[str, StudentExercise]
    answers: dict[str, dict]
    digest: str = ""

    @property
    def given(self) -> str:
        """The name without the file that tells two of one name apart."""
        return self.name.removesuffix(f" ({self.file})")

    @property
    def tried(self) -> bool:
        return any(cell.attempts for cell in self.cells.values())

    @property
    def passed(self) -> int:
        return sum(cell.status == PASSED for cell in self.cells.values())


@dataclass(frozen=True)
class Misconception:
    """One hint of one step that students were left with; numbers in it are those of the first of them."""

    exercise: str
    step: str
    hint: str
    students: tuple[str, ...]


@dataclass(frozen=True)
class ClassDesk:
    """exercises: the kit's, then others, as far as anyone has them, and their titles; broken: file that does not count
    -> sentence."""

    folder: str
    students: tuple[Student, ...]
    exercises: tuple[str, ...]
    titles: dict[str, str]
    misconceptions: tuple[Misconception, ...]
    predictions: tuple[Predicted, ...]
    alike: tuple[Alike, ...]
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def again(self) -> bool:
        return any(cell.again for student in self.students for cell in student.cells.values())

    @property
    def copies(self) -> list[list[str]]:
        """Students whose hand-ins are the same to the second and the session, but for the name."""
        groups: dict[str, list[Student]] = {}
        for student in self.students:
            if student.tried:
                groups.setdefault(student.digest, []).append(student)
        return [[one.name for one in group] for group in groups.values() if len({one.given for one in group}) > 1]

    def csv(self) -> str:
        return as_csv(self)

    def html(self) -> str:
        from d2rkit.exercises.class_page import page

        return page(self)

    def save(self, path: str | Path = "class.html") -> tuple[Path, Path]:
        """Write the page, and the CSV beside it; ValueError if either is there already."""
        files = check_outputs(path)
        for file, text in zip(files, (self.html(), self.csv()), strict=True):
            # Excel takes a CSV for UTF-8 only if a byte-order mark says so.
            encoding = "utf-8-sig" if file.suffix == ".csv" else "utf-8"
            with write_atomically(file) as draft:
                # JSON may hold half a surrogate pair, which no file can.
                draft.write_text(text, encoding=encoding, newline="", errors="backslashreplace")
        return files


@dataclass(frozen=True)
class Predicted:
    """A question of which the class committed answers. given: (student, entry) of those who answered; came: what came
    out and how often (it is computed on each student's machine); unseen: how many saw the answer without committing."""

    name: str
    kind: str
    question: str
    given: tuple[tuple[str, dict], ...]
    came: Counter
    unseen: int

    @property
    def right(self) -> tuple[int, int]:
        """Right ones, of those whose outcome is known."""
        known = [bool(entry["right"]) for _, entry in self.given if "right" in entry]
        return sum(known), len(known)


def check_outputs(path: str | Path) -> tuple[Path, Path]:
    """The page's path and the CSV's; ValueError if something is there."""
    page = check_path(path).expanduser()
    page = page if page.suffix == ".html" else page.with_name(page.name + ".html")
    return new_file(page), new_file(page.with_suffix(".csv"))


def class_desk(
    folder: str | Path, limits: Limits | None = None, report: Callable[[float, str], None] | None = None
) -> ClassDesk:
    """Read every hand-in below `folder`. limits: run the code again within them (see `rerun`), else not.

    report: called with the part done and what is done. ValueError if `folder` is none or holds no hand-in, or if the
    lecturer's own file of settings cannot be used."""
    root = check_path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"{root} is no folder")
    current()  # a lecturer's file that is wrong is no fault of the hand-ins
    students, broken = read_class(root)
    if not students:
        told = f"; {' '.join(next(iter(broken.items())))}" if broken else ""
        raise ValueError(f"there is no hand-in below {root}: report().save('handin.json') writes one{told}")
    if limits is not None:
        students = run_again(students, limits, report)
    there = {name for student in students for name in student.cells}
    exercises = (*(name for name in NAMES if name in there), *sorted(there - set(NAMES)))
    given = {student.name: student.given for student in students}
    groups = alike([(s.name, {e: c.code for e, c in s.cells.items()}) for s in students])
    return ClassDesk(
        str(root), tuple(students), exercises, titles(students, exercises), misconceptions(students),
        predictions(students), tuple(one for one in groups if len({given[name] for name in one.students}) > 1), broken,
    )  # fmt: skip


def read_class(root: Path) -> tuple[list[Student], dict[str, str]]:
    """Hand-ins by name, and one sentence for each other file (hidden ones do not count)."""
    students, broken, seen = [], {}, {}
    for file in sorted(root.rglob("*"), key=lambda file: (file.with_suffix(""), file)):  # "a (1).json" after "a.json"
        name, json_file = readable(file.relative_to(root).as_posix()), file.suffix.lower() == ".json"
        if any(part.startswith(".") for part in file.relative_to(root).parts) or (file.is_dir() and not json_file):
            continue
        if not json_file:
            broken[name] = _other(file)
            continue
        try:
            handin = read_handin(file)
            text, named = json.dumps(handin, sort_keys=True), handin.get("student", "").strip()
            if named and text in seen:  # downloaded twice; without names they may be of two students
                broken[name] = f"says the same as {seen[text]}, word for word, so it counts only once"
                continue
            seen[text] = name
            students.append(_student(handin, file, name))
        except (ValueError, OSError) as error:
            sentence = " ".join(str(error).replace(str(file), "").split())
            broken[name] = readable(sentence.removesuffix("; move it away or choose another name"))
    while len(doubled := Counter(student.name for student in students)) < len(students):  # files are never the same
        students = [replace(s, name=f"{s.name} ({s.file})") if doubled[s.name] > 1 else s for s in students]
    return sorted(students, key=lambda student: student.name.casefold()), broken


def readable(text: str) -> str:
    """The same without what is no UTF-8: file names of another system, halves of surrogate pairs."""
    return text.encode("utf-8", "backslashreplace").decode()


def _other(file: Path) -> str:
    if file.suffix == ".ipynb":
        return "is a notebook; what it handed in is the file handin.json beside it"
    return "is no .json, so it was not read" if file.is_file() else "is no file"


def _student(handin: Mapping[str, Any], file: Path, name: str) -> Student:
    own = file.parent.name if file.stem.lower() == "handin" and "/" in name else file.stem
    own = re.sub(r"_\d+_assignsubmission_\w*$", "", own)  # what Moodle adds to a student's name
    cells = {}
    for exercise, entry in handin["exercises"].items():
        stopped = entry["status"] == NOT_YET
        # in the lecturer's words, whatever the student had
        step, hint = (step_name(entry.get("step", "")), said(entry.get("hint", ""))) if stopped else ("", "")
        cells[exercise] = StudentExercise(
            entry["status"], step, hint, attempts(entry), entry.get("code", ""), entry["title"]
        )
    who = readable(handin.get("student", "").strip() or own)
    rest = json.dumps({**handin, "student": ""}, sort_keys=True)
    return Student(who, name, cells, dict(handin.get("answers", {})), bytes_digest(rest.encode()))


def run_again(
    students: Sequence[Student], limits: Limits, report: Callable[[float, str], None] | None = None
) -> list[Student]:
    """The same with `again` for every exercise that has code."""
    from d2rkit.exercises.rerun import rerun  # needs a system with resource limits
    from d2rkit.experiments.plugins import LOADED

    todo = sum(bool(cell.code) for student in students for cell in student.cells.values())
    done, students_again = 0, []
    for student in students:
        cells = {}
        for exercise, cell in student.cells.items():
            again = None
            if cell.code:
                if report:
                    report(done / todo, f"{student.name}: {exercise}")
                again = rerun(exercise, cell.code, limits, tuple(LOADED))
                done += 1
            cells[exercise] = replace(cell, again=again)
        students_again.append(replace(student, cells=cells))
    if report:
        report(1.0, "")
    return students_again


def titles(students: Sequence[Student], exercises: Sequence[str]) -> dict[str, str]:
    """What each exercise is called: the lecturer's title, or the one most hand-ins have."""
    by_name = {}
    for name in exercises:
        seen = Counter(student.cells[name].title for student in students if name in student.cells)
        by_name[name] = title(name, seen.most_common(1)[0][0])
    return by_name


# -- what is read off them --------------------------------------------------------------------------------
def misconceptions(students: Sequence[Student]) -> tuple[Misconception, ...]:
    """Hints that students were left with, the commonest first."""
    groups: dict[tuple[str, str], list[tuple[str, StudentExercise]]] = {}
    for student in students:
        for exercise, cell in student.cells.items():
            if cell.hint:
                groups.setdefault((exercise, general(cell.hint)), []).append((student.name, cell))
    shared = [
        Misconception(exercise, cells[0][1].step, cells[0][1].hint, tuple(name for name, _ in cells))
        for (exercise, _), cells in groups.items()
    ]
    return tuple(sorted(shared, key=lambda one: (-len(one.students), one.exercise, one.hint)))


def predictions(students: Sequence[Student]) -> tuple[Predicted, ...]:
    """Every question of which someone committed an answer, or looked without one, by name."""
    about: dict[tuple, list[tuple[str, dict]]] = {}
    for student in students:
        for name, entry in student.answers.items():
            key = (name, entry["kind"], entry["question"], tuple(entry.get("options", {}).items()))
            about.setdefault(key, []).append((student.name, entry))
    predicted = []
    for (name, kind, question, _), entries in sorted(about.items()):
        given = tuple((student, entry) for student, entry in entries if "answer" in entry)
        came = Counter(entry["actual"] for _, entry in given if "actual" in entry)
        unseen = sum("answer" not in entry and bool(entry.get("seen")) for _, entry in entries)
        if given or unseen:
            predicted.append(Predicted(name, kind, question, given, came, unseen))
    return tuple(predicted)


COLUMNS = ("student", "file", "exercise", "title", "status", "attempts", "step", "hint", "alike", "again", "again_hint")


def as_csv(desk: ClassDesk) -> str:
    """A row for each student and exercise; one for each broken file."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for student in desk.students:
        for exercise in desk.exercises:
            cell = student.cells.get(exercise, StudentExercise())
            groups = (one.students for one in desk.alike if one.exercise == exercise and not one.common)
            others = {name for names in groups if student.name in names for name in names} - {student.name}
            again = (cell.again.status, cell.again.hint) if cell.again else ("", "")
            row = (student.name, student.file, exercise, desk.titles[exercise], cell.status, cell.attempts, cell.step,
                   cell.hint, "; ".join(sorted(others)), *again)  # fmt: skip
            writer.writerow([as_text(value) for value in row])
    for file, sentence in desk.broken.items():
        writer.writerow([as_text(value) for value in ("", file, "", "", "not read", "", "", sentence, "", "", "")])
    return text.getvalue()


def as_text(value: object) -> str:
    """A cell that no spreadsheet takes for a formula, whatever a student wrote."""
    text = str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
