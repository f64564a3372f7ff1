"""The memory layout in which a network's convolutions run fastest."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

WIDE = 512
"""Output channels from which on convolutions on a CPU are contiguous. Chosen on a CPU with AVX-512, where that made
those of 512 channels faster, left those of 256 as fast and made narrower ones slower."""

Network = TypeVar("Network", bound=nn.Module)


def set_memory_format(network: Network) -> Network:
    """`network` itself, laid out for its device: channels_last, but on a CPU the widest convolutions contiguous.

    Small images under many channels leave a channels_last kernel on a CPU rows of four or eight pixels to work on.
    Those convolutions copy their images first; what follows them keeps the layout. Numbers change by rounding only."""
    restore(network)
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:  # network.to() would refuse one of five dimensions, such as Conv3d's weight
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    for conv in network.modules():
        if isinstance(conv, nn.Conv2d) and conv.out_channels >= WIDE and conv.weight.device.type == "cpu":
            conv.to(memory_format=torch.contiguous_format)
            conv.register_forward_pre_hook(_contiguous)
    return network


def restore(network: Network) -> Network:
    """`network` itself as it was before set_memory_format(): all contiguous."""
    for module in network.modules():
        hooks = module._forward_pre_hooks
        for key in [key for key, hook in hooks.items() if is_layout_hook(hook)]:
            del hooks[key]
    return network.to(memory_format=torch.contiguous_format)


def is_layout_hook(hook: object) -> bool:
    """Whether a module's forward pre-hook is one of set_memory_format(), which changes no number but by rounding."""
    return hook is _contiguous


def _contiguous(conv: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in inputs)  # none where it is called by keyword, which only costs time
