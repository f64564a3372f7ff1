"""Exercise 6: the D2R loss, term by term."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.exercises.checking import Exercise, Step, compare, functions, returned, short
from d2rkit.exercises.settings import threshold
from d2rkit.methods import objectives
from d2rkit.methods.divergences import kl, kl_gap, symmetric_kl

W_CLEAN, W_ADV = 2.0, 30.0  # with the mean over batch and classes
PARTS = ("ce", "mse", "clean", "adv")


def reference(f_clean: Tensor, f_adv: Tensor, g_clean: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The four weighted terms of the symmetric form; logits (B, C), y (B,); their sum is the loss
    (Liu et al. 2025, arXiv 2506.07056)."""
    logits = objectives.Logits(f_clean, f_adv, g_clean)
    return objectives.d2r(logits, y, variant="symmetric", w_clean=W_CLEAN, w_adv=W_ADV).parts


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    logits, y = _batch()
    parts = solution(*[t.clone() for t in logits], y.clone())
    named = isinstance(parts, Mapping) and set(parts) == set(PARTS)
    words = str(sorted(parts)) if isinstance(parts, Mapping) else type(parts).__name__
    hint = "return a dict of the four weighted terms: ce, mse, clean, adv; is a `return` missing?"
    yield Step("returns the four terms", named, words, ", ".join(PARTS), hint)
    expected = reference(*logits, y)
    mistakes = _mistakes(*logits, y)
    for name in PARTS:
        yield returned(f"{name} is a scalar", parts[name], ())
        hint, known = mistakes[name]
        yield compare(
            f"{name}: {FORMULAS[name]}",
            parts[name],
            expected[name],
            known,
            hint,
            tolerance=threshold("d2r_loss_tolerance"),
        )
    yield from _gradients(solution, logits, y)


FORMULAS = {
    "ce": "CE(g(x), y)",
    "mse": "MSE(f(x'), g(x)) on logits",
    "clean": "2 (KL(p_f(x) || p_g(x)) + KL(p_g(x) || p_f(x)))",
    "adv": "30 KL(p_f(x') || p_g(x))",
}


Three = tuple[Tensor, Tensor, Tensor]  # f(x), f(x') and g(x)


def _batch() -> tuple[Three, Tensor]:
    generator = torch.Generator().manual_seed(7)
    f_clean, f_adv, g_clean = (2 * torch.randn(6, 4, generator=generator) for _ in range(3))
    return (f_clean, f_adv, g_clean), torch.arange(6) % 4


def _gradients(solution: Callable, logits: Three, y: Tensor) -> Iterator[Step]:
    near = threshold("d2r_loss_tolerance")
    leaves = {"f(x)": "f_clean", "f(x')": "f_adv", "g(x)": "g_clean"}
    (mine, right), zero = ([t.clone().requires_grad_() for t in logits] for _ in range(2)), torch.zeros(())
    got = torch.autograd.grad(sum(solution(*mine, y).values(), zero), mine, allow_unused=True)
    f_clean, f_adv, g_clean = right
    expected = torch.autograd.grad(sum(reference(f_clean, f_adv, g_clean, y).values(), zero), right)
    for words, a, b in zip(leaves, got, expected, strict=True):
        hint = f"the values are right, but the gradient into {words} is missing or wrong: nothing is detached in D2R"
        same = a is not None and torch.allclose(a, b, atol=near, rtol=near)
        yield Step(f"gradient into {words}", same, "none" if a is None else short(a[0]), short(b[0]), hint)


def _mistakes(f_clean: Tensor, f_adv: Tensor, g_clean: Tensor, y: Tensor) -> dict[str, tuple[str, dict[str, Tensor]]]:
    """For each term: the general hint, and what typical mistakes give."""
    classes = g_clean.shape[1]

    def mean(per_example: Tensor) -> Tensor:
        return per_example.mean() / classes

    p_adv, p_guide = f_adv.softmax(1), g_clean.softmax(1)
    both, gap = mean(symmetric_kl(f_clean, g_clean)), mean(kl_gap(f_clean, g_clean))
    adv = mean(kl(f_adv, g_clean))
    reduction = (
        "the mean runs over the wrong axis: K is a mean over batch AND classes; yours is C times larger (batchmean)"
    )
    return {
        "ce": (
            "cross-entropy of the guide's clean logits with the labels, mean over the batch",
            {
                "that is the target's cross-entropy: in D2R labels reach the target only through the guide": (
                    F.cross_entropy(f_clean, y)
                ),
                "that is the cross-entropy on adversarial images: only the guide sees labels, on clean images": (
                    F.cross_entropy(f_adv, y)
                ),
                "that applies softmax twice: cross_entropy takes logits": F.cross_entropy(p_guide, y),
                "that is a sum over the batch: use the mean": F.cross_entropy(g_clean, y, reduction="sum"),
            },
        ),
        "mse": (
            "mean squared difference of the raw logits f(x') and g(x), over batch and classes",
            {
                "MSE is on raw logits, not on probabilities": F.mse_loss(p_adv, p_guide),
                "that compares f(x) with the guide: the MSE compares f(x')": (F.mse_loss(f_clean, g_clean)),
                "that sums over the classes: MSE is a mean over batch and classes": F.mse_loss(f_adv, g_clean)
                * classes,
            },
        ),
        "clean": (
            "W_CLEAN times the sum of both directions between f(x) and g(x), mean over batch and classes",
            {
                reduction: W_CLEAN * both * classes,
                "that is the released gap |KL1 - KL2|: the symmetric form adds both directions": W_CLEAN * gap.abs(),
                "only one direction is there: add KL(p_g(x) || p_f(x))": W_CLEAN * mean(kl(f_clean, g_clean)),
                "only one direction is there: add KL(p_f(x) || p_g(x))": W_CLEAN * mean(kl(g_clean, f_clean)),
                "the weight w_clean = 2 is missing": both,
                "the two directions are averaged: add them": W_CLEAN * both / 2,
                "that compares f(x') with the guide; the clean term compares f(x)": (
                    W_CLEAN * mean(symmetric_kl(f_adv, g_clean))
                ),
            },
        ),
        "adv": (
            "W_ADV times KL(p_f(x') || p_g(x)), mean over batch and classes",
            {
                reduction: W_ADV * adv * classes,
                "the direction is wrong: that is KL(p_g(x) || p_f(x')); the target's distribution comes first": (
                    W_ADV * mean(kl(g_clean, f_adv))
                ),
                "that is the TRADES term between f(x) and f(x'): D2R compares f(x') with the guide": (
                    W_ADV * mean(kl(f_clean, f_adv))
                ),
                "that compares f(x) with the guide: use f(x')": W_ADV * mean(kl(f_clean, g_clean)),
                "the weight w_adv = 30 is missing": adv,
            },
        ),
    }


EXERCISE = Exercise("d2r_loss", "The D2R loss", 20, "my_d2r(f_clean, f_adv, g_clean, y)", probe, reference)
