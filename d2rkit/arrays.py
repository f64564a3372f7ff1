"""Image arrays and the files that hold them: the user's .npz and our compact cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """images: (N, C, H, W) uint8; labels: (N,) int64; both on one device. num_classes: of the data set, where known."""

    images: Tensor
    labels: Tensor
    num_classes: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Float pixels in [0, 1], (B, C, H, W), of the images at `index` (all by default)."""
        return self.images[index].float().div_(255)

    def take(self, index: Tensor | slice) -> Split:
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def nchw(images: np.ndarray) -> Tensor:
    """(N, H, W, C) array to (N, C, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def read_npz(path: Path, classes: int | None = None) -> tuple[Split, tuple[str, ...]]:
    """Arrays `images` (N, H, W, 3) uint8, `labels` (N,), `class_names`; ValueError if anything is off."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
            names = tuple(str(n) for n in arrays["class_names"])
    except KeyError as error:
        raise ValueError(f"{path} lacks an array: {error.args[0]}") from error
    except Exception as error:  # zipfile, zlib and numpy each have their own way of saying "truncated"
        raise ValueError(f"{path} cannot be read as an .npz file of arrays (truncated?): {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(f"{path}: images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{path}: {len(images)} images but labels of shape {labels.shape}")
    if labels.size == 0 or labels.min() < 0 or labels.max() >= (classes or len(names)):
        raise ValueError(f"{path}: labels must lie in 0..{(classes or len(names)) - 1}")
    return Split(nchw(images), torch.from_numpy(labels.astype(np.int64))), names


def read_cache(path: Path) -> tuple[Split, Split, tuple[str, ...]]:
    try:
        with safe_open(path, "pt") as file:
            names = tuple(file.metadata()["class_names"].split("\n"))
            train, test = (
                Split(file.get_tensor(f"{part}_images"), file.get_tensor(f"{part}_labels"))
                for part in ("train", "test")
            )
    except (SafetensorError, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable array cache ({error}); move it away to have it built anew"
        ) from error
    return train, test, names


def write_cache(path: Path, train: Split, test: Split, class_names: Sequence[str]) -> None:
    """Write both splits to one file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{part}_{kind}": tensor.contiguous()
        for part, split in (("train", train), ("test", test))
        for kind, tensor in (("images", split.images), ("labels", split.labels))
    }
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(tensors, draft, metadata={"class_names": "\n".join(class_names)})
    os.replace(draft, path)
