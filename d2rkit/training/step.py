"""One training step: attack the raw pair, forward once through Fabric's wrapper, step. All methods take it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

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
    from lightning_fabric.wrappers import _FabricModule

    from d2rkit.training.guides import Beside


class NonFinite(RuntimeError):
    """The loss or a weight became infinite or NaN."""


HALVES = (torch.bfloat16, torch.float16)


@dataclass
class TrainState:
    """What a step changes and what it looks at. model: Fabric's wrapper of `pair`. generator: of the attacks' starts.
    attacked: what the attack goes through, the raw pair (None) or its folded twin, frozen and in eval mode. beside:
    what the method keeps beside the pair. awp: relative size of the weights' perturbation, 0 for none. progress: the
    share of training that is over."""

    fabric: Fabric
    model: _FabricModule
    pair: GuidedPair
    optimizer: torch.optim.Optimizer
    method: Method
    recipe: Recipe
    generator: torch.Generator
    attacked: GuidedPair | None = None
    beside: Beside | None = None
    awp: float = 0.0
    progress: float = 1.0


class Piece(NamedTuple):
    """Images forwarded at once, and what they are worth of this device's mean."""

    x: Tensor
    y: Tensor
    share: float
    first: bool
    last: bool


Result = tuple[Loss, dict[str, Tensor]]


def training_step(state: TrainState, x: Tensor, y: Tensor, weight: float = 1.0) -> Result:
    """One step on x: (B, C, H, W) in [0, 1], y: (B,). The attack runs on the raw pair or its twin; then one forward
    through Fabric's wrapper carries the gradient, made at perturbed weights if state.awp is above 0. Of several
    devices, each has its part of the batch, of this `weight` (devices.shard). With recipe.micro_batch, gradients of at
    most so many images at a time are added up before the step. Returns the loss, which may not be finite, and the
    numbers of right predictions by name."""
    parts: dict[str, Tensor] = {}
    correct: dict[str, Tensor] = {}
    for piece in _pieces(x, y, weight, state.recipe.micro_batch):
        loss = partial(_loss, state, piece, _attack(state, piece))
        ascent = partial(_total, loss, partial(_autocast, state))
        perturbed = partial(perturbed_weights, state.pair.target, ascent, state.awp, state.pair)
        with perturbed() if state.awp else nullcontext():
            updates = TWO_STEP if state.recipe.update == "two-step" else (None,)
            done = [_descend(state, piece, loss, terms) for terms in updates]
        for _, new_parts in done:
            _add(parts, new_parts)
        logits, _ = done[-1]
        _add(correct, _right(logits, piece.y))
        if state.beside:
            state.beside.see(logits, piece.y)
    return Loss(torch.stack(list(parts.values())).sum(), parts), correct


def _pieces(x: Tensor, y: Tensor, weight: float, micro_batch: int) -> Iterator[Piece]:
    count = devices.pieces(len(x), micro_batch)
    for number, (images, labels) in enumerate(zip(x.tensor_split(count), y.tensor_split(count), strict=True)):
        yield Piece(images, labels, weight * len(images) / len(x), number == 0, number == count - 1)


def _attack(state: TrainState, piece: Piece) -> Tensor | None:
    recipe = state.recipe
    with state.fabric.autocast():
        return state.method.perturb(
            state.attacked or state.pair, piece.x, piece.y, eps=recipe.eps, step_size=recipe.step_size,
            steps=recipe.steps, guide_share=recipe.guide_share, generator=state.generator,
        )  # fmt: skip


def _descend(
    state: TrainState, piece: Piece, loss: Callable, terms: tuple[str, ...] | None
) -> tuple[Logits, dict[str, Tensor]]:
    """Add the gradient of those terms (None: of all) and, after the last piece, step."""
    with _sent_once(state, piece):
        logits, computed = loss(state.model)
        chosen = {name: part for name, part in computed.items() if terms is None or name in terms}
        total = torch.stack(list(chosen.values())).sum()
        if piece.first:
            state.optimizer.zero_grad(set_to_none=True)
        state.fabric.backward(total)
    if piece.last:
        state.optimizer.step()
    return logits, {name: part.detach() for name, part in chosen.items()}


def _sent_once(state: TrainState, piece: Piece) -> AbstractContextManager:
    """Gradients are sent to the other devices once, with the last piece."""
    alone = piece.last or devices.size() == 1
    return nullcontext() if alone else state.fabric.no_backward_sync(state.model)


def _loss(state: TrainState, piece: Piece, x_adv: Tensor | None, network: Callable[..., Logits]):
    """Logits and weighted terms of a piece of the batch."""
    handed = state.beside.handed(state.progress) if state.beside else {"progress": state.progress}
    logits = state.method.forward(network, piece.x, x_adv)
    loss = state.method.loss(logits, piece.y, state.recipe.loss, **handed)
    # The absolute value of a mean is that of the whole batch, however it is spread over devices.
    whole = {name: devices.absolute(mean, piece.share) for name, mean in loss.signed.items()}
    return logits, {name: piece.share * part for name, part in {**loss.parts, **whole}.items()}


def _total(loss, network: Callable[..., Logits]) -> Tensor:
    return torch.stack(list(loss(network)[1].values())).sum()


def _autocast(state: TrainState, *images, **how) -> Logits:
    """The raw pair in the step's precision, its logits as Fabric's wrapper would give them."""
    with state.fabric.autocast():
        logits = state.pair(*images, **how)
    return Logits(*(z.float() if z is not None and z.dtype in HALVES else z for z in logits))


def guide_step(
    state: TrainState,
    x: Tensor,
    y: Tensor,
    weight: float = 1.0,
    shown: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Result:
    """One step of the guide alone. shown: makes of images and labels what the guide is shown instead. Else as
    training_step()."""
    parts: dict[str, Tensor] = {}
    correct: dict[str, Tensor] = {}
    state.optimizer.zero_grad(set_to_none=True)
    for piece in _pieces(x, y, weight, state.recipe.micro_batch):
        images = piece.x
        with _sent_once(state, piece):
            if shown is not None:
                with state.fabric.autocast():
                    images = shown(images, piece.y)
            logits = state.model(images, None, guide_only=True)
            ce = piece.share * nn.functional.cross_entropy(logits.guide_clean, piece.y)
            state.fabric.backward(ce)
        _add(parts, {"ce": ce.detach()})
        _add(correct, _right(logits, piece.y))
    state.optimizer.step()
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
