"""Image data sets as uint8 tensors that live on the device, split once and for all.

`load_data` hands out the handwritten digits that scikit-learn carries, CIFAR-10, CIFAR-100 and
Tiny ImageNet (or twenty classes of it). Each is decoded once; later calls read one compact array
file. Pixels stay uint8 until a batch is used: `Split.pixels` turns the chosen images into floats
in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.core.paths import check_path, home
from d2rkit.core.validation import check_choice, shown
from d2rkit.data.arrays import Split, no_images
from d2rkit.data.cifar import load_cifar
from d2rkit.data.tiny_imagenet import TWENTY, load_tiny_imagenet

TINY: dict[str, tuple[str, ...]] = {"tiny-imagenet": (), "tiny-imagenet-20": TWENTY}
DATASETS: dict[str, Callable[[Path], Arrays] | None] = dict.fromkeys(("digits", "cifar10", "cifar100", *TINY))
"""By name. None: read by load_data itself; a function of the data folder: what plugins.register_dataset put there."""
BIG_VALIDATION = 1_000  # validation images held out of the training set of the big data sets
DIGITS_TEST, DIGITS_VALIDATION = 397, 200
CHUNK = 1_024  # images that are moved at once


@dataclass(frozen=True)
class ImageData:
    """A data set in three splits; `source` says where the images came from and how many were used."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "val", "test"):  # so that a network with other outputs is not evaluated on a part alone
            object.__setattr__(self, part, replace(getattr(self, part), num_classes=self.num_classes))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return self.test.images.shape[1]

    @property
    def image_size(self) -> int:
        return self.test.images.shape[-1]

    def to(self, device: torch.device | str) -> ImageData:
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))


def load_data(
    name: str,
    root: str | Path | None = None,
    subset: int | str | None = None,
    device: torch.device | str = "cpu",
    *,
    download: bool = True,
    verify: bool = True,
    test_only: bool = False,
) -> ImageData:
    """Load a data set by name, from `root` (default: $D2RKIT_DATA, else `data/`).

    subset: how many training images to use ("10k" or 10000): the first so many of each class.
    The validation split is held out of them: 1,000 images (digits: 200), class-balanced and the same
    in every run. download: whether a missing set may be downloaded. verify: whether CIFAR-10 arrays must match the
    official SHA-1, and CIFAR-100's are compared with the official set. test_only: for an evaluation; only the test
    images need to be there, train and val are empty. Raises ValueError, in one sentence, for whatever is unknown,
    missing, truncated or altered.
    """
    check_choice(name, DATASETS, "data set")
    wanted = subset_size(subset)
    root = check_path(root).expanduser() if root is not None else home("data")
    if (loader := DATASETS[name]) is not None:
        train, test, class_names, source = loader(root)
    elif name == "digits":
        train, test, class_names, source = _digits()
    elif name in TINY:
        train, test, class_names, source = load_tiny_imagenet(root, download, test_only, TINY[name])
    else:
        train, test, class_names, source = load_cifar(
            name, root, wanted, download=download, verify=verify, test_only=test_only
        )
    if test_only:
        nothing = no_images(*test.images.shape[1:3])
        return ImageData(name, class_names, nothing, nothing, test, source).to(device)
    if wanted is not None:
        if wanted > len(train):
            raise ValueError(f"subset {shown(subset)} asks for more than the {len(train)} training images of {name}")
        train = train.take(first_of_each_class(train.labels, wanted))
        source += f", {wanted} training images"
    held_out = min(DIGITS_VALIDATION if name == "digits" else BIG_VALIDATION, len(train) // 5)
    rest, val = _parted(train, stratified_index(train.labels, held_out, seed=0))
    return ImageData(name, class_names, rest, val, test, source).to(device)


def _parted(whole: Split, index: Tensor) -> tuple[Split, Split]:
    """All but the images at `index`, and those. The rest is moved together where it lies (which `whole` does not
    survive), so that a big data set is never in memory twice."""
    held_out, chosen = whole.take(index), torch.ones(len(whole), dtype=torch.bool)
    chosen[index] = False
    kept = chosen.nonzero().flatten()
    for tensor in (whole.images, whole.labels):
        for place, source in zip(torch.arange(len(kept)).split(CHUNK), kept.split(CHUNK), strict=True):
            tensor[place] = tensor[source]  # a row moves to its own place or an earlier one, never to a later one
    return Split(whole.images[: len(kept)], whole.labels[: len(kept)]), held_out


def augment(images: Tensor, padding: int, flip: bool, generator: torch.Generator | None = None) -> Tensor:
    """Random crop after zero-padding by `padding` pixels, and random left-right flip, for each image
    on its own; images: (B, C, H, W), any dtype, on any device; `generator` lives on that device."""
    if not padding and not flip:
        return images
    batch, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(batch, height)
    cols = torch.arange(width, device=device).expand(batch, width)
    if flip:
        flipped = torch.rand(batch, 1, generator=generator, device=device) < 0.5
        cols = torch.where(flipped, width - 1 - cols, cols)
    if padding:
        images = F.pad(images, (padding,) * 4)
        offsets = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator, device=device)
        rows, cols = rows + offsets[0], cols + offsets[1]
    picked = images.permute(0, 2, 3, 1)[
        torch.arange(batch, device=device)[:, None, None], rows[:, :, None], cols[:, None, :]
    ]
    return picked.permute(0, 3, 1, 2)


def stratified_index(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` sorted positions drawn at random, with as equal a share of every class as possible."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    return order[_balanced_rank(labels[order], count)].sort().values


def first_of_each_class(labels: Tensor, count: int) -> Tensor:
    """Sorted positions of `count` examples: the first of every class, as equally as possible."""
    return _balanced_rank(labels, count).sort().values


def _balanced_rank(labels: Tensor, count: int) -> Tensor:
    """Positions of the `count` examples that come first when classes take turns."""
    labels = labels.cpu()
    turn = torch.empty(len(labels), dtype=torch.long)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        turn[members] = torch.arange(len(members))
    return torch.argsort(turn, stable=True)[:count]


def subset_size(subset: int | str | None) -> int | None:
    """ "10k" or 10000 as a number, None for all; ValueError for anything else."""
    if subset is None or subset == "":
        return None
    text = str(subset).strip().lower()
    digits = text[:-1] + "000" if text.endswith("k") else text
    if not digits.isdigit() or int(digits) < 5:  # a fifth is held out for validation
        raise ValueError(f"subset {shown(subset)} is not a number of training images; allowed: 5 or more, e.g. 10k")
    return int(digits)


Arrays = tuple[Split, Split, tuple[str, ...], str]  # train, test, class names, source


def _digits() -> Arrays:
    from sklearn.datasets import load_digits
    from sklearn.utils import Bunch

    bunch = cast(Bunch, load_digits())  # its declared type is that of return_X_y=True
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    everything = Split(images, torch.from_numpy(bunch.target.astype(np.int64)))
    test_index = stratified_index(everything.labels, DIGITS_TEST, seed=0)
    rest = torch.ones(len(everything), dtype=torch.bool)
    rest[test_index] = False
    names = tuple(str(digit) for digit in range(10))
    return everything.take(rest), everything.take(test_index), names, "scikit-learn digits, 1,797 scans of 8x8 pixels"
