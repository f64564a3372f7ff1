"""What every door of the kit shares: one clear sentence for bad input, and where files live."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

PROJECT = Path(__file__).resolve().parents[1]


def nearest(value: object, allowed: Iterable[str], what: str) -> ValueError:
    """A ValueError that names `value`, the nearest allowed name, and all that is allowed."""
    allowed = list(allowed)
    close = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return ValueError(f"unknown {what} {value!r}{hint}; allowed: {', '.join(allowed)}")


def printable(text: object, limit: int = 200) -> str:
    """The first line of what a file or a foreign library says, without what a terminal would take for a command."""
    line = next(iter(str(text).strip().splitlines()), "") or type(text).__name__
    return "".join(c if c.isprintable() else "?" for c in line[:limit]) + ("..." if len(line) > limit else "")


def home(kind: str) -> Path:
    """The folder for `kind` ("data", "runs", "results", "notebooks"): $D2RKIT_DATA and so on, else the folder of
    that name in the checkout this file belongs to, else in the current directory."""
    chosen = os.environ.get(f"D2RKIT_{kind.upper()}")
    if chosen:
        return Path(chosen).expanduser()
    return (PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()) / kind


def check_images(images: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    """images: (N, C, H, W) in [0, 1], labels: (N,) integers in 0..num_classes-1; else ValueError."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{len(images)} images need labels of shape ({len(images)},), not {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if len(images) == 0:
        raise ValueError("there are no images to work on")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"images must lie in [0, 1], not in [{low:.4g}, {high:.4g}]; divide uint8 pixels by 255")
    if num_classes is not None and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, not in {labels.min().item()}..{labels.max().item()}"
        )


def as_pixels(images: Tensor) -> Tensor:
    """Float pixels in [0, 1] of images that may be uint8."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def first_line(error: BaseException) -> str:
    """What an error says, in one line; one that says nothing is named."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
