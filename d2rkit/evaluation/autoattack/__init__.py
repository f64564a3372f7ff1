"""Standard AutoAttack (Croce & Hein 2020) by way of `pyautoattack`, without its side effects.

Four attacks in order on the images that are still classified correctly: APGD-CE, APGD-T (9 targets), FAB-T
(9 targets), Square (5,000 queries). The package reseeds the global generators, fills `.grad`, calls
`grad.view` (which fails for channels_last networks) and cannot resume; here each (attack, batch) is one call,
so that the flags agree with a direct call of the same seed and batch size, and every batch is a checkpoint.
APGD leaves out what it has fooled (auto_pgd.py), FAB-T's target classes share batches (fast_adaptive_boundary.py),
and so do Square's queries (square.py), which changes no flag.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from d2rkit.core import devices
from d2rkit.core.validation import as_pixels
from d2rkit.evaluation.autoattack.anytime import next_previews, work
from d2rkit.methods.pair import eval_mode, frozen

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
PIXELS_AT_ONCE = 2**17  # a batch of so many keeps a CPU busy: more classes or queries side by side would gain nothing
FEWEST_CLASSES = 4  # with fewer the targeted losses do not exist
SQUARE_GAIN = 0.002  # the package warns if Square breaks a larger share of images than this


@dataclass(frozen=True)
class AutoAttackBudget:
    """iterations of APGD-CE, APGD-T and FAB-T, targets of the last two, queries of Square; None: as in standard
    AutoAttack, the only budget whose result goes by that name."""

    iterations: int | None = None
    targets: int | None = None
    queries: int | None = None


FULL = AutoAttackBudget()


@dataclass
class AutoAttackState:
    """How far a run has come: robust (N,) bool, the flags after each finished attack, and the next batch.

    bound: (N,) bool, the images that no preview broke, None without previews; previewed: batches they have done. Both
    only say what the end will be at most (see `upper_bound`): nothing of them goes into `robust`."""

    robust: Tensor
    after: dict[str, Tensor] = field(default_factory=dict)
    next_batch: int = 0
    warnings: list[str] = field(default_factory=list)
    bound: Tensor | None = None
    previewed: int = 0

    def upper_bound(self) -> Tensor:
        """(N,) bool: the images that may be robust in the end, as far as is known."""
        return self.robust if self.bound is None else self.robust & self.bound


class ContiguousGradient(nn.Module):
    """The network, whose gradient with respect to the images has the layout of the images."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        x = x.view_as(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient.contiguous())
        return self.network(x)


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    seed: int = 0,
    batch_size: int = 250,
    norm: str = "Linf",
    through: nn.Module | None = None,
    state: AutoAttackState | None = None,
    shared: bool = False,
    on_batch: Callable[[AutoAttackState, str, float], None] | None = None,
    budget: AutoAttackBudget = FULL,
    precision: str = "32-true",
    previews: bool = False,
) -> AutoAttackState:
    """Which of the images x: (N, C, H, W), uint8 or in [0, 1], survive all four attacks, as `state.robust`: (N,) bool.

    eps in pixel scale. through: an equivalent of the model (see `folding.folded`) whose gradients and predictions
    the attacks use; the model itself has the last word on every image. state: where an earlier call stopped
    (its `robust` must start as the clean flags). shared: every process of a group (devices.start) makes this call
    and attacks its share of the batches. on_batch: told the state, the attack and the fraction done after each
    batch, or, if they are shared, after one of each process. precision: of the attacks, see devices.attack_math; the
    model judges in IEEE float32. budget: less than all, for plans and dry runs. previews: before APGD-T, try its first
    targets on all images, for an early bound (see anytime.py); the flags stay the same. ValueError with fewer than
    four classes, for which the targeted losses do not exist."""
    with eval_mode(model), frozen(model), forked_rng(), _warnings() as warned:
        if state is None:
            state = AutoAttackState(correct(model, x, y, batch_size))
        with torch.no_grad():
            classes = model(as_pixels(x[:1])).shape[1]
        if classes < FEWEST_CLASSES:
            raise ValueError(f"standard AutoAttack needs at least {FEWEST_CLASSES} classes, not {classes}")
        at_once, mine = (devices.size(), devices.rank()) if shared else (1, 0)

        def attack(stage: str, batches: Sequence[Tensor], first: int, flags: Tensor, cut: AutoAttackBudget) -> Tensor:
            """`flags`, False where an attack on each process's share of the next batches succeeds."""
            if first + mine < len(batches):
                chosen = batches[first + mine]
                index = chosen.to(x.device)
                how = (eps, norm, seed, classes, batch_size, cut, precision)
                fooled = attack_batch(model, through or model, stage, x[index], y[index], *how)
                flags[chosen[fooled]] = False
            heard = [word for words in devices.all_gather(list(warned)) for word in words] if shared else warned
            state.warnings += [w for w in dict.fromkeys(heard) if w not in state.warnings]
            warned.clear()
            return devices.all_reduce(flags, "min") if shared else flags

        def told(stage: str) -> None:
            if on_batch:
                done, left = work(state, batch_size, classes, previews)
                on_batch(state, stage, done / (done + left) if left else 1.0)

        for number, stage in enumerate(STAGES):
            if stage in state.after:
                continue
            # The batches are cut once per attack: `robust` shrinks while they are worked through.
            before = (
                state.after[STAGES[number - 1]] if number else state.after.setdefault("clean", state.robust.clone())
            )
            survivors = before.nonzero().flatten().split(batch_size) if before.any() else ()
            if previews and stage == "apgd-t" and not state.next_batch:
                if state.bound is None:
                    state.bound = before.clone()
                for targets, first in next_previews(state.previewed, len(survivors), at_once):
                    cut = replace(budget, targets=targets)
                    state.bound = attack(stage, survivors, first, state.bound, cut)
                    state.previewed += min(at_once, len(survivors) - first)
                    told(f"{stage} ({targets} of its targets)")
            for first in range(state.next_batch, len(survivors), at_once):
                state.robust = attack(stage, survivors, first, state.robust, budget)
                state.next_batch = min(first + at_once, len(survivors))
                told(stage)
            state.after[stage], state.next_batch = state.robust.clone(), 0
        gained, count = int((state.after["fab-t"] & ~state.after["square"]).sum()), len(state.robust)
        if gained > max(SQUARE_GAIN * count, 2):  # of few images, one or two say nothing
            share = f"{gained / count:.1%}"
            state.warnings.append(f"Square alone broke another {share} of the images: gradients may be masked")
    return state


