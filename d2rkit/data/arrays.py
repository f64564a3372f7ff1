"""Image arrays and the files that hold them: the user's .npz and our compact cache."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from d2rkit.core.digests import tensors_digest
from d2rkit.core.files import write_atomically
from d2rkit.core.validation import printable
from d2rkit.data.archives import bound

log = logging.getLogger("d2rkit")
ARRAYS = ("images", "labels", "class_names")
FEWEST = 5  # images in a file: a fifth of them is held out for validation


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


def splits_digest(*splits: Split) -> str:
    """Digest of the images and labels of these splits, in their order: about 0.1 s for CIFAR-10's."""
    parts = {str(number): split for number, split in enumerate(splits)}
    images = {f"{number} images": split.images for number, split in parts.items()}
    return tensors_digest(images | {f"{number} labels": split.labels for number, split in parts.items()})


def nchw(images: np.ndarray) -> Tensor:
    """(N, H, W, C) array to (N, C, H, W) tensor."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def no_images(channels: int, size: int) -> Split:
    """A split of no images."""
    return Split(torch.empty(0, channels, size, size, dtype=torch.uint8), torch.empty(0, dtype=torch.long))


@cache
def say_once(text: str) -> None:
    """Log a warning, once a process; with what a terminal can show of paths that are not UTF-8."""
    log.warning("%s", text.encode(errors="replace").decode())


def read_npz(path: Path, classes: int | None = None) -> tuple[Split, tuple[str, ...]]:
    """Arrays `images` (N, H, W, 3) uint8, `labels` (N,), `class_names`; ValueError if anything is off."""
    arrays = _arrays(path)
    images, labels, names = arrays["images"], arrays["labels"], _class_names(path, arrays["class_names"])
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"{path}: images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"{path}: {len(images)} images but labels of shape {labels.shape}")
    if len(images) < FEWEST:
        raise ValueError(f"{path} holds {len(images)} images; at least {FEWEST} are needed")
    numbers = classes or len(names)
    return Split(nchw(images), torch.from_numpy(_labels(path, labels, numbers))), names


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > bound(path):
            raise ValueError(f"it would unpack to {size:,} bytes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS if name in file.files}
    except Exception as error:  # zipfile, zlib and numpy each have their own way of saying "truncated"
        first = printable(error)
        if "pickle" in first:  # NumPy's text advises to allow it
            first = "it holds Python objects, which need code to be read"
        raise ValueError(f"{path} cannot be read as an .npz file of arrays (truncated?): {first}") from error
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise ValueError(f"{path} lacks an array: {', '.join(missing)}")
    return arrays


def _class_names(path: Path, given: np.ndarray) -> tuple[str, ...]:
    if given.ndim != 1 or given.dtype.kind not in "USiu":
        raise ValueError(f"{path}: class_names must be one list of names, not {given.dtype} of shape {given.shape}")
    try:
        names = tuple(n.decode() if isinstance(n, bytes) else str(n) for n in given.tolist())
    except UnicodeDecodeError:
        names = tuple(n.decode("latin-1") for n in given.tolist())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: class_names holds {twice[0]!r} more than once")
    if odd := [name for name in names if not name.strip() or not name.isprintable()]:
        raise ValueError(f"{path}: class_names holds {odd[0]!r}, which is no name")
    if len(names) < 2:
        raise ValueError(f"{path}: class_names holds {len(names)} names; at least two classes are needed")
    return names


def _labels(path: Path, labels: np.ndarray, classes: int) -> np.ndarray:
    """(N,) int64. Whole numbers pass as floats as well; nothing else does."""
    if labels.dtype.kind not in "iuf":
        words = {"U": "strings", "S": "strings", "b": "true and false"}.get(labels.dtype.kind, str(labels.dtype))
        raise ValueError(f"{path}: labels must be class numbers 0..{classes - 1}, not {words}")
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.rint(labels)).all()):
        odd = next(x for x in labels if not np.isfinite(x) or x != np.rint(x))
        raise ValueError(f"{path}: labels must be whole numbers 0..{classes - 1}, not {odd}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{path}: labels must lie in 0..{classes - 1}, not in {labels.min()}..{labels.max()}")
    return labels.astype(np.int64)


# The cache ---------------------------------------------------------------------------------------


def cache_file(root: Path, stem: str) -> Path | None:
    """Where the arrays of a data set are kept; None, said once, if safetensors cannot name the place."""
    path = root / "cache" / f"{stem}.safetensors"
    try:
        str(path).encode()
    except UnicodeEncodeError:
        say_once(f"{path} is no UTF-8 path, so no cache is kept there: {stem} is decoded anew each time")
        return None
    return path


def cached_source(path: Path) -> str | None:
    """The mark of the source that a cache was made from; None if it has none or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("source")
    except (SafetensorError, OSError):
        return None


def read_cache(path: Path, test_only: bool = False) -> tuple[Split, Split, tuple[str, ...]]:
    """Train split (empty with test_only), test split and class names. ValueError if the file is damaged."""
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            names = tuple(facts["class_names"].split("\n"))
            parts = {p: _cached(file, facts, p) for p in (("test",) if test_only else ("train", "test"))}
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a readable array cache ({printable(error)}); move it away to have it built anew"
        ) from error
    return parts.get("train") or no_images(*parts["test"].images.shape[1:3]), parts["test"], names


def _cached(file: safe_open, facts: dict[str, str], part: str) -> Split:
    split = Split(file.get_tensor(f"{part}_images"), file.get_tensor(f"{part}_labels"))
    if f"{part}_crc32" in facts and facts[f"{part}_crc32"] != _crc32(split):  # older caches have none
        raise ValueError(f"its {part} images are not those that were written")
    if split.images.dtype != torch.uint8 or split.images.ndim != 4 or split.labels.shape != split.images.shape[:1]:
        raise ValueError(f"its {part} images are no (N, C, H, W) of bytes with N labels")
    return split


def _crc32(split: Split) -> str:
    """Guards against flipped bits, at a gigabyte a second."""
    images, labels = (tensor.contiguous().numpy().data for tensor in (split.images, split.labels))
    return f"{zlib.crc32(labels, zlib.crc32(images)):08x}"


def keep(path: Path | None, train: Split, test: Split, class_names: Sequence[str], source: str = "") -> None:
    """write_cache where that is possible; else say so, once, and go on without."""
    if path is None:
        return
    try:
        write_cache(path, train, test, class_names, source)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        say_once(f"no cache can be kept in {path.parent} ({reason}): {path.stem} is decoded anew each time")


def write_cache(path: Path, train: Split, test: Split, class_names: Sequence[str], source: str = "") -> None:
    """Write both splits to one file, which appears whole or not at all. source: a mark of what they were made from."""
    parts = {"train": train, "test": test}
    tensors = {
        f"{part}_{kind}": tensor.contiguous()
        for part, split in parts.items()
        for kind, tensor in (("images", split.images), ("labels", split.labels))
    }
    facts = {"class_names": "\n".join(class_names), "source": source}
    facts |= {f"{part}_crc32": _crc32(split) for part, split in parts.items()}
    with write_atomically(path) as draft:
        save_file(tensors, draft, metadata=facts)
