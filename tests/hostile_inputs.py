"""Random arguments for tests/hostile.py: what works, what nearly works, and what nobody should pass."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2rkit.methods.pair import GuidedPair

DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16,
)  # fmt: skip
SHAPES = (
    (), (0,), (1,), (4,), (0, 5), (1, 5), (4, 5), (4, 1), (4, 0), (5, 4), (4, 5, 1), (4, 3, 6, 6), (1, 3, 6, 6),
    (4, 6, 6, 3), (0, 3, 6, 6), (4, 1, 6, 6), (4, 3, 6, 1), (4, 3, 0, 6), (4, 12), (2, 4, 3, 6, 6),
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 10**30, 0.0, -0.0, 0.5, -0.5, 1e-12, 1e30, math.nan, math.inf, -math.inf, True, False, 8 / 255)
THINGS = (
    None, "", "8/255", "linf", "trades", "\x1b[31mred\x1b[0m", "a\nb", "é" * 500, b"bytes", [], [1, 2], (0.5, "x"),
    {}, {"beta": 1}, object(), int, 1 + 2j, range(3), np.float32(0.1), np.int64(2), np.float64("nan"), len,
)  # fmt: skip


class Plain(nn.Module):
    """A convolution, BatchNorm, a linear head: (B, 3, H, W) -> (B, classes)."""

    def __init__(self, classes: int = 5):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class Odd(nn.Module):
    """A network that returns what no classifier returns."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        flat = x.reshape(len(x), -1) if x.ndim > 1 and len(x) else torch.zeros(1, 5)
        return {
            "one class": lambda: flat[:, :1], "a column": lambda: flat.sum(1), "nothing": lambda: None,
            "a tuple": lambda: (flat, flat), "constant": lambda: torch.zeros(len(x), 5), "NaN": lambda: flat * math.nan,
            "one row": lambda: flat[:1], "integers": lambda: flat.long(), "an array": lambda: flat.detach().numpy(),
        }[self.kind]()  # fmt: skip


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    NETWORKS = {
        "target": Plain().eval(),
        "guide": Plain().eval(),
        "other classes": Plain(3),
        "double": Plain().double(),
    }
ODD = [
    Odd(kind) for kind in ("one class", "a column", "nothing", "a tuple", "constant", "NaN", "one row", "integers",
                           "an array")
]  # fmt: skip


class Inputs:
    """Random arguments, all of them decided by the seed."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def one(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, kind: str = "uniform") -> Tensor:
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        if kind in ("nan", "inf", "-inf"):
            drawn = torch.where(drawn > 0.7, float(kind), drawn)
        drawn = {"normal": lambda: 6 * drawn - 3, "pixels": lambda: (255 * drawn).round(), "huge": lambda: 1e4 * drawn,
                 "zeros": lambda: 0 * drawn}.get(kind, lambda: drawn)()  # fmt: skip
        if not dtype.is_floating_point and not dtype.is_complex:
            drawn = drawn.nan_to_num(0, 9, -9).clamp(-9 if dtype.is_signed else 0, 255)
        return drawn.to(dtype)

    def hostile_tensor(self) -> Tensor:
        shape, dtype = self.one(*SHAPES), self.one(*DTYPES)
        kind = self.one("uniform", "normal", "pixels", "huge", "zeros", "nan", "inf", "-inf")
        tensor = self.tensor(shape, dtype, kind)
        twist = self.one("none", "none", "gradient", "strided", "expanded", "transposed")
        if twist == "gradient" and dtype.is_floating_point and dtype.itemsize > 1:
            tensor = tensor.requires_grad_()
        elif twist == "strided" and tensor.ndim:
            tensor = torch.stack([tensor, tensor], -1)[..., 0]
        elif twist == "expanded" and tensor.ndim and len(tensor):
            tensor = tensor[:1].expand_as(tensor)
        elif twist == "transposed" and tensor.ndim > 1:
            tensor = tensor.transpose(0, 1)
        return tensor

    def hostile(self) -> Any:
        kind = self.random.random()
        if kind < 0.5:
            return self.hostile_tensor()
        if kind < 0.7:
            return self.one(*NUMBERS)
        if kind < 0.85:
            return self.one(*THINGS)
        tensor = self.hostile_tensor().detach()
        if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn):
            tensor = tensor.float()
        return tensor.numpy() if kind < 0.93 else tensor.tolist()

    def near(self, value: Any) -> Any:
        """Like `value`, but for one thing; or something else altogether."""
        if self.random.random() < 0.4:
            return self.hostile()
        if isinstance(value, Tensor):
            return self.near_tensor(value)
        if isinstance(value, nn.Module):
            return self.one(*ODD, *NETWORKS.values(), GuidedPair(NETWORKS["target"], NETWORKS["guide"]))
        if isinstance(value, str):
            return self.one(value.upper(), value + "x", value[1:], "", " " + value)
        return self.one(*NUMBERS)

    def near_tensor(self, value: Tensor) -> Tensor:
        value = value.detach()
        odd_shape = lambda: self.one(value[:0], value[:1], value[None], value[1:], value.flatten(), value.unsqueeze(-1))  # noqa: E731
        return {
            "dtype": lambda: value.to(self.one(*DTYPES)),
            "shape": odd_shape,
            "NHWC": lambda: value.movedim(1, -1) if value.ndim > 1 else value - 1,
            "range": lambda: value * 255,
            "below": lambda: value - 100,
            "nan": lambda: value * math.nan if value.is_floating_point() else value + 100,
            "array": lambda: value.numpy() if value.dtype != torch.bfloat16 else value,
            "list": lambda: value.tolist(),
            "gradient": lambda: value.clone().requires_grad_() if value.is_floating_point() else value,
            "strided": lambda: torch.stack([value, value], -1)[..., 0],
        }[self.one("dtype", "shape", "NHWC", "range", "below", "nan", "array", "list", "gradient", "strided")]()

    # -- arguments that work ---------------------------------------------------------------------------------
    def logits(self) -> Tensor:
        return self.tensor((4, 5), self.one(torch.float32, torch.float64), "normal")

    def labels(self) -> Tensor:
        return torch.randint(0, 5, (4,), generator=self.generator)

    def images(self) -> Tensor:
        return self.tensor((4, 3, 6, 6))

    def flags(self) -> np.ndarray:
        return np.array([self.random.random() < 0.5 for _ in range(12)])
