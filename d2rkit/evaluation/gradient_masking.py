"""Signs of gradient masking, each with its numbers, and a verdict in words.

An attack that fails may have been misled rather than withstood: gradients that vanish, shatter or are drowned in noise
(Athalye et al. 2018; Carlini et al. 2019). None of these signs proves anything by itself, and none is proof of their
absence; together they find the usual ways in which a defence looks better than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.core import devices
from d2rkit.evaluation.evaluate import accuracy_of
from d2rkit.evaluation.evaluator import PROBED, Evaluator
from d2rkit.methods.pair import eval_mode, frozen

FAR = 8  # an absurd radius is so many times the one that is asked about
GREY = 0.5  # or, where that is not enough, the radius at which any image can become all grey
FOOLED = 0.05  # accuracy that is about 0
PLAIN_ATTACKS = ("pgd20", "pgd100", "cw20")  # what AutoAttack is held against
HONEST_GAP = 0.1  # AutoAttack finds more than these together; on networks without masking less than this share more
MARGIN_GAP = 0.1  # and the margin loss less than this more than cross-entropy
NO_GRADIENT = 0.05  # share of images without any gradient that is a sign


@dataclass(frozen=True)
class MaskingCheck:
    """One sign of gradient masking: `passed` is False where it shows."""

    name: str
    passed: bool
    words: str


def masking_checks(
    target: nn.Module, data: Any, eps: float, *, guide: nn.Module | None = None, seed: int = 0, autoattack: bool = False
) -> list[MaskingCheck]:
    """The checks of checks_of() on a network and data as evaluate() takes them. autoattack: run it for the checks, too
    (it takes long). ValueError as evaluate() raises it, or for a radius that is not above 0."""
    evaluator = Evaluator(target, data, seed=seed)
    if autoattack:
        evaluator.flags("autoattack", eps)
    return checks_of(evaluator, eps, guide)


def checks_of(evaluator: Evaluator, eps: float, guide: nn.Module | None = None) -> list[MaskingCheck]:
    """Eight signs: accuracy stays up at an absurd radius; more steps help the defender; the margin loss beats
    cross-entropy by far; AutoAttack (if it was run at this radius) beats all of these by far; equal calls get
    different answers; outputs are probabilities; gradients are exactly zero; images made against another network
    (the guide) fool the target more often than its own gradients do. What the evaluator knows is not measured again."""
    if not 0 < eps <= 1:
        raise ValueError(f"gradient masking is looked for at a radius above 0 and at most 1, not {eps}")
    far = min(1.0, FAR * eps)
    absurd = accuracy_of(evaluator.flags("pgd100", far))
    if absurd > FOOLED and far < GREY:  # not absurd yet: a sound network may hold out there
        far, absurd = GREY, accuracy_of(evaluator.flags("pgd100", GREY))
    plain = {name: evaluator.flags(name, eps) for name in PLAIN_ATTACKS}
    pgd20, pgd100, margin = (accuracy_of(flags) for flags in plain.values())
    noise = 2 * max((pgd20 * (1 - pgd20) / len(evaluator)) ** 0.5, 1 / len(evaluator))
    checks = [
        MaskingCheck(
            "large radius", absurd <= FOOLED, f"PGD-100 accuracy {absurd:.1%} at eps {far:.3f}, expected about 0"
        ),
        MaskingCheck("more steps", pgd100 <= pgd20 + noise, f"PGD-20 {pgd20:.1%}, PGD-100 {pgd100:.1%}"),
        MaskingCheck("margin loss", margin >= pgd20 - MARGIN_GAP, f"PGD-20 {pgd20:.1%}, C&W-20 {margin:.1%}"),
    ]
    if ("autoattack", float(eps)) in evaluator.known:
        best = accuracy_of(torch.stack(list(plain.values())).all(0))
        standard = accuracy_of(evaluator.known["autoattack", float(eps)])
        words = f"PGD and C&W together {best:.1%}, AutoAttack {standard:.1%}"
        checks.append(MaskingCheck("AutoAttack", standard >= best - HONEST_GAP - noise, words))
    said = evaluator.randomised or "equal calls get equal answers"
    checks.append(MaskingCheck("same answer", not evaluator.randomised, said))
    checks += _outputs(evaluator)
    if guide is not None:
        transfer = accuracy_of(evaluator.transferred(guide, 20, eps))
        words = f"PGD-20 {pgd20:.1%}, images made against the guide {transfer:.1%}"
        checks.append(MaskingCheck("transfer", transfer >= pgd20 - noise, words))
    return checks


def verdict(checks: Sequence[MaskingCheck]) -> str:
    """What the checks come to, in a sentence."""
    shown = [check for check in checks if not check.passed]
    if not shown:
        return f"no sign of gradient masking in {len(checks)} checks"
    signs = "; ".join(f"{check.name} ({check.words})" for check in shown)
    return f"{len(shown)} of {len(checks)} checks show gradient masking, so the true accuracy may be lower: {signs}"


def _outputs(evaluator: Evaluator) -> list[MaskingCheck]:
    """Whether outputs are logits, and whether the images that are right have gradients; on the first few of them."""
    right = evaluator.clean.nonzero().flatten()[:PROBED]
    if not len(right):
        return []
    x, y = evaluator.batch(right)
    network = evaluator.network
    with eval_mode(network), frozen(network), devices.ieee_float32():
        x = x.detach().requires_grad_()
        logits = network(x)
        loss = F.cross_entropy(logits, y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    probable = _are_probabilities(logits.detach())
    without = float((gradient.flatten(1).abs().amax(1) == 0).float().mean())
    says = "probabilities, which losses take for logits" if probable else "logits"
    return [
        MaskingCheck("outputs", not probable, f"the network returns {says}"),
        MaskingCheck("gradients", without <= NO_GRADIENT, f"{without:.1%} of {len(x)} images have no gradient at all"),
    ]


def _are_probabilities(logits: Tensor) -> bool:
    sums = logits.sum(1)
    return bool((logits >= 0).all() and ((sums - 1).abs() < 1e-3).all())
