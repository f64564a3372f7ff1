"""Each file of a run folder has one reader, which checks shape and type: ValueErrors of one sentence name the file.

What the files say of each other is run_folders.py's business.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from d2rkit.core.files import SMALL, read_json, read_small_text
from d2rkit.core.validation import nearest

FORMAT = 1  # of the run folder
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_settings(values: Any, defaults: Mapping[str, Any]) -> None:
    """Settings as JSON has them against defaults of the right types; ValueError for an unknown or impossible one."""
    if not isinstance(values, Mapping):
        raise ValueError(f"settings are pairs of a name and a value, not a {type(values).__name__}")
    for name, value in values.items():
        if name not in defaults:
            raise nearest(name, sorted(defaults), "setting")
        if not _is_like(value, defaults[name]):
            raise ValueError(f"{name} must be like {defaults[name]!r}, not {_short(value)}")


def _is_like(value: Any, default: Any) -> bool:
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, float):
        return _is_number(value)
    if isinstance(default, tuple | list):
        return isinstance(value, tuple | list) and all(isinstance(each, str) for each in value)
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and (isinstance(each, str | bool) or _is_number(each)) for key, each in value.items()
    )


def _is_number(value: Any) -> bool:
    """Finite; no bool, and no integer that a float cannot hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_text(value: Any) -> bool:
    """One line of it: what controls a terminal or breaks a table has no place in it."""
    return isinstance(value, str) and len(value) < 10_000 and not CONTROL.search(value)


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) < 60 else f"{words[:60]}…"


def _all(check, values: Any, kind: type = list) -> bool:
    """Whether it is a list, or a mapping, of values that pass."""
    return isinstance(values, kind) and all(map(check, values.values() if kind is dict else values))


def _is_masking(check: Any) -> bool:
    return (
        isinstance(check, dict)
        and isinstance(check.get("passed"), bool)
        and _is_text(check.get("name"))
        and _is_text(check.get("words"))
    )


def _is_curve(curve: Any) -> bool:
    if not isinstance(curve, dict):
        return False
    eps, accuracies = curve.get("eps", ()), curve.get("pgd20", ())
    return _all(_is_share, eps) and _all(_is_share, accuracies) and len(eps) == len(accuracies) > 0


# What result.json may hold: the check of each entry, and what it should be, in words. Others are let be.
_RESULT = {
    "status": (
        lambda v: _is_text(v) and (v in ("done", "stuck at chance") or v.startswith("failed")),
        '"done", "stuck at chance" or "failed: …"',
    ),
    "n_test": (lambda v: type(v) is int and 0 < v < 2**31, "a number of images above 0"),
    "accuracy": (lambda v: _all(lambda each: _all(_is_share, each, dict), v, dict), "accuracies in [0, 1]"),
    "epochs": (lambda v: type(v) is int and 0 <= v < 2**31, "a number of epochs"),
    "train_seconds": (_is_number, "a number"),
    "evaluation_seconds": (_is_number, "a number"),
    "guide_clean": (_is_share, "an accuracy in [0, 1]"),
    "data_source": (_is_text, "a text"),
    "machine": (_is_text, "a text"),
    "eps_curve": (_is_curve, "as many accuracies as radii, all in [0, 1]"),
    "masking": (lambda v: _all(_is_masking, v), "a list of checks with name, passed and words"),
    "autoattack_warnings": (lambda v: _all(lambda each: _all(_is_text, each), v, dict), "a list of texts a checkpoint"),
    "notes": (lambda v: _all(lambda each: _all(_is_text, each), v, dict), "a list of texts a checkpoint"),
    "masking_verdict": (_is_text, "a text"),
    "weights": (lambda v: _all(_is_text, v, dict), "a digest a checkpoint"),
}
_REQUIRED = ("status", "n_test", "accuracy")


def read_result(file: Path) -> dict[str, Any]:
    """result.json: status, n_test and accuracy[checkpoint][attack] are there, and what is there has its type."""
    result = read_json(file)
    if not isinstance(result, dict):
        raise ValueError(f"{file} holds a {type(result).__name__}, not a result")
    if result.get("format", FORMAT) != FORMAT:
        words = f"{file} is of format {_short(result['format'])}, this version of the kit reads format {FORMAT}"
        raise ValueError(f"{words}; use the version that made it")
    for name, (passes, words) in _RESULT.items():
        if name not in result and name in _REQUIRED:
            raise ValueError(f"{file} has no {name!r}")
        if name in result and not passes(result[name]):
            raise ValueError(f"{file}: {name} must be {words}, not {_short(result[name])}")
    return result


class Flags(NamedTuple):
    """Of one attack. flags: (N,) bool, True where the network is still right. facts: what they were measured with
    (eps, seed, count, images, weights), as far as the version that measured them wrote it down."""

    flags: np.ndarray
    facts: dict[str, float | str]


def read_flags(file: Path) -> Flags:
    """evaluation/<attack>.npz; ValueError if it is missing or damaged, or its flags are not (N,) bool."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist or is not a file")
    try:
        with zipfile.ZipFile(file) as parts:
            if sum(part.file_size for part in parts.infolist()) > SMALL:
                raise ValueError(f"it unpacks to more than {SMALL} bytes")
        with np.load(file, allow_pickle=False) as arrays:
            flags = arrays["flags"]
            facts = {name.removeprefix("fact_"): arrays[name].item() for name in arrays.files if _is_fact(name)}
    except Exception as error:  # zipfile, zlib and numpy each have their own way of saying "truncated"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{file} is damaged ({reason}); move it away to measure again") from error
    if flags.dtype != bool or flags.ndim != 1 or not flags.size:
        raise ValueError(f"{file} must hold flags of shape (N,) and type bool, not {flags.dtype} {flags.shape}")
    for name, value in facts.items():
        if not (isinstance(value, str) if name == "weights" else _is_number(value)):
            raise ValueError(f"{file}: the fact {name} makes no sense: {_short(value)}")
    return Flags(flags, facts)


def _is_fact(name: str) -> bool:
    return name in ("fact_eps", "fact_seed", "fact_count", "fact_images", "fact_weights")


def read_error(file: Path) -> str:
    """The sentence of an error.txt, whose first line is the time; in words, too, if it has none."""
    try:
        lines = read_small_text(file).splitlines()
    except ValueError as error:
        return str(error)
    return " ".join(CONTROL.sub(" ", lines[1]).split()) if len(lines) > 1 else f"{file.name} says nothing"
