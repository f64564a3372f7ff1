"""Exercise 2: where the released gap |KL(p || q) - KL(q || p)| is blind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from d2rkit.exercises.checking import Exercise, Step, functions
from d2rkit.exercises.settings import threshold
from d2rkit.methods import divergences as dv


def reference() -> dict[str, tuple[Tensor, Tensor]]:
    """Probabilities p, q that are far apart while the gap is 0: one pair (1, C), and a batch (B, C)."""
    p, q = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.1, 0.8, 0.1]])
    sure, flat = torch.tensor([[0.98, 0.01, 0.01]]), torch.tensor([[0.4, 0.3, 0.3]])
    return {"pair": (p, q), "batch": (torch.cat([sure, flat]), torch.cat([flat, sure]))}


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    answer = solution()
    keys = isinstance(answer, dict) and {"pair", "batch"} <= set(answer)
    hint = "return a dict with the two answers, {'pair': (p, q), 'batch': (p, q)}; is a `return` missing?"
    yield Step("returns both answers", keys, type(answer).__name__, "{'pair': (p, q), 'batch': (p, q)}", hint)
    for name in ("pair", "batch"):
        yield from _distributions(name, answer[name])
    (p, q), (ps, qs) = ([torch.as_tensor(t).double().log() for t in answer[name]] for name in ("pair", "batch"))

    zero = threshold("gap_zero")
    distance, gap = dv.symmetric_kl(p, q), dv.kl_gap(p, q)
    hint = "p and q are (almost) the same: every divergence is 0 there, so nothing is shown; move them far apart"
    far = bool((distance >= 1).all())
    yield Step("pair: far apart (symmetric KL at least 1)", far, _words(distance), "at least 1", hint)
    hint = "the two directions still differ: for which q does exchanging p and q change nothing? try swapping entries"
    blind = bool((gap.abs() < zero).all())
    yield Step("pair: the gap is 0", blind, _words(gap), f"between -{zero} and {zero}", hint)

    gaps = dv.kl_gap(ps, qs)
    yield Step(
        "batch: two examples or more", len(gaps) > 1, f"{len(gaps)} example", "at least 2",
        "the release takes the mean over the batch before the absolute value: with one example nothing cancels",
    )  # fmt: skip
    hint = "each example needs a gap of its own (try a confident and a flat distribution); only the mean is 0"
    seen = bool((gaps.abs() >= 0.1).all())
    yield Step("batch: every example has a gap of 0.1 or more", seen, _words(gaps), "each at least 0.1 in size", hint)
    mean = gaps.mean().item()
    hint = (
        "all gaps have the same sign, so they cannot cancel: swap p and q in one of the pairs"
        if bool((gaps > 0).all() or (gaps < 0).all())
        else "the signs differ but the magnitudes do not: use the same two distributions with p and q exchanged"
    )
    yield Step("batch: the mean gap is 0", abs(mean) < zero, f"{mean:.4f}", f"between -{zero} and {zero}", hint)


def _distributions(name: str, pair: Any) -> Iterator[Step]:
    two = isinstance(pair, tuple | list) and len(pair) == 2
    yield Step(f"{name}: p and q", two, type(pair).__name__, "(p, q)", f"'{name}' needs two tensors, (p, q)")
    p, q = (torch.as_tensor(t).double() for t in pair)
    flat = p.ndim == 2 and p.shape == q.shape and p.shape[1] >= 2
    hint = "p and q are (B, C): write one distribution as [[0.5, 0.3, 0.2]], with two brackets"
    yield Step(f"{name}: shapes", flat, f"{tuple(p.shape)}, {tuple(q.shape)}", "(B, C) twice", hint)
    both = torch.cat([p, q])
    sums = both.sum(1)
    fits = bool((both > 0).all() and ((sums - 1).abs() < 1e-4).all())
    hint = "each row must be a distribution: positive, with sum 1 (are these logits? apply softmax)"
    yield Step(f"{name}: rows are distributions", fits, f"sums {_words(sums)}", "positive, sum 1", hint)


def _words(numbers: Tensor) -> str:
    return ", ".join(f"{n:.4f}" for n in numbers.flatten()[:4].tolist())


EXERCISE = Exercise("gap", "Where the released gap is blind", 15, "my_blind_spots()", probe, reference)
