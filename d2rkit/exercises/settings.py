"""Thresholds, titles and texts of the exercises: settings.toml, over which a lecturer's own file is laid."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

from d2rkit.core.files import read_small_text
from d2rkit.core.validation import check_number, nearest, shown

VARIABLE = "D2RKIT_EXERCISES"  # names a file of one's own
VARYING = re.compile(r"`[^`]*`|-?\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Settings:
    """The tables of a file. titles: by the name of the exercise; steps and texts: the kit's words -> the lecturer's."""

    thresholds: Mapping[str, float]
    titles: Mapping[str, str]
    steps: Mapping[str, str]
    texts: Mapping[str, str]


def threshold(name: str) -> float:
    """A number of settings.toml or of the lecturer's file. ValueError, in one sentence, if that file is wrong."""
    return current().thresholds[name]


def title(name: str, kits: str) -> str:
    """What the exercise is called: the lecturer's title, or else `kits`. ValueError as for `threshold`."""
    return current().titles.get(name, kits)


def step_name(kits: str) -> str:
    """What a step of a check is called, in the lecturer's words if there are any. ValueError as for `threshold`."""
    return _in_their_words(kits, current().steps)


def said(hint: str) -> str:
    """A hint in the lecturer's words, if there are any for it."""
    return _in_their_words(hint, current().texts)


def general(hint: str) -> str:
    """A hint without what differs from student to student: numbers, and quoted code."""
    return VARYING.sub(lambda match: "`…`" if match[0].startswith("`") else "#", hint)


def current() -> Settings:
    """What holds now. ValueError, in one sentence, if the lecturer's file cannot be used."""
    return _settings(os.environ.get(VARIABLE, ""))


def _in_their_words(kits: str, own: Mapping[str, str]) -> str:
    words = own.get(general(kits))
    if words is None:
        return kits
    values = iter(VARYING.findall(kits))
    return re.sub(r"`…`|#", lambda match: next(values, match[0]), words)


@lru_cache(maxsize=8)
def _settings(own: str) -> Settings:
    kit = _read(Path(__file__).with_name("settings.toml"))
    theirs = _read(Path(own).expanduser()) if own else Settings({}, {}, {}, {})
    for name, value in theirs.thresholds.items():
        if name not in kit.thresholds:
            raise nearest(name, kit.thresholds, f"threshold in {own}:")
        check_number(f"{name} in {own}", value)
    _check_titles(own, theirs.titles)
    general_keys = ({general(kits): mine for kits, mine in table.items()} for table in (theirs.steps, theirs.texts))
    return Settings({**kit.thresholds, **theirs.thresholds}, theirs.titles, *general_keys)


def _check_titles(own: str, titles: Mapping[str, str]) -> None:
    from d2rkit.exercises import NAMES  # which imports this module

    for name, words in titles.items():
        if name not in NAMES:  # a registered exercise has its title from where it is registered
            raise nearest(name, NAMES, f"exercise in titles of {own}:")
        if not words.strip():
            raise ValueError(f"the title of {name} in {own} is empty")


def _read(path: Path) -> Settings:
    try:
        found = tomllib.loads(read_small_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    names = tuple(table.name for table in fields(Settings))
    if unknown := sorted(found.keys() - set(names)):
        raise nearest(unknown[0], names, f"table in {path}:")
    for name, table in found.items():
        if not isinstance(table, dict):
            raise ValueError(f"{name} of {path} must be a table")
        for key, value in table.items():
            if name != "thresholds" and not isinstance(value, str):
                raise ValueError(f"{key!r} in {name} of {path} must be text, not {shown(value)}")
    return Settings(**{name: found.get(name, {}) for name in names})