def attack_batch(
    model: nn.Module, through: nn.Module, stage: str, x: Tensor, y: Tensor, eps: float, norm: str, seed: int,
    classes: int, batch_size: int, budget: AutoAttackBudget, precision: str,
) -> Tensor:  # fmt: skip
    """(B,) bool on the CPU: which of the images does one attack on this batch break? The call that a state counts."""
    images = as_pixels(x).contiguous()
    attacker = _attacker(through, stage, eps, norm, seed, images, classes, batch_size, budget)
    with devices.attack_math(precision):
        adversarial, _ = attacker.run_standard_evaluation(images, y, batch_size=len(images))
    with devices.ieee_float32():
        return ~correct(model, adversarial, y, len(images))


def correct(model: nn.Module, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """(N,) bool on the CPU: is the prediction right? The model is taken as it is; images x: (N, C, H, W), uint8 or in
    [0, 1]. ValueError for logits that are not finite: argmax would take NaN for the first class that has it."""
    parts = []
    with torch.no_grad():
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            logits = model(as_pixels(images))
            bad = ~torch.isfinite(logits).all(1)
            if bad.any():
                raise ValueError(f"the network's logits are not finite on {int(bad.sum())} of {len(bad)} images")
            parts.append((logits.argmax(1) == labels).cpu())
    return torch.cat(parts)


def _attacker(
    model: nn.Module, stage: str, eps: float, norm: str, seed: int, x: Tensor, classes: int, batch_size: int,
    budget: AutoAttackBudget = FULL,
):  # fmt: skip
    from pyautoattack import AutoAttack

    from d2rkit.evaluation.autoattack.auto_pgd import leave_out_fooled
    from d2rkit.evaluation.autoattack.fast_adaptive_boundary import SideBySideFAB
    from d2rkit.evaluation.autoattack.square import SideBySideSquare

    model, device = ContiguousGradient(model), x.device
    most = max(1, PIXELS_AT_ONCE // x[0].numel()) if device.type == "cpu" else 4 * batch_size
    attack = AutoAttack(model, norm=norm, eps=eps, seed=seed, version="standard", device=device)
    attack.attacks_to_run = [stage]
    attack.fab = SideBySideFAB(model, norm=norm, eps=eps, seed=seed, device=device, rows=min(batch_size, most))
    if norm == "Linf":  # without gradients, four times the images take no more memory
        attack.square = SideBySideSquare(model, eps=eps, seed=seed, device=device, rows=min(4 * batch_size, most))
    for apgd in (attack.apgd, attack.apgd_targeted):
        leave_out_fooled(apgd)
    for targeted in (attack.apgd_targeted, attack.fab):
        targeted.n_target_classes = min(targeted.n_target_classes, classes - 1, budget.targets or classes)
    for iterated in (attack.apgd, attack.apgd_targeted, attack.fab):
        iterated.n_iter = budget.iterations or iterated.n_iter
    attack.square.n_queries = budget.queries or attack.square.n_queries
    return attack


@contextmanager
def forked_rng() -> Iterator[None]:
    """The global generators of torch (on every device), numpy and random are afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            if apple is not None:
                torch.mps.set_rng_state(apple)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the package's own checks warn of, each sentence once, instead of on the terminal."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().split(" See flags_doc")[0]
            if record.levelno >= logging.WARNING and text not in found:
                found.append(text)

    logger, handler = logging.getLogger("auto-attack"), Collector()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
