"""Predictions and quiz answers on the disk: one small JSON a notebook, in $D2RKIT_ANSWERS or answers/ of the checkout.

An answer's name is `NOTEBOOK/QUESTION`, e.g. "02/eps", and its file NOTEBOOK.json. The first answer stays: it is
what was thought before anything was seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from d2rkit.core.files import read_json, write_atomically
from d2rkit.core.paths import home
from d2rkit.core.validation import shown

FORMAT = 1
ABOUT = {"kind", "question", "options", "unit"}  # an answer to other than these is an answer to another question
KINDS = ("choice", "number", "quiz")
LARGEST = 1e300  # a number that means something; JSON has whole ones of any size
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
    text = json.dumps({"format": FORMAT, "answers": answers}, indent=1, ensure_ascii=False)  # options keep their order
    with write_atomically(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
    return dict(answers[question])


def load_all() -> tuple[dict[str, dict], list[str]]:
    """Every stored question by its full name, and one sentence for each file that could not be read."""
    entries, problems = {}, []
    for path in sorted(home("answers").glob("*.json")):
        try:
            entries |= {f"{path.stem}/{question}": entry for question, entry in _read(path).items()}
        except (ValueError, OSError) as error:
            problems.append(str(error))
    return entries, problems


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
        number, options = entry["kind"] == "number", entry.get("options", {})
        if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
            return f"the options of {name!r} are no texts"
        for key in entry.keys() & {"answer", "actual"}:
            value = entry[key]
            if not (type(value) in (int, float) and abs(value) <= LARGEST if number else _among([value], options)):
                return f"{key} of {name!r} is no {'number' if number else 'option'}"
        if not all(isinstance(entry.get(key, ""), str) for key in ("when", "confidence", "unit")):
            return f"when, confidence and unit of {name!r} must be texts"
        if ("answer" in entry and "when" not in entry) or (number and "unit" not in entry):
            return f"answer {name!r} lacks when or unit"
        if not _among(entry.get("tries", []), options):
            return f"the tries of {name!r} are no options"
    return ""


def _among(keys: object, options: Mapping[str, str]) -> bool:
    return isinstance(keys, list) and all(isinstance(key, str) and key in options for key in keys)


def _read(path: Path) -> dict[str, dict]:
    content = read_json(path)
    known = isinstance(content, dict) and content.get("format") == FORMAT
    if wrong := fault(content.get("answers")) if known else "of another format":
        raise ValueError(f"{path} holds no answers of d2rkit ({wrong}); move it away")
    return content["answers"]


# -- words ------------------------------------------------------------------------------------------------
def letters(options: Mapping[str, str]) -> dict[str, str]:
    """What each option is called."""
    return dict(zip(options, ascii_lowercase, strict=False))


def with_unit(value: float, unit: str) -> str:
    return f"{value:.4g}{unit if unit.startswith('/') else ' ' + unit if unit else ''}"


def answer_words(entry: Mapping[str, Any], key: str = "answer") -> str:
    """What was answered, or (key "actual") what came out, in words."""
    value = entry[key]
    if entry["kind"] == "number":
        return with_unit(value, entry["unit"])
    return f"{letters(entry['options'])[value]}) {entry['options'][value]}"


def distance_words(entry: Mapping[str, Any]) -> str:
    """How far off a number was."""
    off = entry["answer"] - entry["actual"]
    if not off:
        return "exactly so"
    distance = with_unit(float(f"{abs(off):.3g}"), "percentage points" if entry["unit"] == "%" else entry["unit"])
    return f"{distance} too {'high' if off > 0 else 'low'}"


def line(entry: Mapping[str, Any]) -> str:
    """What was answered and what came out, in one line; empty before anything was answered or shown."""
    came = f"it came out: {answer_words(entry, 'actual')}" if "actual" in entry else ""
    if "answer" not in entry:
        return "shown without a prediction" if entry.get("seen") else ""
    late = ", answered after it had been shown" if entry.get("late") else ""
    given = f"predicted: {answer_words(entry)} ({entry.get('confidence', '')}{late})"
    return "; ".join(filter(None, (given, came)))
