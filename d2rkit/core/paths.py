"""Where files live, and what can be a path."""

from __future__ import annotations

import os
from pathlib import Path

from d2rkit.core.validation import printable, shown

PROJECT = Path(__file__).resolve().parents[2]


def check_path(path: str | os.PathLike) -> Path:
    """`path`, if it could exist and be named in a sentence; else ValueError."""
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"a path must be text or a Path, not {shown(path)}")
    text = os.fsdecode(path)
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError(f"a path must hold no control characters, not {printable(ascii(text), 80)}")
    try:
        Path(text).exists()
    except OSError as error:
        raise ValueError(f"{printable(text, 80)} cannot be a path: {error.strerror}") from error
    return Path(text)


def home(kind: str) -> Path:
    """The folder for `kind` ("data", "runs", "results", "notebooks"): $D2RKIT_DATA and so on, else the folder of
    that name in the checkout this file belongs to, else in the current directory."""
    chosen = os.environ.get(f"D2RKIT_{kind.upper()}")
    if chosen:
        return Path(chosen).expanduser()
    return (PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()) / kind


def shipped(kind: str) -> Path:
    """The folder of `kind` ("results", "checkpoints") that came with the kit: that of the checkout, wherever
    $D2RKIT_DATA has the data sets; without a checkout, that of the data folder."""
    return (PROJECT / "data" if (PROJECT / "pyproject.toml").exists() else home("data")) / kind


def new_file(path: str | os.PathLike) -> Path:
    """`path` with its tilde expanded; ValueError if there is something already: nothing is overwritten."""
    file = check_path(path).expanduser()
    if file.exists():
        raise ValueError(f"{file} is there already; choose another name")
    return file


def flags_folder(checkpoint: str) -> str:
    """Where in a run folder the flags of a checkpoint lie."""
    return "evaluation" if checkpoint == "best" else f"evaluation-{checkpoint}"
