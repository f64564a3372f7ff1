"""What a run is evaluated with: one list of measurements, which a run makes, a plan prices and a dry run tries.

measurements(experiment, checkpoint)           what is measured
evaluate_checkpoint(experiment, ..., ...)      the same, measured: one entry of result.json for each part
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d2rkit.core.digests import weights_digest
from d2rkit.data.arrays import Split
from d2rkit.evaluation.evaluate import accuracy_of, measure_attacks
from d2rkit.evaluation.evaluator import WHOLE, Budget, Evaluator
from d2rkit.evaluation.gradient_masking import FAR, PLAIN_ATTACKS, checks_of, verdict
from d2rkit.methods.catalogue import get_method
from d2rkit.methods.pair import GuidedPair

if TYPE_CHECKING:
    from d2rkit.experiments.experiment import Experiment

SWEEP = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # radii of the accuracy curve, in units of the evaluation eps
TRANSFER_STEPS = 20


@dataclass(frozen=True)
class Measurement:
    """One attack on all test images: through the gradients of `network` ("target", or "guide" for images that are then
    shown to the target); "prepare" is the checks, the clean pass and the attacked copy of a network."""

    network: str
    attack: str
    eps: float = 0.0


def measurements(experiment: Experiment, checkpoint: str) -> list[Measurement]:
    """All that evaluate_checkpoint() measures, each once, in no particular order."""
    eps, guided = experiment.radius, get_method(experiment.method).needs_guide
    wanted = [Measurement("target", "prepare")]
    wanted += [Measurement("target", attack, eps) for attack in experiment.attacks if attack != "clean"]
    if checkpoint == experiment.checkpoints[0]:
        wanted += [Measurement("target", "pgd20", radius) for radius in radii(experiment) if radius]
        wanted += [Measurement("target", attack, eps) for attack in PLAIN_ATTACKS]
        wanted.append(Measurement("target", "pgd100", min(1.0, FAR * eps)))
        if guided:
            wanted += [Measurement("guide", "prepare"), Measurement("guide", f"transfer{TRANSFER_STEPS}", eps)]
    return list(dict.fromkeys(wanted))


def radii(experiment: Experiment) -> list[float]:
    """Where the accuracy curve is measured, pixel scale."""
    return [min(1.0, share * experiment.radius) for share in SWEEP]


def evaluate_checkpoint(
    experiment: Experiment,
    pair: GuidedPair,
    test: Split,
    checkpoint: str,
    *,
    folder: Path | None = None,
    shared: bool = False,
    budget: Budget = WHOLE,
    report: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """The entries of result.json for one checkpoint, whose weights `pair` has. For the first checkpoint of the
    experiment also the accuracy curve over eps, the masking checks and the guide's accuracy.

    folder: the run folder, where flags are kept. budget: less than all, for plans and dry runs."""
    how = {"seed": experiment.seed, "shared": shared, "budget": budget}
    evaluator = Evaluator(pair.target, test, **how)
    chosen = [a for a in experiment.attacks if not (a == "autoattack" and evaluator.randomised)]
    # The attacks of the table are the bulk of the work; the rest of the bar is for curve and checks.
    share = 0.9 if checkpoint == experiment.checkpoints[0] else 1.0
    evaluation = measure_attacks(
        evaluator, chosen, experiment.radius, folder=folder, checkpoint=checkpoint, report=_part(report, 0.0, share)
    )
    result: dict[str, Any] = {
        "accuracy": evaluation.summary(), "weights": weights_digest(pair.target), "notes": evaluation.notes,
        "autoattack_warnings": evaluation.warnings, "attack_precision": evaluator.attack_precision,
    }  # fmt: skip
    if checkpoint == experiment.checkpoints[0]:
        curve: dict[float, float] = {}
        for number, radius in enumerate(radii(experiment)):
            curve[radius] = accuracy_of(evaluator.flags("pgd20", radius))
            _part(report, share, 1.0)(0.5 * (number + 1) / len(SWEEP), "accuracy against eps")
        checks = checks_of(evaluator, experiment.radius, pair.guide)
        result["eps_curve"] = {"eps": list(curve), "pgd20": list(curve.values())}
        result["masking"] = [dataclasses.asdict(check) for check in checks]
        result["masking_verdict"] = verdict(checks)
        if pair.guide is not None:
            result["guide_clean"] = accuracy_of(Evaluator(pair.guide, test, **how).clean)
        _part(report, share, 1.0)(1.0, "gradient masking")
    return result


def _part(report: Callable[[float, str], None] | None, low: float, high: float) -> Callable[[float, str], None]:
    return (lambda done, words: report(low + (high - low) * done, words)) if report else (lambda done, words: None)
