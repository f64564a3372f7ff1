"""Short digests that tie a number to what it was measured on, and a file to its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

LENGTH = 16  # hexadecimal digits: 64 bits, against accidents, not against forgery


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Of named tensors: their names, shapes, dtypes and bytes, wherever they lie and in whatever order they come."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:LENGTH]


def weights_digest(network: nn.Module) -> str:
    """Of a network's parameters and buffers, as its state_dict holds them."""
    return tensors_digest({name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)})


def bytes_digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:LENGTH]


def file_digest(path: Path) -> str:
    """Of a file's bytes. OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:LENGTH]
