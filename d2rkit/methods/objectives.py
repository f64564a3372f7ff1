"""Training objectives: pure functions of three logit tensors, of a fourth where a method asks for it, and the labels.

    Logits(target_clean, target_adv, guide_clean[, guide_adv]), y  ->  Loss(total, parts)

Logits are (B, C), y is (B,) int64. `parts` holds the weighted terms by name; they sum to `total`.
Symbols: f target, g guide, x clean images, x' adversarial images, p = softmax. ValueError where logits that an
objective needs are missing or not of one shape, labels do not go with them, or a weight is negative or not finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.core.validation import check_choice, check_labels, check_logits, check_number, shown
from d2rkit.methods.divergences import kl, kl_gap, symmetric_kl

SMOOTHING = 1e-5  # inside one logarithm of each KL term, as released for D2R


class Logits(NamedTuple):
    """f(x), f(x'), g(x) and g(x'), each (B, C); None where a method does not need it."""

    target_clean: Tensor | None
    target_adv: Tensor | None
    guide_clean: Tensor | None
    guide_adv: Tensor | None = None


class Loss(NamedTuple):
    """total: the scalar to minimise. parts: its weighted terms by name, means over the batch. signed: for each term
    that is the absolute value of such a mean, the mean with its sign, without which parts of a batch do not add up."""

    total: Tensor
    parts: dict[str, Tensor]
    signed: Mapping[str, Tensor] = MappingProxyType({})


# Default weights of D2R's terms. "released" and "jeffreys-adv" are the authors'. Those of "symmetric" were found on
# digits: KL1 + KL2 is far larger than their gap, and with w_adv 30 some seeds lose clean accuracy.
D2R_WEIGHTS = {
    "symmetric": {"w_clean": 2.0, "w_adv": 15.0, "w_mse": 1.0, "w_ce": 1.0},
    "released": {"w_clean": 20.0, "w_adv": 30.0, "w_mse": 1.0, "w_ce": 1.0},
    "jeffreys-adv": {"w_clean": 20.0, "w_adv": 15.0, "w_mse": 0.0, "w_ce": 1.0},
}
REDUCTIONS = ("mean", "batchmean")


def d2r(
    logits: Logits,
    y: Tensor,
    *,
    variant: str = "symmetric",
    w_clean: float | None = None,
    w_adv: float | None = None,
    w_mse: float | None = None,
    w_ce: float | None = None,
    w_reverse: float = 10.0,
    reduction: str = "mean",
    detach_guide: bool = False,
) -> Loss:
    """Dual regularisation (Liu et al. 2025, arXiv 2506.07056). With KL1 = KL(p_f(x) || p_g(x)),
    KL2 = KL(p_g(x) || p_f(x)), KL5 = KL(p_f(x') || p_g(x)) and KL3 = KL(p_g(x) || p_f(x')):

    symmetric:     w_ce CE(g(x), y) + w_mse MSE(f(x'), g(x)) + w_clean (KL1 + KL2) + w_adv KL5  (the paper's text)
    released:      w_ce CE(g(x), y) + w_mse MSE(f(x'), g(x)) + w_clean |KL1 - KL2| + w_adv KL5  (the authors' code)
    jeffreys-adv:  w_ce CE(g(x), y) + w_clean |KL1 - KL2| + w_adv (KL5 + KL3) + w_reverse KL3  (their earlier form)

    KL5 is the first term of RSLAD with its arguments exchanged; what that changes, family.rslad says. Weights left
    at None take the variant's defaults (D2R_WEIGHTS). The labels reach the target through the guide only.
    reduction: "mean" over batch and classes, as released, or "batchmean" (C times larger). detach_guide: no
    gradient from the target's terms into the guide. |KL1 - KL2| is of the batch's means, and so `signed` tells
    KL1 - KL2, too. ValueError for an unknown variant or reduction.
    """
    check_choice(variant, D2R_WEIGHTS, "D2R variant")
    check_choice(reduction, REDUCTIONS, "reduction")
    if not isinstance(detach_guide, bool):
        raise ValueError(f"detach_guide must be True or False, not {shown(detach_guide)}")
    given = {"w_clean": w_clean, "w_adv": w_adv, "w_mse": w_mse, "w_ce": w_ce}
    w = D2R_WEIGHTS[variant] | {name: value for name, value in given.items() if value is not None}
    for name, value in (w | {"w_reverse": w_reverse}).items():
        check_number(name, value)
    f_clean, f_adv, g_clean = needed(logits, y, "target_clean", "target_adv", "guide_clean")
    g_fixed = g_clean.detach() if detach_guide else g_clean

    def mean(per_example: Tensor) -> Tensor:
        return per_example.mean() / (g_clean.shape[1] if reduction == "mean" else 1)

    signed = {}
    if variant == "symmetric":
        clean = mean(symmetric_kl(f_clean, g_fixed, SMOOTHING))
    else:  # the absolute value of the batch's mean, not of each example
        gap = mean(kl_gap(f_clean, g_fixed, SMOOTHING))
        clean, signed["clean"] = gap.abs(), w["w_clean"] * gap
    adversarial = kl(f_adv, g_fixed, SMOOTHING)
    parts = {
        "ce": w["w_ce"] * F.cross_entropy(g_clean, y),
        "mse": w["w_mse"] * F.mse_loss(f_adv, g_fixed),
        "clean": w["w_clean"] * clean,
    }
    if variant == "jeffreys-adv":
        reverse = kl(g_fixed, f_adv, SMOOTHING)
        adversarial = adversarial + reverse
        parts["reverse"] = w_reverse * mean(reverse)
    parts["adv"] = w["w_adv"] * mean(adversarial)
    return summed(parts)._replace(signed=signed)


def pgd_at(logits: Logits, y: Tensor) -> Loss:
    """CE(f(x'), y), Madry et al. 2018."""
    (f_adv,) = needed(logits, y, "target_adv")
    return summed({"ce": F.cross_entropy(f_adv, y)})


def natural(logits: Logits, y: Tensor) -> Loss:
    """CE(f(x), y): no defence, the sanity row of every table."""
    (f_clean,) = needed(logits, y, "target_clean")
    return summed({"ce": F.cross_entropy(f_clean, y)})


def trades(logits: Logits, y: Tensor, *, beta: float = 6.0) -> Loss:
    """CE(f(x), y) + beta KL(p_f(x) || p_f(x')), batch mean, neither side detached (Zhang et al. 2019, eq. 5)."""
    check_number("beta", beta)
    f_clean, f_adv = needed(logits, y, "target_clean", "target_adv")
    return summed({"ce": F.cross_entropy(f_clean, y), "adv": beta * kl(f_clean, f_adv).mean()})


def mart(logits: Logits, y: Tensor, *, beta: float = 6.0) -> Loss:
    """Boosted CE on x' plus misclassification-weighted KL (Wang et al. 2020, eq. 8-10)."""
    check_number("beta", beta)
    f_clean, f_adv = needed(logits, y, "target_clean", "target_adv")
    p_adv, p_clean = f_adv.softmax(1), f_clean.softmax(1)
    others = p_adv.scatter(1, y[:, None], -1.0)
    strongest = others.argmax(1)
    margin = F.nll_loss(torch.log(1.0001 - p_adv + 1e-12), strongest)
    unsure = 1.0000001 - p_clean.gather(1, y[:, None]).squeeze(1)
    return summed(
        {
            "ce": F.cross_entropy(f_adv, y),
            "margin": margin,
            "adv": beta * (unsure * kl(f_clean, f_adv)).mean(),
        }
    )


def lbgat(logits: Logits, y: Tensor, *, beta: float = 0.0) -> Loss:
    """CE(g(x), y) + MSE(f(x'), g(x)) + beta KL(p_f(x) || p_f(x')), batch mean (Cui et al. 2021, eq. 8)."""
    check_number("beta", beta)
    f_adv, g_clean = needed(logits, y, "target_adv", "guide_clean")
    parts = {"ce": F.cross_entropy(g_clean, y), "mse": F.mse_loss(f_adv, g_clean)}
    if beta:
        f_clean, f_adv = needed(logits, y, "target_clean", "target_adv")
        parts["adv"] = beta * kl(f_clean, f_adv).mean()
    return summed(parts)


def adagat(logits: Logits, y: Tensor, *, w_guide: float = 2.5) -> Loss:
    """LBGAT with beta 0 plus w_guide MSE(stop-gradient f(x'), g(x)): the guide is pulled to the target."""
    check_number("w_guide", w_guide)
    f_adv, g_clean = needed(logits, y, "target_adv", "guide_clean")
    return summed(lbgat(logits, y).parts | {"guide": w_guide * F.mse_loss(g_clean, f_adv.detach())})


WHOSE = {"guide_clean": "a guide's logits on x", "guide_adv": "a guide's logits on x'"}


def needed(logits: Logits, y: Tensor, *names: str) -> list[Tensor]:
    """The logits of these names, which are there and go with each other and with the labels; else ValueError."""
    if not isinstance(logits, Logits):
        raise ValueError(
            f"logits must be Logits(target_clean, target_adv, guide_clean, guide_adv), not {shown(logits)}"
        )
    tensors = [getattr(logits, name) for name in names]
    for name, z in zip(names, tensors, strict=True):
        if z is None:
            whose = WHOSE.get(name, "the target's logits")
            raise ValueError(f"this objective needs {whose}, but {name} is None")
    check_logits(*tensors)
    check_labels(y, *tensors[0].shape)
    return tensors


def summed(parts: dict[str, Tensor]) -> Loss:
    """The loss whose weighted terms these are."""
    return Loss(torch.stack(list(parts.values())).sum(), parts)
