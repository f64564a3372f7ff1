"""One training step: attack the raw pair, forward once through Fabric's wrapper, step. All methods take it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from d2rkit.core import devices
from d2rkit.methods.catalogue import TWO_STEP, Method
from d2rkit.methods.objectives import Logits, Loss
from d2rkit.methods.pair import GuidedPair
from d2rkit.training.recipe import Recipe
from d2rkit.training.weight_perturbation import perturbed_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from d2rkit.training.guides import Beside


class NonFinite(RuntimeError):
    """The loss or a weight became infinite or NaN."""


HALVES = (torch.bfloat16, torch.float16)


def training_step(
    fabric: Fabric,
    model: nn.Module,
    pair: GuidedPair,
    attacked: GuidedPair,
    optimizer: torch.optim.Optimizer,
    method: Method,
    recipe: Recipe,
    x: Tensor,
    y: Tensor,
    generator: torch.Generator,
    awp: float = 0.0,
    weight: float = 1.0,
    beside: Beside | None = None,
    progress: float = 1.0,
) -> tuple[Loss, dict[str, Tensor]]:
    """One step on x: (B, C, H, W) in [0, 1], y: (B,). `model` is Fabric's wrapper of `pair`; the attack
    runs on `attacked`, the raw pair or its folded twin, frozen and in eval mode. Then one wrapped forward carries
    the gradient, made at perturbed weights if awp (their relative size) is above 0. Of several devices, each has
    its part of the batch, of this `weight` (devices.mine). With recipe.micro_batch, gradients of at most so many
    images at a time are added up before the step. beside: what the method keeps; progress: the share of training that
    is over. Returns the loss, which may not be finite, and the numbers of right
    predictions by name."""
    parts: dict[str, Tensor] = {}
    correct: dict[str, Tensor] = {}
    handed = beside.handed(progress) if beside else {"progress": progress}
    pieces = devices.pieces(len(x), recipe.micro_batch)
    for number, (images, labels) in enumerate(zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True)):
        last = number == pieces - 1
        with fabric.autocast():
            x_adv = method.perturb(
                attacked, images, labels, eps=recipe.eps, step_size=recipe.step_size, steps=recipe.steps,
                guide_share=recipe.guide_share, generator=generator,
            )  # fmt: skip
        share = weight * len(images) / len(x)
        loss = partial(_loss, method, recipe, handed, images, x_adv, labels, share)
        ascent = partial(_total, loss, partial(_autocast, fabric, pair))
        with perturbed_weights(pair.target, ascent, awp) if awp else nullcontext():
            for terms in TWO_STEP if recipe.update == "two-step" else (None,):
                # Gradients are sent to the other devices once, with the last piece.
                with nullcontext() if last or devices.size() == 1 else fabric.no_backward_sync(model):
                    logits, found = loss(model)
                    chosen = {name: part for name, part in found.items() if terms is None or name in terms}
                    total = torch.stack(list(chosen.values())).sum()
                    if number == 0:
                        optimizer.zero_grad(set_to_none=True)
                    fabric.backward(total)
                if last:
                    optimizer.step()
                _add(parts, {name: part.detach() for name, part in chosen.items()})
        _add(correct, _right(logits, labels))
        if beside:
            beside.see(logits, labels)
    return Loss(torch.stack(list(parts.values())).sum(), parts), correct


def _loss(
    method: Method, recipe: Recipe, handed: dict[str, Any], x, x_adv, y, share: float, network: Callable[..., Logits]
):
    """Logits and weighted terms of a piece of the batch that is worth `share` of this device's mean."""
    logits = method.forward(network, x, x_adv)
    loss = method.loss(logits, y, recipe.loss, lambda part: devices.reduced(share * part, "mean"), **handed)
    return logits, {name: share * part for name, part in loss.parts.items()}


def _total(loss, network: Callable[..., Logits]) -> Tensor:
    return torch.stack(list(loss(network)[1].values())).sum()


def _autocast(fabric: Fabric, pair: GuidedPair, *images, **how) -> Logits:
    """The raw pair in the step's precision, its logits as Fabric's wrapper would give them."""
    with fabric.autocast():
        logits = pair(*images, **how)
    return Logits(*(z.float() if z is not None and z.dtype in HALVES else z for z in logits))


def guide_step(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    weight: float = 1.0,
    micro_batch: int = 0,
    shown: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[Loss, dict[str, Tensor]]:
    """One step of the guide alone on images x, at most `micro_batch` of them at a time (0: all). shown: makes of images
    and labels what the guide is shown instead."""
    parts: dict[str, Tensor] = {}
    correct: dict[str, Tensor] = {}
    pieces = devices.pieces(len(x), micro_batch)
    optimizer.zero_grad(set_to_none=True)
    for number, (images, labels) in enumerate(zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True)):
        share = weight * len(images) / len(x)
        with nullcontext() if number == pieces - 1 or devices.size() == 1 else fabric.no_backward_sync(model):
            if shown is not None:
                with fabric.autocast():
                    images = shown(images, labels)
            logits = model(images, None, guide_only=True)
            ce = share * nn.functional.cross_entropy(logits.guide_clean, labels)
            fabric.backward(ce)
        _add(parts, {"ce": ce.detach()})
        _add(correct, _right(logits, labels))
    optimizer.step()
    return Loss(parts["ce"], parts), correct


def _right(logits: Logits, y: Tensor) -> dict[str, Tensor]:
    """How many predictions are right on clean and adversarial images, and of the guide; counts are exact in float32,
    and not every device has float64."""
    names = {"clean": "target_clean", "adv": "target_adv", "guide": "guide_clean", "guide_adv": "guide_adv"}
    named = {name: getattr(logits, of) for name, of in names.items()}
    return {name: (z.detach().argmax(1) == y).float().sum() for name, z in named.items() if z is not None}


def _add(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        sums[name] = sums[name] + value if name in sums else value
