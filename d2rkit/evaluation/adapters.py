"""What users hand in as a network or as images, made what the Evaluator works on; or a sentence that says why not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from d2rkit.core.validation import as_pixels, check_images, printable
from d2rkit.data.arrays import Split
from d2rkit.data.datasets import ImageData
from d2rkit.methods.pair import GuidedPair


class Function(nn.Module):
    """A plain function of images as a module without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def as_network(model: nn.Module | Callable[[Tensor], Tensor]) -> tuple[nn.Module, list[str]]:
    """The network to judge, and a sentence for each thing about it that a reader of its numbers should know.

    Of a GuidedPair, the target. A function is wrapped. A network with weights in another precision than float32 is
    copied into float32, since that is what numbers are judged in; the copy has the same weights (float64: rounded).
    ValueError for anything that cannot be called or copied."""
    network = model.target if isinstance(model, GuidedPair) else model
    if not isinstance(network, nn.Module):
        if not callable(network):
            raise ValueError(f"a network or a function of images is needed, not a {type(network).__name__}")
        return Function(network), []
    floats = [t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()]
    others = {str(t.dtype).removeprefix("torch.") for t in floats if t.dtype != torch.float32}
    if not others:
        return network, []
    try:
        return copy.deepcopy(network).float(), [f"weights in {', '.join(sorted(others))}: judged as a float32 copy"]
    except Exception as error:
        kinds = ", ".join(sorted(others))
        raise ValueError(f"the network's {kinds} weights cannot be made float32: {printable(error)}") from error


def as_images(data: Any) -> tuple[Tensor, Tensor, int | None]:
    """Images (N, C, H, W), uint8 of a Split or floating in [0, 1], labels (N,) int64, and the number of classes if the
    data tell.

    data: a Split, a pair of tensors or NumPy arrays, a Dataset of (image, label), or a DataLoader of their batches.
    ValueError, in one sentence, for anything else, pixels outside [0, 1], or labels that do not fit."""
    if isinstance(data, Split):
        check_images(as_pixels(data.images[:1]), data.labels[:1])
        return data.images, data.labels.to(torch.int64), data.num_classes
    if isinstance(data, ImageData):
        raise ValueError("a whole data set was given; choose a part of it, e.g. data.test")
    if isinstance(data, (DataLoader, Dataset)):
        data = _collected(data if isinstance(data, DataLoader) else DataLoader(data, 256))
    if not (isinstance(data, (tuple, list)) and len(data) == 2):
        raise ValueError(f"data must be a split, a pair (images, labels), a Dataset or a DataLoader, not {_kind(data)}")
    images, labels = (_tensor(part, what) for part, what in zip(data, ("images", "labels"), strict=True))
    check_images(images, labels)
    return images.to(torch.float32), labels.to(torch.int64), None


def _collected(loader: DataLoader) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    try:
        for batch in loader:
            if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
                raise ValueError(f"its batches are {_kind(batch)}")
            images.append(_tensor(batch[0], "images"))
            labels.append(_tensor(batch[1], "labels"))
        return torch.cat(images), torch.cat(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the data must yield (image tensor, label): {printable(error)}") from error


def _tensor(part: Any, what: str) -> Tensor:
    if isinstance(part, Tensor):
        return part
    if isinstance(part, (np.ndarray, list, tuple)):
        try:
            return torch.as_tensor(np.asarray(part))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{what} cannot be made a tensor: {printable(error)}") from error
    raise ValueError(f"{what} must be a tensor or an array, not {_kind(part)}")


def _kind(thing: Any) -> str:
    return f"{len(thing)} things" if isinstance(thing, (tuple, list)) else f"a {type(thing).__name__}"
