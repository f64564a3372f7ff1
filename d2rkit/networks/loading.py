"""load_released(): a checkpoint of the field as a network that takes pixels in [0, 1]."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from d2rkit.core.validation import nearest, printable
from d2rkit.networks import zoo
from d2rkit.networks.architectures import MODELS, NAMES, build_model
from d2rkit.networks.normalisation import from_buffers, normalised, parse_normalisation, same
from d2rkit.networks.released import architecture, complete, convert, find_network

# What released files carry besides the network's own: WideResNet's first group twice, of which the forward uses one,
# and the counter of torch.optim.swa_utils.AveragedModel.
UNUSED = re.compile(r"sub_block1\.|n_averaged$")


class Released(NamedTuple):
    """A network with a released checkpoint's weights, and what was done to get it.

    model: takes pixels in [0, 1]; dropped: names of tensors that no forward uses; notes: one sentence each on what was
    chosen, filled in or converted; normalisation: the words after "input normalisation:"."""

    model: nn.Module
    dropped: list[str]
    notes: list[str]
    normalisation: str


def load_released(
    path: str | Path,
    name: str | None = None,
    image_size: int | None = None,
    *,
    key: str | None = None,
    mean: str | Sequence[float] | None = None,
    std: str | Sequence[float] | None = None,
    shape: tuple[int, int, int] | None = None,
) -> Released:
    """Load a published checkpoint (TRADES, LBGAT, AWP, D2R and the like, or a run's best.safetensors), strictly and
    without running code in it: every tensor must fit, but those that no forward uses.

    name, image_size: as in build_model; with None the network is inferred from the tensors. (The strides of a ResNet-18
    leave no trace there: it is taken for the guide.) key: which of several networks in the file, e.g. "guide" or
    "ema_state_dict". mean, std: of the input normalisation the network was trained with, per channel on pixels in
    [0, 1], as numbers, as text, or one name of NORMALISATIONS; buffers `mean`/`std` or `mu`/`sigma` in the file are
    used without. shape: classes, image size and channels of a registered network, whose tensors do not tell them.
    Raises ValueError, in one sentence, if the file is missing, damaged, no checkpoint, or does not fit.
    """
    if name is not None and not isinstance(name, str):
        raise nearest(name, NAMES, "network")
    name = name if name in MODELS else zoo.kit_name(name)
    if name and name.startswith("hf:"):
        return Released(*zoo.load_transformers(path, name, key, mean, std))
    if zoo.is_foreign(name):
        network, build, channels = zoo.find_timm(path, name, key, image_size or (shape[1] if shape else None))
        chosen, notes = name, list(network.notes)
    else:
        if name in MODELS and shape:
            with torch.device("meta"):
                expected = list(build_model(name, *shape).state_dict())
            network = find_network(path, key, expected)
            seen_name, (classes, seen_size, channels) = name, shape
        else:
            network = find_network(path, key)
            seen_name, classes, seen_size, channels = architecture(path, network.tensors)
        chosen, notes = name or seen_name, list(network.notes)
        if seen_name.endswith(zoo.VARIANTS) and seen_name.startswith(f"{name}-"):
            chosen = seen_name
            notes.append(f"by its tensors this {name} is the variant {seen_name}")
        size = image_size if image_size and not seen_name.startswith("mlp") else seen_size
        build = partial(build_model, chosen, classes, size, channels)
    with torch.device("meta"):  # shapes are compared before anything of the file's choosing is allocated
        wanted = build().state_dict()
    extra = {k: v for k, v in network.tensors.items() if k not in wanted} | network.beside
    own = parse_normalisation(mean, std, channels)
    try:
        normalisation, used = from_buffers(extra, channels)
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}") from error
    if own and normalisation and not same(own, normalisation):
        raise ValueError(f"{path} brings its own input normalisation ({normalisation}); give no other one ({own})")
    dropped = sorted(k for k in extra if UNUSED.match(k.removeprefix(network.prefix)))
    state, filled = complete(network.tensors, wanted)
    faults = {
        "missing": sorted(wanted.keys() - state.keys()),
        "unexpected": sorted(extra.keys() - used - set(dropped)),
        "of another shape": sorted(k for k in wanted.keys() & state.keys() if wanted[k].shape != state[k].shape),
    }
    if any(faults.values()):
        problem = "; ".join(
            f"{len(keys)} {what} (first: {printable(keys[0])})" for what, keys in faults.items() if keys
        )
        raise ValueError(f"{path} does not fit {chosen}: {problem}")
    state = {k: state[k] for k in wanted}
    notes += [*filled, *convert(path, state)]
    normalisation = own or normalisation or zoo.default_normalisation(path, chosen, channels)
    model = build()
    model.load_state_dict(state, strict=True)
    if name is None and chosen == "resnet18-guide":
        notes.append(
            "a ResNet-18's strides leave no trace in a file: it was taken for resnet18-guide, not for resnet18"
        )
    return Released(normalised(model, normalisation), dropped, notes, str(normalisation or "none in the file"))
