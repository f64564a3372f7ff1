"""Input normalisation inside a network: `Normalize`, the field's constants, and how both are told or found in a file.

Pixels are in [0, 1] everywhere in the kit; a network that was trained on (x - mean) / std brings that along."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from d2rkit.core.validation import nearest, printable

# Per-channel mean and standard deviation of the training sets, as the field's training scripts write them.
NORMALISATIONS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
BUFFERS = (
    ("mean", "std"),
    ("mu", "sigma"),
    ("new_mean", "new_std"),
)  # under what names networks of the field keep them


class Normalize(nn.Module):
    """(x - mean) / std per channel, for networks that were trained on normalised pixels:
    `nn.Sequential(Normalize(mean, std), network)` takes pixels in [0, 1] like every other network.
    Both are buffers, so that they belong to the network's weights and to their digest."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Normalisation(NamedTuple):
    """mean, std: one number a channel, on pixels in [0, 1]; source: where they come from, in words."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in self[:2])
        return f"mean {mean} and std {std}, {self.source}"


def checked(mean: Sequence[float], std: Sequence[float], channels: int, source: str) -> Normalisation:
    """A normalisation for images of so many channels; ValueError, in one sentence, for values that cannot be one."""
    for what, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            need = f"one number for each of the {channels} channels" if channels > 1 else "one number for one channel"
            raise ValueError(f"the {what} ({source}) holds {len(values)} numbers; the network needs {need}")
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"the {what} ({source}) holds numbers that are not finite: {_listed(values)}")
        if max(values) > 1:
            raise ValueError(f"the {what} {_listed(values)} ({source}) is on the scale 0..255; divide it by 255")
    if min(std) <= 0:
        raise ValueError(f"the std {_listed(std)} ({source}) must be positive in every channel")
    if min(mean) < 0:
        raise ValueError(f"the mean {_listed(mean)} ({source}) must lie in 0..1, as pixels do")
    mean, std = (tuple(map(float, values)) * (channels // len(values)) for values in (mean, std))
    return Normalisation(mean, std, source)


def same(one: Normalisation, other: Normalisation) -> bool:
    """Whether they are the same numbers in float32, as `Normalize` and the buffers of files hold them."""
    return all(
        torch.equal(torch.tensor(a).float(), torch.tensor(b).float()) for a, b in zip(one[:2], other[:2], strict=True)
    )


def parse_normalisation(
    mean: str | Sequence[float] | None, std: str | Sequence[float] | None, channels: int
) -> Normalisation | None:
    """What a user asked for: numbers for both, as sequences or as text with commas or spaces between them, or one of
    the names in NORMALISATIONS (as mean or as std; the other one absent or the same). None if neither is given.
    ValueError, in one sentence, for anything else."""
    mean, std = (None if value is None or len(value) == 0 else value for value in (mean, std))
    if mean is None and std is None:
        return None
    names = [value.strip() for value in (mean, std) if isinstance(value, str) and re.search(r"[a-z]{4}", value, re.I)]
    if names:
        other = std if mean is not None else None
        if names[0] not in NORMALISATIONS:
            raise nearest(names[0], NORMALISATIONS, "input normalisation")
        if other is not None and names != [names[0]] * 2:
            raise ValueError(f"{names[0]!r} names a mean and a std; give nothing beside it, not {mean!r} and {std!r}")
        constants = NORMALISATIONS[names[0]]
        if len(constants[0]) != channels:
            raise ValueError(f"the normalisation {names[0]!r} is for {len(constants[0])} channels, not for {channels}")
        return Normalisation(*constants, f"the constants {names[0]!r}, as given")
    if mean is None or std is None:
        given, missing = ("mean", "std") if std is None else ("std", "mean")
        raise ValueError(f"a {given} was given without a {missing}; an input normalisation needs both")
    return checked(_numbers("mean", mean), _numbers("std", std), channels, "as given")


def from_buffers(extra: Mapping[str, Tensor], channels: int) -> tuple[Normalisation | None, set[str]]:
    """The normalisation among the tensors of a file that are not the network's own, and the names of its buffers.
    ValueError, in one sentence, if there are several, or odd values."""
    pairs = []
    for mean_name in extra:
        prefix, _, last = mean_name.rpartition(".")
        for mean_word, std_word in BUFFERS:
            std_name = f"{prefix}.{std_word}" if prefix else std_word
            if last == mean_word and std_name in extra:
                pairs.append((mean_name, std_name))
    if not pairs:
        return None, set()
    if len(pairs) > 1:
        listed = ", ".join(f"`{printable(mean)}`/`{printable(std)}`" for mean, std in pairs[:4])
        raise ValueError(
            f"the file holds {len(pairs)} input normalisations ({listed}); the kit cannot tell which is used"
        )
    mean, std = (extra[name].detach().double().flatten().tolist() for name in pairs[0])
    source = f"from the buffers `{printable(pairs[0][0])}`/`{printable(pairs[0][1])}` of the file"
    return checked(mean, std, channels, source), set(pairs[0])


def normalised(model: nn.Module, normalisation: Normalisation | None) -> nn.Module:
    """`model` behind its input normalisation, if it has one; the evaluation compares its image size with its images."""
    if normalisation is None:
        return model
    behind: Any = nn.Sequential(Normalize(normalisation.mean, normalisation.std), model)
    behind.image_size = getattr(model, "image_size", None)
    return behind


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:6]) + (", ..." if len(values) > 6 else "")


def _numbers(what: str, given: str | Sequence[float]) -> tuple[float, ...]:
    words = re.split(r"[,;\s]+", given.strip(" \t()[],;")) if isinstance(given, str) else given
    try:
        return tuple(_fraction(word) for word in words)
    except (TypeError, ValueError, ZeroDivisionError):
        allowed = f"numbers with commas or spaces between them, or one of {', '.join(NORMALISATIONS)}"
        raise ValueError(f"{what} {given!r} is no input normalisation; allowed: {allowed}") from None


def _fraction(word: str | float) -> float:
    """ "0.5", "127.5/255" or a number."""
    above, _, below = word.partition("/") if isinstance(word, str) else (word, "", "")
    return float(above) / float(below or 1)
