"""What every door of the kit shares: one clear sentence for bad input."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import cast

import torch
from torch import Tensor, nn

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HUGE = 1e12  # no setting of the kit is larger; what is would overflow in half precision or loop for ever
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def nearest(value: object, allowed: Iterable[str], what: str) -> ValueError:
    """A ValueError that names `value`, the nearest allowed name, and all that is allowed."""
    allowed = list(allowed)
    close = difflib.get_close_matches(str(value)[:80], allowed, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return ValueError(f"unknown {what} {shown(value)}{hint}; allowed: {', '.join(allowed)}")


def shown(value: object) -> str:
    """`value` within a sentence: one line, not too long; of a tensor or array its kind and shape."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and shape is not None:
        return f"a {type(value).__name__} of {dtype} and shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def check_choice(value: object, allowed: Iterable[str], what: str) -> None:
    """`value` is one of the names that are allowed; else ValueError."""
    if not isinstance(value, str) or value not in allowed:
        raise nearest(value, allowed, what)


def check_number(name: str, value: object, low: float = 0.0, high: float = HUGE) -> None:
    """`value` is a finite number in [low, high]; else ValueError."""
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= cast(float, value) <= high:
        span = f"in [{low:g}, {high:g}]" if high < HUGE else f"of at least {low:g}"
        raise ValueError(f"{name} must be a finite number {span}, not {shown(value)}")


def check_count(name: str, value: object, low: int = 0, high: int = int(HUGE)) -> None:
    """`value` is a whole number in low..high; else ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not low <= cast(int, value) <= high:
        span = f"in {low}..{high}" if high < HUGE else f"of at least {low}"
        raise ValueError(f"{name} must be a whole number {span}, not {shown(value)}")


def number(text: str) -> float:
    """ "0.031", "3e-2" or a fraction such as "8/255"; ValueError, in one sentence, for anything else."""
    try:
        above, *below = text.split("/")
        value = float(above)
        for each in below:
            value /= float(each)
    except (ValueError, ZeroDivisionError):
        value, below = math.nan, []
    if len(below) > 1 or not math.isfinite(value):
        hint = f"; write {text.replace(',', '.')}" if re.fullmatch(r"\d+,\d+", text) else ", e.g. 0.031 or 8/255"
        raise ValueError(f"{text!r} is not a finite number{hint}")
    return value


# What follows asks tensors for shape, dtype and device, never for values: asking a GPU for a value waits for it.
def check_logits(*logits: Tensor, least: int = 1) -> None:
    """Floating-point tensors (B, C), all of one shape on one device, B >= least, C >= 2; else ValueError."""
    first = logits[0]
    for z in logits:
        if not isinstance(z, Tensor) or z.dtype not in FLOATS:
            raise ValueError(f"logits must be a floating-point tensor of shape (B, C), not {shown(z)}")
        shape = z.shape
        if len(shape) != 2 or shape[0] < least or shape[1] < 2:
            raise ValueError(
                f"logits must have shape (B, C) with B >= {least} examples and C >= 2 classes, not {tuple(shape)}"
            )
        if z is not first and (shape != first.shape or z.device != first.device):
            raise ValueError(
                f"logits to compare must have one shape and one device, not {tuple(first.shape)} on {first.device} "
                f"and {tuple(shape)} on {z.device}"
            )


def check_labels(y: Tensor, count: int, classes: int | None = None) -> None:
    """y: (count,) int64; else ValueError. On a CPU, where looking is free, also that they lie in 0..classes-1."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.ndim != 1 or len(y) != count:
        raise ValueError(f"labels must be an int64 tensor of shape ({count},), one an example, not {shown(y)}")
    if classes is not None and count and y.device.type == "cpu":
        low, high = y.aminmax()
        if low < 0 or high >= classes:
            raise ValueError(f"labels must lie in 0..{classes - 1}, not in {low.item()}..{high.item()}")


