"""Divergences and losses: typical mistakes are turned away with a hint that fits."""

import math

import pytest
import torch
import torch.nn.functional as F

from d2rkit.exercises import check
from d2rkit.methods.objectives import Loss
from tests.exercises.solutions import both, right_kl, turned_away

# ---- kl


KL = {
    "wrong direction": (both(lambda p, q: right_kl(q, p)), "direction is wrong"),
    "mean over classes": (both(lambda p, q: right_kl(p, q) / 3), "wrong axis or is a mean"),
    "softmax over the batch": (
        both(lambda p, q: (p.softmax(0) * (p.log_softmax(0) - q.log_softmax(0))).sum(1)),
        "softmax runs over the wrong axis",
    ),
    "sum over the batch": (both(lambda p, q: (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(0)), "axis"),
    "sum over everything": (both(lambda p, q: right_kl(p, q).sum()), "axis"),
    "negative": (both(lambda p, q: -right_kl(p, q)), "sign"),
    "cross-entropy": (both(lambda p, q: -(p.softmax(1) * q.log_softmax(1)).sum(1)), "cross-entropy"),
    "bits": (both(lambda p, q: right_kl(p, q) / math.log(2)), "bits"),
    "logits": (both(lambda p, q: (p * (p - q)).sum(1)), "softmax"),
    "half": (lambda p, q: (right_kl(p, q), (right_kl(p, q) + right_kl(q, p)) / 2), "half"),
    "gap": (lambda p, q: (right_kl(p, q), (right_kl(p, q) - right_kl(q, p)).abs()), "difference"),
    "one direction": (lambda p, q: (right_kl(p, q), right_kl(p, q)), "other direction"),
    "log of softmax": (
        both(lambda p, q: (p.softmax(1) * (p.softmax(1).log() - q.softmax(1).log())).sum(1)), "log_softmax",
    ),
    "log of softmax and a little": (
        both(lambda p, q: (p.softmax(1) * ((p.softmax(1) + 1e-8).log() - (q.softmax(1) + 1e-8).log())).sum(1)),
        "caps KL", "log_softmax",
    ),
    "no return": (lambda p, q: None, "return"),
    "one result": (right_kl, "two tensors"),
    "numpy": (lambda p, q: (right_kl(p, q).numpy(), right_kl(p, q)), "stay in torch"),
}  # fmt: skip


@pytest.mark.parametrize("case", KL)
def test_kl_mistakes(case):
    turned_away("kl", *KL[case])


# ---- gap

P, SWAPPED = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.1, 0.8, 0.1]])
SURE, FLAT = torch.tensor([[0.98, 0.01, 0.01]]), torch.tensor([[0.4, 0.3, 0.3]])
PAIR, BATCH = (P, SWAPPED), (torch.cat([SURE, FLAT]), torch.cat([FLAT, SURE]))
GAP = {
    "equal": ({"pair": (P, P), "batch": BATCH}, "far apart"),
    "gap not zero": ({"pair": (SURE, FLAT), "batch": BATCH}, "exchanging p and q"),
    "logits": ({"pair": (P.log(), SWAPPED.log()), "batch": BATCH}, "softmax"),
    "one example": ({"pair": PAIR, "batch": PAIR}, "one example"),
    "blind one by one": ({"pair": PAIR, "batch": (torch.cat([P, P]), torch.cat([SWAPPED, SWAPPED]))}, "gap of its own"),
    "same sign": ({"pair": PAIR, "batch": (torch.cat([SURE, SURE]), torch.cat([FLAT, FLAT]))}, "same sign"),
    "sizes": ({"pair": PAIR, "batch": (torch.cat([SURE, SURE, FLAT]), torch.cat([FLAT, FLAT, SURE]))}, "magnitudes"),
    "one bracket": ({"pair": (P[0], SWAPPED[0]), "batch": BATCH}, "two brackets"),
    "no batch": ({"pair": PAIR}, "dict"),
    "nothing": (None, "return"),
}


@pytest.mark.parametrize("case", GAP)
def test_gap_mistakes(case):
    answer, *words = GAP[case]
    turned_away("gap", lambda: answer, *words)


# ---- d2r_loss


def k(p, q):
    return right_kl(p, q).mean() / p.shape[1]


def d2r(**changes):
    def solution(f, a, g, y):
        parts = {
            "ce": F.cross_entropy(g, y),
            "mse": F.mse_loss(a, g),
            "clean": 2 * (k(f, g) + k(g, f)),
            "adv": 30 * k(a, g),
        }
        return parts | {name: change(f, a, g, y) for name, change in changes.items()}

    return solution


