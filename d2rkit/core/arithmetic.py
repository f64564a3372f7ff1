"""What float32 means on a device: IEEE, or the TF32 and bfloat16 that GPUs are faster in.

Networks are judged in IEEE float32. A GPU of NVIDIA's from Ampere on rounds the inputs of every float32 convolution to
TF32, 10 bits of mantissa, unless it is told otherwise; attacks may, since what they find is judged anyway.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from d2rkit.core.validation import nearest

FOREACH: Any = torch  # its `_foreach_` functions have no public name, and so no types
ATTACK_PRECISIONS = ("32-true", "tf32", "bf16")


@contextmanager
def ieee_float32() -> Iterator[None]:
    """Inside, matmuls and convolutions of float32 tensors are IEEE float32 on every device; afterwards whatever they
    were before."""
    with _tf32(False):
        yield


@contextmanager
def attack_math(precision: str) -> Iterator[None]:
    """Inside, float32 is what an attack may compute in: "tf32" allows TF32 where a GPU has it; "32-true" and "bf16" do
    not, since under "bf16" the network alone runs in bfloat16 (evaluator.py), and what an attack makes of its answers,
    such as FAB's projections, needs all of float32. ValueError for another precision."""
    if precision not in ATTACK_PRECISIONS:
        raise nearest(precision, ATTACK_PRECISIONS, "attack precision")
    with _tf32(precision == "tf32"):
        yield


@contextmanager
def training_math(exact: bool, device: torch.device) -> Iterator[None]:
    """exact: cuDNN's deterministic kernels, IEEE float32 and, on a GPU, torch's deterministic algorithms where there
    are any (torch warns of the others); else whatever cuDNN measures to be fastest. Afterwards as before."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with ExitStack() as stack:
        stack.callback(partial(_set, cudnn, ("deterministic", "benchmark"), before))
        cudnn.deterministic, cudnn.benchmark = exact, not exact
        if exact:
            stack.enter_context(ieee_float32())
        if exact and device.type == "cuda":
            was = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
            stack.callback(lambda: torch.use_deterministic_algorithms(was[0], warn_only=was[1]))
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, once, at its first call
            torch.use_deterministic_algorithms(True, warn_only=True)
        yield


def _set(place: object, names: tuple[str, ...], values: tuple) -> None:
    for name, value in zip(names, values, strict=True):
        setattr(place, name, value)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """torch has had two sets of switches for TF32 since 2.9, which must agree wherever either is read."""
    backends: Any = torch.backends  # the newer switches have no types
    newer = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul] if hasattr(backends.cudnn, "conv") else []
    with ExitStack() as stack:
        for place in [*newer, backends.mkldnn.matmul] if newer else ():  # set_float32_matmul_precision sets mkldnn's
            stack.callback(setattr, place, "fp32_precision", place.fp32_precision)
        try:
            matmul, conv = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
        except RuntimeError:  # the caller uses the newer switches, which then are all that counts
            pass
        else:
            stack.callback(setattr, backends.cudnn, "allow_tf32", conv)
            stack.callback(torch.set_float32_matmul_precision, matmul)
            if not allowed:
                torch.set_float32_matmul_precision("highest")
            else:
                backends.cuda.matmul.allow_tf32 = True
            backends.cudnn.allow_tf32 = allowed
        for place in newer:
            place.fp32_precision = "tf32" if allowed else "ieee"
        yield