def check_batch(x: Tensor, start: Tensor | None = None) -> None:
    """x: (B, ...) floating point, and `start`, if there is one, like it in shape, dtype and device; else ValueError."""
    if not isinstance(x, Tensor) or x.dtype not in FLOATS or x.ndim < 2 or 0 in x.shape[1:]:
        raise ValueError(f"images must be a floating-point tensor of shape (B, ...) in [0, 1], not {shown(x)}")
    if start is not None and (
        not isinstance(start, Tensor) or start.shape != x.shape or start.dtype != x.dtype or start.device != x.device
    ):
        raise ValueError(
            f"start must be like the images, {x.dtype} of shape {tuple(x.shape)} on {x.device}, not {shown(start)}"
        )


def asked(network: nn.Module, x: Tensor) -> Tensor:
    """network(x). ValueError if it fails since x has not the device, dtype or channels that the layers are made for;
    what else a network raises is its own."""
    if not isinstance(x, Tensor):
        raise ValueError(f"images must be a tensor, not {shown(x)}")
    try:
        return network(x)
    except TypeError as error:
        if "missing" in str(error) and "forward()" in str(error):  # of a GuidedPair, for one
            raise ValueError(f"{type(network).__name__} is not called with images alone: {error}") from error
        raise
    except RuntimeError as error:
        if words := _misfit(network, x, str(error)):
            raise ValueError(words) from error
        raise


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """network(x), (B, C); ValueError if that is not what it returns (see `asked`)."""
    logits = asked(network, x)
    check_logits(logits, least=0)
    return logits


def _misfit(network: nn.Module, x: Tensor, complaint: str) -> str:
    """Why the layers of `network` cannot take x, of which torch said `complaint`; empty if that does not show."""
    weight = next(network.parameters(), x)
    if weight.device != x.device:
        return f"the images are on {x.device}, the network on {weight.device}; move one with .to()"
    conv = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    if conv is not None and (x.ndim != 4 or x.shape[1] != conv.in_channels):
        last = x.ndim == 4 and x.shape[3] == conv.in_channels
        hint = "; these look like (B, H, W, C), which x.permute(0, 3, 1, 2) turns" if last else ""
        return f"the network takes images of shape (B, {conv.in_channels}, H, W), not {tuple(x.shape)}{hint}"
    if weight.dtype != x.dtype:
        return f"the images are {x.dtype}, the network is {weight.dtype}; convert one with .to()"
    if "Kernel size can't be greater than actual input size" in complaint:
        return f"images of {tuple(x.shape)} are too small for the network's layers"
    if features := re.search(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)", complaint):
        given, taken = features.groups()
        return f"images of {tuple(x.shape)} do not fit: they give {given} features where a layer takes {taken}"
    return ""


def printable(text: object, limit: int = 200) -> str:
    """The first line of what a file or a foreign library says, without what a terminal would take for a command."""
    line = next(iter(str(text).strip().splitlines()), "") or type(text).__name__
    return "".join(c if c.isprintable() else "?" for c in line[:limit]) + ("..." if len(line) > limit else "")


def check_images(images: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    """images: (N, C, H, W) in [0, 1], labels: (N,) integers in 0..num_classes-1; else ValueError."""
    for what, tensor in (("images", images), ("labels", labels)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{what} must be a tensor, not {shown(tensor)}; torch.from_numpy makes one of an array")
    if images.ndim != 4:
        raise ValueError(f"images must have shape (N, C, H, W), not {tuple(images.shape)}")
    if images.dtype not in FLOATS:
        raise ValueError(f"images must be floats in [0, 1], not {images.dtype}; divide uint8 pixels by 255")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{len(images)} images need labels of shape ({len(images)},), not {tuple(labels.shape)}")
    if labels.dtype not in INTEGERS:
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    if images.numel() == 0:
        raise ValueError(f"there are no images to work on: their shape is {tuple(images.shape)}")
    if images.shape[1] > 4 and images.shape[3] in (1, 3):
        raise ValueError(f"images of shape {tuple(images.shape)} look like (N, H, W, C); x.permute(0, 3, 1, 2) helps")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"images must lie in [0, 1], not in [{low:.4g}, {high:.4g}]; divide uint8 pixels by 255")
    if num_classes is not None:
        check_count("num_classes", num_classes, 1)
    if num_classes is not None and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels must lie in 0..{num_classes - 1}, not in {labels.min().item()}..{labels.max().item()}"
        )


def as_pixels(images: Tensor) -> Tensor:
    """Float pixels in [0, 1] of images that may be uint8."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images
