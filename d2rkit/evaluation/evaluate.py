"""evaluate(): one correctness flag per image and attack, kept, so that accuracy, error bars and paired tests follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from d2rkit.core.binomial import standard_error
from d2rkit.core.digests import weights_digest
from d2rkit.core.paths import flags_folder
from d2rkit.core.validation import shown
from d2rkit.evaluation.autoattack import AutoAttackState
from d2rkit.evaluation.autoattack.anytime import Bound, BudgetSpent, Clock, at_most, work
from d2rkit.evaluation.evaluator import ATTACKS, Evaluator, check_radius, parse_attack
from d2rkit.evaluation.flag_store import FlagStore, images_digest

Report = Callable[[float, str], None]


@dataclass
class Evaluation:
    """flags[attack]: (N,) bool on the CPU, True where the attacked image is still classified correctly.

    An attacker may leave an image alone, so an image whose clean prediction is wrong counts as not robust
    under every attack. details: AutoAttack's flags after each of its attacks. warnings: AutoAttack's own.
    notes: what readers should know about the network and how it was attacked, one sentence each.
    bounds: for attacks that a budget cut short, which have no flags and no accuracy."""

    eps: float
    flags: dict[str, Tensor] = field(default_factory=dict)
    details: dict[str, Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bounds: dict[str, Bound] = field(default_factory=dict)

    def accuracy(self, attack: str) -> float:
        return accuracy_of(self.flags[attack])

    def standard_error(self, attack: str) -> float:
        """Binomial standard error of the accuracy."""
        return standard_error(self.accuracy(attack), len(self.flags[attack]))

    def summary(self) -> dict[str, float]:
        return {attack: self.accuracy(attack) for attack in self.flags}


def evaluate(
    model: nn.Module | Callable[[Tensor], Tensor],
    data: Any,
    attacks: Sequence[str] | str = ATTACKS,
    eps: float = 8 / 255,
    seed: int = 0,
    *,
    folder: str | Path | None = None,
    checkpoint: str = "best",
    batch_size: int = 250,
    device: torch.device | str | None = None,
    exact: bool = False,
    shared: bool = False,
    attack_precision: str = "auto",
    eot: int = 1,
    num_classes: int | None = None,
    report: Report | None = None,
) -> Evaluation:
    """Attack `model` on every image of `data`; the attacked images are judged in IEEE float32.

    model: a network, a GuidedPair (its target is judged) or a function of images. data: an ImageData split, a pair
    (images (N, C, H, W) in [0, 1], labels (N,)) of tensors or arrays, a Dataset or a DataLoader. attacks: one or more
    of "clean", "fgsm", "pgdK" and "cwK" with K steps of eps/4 from a random start, and "autoattack" (standard: all
    four attacks). eps: radius of the L-infinity ball, pixel scale; with eps = 0 every attack gives the clean flags.
    folder: a run folder; flags are kept in evaluation/<attack>.npz (for another checkpoint than "best", in
    evaluation-<checkpoint>/), read back when they are there, and AutoAttack resumes where it was cut off.
    seed, batch_size, exact, shared, attack_precision, eot, num_classes: see Evaluator.
    Raises ValueError for unknown attacks, images outside [0, 1] or of the wrong shape, labels out of range, a network
    that does not fit the images or whose logits are not finite, or kept flags that belong to other images, weights,
    eps, seed or eot."""
    chosen = parse_attacks(attacks)
    check_radius(eps)
    evaluator = Evaluator(
        model, data, seed=seed, batch_size=batch_size, device=device, exact=exact, shared=shared,
        attack_precision=attack_precision, eot=eot, num_classes=num_classes,
    )  # fmt: skip
    return measure_attacks(evaluator, chosen, eps, folder=folder, checkpoint=checkpoint, report=report)


def parse_attacks(attacks: Sequence[str] | str) -> tuple[str, ...]:
    """The attacks, each once; ValueError for an unknown one, or none."""
    try:
        names = (attacks,) if isinstance(attacks, str) else tuple(attacks)
    except TypeError as error:
        raise ValueError(f"attacks must be names, e.g. ('clean', 'pgd20'), not {shown(attacks)}") from error
    if not names:
        raise ValueError(f"there is no attack to evaluate with; choose some of {', '.join(ATTACKS)}")
    for name in names:
        parse_attack(name)
    return tuple(dict.fromkeys(names))


def measure_attacks(
    evaluator: Evaluator,
    attacks: Sequence[str],
    eps: float,
    *,
    folder: str | Path | None = None,
    checkpoint: str = "best",
    report: Report | None = None,
    seconds: float | None = None,
) -> Evaluation:
    """The flags of `attacks` at radius eps, kept in `folder`; what evaluate() does once it is prepared.

    seconds: for all of them, after which AutoAttack stops with the batch it is at and leaves a bound; the same call
    resumes it. Other attacks are never cut short."""
    clock = Clock(seconds)
    store = _store(evaluator, Path(folder) / flags_folder(checkpoint) if folder else None, eps)
    result = Evaluation(eps)
    evaluator.clean = store.get("clean", lambda: {"flags": evaluator.clean})["flags"]
    for number, attack in enumerate(attacks):

        def progress(done: float, words: str = attack, number: int = number) -> None:
            if report:
                report((number + done) / len(attacks), words)

        progress(0.0)
        if attack == "clean":
            result.flags[attack] = evaluator.clean
        elif attack == "autoattack":
            try:
                measured = store.get(attack, lambda: _autoattack(evaluator, eps, store, progress, clock))
            except BudgetSpent as spent:
                result.bounds[attack] = spent.bound
                continue
            result.warnings = [str(w) for w in measured.pop("warnings", [])]
            result.flags[attack] = measured.pop("flags")
            result.details = measured
        else:
            measured = store.get(attack, lambda: {"flags": evaluator.flags(attack, eps, progress)})  # noqa: B023
            result.flags[attack] = measured["flags"]
        evaluator.known[(attack, float(eps))] = result.flags[attack]
        progress(1.0)
    result.notes = evaluator.notes
    return result


def _autoattack(evaluator: Evaluator, eps: float, store: FlagStore, progress: Callable, clock: Clock) -> dict:
    state = store.partial()

    def work_of(state: AutoAttackState) -> tuple[float, float]:
        return work(state, evaluator.batch_size, evaluator.num_classes, clock.limited)

    clock.begin(work_of(state)[0] if state else 0.0)

    def on_batch(state: AutoAttackState, stage: str, done: float) -> None:
        store.keep_partial(state)
        progress(done, f"autoattack {stage}, {at_most(state.upper_bound())}")
        if clock.limited:
            clock.check(state.upper_bound(), *work_of(state))

    state = evaluator.autoattack(eps, state, on_batch, previews=clock.limited)
    return {"flags": state.robust, **state.after, "warnings": state.warnings}


def _store(evaluator: Evaluator, folder: Path | None, eps: float) -> FlagStore:
    facts: dict[str, Any] = {"eps": float(eps), "seed": evaluator.seed, "count": len(evaluator), "eot": evaluator.eot}
    if folder:
        facts["images"] = images_digest(evaluator.images, evaluator.labels)
        facts["weights"] = weights_digest(evaluator.network)
    return FlagStore(folder, facts, evaluator.batch_size, evaluator.shared)


def accuracy_of(flags: Tensor) -> float:
    """Share of True, exact as a count over a count can be."""
    return int(flags.sum()) / len(flags)
