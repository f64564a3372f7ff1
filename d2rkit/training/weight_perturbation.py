"""Adversarial weight perturbation (Wu et al. 2020): train at the worst weights nearby, then come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from d2rkit.core import devices


@contextmanager
def perturbed_weights(
    network: nn.Module, loss: Callable[[], Tensor], gamma: float, forwarded: nn.Module
) -> Iterator[None]:
    """Inside, every tensor w of `network` with more than one dimension is w + gamma * ||w|| * d / ||d||, where
    d is the gradient of loss() at the weights as they are (one ascent step, Wu et al. eq. 8); afterwards the
    same perturbation is taken off again, so that an optimiser step made inside stays.

    forwarded: all that loss() forwards, a guide beside `network` too; the ascent leaves its BatchNorm statistics as
    they were, so that a step moves them once."""
    weights = [w for w in network.parameters() if w.ndim > 1 and w.requires_grad]
    statistics = [buffer.clone() for buffer in forwarded.buffers()]
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    weights = [w for w, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    directions = [devices.all_reduce(gradient, "mean") for gradient in gradients if gradient is not None]
    with torch.no_grad():
        for buffer, before in zip(forwarded.buffers(), statistics, strict=True):
            buffer.copy_(before)
        moves = [gamma * w.norm() / (d.norm() + 1e-20) * d for w, d in zip(weights, directions, strict=True)]
        for w, move in zip(weights, moves, strict=True):
            w.add_(move)
    try:
        yield
    finally:
        with torch.no_grad():
            for w, move in zip(weights, moves, strict=True):
                w.sub_(move)
