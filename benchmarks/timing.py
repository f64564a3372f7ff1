"""What benchmarks share: work timed in turns, and what this machine's arithmetic can do at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from d2rkit.methods.pair import GuidedPair


def alternated(
    steps: dict[str, Callable[[], None]], repeats: int, few: dict[str, int] | None = None
) -> dict[str, list[float]]:
    """Seconds of each, taken in turns, so that what else the machine does falls on all alike. few: those that take
    part in the first so many turns only."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for turn in range(repeats):
        for name, step in steps.items():
            if turn < (few or {}).get(name, repeats):
                seconds[name].append(seconds_of(step))
    return seconds


def seconds_of(step: Callable[[], None]) -> float:
    _settle()
    began = time.perf_counter()
    step()
    _settle()
    return time.perf_counter() - began


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median, least and greatest of slow / fast over the turns that both took part in."""
    ratios = [a / b for a, b in zip(slow, fast, strict=False)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def peak_flops(pair: GuidedPair, x: Tensor) -> float:
    """Operations a second of the fastest plain float32 work here: any convolution of the pair's own shapes, forward
    and in the layout that suits it, or a large matrix product."""
    n = 1024 if x.device.type == "cpu" else 8192
    a, b = torch.rand(n, n, device=x.device), torch.rand(n, n, device=x.device)
    work = {"product": (2.0 * n**3, lambda: a @ b)}

    def note(conv: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        operations = 2.0 * output.numel() * conv.weight[0].numel()
        for layout in (torch.contiguous_format, torch.channels_last):
            given, weight = (t.detach().to(memory_format=layout) for t in (inputs[0], conv.weight))
            shape = (*given.shape, *weight.shape, conv.stride, layout)
            work[str(shape)] = operations, partial(F.conv2d, given, weight, None, conv.stride, conv.padding)

    hooks = [m.register_forward_hook(note) for m in pair.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        pair.target(x), pair.guide(x)
        for hook in hooks:
            hook.remove()
        seconds = alternated({name: run for name, (_, run) in work.items()}, 10)
    return max(operations / min(seconds[name]) for name, (operations, _) in work.items())


def flops_of(pair: GuidedPair, steps: int, x: Tensor) -> float:
    """Operations of a step whose attack has `steps` steps, the guide forwarded once. A backward pass to the image costs
    one forward, one to image and weights two."""

    def forward(network) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(x)
        return float(counter.get_total_flops())

    f, g = forward(pair.target), forward(pair.guide)
    return steps * 2 * f + g + 3 * (2 * f + g)
