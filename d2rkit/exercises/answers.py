"""Predictions and quiz answers on the disk: one small JSON a notebook, in $D2RKIT_ANSWERS or answers/ of the checkout.

An answer's name is `NOTEBOOK/QUESTION`, e.g. "02/eps", and its file NOTEBOOK.json. The first answer stays: it is
what was thought before anything was seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from d2rkit.core.files import read_json, write_json
from d2rkit.core.paths import home
from d2rkit.core.validation import shown

FORMAT = 1
ABOUT = {"kind", "question", "options", "unit"}  # an answer to other than these is an answer to another question
KINDS = ("choice", "number", "quiz")
CONFIDENCES = ("guess", "fairly sure", "certain")


def split(name: str) -> tuple[str, str]:
    """Notebook and question; ValueError if the name has another form."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]+/[\w-]+", name):
        raise ValueError(f"a question is named NOTEBOOK/QUESTION, e.g. '02/eps', not {shown(name)}")
    notebook, question = name.split("/")
    return notebook, question


def file_of(name: str) -> Path:
    return home("answers") / f"{split(name)[0]}.json"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def load(name: str) -> dict:
    """What is stored of a question; empty if nothing is. ValueError, in one sentence, for a damaged file."""
    path = file_of(name)
    return dict(_read(path).get(split(name)[1], {})) if path.exists() else {}


def store(name: str, **facts: object) -> dict:
    """Add `facts` to a question's entry and return it. An `answer` that is there, and when it was given, stays,
    unless `facts` are about another question of this name, as after an edit."""
    path, question = file_of(name), split(name)[1]
    answers = _read(path) if path.exists() else {}
    before = answers.get(question, {})
    if any(before.get(key) != facts[key] for key in ABOUT & facts.keys()):
        before = {}
    kept = {key: before[key] for key in ("answer", "confidence", "when") if "answer" in before and key in before}
    answers[question] = {**before, **facts, **kept}
    write_json(path, {"format": FORMAT, "answers": answers})
    return dict(answers[question])


def load_all() -> tuple[dict[str, dict], list[str]]:
    """Every stored question by its full name, and one sentence for each file that could not be read."""
    found, problems = {}, []
    for path in sorted(home("answers").glob("*.json")):
        try:
            found |= {f"{path.stem}/{question}": entry for question, entry in _read(path).items()}
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return found, problems


def merged(old: Mapping[str, dict], new: Mapping[str, dict]) -> dict[str, dict]:
    """Two hand-ins' answers: of each question the one that was given first."""
    both = {**old, **new}
    for name in old.keys() & new.keys():
        earlier = "answer" in old[name] and ("answer" not in new[name] or old[name]["when"] < new[name]["when"])
        both[name] = old[name] if earlier else new[name]
    return both


def fault(answers: object) -> str:
    """What of these entries has not the shape or type it should have; empty if all has."""
    if not isinstance(answers, dict):
        return "answers must be a mapping"
    for name, entry in answers.items():
        if not isinstance(entry, dict) or entry.get("kind") not in KINDS or not isinstance(entry.get("question"), str):
            return f"answer {name!r} has no kind and question"
        number = entry["kind"] == "number"
        for key in entry.keys() & {"answer", "actual"}:
            value = entry[key]
            if not (type(value) in (int, float) and math.isfinite(value) if number else isinstance(value, str)):
                return f"{key} of {name!r} is no {'number' if number else 'option'}"
        if "answer" in entry and not isinstance(entry.get("when"), str):
            return f"answer {name!r} does not say when"
        options = entry.get("options", {})
        if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
            return f"the options of {name!r} are no texts"
        if not isinstance(entry.get("confidence", ""), str) or not isinstance(entry.get("unit", ""), str):
            return f"confidence and unit of {name!r} must be texts"
        tries = entry.get("tries", [])
        if not isinstance(tries, list) or not all(isinstance(key, str) for key in tries):
            return f"the tries of {name!r} are no options"
    return ""


def _read(path: Path) -> dict[str, dict]:
    found = read_json(path)
    known = isinstance(found, dict) and found.get("format") == FORMAT
    if wrong := fault(found.get("answers")) if known else "of another format":
        raise ValueError(f"{path} holds no answers of d2rkit ({wrong}); move it away")
    return found["answers"]
