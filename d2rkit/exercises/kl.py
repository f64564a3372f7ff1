"""Exercise 1: KL divergence and its symmetric form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from d2rkit.exercises.checking import Exercise, Step, compare, functions, returned
from d2rkit.methods import divergences as dv


def reference(p_logits: Tensor, q_logits: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) and KL(p || q) + KL(q || p) of each example in nats; logits (B, C), both results (B,)."""
    return dv.kl(p_logits, q_logits), dv.symmetric_kl(p_logits, q_logits)


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    generator = torch.Generator().manual_seed(1)
    p, q = (1.5 * torch.randn(5, 3, generator=generator) for _ in range(2))
    answer = solution(p.clone(), q.clone())
    yield _two_results(answer)
    kl, symmetric = answer
    yield returned("KL has one value per example", kl, (5,))
    yield returned("symmetric KL has one value per example", symmetric, (5,))

    expected, both = reference(p, q)
    yield compare("KL(p || q)", kl, expected, _kl_mistakes(p, q), "compare your sum with the formula, term by term")
    mistakes = {
        "that is half of it: here both directions are added, not averaged": both / 2,
        "that is the difference of the two directions; symmetric KL is their sum": dv.kl_gap(p, q),
        "that is the absolute difference of the two directions; symmetric KL is their sum": dv.absolute_gap(p, q),
        "that is the Jensen–Shannon divergence, which compares p and q with their mean": dv.jensen_shannon(p, q),
        "that is KL(p || q) alone: the other direction is missing": expected,
        "that is twice KL(p || q): swap p and q in the second term": 2 * expected,
    }
    hint = "add KL(p || q) and KL(q || p); you have a function for the first"
    yield compare("KL(p || q) + KL(q || p)", symmetric, both, mistakes, hint)

    same, _ = solution(p.clone(), p.clone())
    yield compare("KL(p || p) = 0", same, torch.zeros(5), {}, "the divergence of a distribution from itself is 0")
    sure = torch.tensor([[200.0, 0.0, -200.0]])
    extreme, _ = solution(sure, -sure)
    hint = "softmax of a very confident prediction underflows to 0, and log(0) is infinite: use log_softmax instead"
    finite = bool(extreme.isfinite().all())
    yield Step("finite for very confident predictions", finite, str(extreme.tolist()), "[400.0]", hint)
    hint = "a constant inside the logarithm, log(p + 1e-8), caps KL for confident predictions: use log_softmax instead"
    yield compare("KL of very confident predictions", extreme, torch.tensor([400.0]), {}, hint)


def _two_results(answer: object) -> Step:
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    words = "nothing came back: is a `return` missing?" if answer is None else "return kl, symmetric: two tensors"
    return Step("returns two results", pair, type(answer).__name__, "two tensors", words)


def _kl_mistakes(p: Tensor, q: Tensor) -> dict[str, Tensor | Callable[[], Tensor]]:
    right, other = dv.kl(p, q), dv.kl(q, p)

    def over_the_batch() -> Tensor:
        a, b = p.log_softmax(0), q.log_softmax(0)
        return (a.exp() * (a - b)).sum(1)

    return {
        "the direction is wrong: that is KL(q || p); which distribution weights the sum?": other,
        "the sum runs over the wrong axis or is a mean: KL is a plain sum over the classes, dim 1": right / 3,
        "softmax runs over the wrong axis: each row, dim 1, is a distribution": over_the_batch,
        "the sign is wrong: KL is never negative": -right,
        "that is cross-entropy: the term p log p is missing": dv.cross_entropy(p, q),
        "that is in bits: use the natural logarithm": right / math.log(2),
        "these are logits, not probabilities: apply softmax (or log_softmax) first": lambda: (p * (p - q)).sum(1),
        "the weights of the sum must be probabilities: softmax p first": lambda: (
            p * (p.log_softmax(1) - q.log_softmax(1))
        ).sum(1),
    }


EXERCISE = Exercise("kl", "KL and symmetric KL", 10, "my_kl(p_logits, q_logits)", probe, reference)