D2R = {
    "labels at the target": (d2r(ce=lambda f, a, g, y: F.cross_entropy(f, y)), "target's cross-entropy"),
    "labels at x'": (d2r(ce=lambda f, a, g, y: F.cross_entropy(a, y)), "adversarial"),
    "softmax twice": (d2r(ce=lambda f, a, g, y: F.cross_entropy(g.softmax(1), y)), "softmax twice"),
    "mse of probabilities": (d2r(mse=lambda f, a, g, y: F.mse_loss(a.softmax(1), g.softmax(1))), "raw logits"),
    "mse of the clean target": (d2r(mse=lambda f, a, g, y: F.mse_loss(f, g)), "f(x')"),
    "batchmean, clean": (d2r(clean=lambda f, a, g, y: 2 * 4 * (k(f, g) + k(g, f))), "wrong axis"),
    "batchmean, adversarial": (d2r(adv=lambda f, a, g, y: 30 * 4 * k(a, g)), "wrong axis"),
    "released gap": (d2r(clean=lambda f, a, g, y: 2 * (k(f, g) - k(g, f)).abs()), "released gap"),
    "one direction": (d2r(clean=lambda f, a, g, y: 2 * k(f, g)), "one direction"),
    "no weight": (d2r(clean=lambda f, a, g, y: k(f, g) + k(g, f)), "w_clean"),
    "wrong direction": (d2r(adv=lambda f, a, g, y: 30 * k(g, a)), "direction"),
    "trades term": (d2r(adv=lambda f, a, g, y: 30 * k(f, a)), "TRADES"),
    "guide detached": (d2r(adv=lambda f, a, g, y: 30 * k(a, g.detach())), "g(x)", "detached"),
    "per example": (d2r(clean=lambda f, a, g, y: right_kl(f, g)), "shape"),
    "total only": (lambda f, a, g, y: sum(d2r()(f, a, g, y).values()), "dict"),
}


def test_d2r_by_hand_passes():
    assert check("d2r_loss", d2r())


@pytest.mark.parametrize("case", D2R)
def test_d2r_mistakes(case):
    turned_away("d2r_loss", *D2R[case])


# ---- own loss


def hellinger(p, q):
    return 1 - ((p.log_softmax(1) + q.log_softmax(1)) / 2).exp().sum(1)


def own(guide=None, pull=None, total=None):
    def solution(z, y, *, weight=20.0):
        parts = {
            "guide": (guide or (lambda z, y: F.cross_entropy(z.guide_clean, y)))(z, y),
            "pull": (pull or (lambda z, w: w * hellinger(z.target_adv, z.guide_clean.detach()).mean()))(z, weight),
        }
        return Loss((total or (lambda parts: sum(parts.values())))(parts), parts)

    return solution


def pulled(f):
    return own(pull=lambda z, w: w * f(z.target_adv, z.guide_clean.detach()))


def by_roots(p, q):
    return (1 - (p.softmax(1) * q.softmax(1)).sqrt().sum(1)).mean()


OWN = {
    "labels at the target": (own(guide=lambda z, y: F.cross_entropy(z.target_clean, y)), "target's cross-entropy"),
    "labels at x'": (own(guide=lambda z, y: F.cross_entropy(z.target_adv, y)), "attacked images"),
    "softmax twice": (own(guide=lambda z, y: F.cross_entropy(z.guide_clean.softmax(1), y)), "softmax twice"),
    "sum": (own(guide=lambda z, y: F.cross_entropy(z.guide_clean, y, reduction="sum")), "sum over the batch"),
    "no square": (pulled(lambda p, q: hellinger(p, q).sqrt().mean()), "without the root"),
    "sum of pulls": (pulled(lambda p, q: hellinger(p, q).sum()), "sum over the batch"),
    "affinity": (pulled(lambda p, q: (1 - hellinger(p, q)).mean()), "1 minus it"),
    "no half": (pulled(lambda p, q: ((p.softmax(1).sqrt() - q.softmax(1).sqrt()) ** 2).sum(1).mean()), "factor 1/2"),
    "mean over classes": (pulled(lambda p, q: (1 - (1 - hellinger(p, q)) / 4).mean()), "number of classes"),
    "no weight": (own(pull=lambda z, w: hellinger(z.target_adv, z.guide_clean).mean()), "weight is missing"),
    "a fixed weight": (own(pull=lambda z, w: 20 * hellinger(z.target_adv, z.guide_clean.detach()).mean()), "argument"),
    "f(x)": (own(pull=lambda z, w: w * hellinger(z.target_clean, z.guide_clean).mean()), "attacked images, f(x')"),
    "no guide": (own(pull=lambda z, w: w * hellinger(z.target_adv, z.target_clean).mean()), "guide is missing"),
    "guide moves": (own(pull=lambda z, w: w * hellinger(z.target_adv, z.guide_clean).mean()), "detach the guide"),
    "target still": (
        own(pull=lambda z, w: w * hellinger(z.target_adv.detach(), z.guide_clean).mean()),
        "move the target",
    ),
    "infinite slope": (pulled(by_roots), "sqrt has an infinite slope"),
    "another total": (own(total=lambda parts: parts["guide"]), "sum of the parts"),
    "a dict": (lambda z, y, weight=20.0: own()(z, y).parts, "return Loss(total, parts)"),
    "per example": (pulled(hellinger), "shape"),
}


def test_a_loss_by_hand_passes():
    assert check("own_loss", own())


@pytest.mark.parametrize("case", OWN)
def test_own_loss_mistakes(case):
    turned_away("own_loss", *OWN[case])
