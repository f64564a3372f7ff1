"""Standard AutoAttack (Croce & Hein 2020) by way of `pyautoattack`, without its side effects.

Four attacks in order on the images that are still classified correctly: APGD-CE, APGD-T (9 targets), FAB-T
(9 targets), Square (5,000 queries). The package reseeds the global generators, fills `.grad`, calls
`grad.view` (which fails for channels_last networks) and cannot resume; here each (attack, batch) is one call,
so that the flags agree with a direct call of the same seed and batch size, and every batch is a checkpoint.
What of the package is changed, and how, is in upstream.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from d2rkit.core import devices
from d2rkit.core.validation import as_pixels
from d2rkit.evaluation.autoattack.anytime import next_previews, work
from d2rkit.methods.pair import eval_mode, frozen

Norm = Literal["Linf", "L2"]
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
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


@dataclass(frozen=True)
class AutoAttackSettings:
    """How the images of a data set with so many classes are attacked; the rest as in `autoattack`. Together with a
    batch of images they say all of a call."""

    eps: float
    classes: int
    norm: Norm = "Linf"
    seed: int = 0
    batch_size: int = 250
    budget: AutoAttackBudget = FULL
    precision: str = "32-true"


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


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    seed: int = 0,
    batch_size: int = 250,
    norm: Norm = "Linf",
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
    (its `robust` must start as the clean flags). shared: every process of a group (processes.launch) makes this call
    and attacks its share of the batches. on_batch: told the state, the attack and the fraction done after each
    batch, or, if they are shared, after one of each process. precision: of the attacks, see devices.attack_math; the
    model judges in IEEE float32. budget: less than all, for plans and dry runs. previews: before APGD-T, try its first
    targets on all images, for an early bound (see anytime.py); the flags stay the same. ValueError with fewer than
    four classes, for which the targeted losses do not exist."""
    from d2rkit.evaluation.autoattack.upstream import warnings_heard

    with eval_mode(model), frozen(model), forked_rng(), warnings_heard() as warned:
        if state is None:
            state = AutoAttackState(correct(model, x, y, batch_size))
        with torch.no_grad():
            classes = model(as_pixels(x[:1])).shape[1]
        if classes < FEWEST_CLASSES:
            raise ValueError(f"standard AutoAttack needs at least {FEWEST_CLASSES} classes, not {classes}")
        settings = AutoAttackSettings(eps, classes, norm, seed, batch_size, budget, precision)
        at_once, mine = (devices.size(), devices.rank()) if shared else (1, 0)

        def attack(stage: str, batches: Sequence[Tensor], first: int, flags: Tensor, how: AutoAttackSettings) -> Tensor:
            """`flags`, False where an attack on each process's share of the next batches succeeds."""
            if first + mine < len(batches):
                chosen = batches[first + mine]
                index = chosen.to(x.device)
                fooled = attack_batch(model, through or model, stage, x[index], y[index], how)
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
                    cut = replace(settings, budget=replace(budget, targets=targets))
                    state.bound = attack(stage, survivors, first, state.bound, cut)
                    state.previewed += min(at_once, len(survivors) - first)
                    told(f"{stage} ({targets} of its targets)")
            for first in range(state.next_batch, len(survivors), at_once):
                state.robust = attack(stage, survivors, first, state.robust, settings)
                state.next_batch = min(first + at_once, len(survivors))
                told(stage)
            state.after[stage], state.next_batch = state.robust.clone(), 0
        gained, count = int((state.after["fab-t"] & ~state.after["square"]).sum()), len(state.robust)
        if gained > max(SQUARE_GAIN * count, 2):  # of few images, one or two say nothing
            share = f"{gained / count:.1%}"
            state.warnings.append(f"Square alone broke another {share} of the images: gradients may be masked")
    return state


def attack_batch(
    model: nn.Module, through: nn.Module, stage: str, x: Tensor, y: Tensor, settings: AutoAttackSettings
) -> Tensor:
    """(B,) bool on the CPU: which of the images does one attack on this batch break? The call that a state counts."""
    from d2rkit.evaluation.autoattack.upstream import standard

    images = as_pixels(x).contiguous()
    attacker = standard(through, stage, images, settings)
    with devices.attack_math(settings.precision):
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
