"""Twenty real CIFAR-10 test images without a network: the PyPI package `foolbox` carries them (MIT licence).

Only its picture files are read; none of its code is imported or run.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOW_TO = "the 20 CIFAR-10 sample images come with the package foolbox: run `pip install foolbox` (it is in d2rkit[lab])"


def cifar10_20() -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """The first 20 CIFAR-10 test images: pixels (20, 3, 32, 32) in [0, 1], labels (20,), class names.

    Raises ValueError, with what to install, if the files are not there."""
    from PIL import Image

    spec = importlib.util.find_spec("foolbox")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    files = sorted(folder.glob("cifar10_*.png")) if folder else []
    if len(files) != 20:
        raise ValueError(f"{HOW_TO}; found {len(files)} of them")
    images, labels = [], []
    for file in files:
        match = re.fullmatch(r"cifar10_\d+_(\d)", file.stem)
        try:
            with Image.open(file, formats=("PNG",)) as picture:
                pixels = np.asarray(picture) if picture.size == (32, 32) else np.empty(0)
        except Exception as error:  # Pillow has its own exceptions for every chunk of a PNG
            raise ValueError(f"{file.name} of the package foolbox is damaged: reinstall it") from error
        if match is None or pixels.shape != (32, 32, 3) or pixels.dtype != np.uint8:
            raise ValueError(f"{file.name} is not a CIFAR-10 sample image of 32x32 RGB pixels")
        images.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255)
        labels.append(int(match[1]))
    return torch.stack(images), torch.tensor(labels), CIFAR10_CLASSES
