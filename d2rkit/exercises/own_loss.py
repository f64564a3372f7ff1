"""Exercise 11: a loss of one's own, with a divergence, a weight and a guide that it must not move."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.exercises.checking import Exercise, Step, compare, functions, returned, short
from d2rkit.methods.objectives import Logits, Loss, needed

WEIGHT = 20.0
NAMES = ("target_clean", "target_adv", "guide_clean")


def affinity(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """The sum of sqrt(p q) over the classes, (B, C), (B, C) -> (B,), from log-probabilities."""
    return ((p_logits.log_softmax(1) + q_logits.log_softmax(1)) / 2).exp().sum(1)


def reference(logits: Logits, y: Tensor, *, weight: float = WEIGHT) -> Loss:
    """CE(g(x), y) + weight H²(p_f(x'), p_g(x)), with H² = 1 - sum sqrt(p q), the squared Hellinger distance
    (Hellinger 1909), the mean over the batch, and no gradient of the second term in the guide."""
    f_adv, g_clean = needed(logits, y, "target_adv", "guide_clean")
    parts = {
        "guide": F.cross_entropy(g_clean, y),
        "pull": weight * (1 - affinity(f_adv, g_clean.detach())).mean(),
    }
    return Loss(parts["guide"] + parts["pull"], parts)


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    logits, y = _batch()
    answer = solution(logits, y)
    named = isinstance(answer, Loss) and isinstance(answer.parts, dict) and set(answer.parts) == {"guide", "pull"}
    hint = 'return Loss(total, parts), with the two weighted terms in parts: {"guide": …, "pull": …}'
    yield Step("returns a Loss of two parts", named, short(answer), "Loss(total, {guide, pull})", hint)
    expected = reference(logits, y)
    for name, words in (("guide", "CE(g(x), y)"), ("pull", "20 H²(p_f(x'), p_g(x))")):
        yield returned(f"{name} is a scalar", answer.parts[name], ())
        mistakes, hint = _mistakes(logits, y)[name]
        yield compare(f"{name}: {words}", answer.parts[name], expected.parts[name], mistakes, hint)
    yield returned("total is a scalar", answer.total, ())
    sums = "the total is what is minimised: the sum of the parts, weights included"
    yield compare("the parts sum to the total", answer.total, expected.total, {}, sums)
    heavier = solution(logits, y, weight=2 * WEIGHT).parts["pull"]
    words = "use the argument weight, not the number 20: `--loss weight 40` must reach the term"
    yield compare("weight=40 doubles the pull", heavier, 2 * expected.parts["pull"], {}, words)
    yield from _gradients(solution, logits, y)


def _batch() -> tuple[Logits, Tensor]:
    generator = torch.Generator().manual_seed(11)
    return Logits(*(2 * torch.randn(6, 4, generator=generator) for _ in range(3))), torch.arange(6) % 4


def _mistakes(logits: Logits, y: Tensor) -> dict[str, tuple[dict[str, Tensor], str]]:
    f_clean, f_adv, g_clean = needed(logits, y, *NAMES)
    squared = 1 - affinity(f_adv, g_clean)
    return {
        "guide": (
            {
                "that is the target's cross-entropy: labels enter at the guide": F.cross_entropy(f_clean, y),
                "that is the cross-entropy on attacked images: the guide learns on clean ones": F.cross_entropy(
                    f_adv, y
                ),
                "that applies softmax twice: cross_entropy takes logits": F.cross_entropy(g_clean.softmax(1), y),
                "that is a sum over the batch: use the mean": F.cross_entropy(g_clean, y, reduction="sum"),
            },
            "cross-entropy of the guide's clean logits with the labels, mean over the batch",
        ),
        "pull": (
            {
                "that is the distance H: the formula has H², without the root": WEIGHT * squared.sqrt().mean(),
                "that is a sum over the batch: use the mean": WEIGHT * squared.sum(),
                "the weight is missing": squared.mean(),
                "that is the affinity, sum sqrt(p q), which is 1 where p = q; the distance is 1 minus it": (
                    WEIGHT * (1 - squared).mean()
                ),
                "that compares f(x) with the guide: the pull is on attacked images, f(x')": (
                    WEIGHT * (1 - affinity(f_clean, g_clean)).mean()
                ),
                "that compares f(x') with f(x): the guide is missing": WEIGHT * (1 - affinity(f_adv, f_clean)).mean(),
                "that is divided by the number of classes: the sum over classes stays a sum": (
                    WEIGHT * (1 - affinity(f_adv, g_clean) / f_adv.shape[1]).mean()
                ),
                "that is twice H²: the sum of (sqrt p - sqrt q)² needs the factor 1/2": WEIGHT * 2 * squared.mean(),
            },
            "weight times the mean over the batch of 1 - sum over classes of sqrt(p_f(x') p_g(x))",
        ),
    }


def _gradients(solution: Callable, logits: Logits, y: Tensor) -> Iterator[Step]:
    mine, right = ([z.clone().requires_grad_() for z in needed(logits, y, *NAMES)] for _ in range(2))
    got = torch.autograd.grad(solution(Logits(*mine), y).total, mine, allow_unused=True)
    expected = torch.autograd.grad(reference(Logits(*right), y).total, right, allow_unused=True)
    hints = {
        "f(x)": "f(x) does not enter this loss",
        "f(x')": "the pull must move the target: is something detached that should not be?",
        "g(x)": "the pull moves the guide, too: detach the guide's logits in that term, and only there",
    }
    for (words, hint), a, b in zip(hints.items(), got, expected, strict=True):
        a, b = (torch.zeros(1) if each is None else each for each in (a, b))
        same = a.shape == b.shape and torch.allclose(a, b, atol=1e-4, rtol=1e-3)
        yield Step(f"gradient into {words}", bool(same or not (a.any() or b.any())), short(a[0]), short(b[0]), hint)
    sure = torch.tensor([[200.0, 0.0, -200.0, 0.0]], requires_grad=True)
    total = solution(Logits(sure, sure, -sure.detach()), y[:1]).total
    (gradient,) = torch.autograd.grad(total, sure, allow_unused=True)
    finite = gradient is not None and bool(gradient.isfinite().all())
    hint = "sqrt has an infinite slope at 0: write sqrt(p q) as exp of half the sum of both log_softmax"
    yield Step("a finite gradient for confident predictions", finite, short(gradient), "finite numbers", hint)


EXERCISE = Exercise("own_loss", "A loss of your own", 30, "my_loss(logits, y, weight=20.0)", probe, reference)
