"""A trained network for other programs: safetensors, TorchScript or ONNX, input normalisation inside.

What is written is read again by the program that will run it, and must give the same logits before it gets its name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from d2rkit.core.files import write_atomically
from d2rkit.core.paths import new_file
from d2rkit.core.validation import nearest
from d2rkit.methods.pair import eval_mode
from d2rkit.networks.checkpoints import unshared
from d2rkit.networks.loading import load_released

SUFFIXES = {"safetensors": ".safetensors", "torchscript": ".pt", "onnx": ".onnx"}
NOTES = "d2rkit"  # the entry of a file's metadata that holds what is known of the network, as JSON
TOLERANCE = 1e-5  # of logits, relative to the largest one where that is above 1
CHUNK = 250  # images that are compared at once; the last chunk is smaller, so the batch size is tried, too

Network = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> logits, in whatever program


class Exported(NamedTuple):
    """path: the file; difference: the largest one between a logit there and here; images: how many were compared."""

    path: Path
    difference: float
    images: int


def export_network(
    network: nn.Module,
    path: str | Path,
    to: str,
    shape: Sequence[int],
    notes: Mapping[str, Any],
    *,
    name: str | None = None,
    images: Tensor | int = 260,
) -> Exported:
    """Write `network`, in eval mode and float32 on the CPU, to a new file for another program.

    shape: (C, H, W) of its images, float32 in [0, 1]; the batch size stays free. notes: what the file's metadata shall
    say, as JSON. name: the architecture, which a ResNet-18's tensors do not tell. images: (N, C, H, W) to compare
    logits on, or how many random ones. Raises ValueError if the format is unknown, the file is there, the file's
    logits differ by more than 1e-5, the network cannot be expressed, or `d2rkit[export]` is missing.
    """
    if to not in SUFFIXES:
        raise nearest(to, SUFFIXES, "format")
    path = new_file(path)
    if isinstance(images, int):
        images = torch.rand(images, *shape, generator=torch.Generator().manual_seed(0))
    with eval_mode(network), torch.no_grad():
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(path) as draft:
            try:
                run = WRITERS[to](network, draft, images[:2], notes, name)
                difference = _difference(network, run, images)
            except (ValueError, OSError, MemoryError):
                raise
            except Exception as error:  # tracers, exporters and runtimes each have their own exceptions
                reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]  # runtimes add traces
                raise ValueError(f"the network cannot be exported to {to}: {reason}") from error
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the network cannot be exported to {to}: its logits there differ by up to {difference:.1e} "
                    f"on {len(images)} images, and {TOLERANCE:.0e} is allowed"
                )
    return Exported(path, difference, len(images))


def _difference(network: nn.Module, run: Network, images: Tensor) -> float:
    """NaN if a logit is no number on either side."""
    worst = torch.zeros(())
    for x in images.split(CHUNK):
        here, there = network(x), run(x)
        if here.shape != there.shape:
            return float("inf")
        gap = ((here - there).abs() / here.abs().max().clamp(min=1.0)).max()
        worst = torch.maximum(worst, gap)  # Python's max() would lose a NaN
    return worst.item()


def _write_safetensors(
    network: nn.Module, path: Path, x: Tensor, notes: Mapping[str, Any], name: str | None
) -> Network:
    path.write_bytes(save(unshared(network.state_dict()), metadata={NOTES: json.dumps(notes)}))
    return load_released(path, name, x.shape[-1]).model.eval()


def _write_torchscript(
    network: nn.Module, path: Path, x: Tensor, notes: Mapping[str, Any], name: str | None
) -> Network:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # traced checks of shapes, and that TorchScript is no longer developed
        torch.jit.save(torch.jit.trace(network, x, check_trace=False), path, _extra_files={NOTES: json.dumps(notes)})
        return torch.jit.load(path).eval()


def _write_onnx(network: nn.Module, path: Path, x: Tensor, notes: Mapping[str, Any], name: str | None) -> Network:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx needs it)
    except ModuleNotFoundError as error:
        raise ValueError(f"export to ONNX needs the package {error.name}: pip install 'd2rkit[export]'") from error

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (x,), input_names=["images"], output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False,
        )  # fmt: skip
    assert program is not None, "dynamo=True returns a program"
    model = program.model_proto
    onnx.helper.set_model_props(model, {NOTES: json.dumps(notes)})
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0])


WRITERS = {"safetensors": _write_safetensors, "torchscript": _write_torchscript, "onnx": _write_onnx}
