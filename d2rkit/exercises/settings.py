"""Thresholds and texts of the exercises: settings.toml, over which a lecturer's own file is laid."""

from __future__ import annotations

import os
import re
import tomllib
from functools import lru_cache
from pathlib import Path

from d2rkit.core.files import read_small_text
from d2rkit.core.validation import check_number, nearest, shown

VARIABLE = "D2RKIT_EXERCISES"  # names a file of one's own
VARYING = re.compile(r"`[^`]*`|-?\d+(?:\.\d+)?(?:e-?\d+)?")


def threshold(name: str) -> float:
    """A number of settings.toml or of the lecturer's file. ValueError, in one sentence, if that file is wrong."""
    return _settings(os.environ.get(VARIABLE, ""))[0][name]


def said(hint: str) -> str:
    """A hint in the lecturer's words, if there are any for it."""
    own = _settings(os.environ.get(VARIABLE, ""))[1].get(general(hint))
    if own is None:
        return hint
    values = iter(VARYING.findall(hint))
    return re.sub(r"`…`|#", lambda match: next(values, match[0]), own)


def general(hint: str) -> str:
    """A hint without what differs from student to student: numbers, and quoted code."""
    return VARYING.sub(lambda match: "`…`" if match[0].startswith("`") else "#", hint)


@lru_cache(maxsize=8)
def _settings(own: str) -> tuple[dict[str, float], dict[str, str]]:
    thresholds, texts = _read(Path(__file__).with_name("settings.toml"))
    if own:
        theirs, words = _read(Path(own).expanduser())
        for name, value in theirs.items():
            if name not in thresholds:
                raise nearest(name, thresholds, f"threshold in {own}:")
            check_number(f"{name} in {own}", value)
        thresholds, texts = thresholds | theirs, texts | words
    return thresholds, {general(kit): mine for kit, mine in texts.items()}


def _read(path: Path) -> tuple[dict, dict]:
    try:
        found = tomllib.loads(read_small_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    if unknown := sorted(found.keys() - {"thresholds", "texts"}):
        raise nearest(unknown[0], ("thresholds", "texts"), f"table in {path}:")
    thresholds, texts = found.get("thresholds", {}), found.get("texts", {})
    if not isinstance(thresholds, dict) or not isinstance(texts, dict):
        raise ValueError(f"thresholds and texts of {path} must be tables")
    for text in texts.values():
        if not isinstance(text, str):
            raise ValueError(f"a text of {path} must be text, not {shown(text)}")
    return thresholds, texts
