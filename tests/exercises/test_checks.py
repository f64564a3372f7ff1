"""The checks themselves: references pass, stubs and typical mistakes are turned away with a hint that fits."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2rkit.exercises import NAMES, check, exercise, probes
from d2rkit.exercises import cag as cag_module
from d2rkit.exercises import fgsm as fgsm_module
from d2rkit.exercises import pgd as pgd_module
from d2rkit.exercises.ablation import T95, World
from d2rkit.exercises.ablation import reference as ablate
from d2rkit.exercises.checking import NOT_YET, UNWRITTEN, agree
from d2rkit.methods import attacks
from d2rkit.methods.objectives import Loss

FAST = [name for name in NAMES if name not in ("masked_model", "table_row")]


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_passes_twice(name):
    for _ in range(1 if name in ("masked_model", "table_row") else 2):
        result = check(name, exercise(name).reference)
        assert result, repr(result)
    assert result.status == "passed" and not result.hint


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_not_yet_written(name):
    def stub(*args, **kwargs):
        raise NotImplementedError()

    result = check(name, (stub, stub) if name == "table_row" else stub)
    assert not result and result.status == UNWRITTEN
    with pytest.raises(NotImplementedError, match="not yet written"):
        result.require()


def turned_away(name, solution, *words):
    """The check says no, and its hint has all the words."""
    result = check(name, solution)
    assert not result and result.status == NOT_YET, repr(result)
    for word in words:
        assert word in result.hint, f"{word!r} is not in: {result.hint}"
    return result


# ---- kl


def both(function):
    return lambda p, q: (function(p, q), function(p, q) + function(q, p))


def right_kl(p, q):
    p, q = p.log_softmax(1), q.log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


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
    "gap not zero": ({"pair": (SURE, FLAT), "batch": BATCH}, "exchange roles"),
    "logits": ({"pair": (P.log(), SWAPPED.log()), "batch": BATCH}, "softmax"),
    "one example": ({"pair": PAIR, "batch": PAIR}, "one example"),
    "blind one by one": ({"pair": PAIR, "batch": (torch.cat([P, P]), torch.cat([SWAPPED, SWAPPED]))}, "gap of its own"),
    "same sign": ({"pair": PAIR, "batch": (torch.cat([SURE, SURE]), torch.cat([FLAT, FLAT]))}, "same sign"),
    "sizes differ": ({"pair": PAIR, "batch": (torch.cat([SURE, SURE, FLAT]), torch.cat([FLAT, FLAT, SURE]))}, "sizes"),
    "one bracket": ({"pair": (P[0], SWAPPED[0]), "batch": BATCH}, "two brackets"),
    "no batch": ({"pair": PAIR}, "dict"),
    "nothing": (None, "return"),
}


@pytest.mark.parametrize("case", GAP)
def test_gap_mistakes(case):
    answer, *words = GAP[case]
    turned_away("gap", lambda: answer, *words)


# ---- fgsm


def gradient(model, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


def in_place(model, x, y, eps):
    x += eps * gradient(model, x, y).sign()
    return x.clamp(0, 1)


def trains_the_network(model, x, y, eps):
    x_adv = attacks.fgsm(model, x, y, eps=eps)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    return x_adv


FGSM = {
    "no clamp": (lambda m, x, y, e: x + e * gradient(m, x, y).sign(), "clamp"),
    "descends": (lambda m, x, y, e: (x - e * gradient(m, x, y).sign()).clamp(0, 1), "sign", "climbs"),
    "no sign": (lambda m, x, y, e: (x + e * gradient(m, x, y)).clamp(0, 1), "sign"),
    "divided by 255": (lambda m, x, y, e: (x + e / 255 * gradient(m, x, y).sign()).clamp(0, 1), "scale"),
    "times 255": (lambda m, x, y, e: (x + 255 * e * gradient(m, x, y).sign()).clamp(0, 1), "pixel scale", "255"),
    "fixed eps": (lambda m, x, y, e: (x + 8 / 255 * gradient(m, x, y).sign()).clamp(0, 1), "eps is an argument"),
    "own prediction": (
        lambda m, x, y, e: (x + e * gradient(m, x, m(x).argmax(1)).sign()).clamp(0, 1), "true labels"),
    "in place": (in_place, "in place"),
    "trains": (trains_the_network, "attack x, not weights"),
    "returns the change": (lambda m, x, y, e: e * gradient(m, x, y).sign(), "perturbation alone"),
    "no gradient": (lambda m, x, y, e: torch.autograd.grad(m(x).sum(), x)[0], "RuntimeError", "your code stopped"),
    "one number": (lambda m, x, y, e: gradient(m, x, y).mean(), "shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", FGSM)
def test_fgsm_mistakes(case):
    turned_away("fgsm", *FGSM[case])


# ---- pgd, with one switch for each mistake


def pgd(project=True, clamp=True, sign=1, use_sign=True, train=False, restore=True, stale=False, around_last=False,
        scale=1.0, minus=0, step_is_eps=False):  # fmt: skip
    def solution(model, x, y, eps, step_size, steps):
        was = model.training
        model.train(train)
        x_adv, first = x.clone(), None
        for _ in range(steps - minus):
            grad = gradient(model, x_adv, y)
            first = grad if first is None else first
            grad = first if stale else grad
            last = x_adv
            size = eps if step_is_eps else step_size
            x_adv = x_adv + sign * scale * size * (grad.sign() if use_sign else grad)
            if project:
                centre = last if around_last else x
                x_adv = torch.minimum(torch.maximum(x_adv, centre - scale * eps), centre + scale * eps)
            if clamp:
                x_adv = x_adv.clamp(0, 1)
        model.train(was if restore else False)
        return x_adv

    return solution


PGD = {
    "no projection": (pgd(project=False), "project"),
    "no clamp": (pgd(clamp=False), "clamp"),
    "projection around the last image": (pgd(around_last=True), "project"),
    "times 255": (pgd(scale=255.0), "pixel scale"),
    "divided by 255": (pgd(scale=1 / 255), "scale"),
    "train mode left on": (pgd(train=True), "train mode"),
    "left in eval mode": (pgd(restore=False), "put it back"),
    "descends": (pgd(sign=-1), "climbs"),
    "no sign": (pgd(use_sign=False), "sign(gradient)"),
    "stale gradient": (pgd(stale=True), "stale"),
    "one step short": (pgd(minus=1), "one step is missing"),
    "steps of eps": (pgd(step_is_eps=True), "step_size"),
    "wrong signature": (lambda model, x, y: x, "my_pgd(model, x, y, eps, step_size, steps)"),
}


def test_the_switches_off_pass():
    assert check("pgd", pgd())


@pytest.mark.parametrize("case", PGD)
def test_pgd_mistakes(case):
    turned_away("pgd", *PGD[case])


# ---- cag


def cag(objective=None, train=False, restore=True, use_start=True, clamp=True, project=True):
    def solution(target, guide, x, eps, step_size, steps, start):
        modes = target.training, guide.training
        target.train(train)
        guide.train(train)
        fixed = guide(x).softmax(1).detach()
        x_adv = x + start if use_start else x.clone()
        for _ in range(steps):
            x_adv = x_adv.detach().requires_grad_()
            value = objective(target, guide, x, x_adv) if objective else F.kl_div(
                target(x_adv).log_softmax(1), fixed, reduction="sum")  # fmt: skip
            x_adv = x_adv.detach() + step_size * torch.autograd.grad(value, x_adv)[0].sign()
            x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps) if project else x_adv
            x_adv = x_adv.clamp(0, 1) if clamp else x_adv
        target.train(modes[0] if restore else False)
        guide.train(modes[1] if restore else False)
        return x_adv.detach()

    return solution


def kl(p, q):
    return right_kl(p, q).sum()


CAG = {
    "no clamp": (cag(clamp=False), "clamp"),
    "no projection": (cag(project=False), "project"),
    "train mode left on": (cag(train=True), "train mode"),
    "left in eval mode": (cag(restore=False), "back into train mode"),
    "no start": (cag(use_start=False), "start"),
    "wrong direction": (cag(lambda f, g, x, a: kl(f(a), g(x).detach())), "direction"),
    "gradient through the guide": (cag(lambda f, g, x, a: kl(g(a), f(a))), "through the guide"),
    "guide recomputed on x'": (cag(lambda f, g, x, a: kl(g(a).detach(), f(a))), "recomputed on x'"),
    "guide asked every step": (cag(lambda f, g, x, a: kl(g(x).detach(), f(a))), "once"),
    "trades": (cag(lambda f, g, x, a: kl(f(x).detach(), f(a))), "TRADES"),
    "attacks the guide": (cag(lambda f, g, x, a: kl(f(x).detach(), g(a))), "through the target"),
    "hard labels": (cag(lambda f, g, x, a: F.cross_entropy(f(a), g(x).argmax(1))), "hard labels"),
    "descends": (cag(lambda f, g, x, a: -kl(g(x).detach(), f(a))), "sign"),
}


def test_the_probes_tell_known_mistakes_apart():
    """Every mistake that the attacks' checks know leads to clearly other images than the right attack."""
    x, y = probes.images(seed=5), probes.labels()
    start = 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    target, guide = probes.network(4), probes.network(15)
    right = cag_module.reference(target, guide, x, **cag_module.BUDGET, start=start)
    for hint, wrong in cag_module._mistakes(target, guide, x, **cag_module.BUDGET, start=start).items():
        assert not agree(wrong(), right, share=0.9), hint
    model, x = probes.network(), probes.images()
    right = fgsm_module.reference(model, x, y, 0.1)
    for hint, wrong in fgsm_module._mistakes(model, x, y, 0.1).items():
        assert not agree(wrong(), right, share=0.9), hint
    model, x = probes.network(1), probes.images(seed=2)
    right = pgd_module.reference(model, x, y, **pgd_module.BUDGET)
    for hint, wrong in pgd_module._mistakes(model, x, y, **pgd_module.BUDGET).items():
        assert not agree(wrong(), right, share=0.9), hint


def test_cag_switches_off_pass():
    assert check("cag", cag())


@pytest.mark.parametrize("case", CAG)
def test_cag_mistakes(case):
    turned_away("cag", *CAG[case])


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
    "no square": (pulled(lambda p, q: hellinger(p, q).sqrt().mean()), "without a root"),
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


# ---- robust accuracy


def measure(train=False, restore=True, clean_too=True, drop=False, batch_means=False, out=lambda p, n, size: (p, math.sqrt(p * (1 - p) / n))):  # fmt: skip  # noqa: E501
    def solution(model, x, y, attack, batch_size):
        was = model.training
        model.train(train)
        flags = []
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            if drop and len(images) < batch_size:
                continue
            right = model(attack(model, images, labels)).argmax(1) == labels
            flags.append(right & (model(images).argmax(1) == labels) if clean_too else right)
        model.train(was if restore else False)
        parts = [part.float().mean() for part in flags]
        p = (torch.stack(parts).mean() if batch_means else torch.cat(flags).float().mean()).item()
        return out(p, len(y), batch_size)

    return solution


ACCURACY = {
    "train mode left on": (measure(train=True), "train mode"),
    "train mode and attacked only": (measure(train=True, clean_too=False), "train mode"),
    "left in eval mode": (measure(restore=False), "put it back"),
    "attacked only": (measure(clean_too=False), "wrong already"),
    "last batch dropped": (measure(drop=True), "last, smaller batch"),
    "mean of means": (measure(batch_means=True), "mean of the batches"),
    "percent": (measure(out=lambda p, n, b: (100 * p, 100 * math.sqrt(p * (1 - p) / n))), "percentage"),
    "standard deviation": (measure(out=lambda p, n, b: (p, math.sqrt(p * (1 - p)))), "standard deviation"),
    "variance": (measure(out=lambda p, n, b: (p, p * (1 - p) / n)), "square root"),
    "batch size as n": (measure(out=lambda p, n, b: (p, math.sqrt(p * (1 - p) / b))), "number of images"),
    "95 percent": (measure(out=lambda p, n, b: (p, 1.96 * math.sqrt(p * (1 - p) / n))), "1.96"),
    "error rate": (measure(out=lambda p, n, b: (1 - p, math.sqrt(p * (1 - p) / n))), "1 - accuracy"),
    "accuracy only": (measure(out=lambda p, n, b: p), "two numbers"),
    "no attack": (
        lambda m, x, y, attack, b: measure()(m, x, y, lambda model, images, labels: images, b), "clean accuracy"),
}  # fmt: skip


def test_measuring_by_hand_passes():
    assert check("robust_accuracy", measure())


@pytest.mark.parametrize("case", ACCURACY)
def test_robust_accuracy_mistakes(case):
    turned_away("robust_accuracy", *ACCURACY[case])


# ---- ablation


def ablation(**changes):
    """The reference with some entries of its answer computed otherwise from the whole answer."""

    def solution(trial):
        answer = ablate(trial)
        return answer | {name: change(answer) for name, change in changes.items()}

    return solution


def designed(control, treatment, seeds, seeds_of_treatment=None):
    def solution(trial):
        before = [trial(control, s) for s in seeds]
        after = [trial(treatment, s) for s in seeds_of_treatment or seeds]
        differences = [b - a for a, b in zip(before, after, strict=True)]
        n = len(seeds)
        half = T95[n] * stdev(differences) / math.sqrt(n) if n > 1 else 0.0
        middle = mean(differences)
        claim = "not shown" if abs(middle) <= half else "higher" if middle > 0 else "lower"
        return {
            "control": control, "treatment": treatment, "seeds": seeds, "control_scores": before,
            "treatment_scores": after, "difference": middle, "half_width": half, "claim": claim,
        }  # fmt: skip

    return solution


D = {"method": "d2r"}, {"method": "d2r-cag"}


def spread(answer):
    return stdev([b - a for a, b in zip(answer["control_scores"], answer["treatment_scores"], strict=True)])


ABLATION = {
    "two factors": (designed(D[0], {"method": "d2r-cag", "steps": 7}, [0, 1, 2]), "method and steps", "one factor"),
    "no factor": (designed(D[0], D[0], [0, 1, 2]), "no factor"),
    "no factor, spelt out": (designed(D[1], {}, [0, 1]), "no factor"),
    "one seed": (designed(*D, [0]), "two seeds or more"),
    "the same seed again": (designed(*D, [3, 3, 3]), "same seed"),
    "other seeds for the treatment": (designed(*D, [0, 1], [2, 3]), "second factor"),
    "eps in the wrong scale": (designed(D[0], {"method": "d2r", "eps": 8}, [0, 1]), "pixel scale"),
    "unknown setting": (designed(D[0], {"method": "d2r", "w_cleam": 1.0}, [0, 1]), "did you mean 'w_clean'"),
    "typed numbers": (ablation(control_scores=lambda a: [0.5] * 4), "not what trial returned"),
    "sign turned": (ablation(difference=lambda a: -a["difference"]), "treatment minus control"),
    "1.96": (ablation(half_width=lambda a: 1.96 * spread(a) / 2), "Student's t"),
    "standard error": (ablation(half_width=lambda a: spread(a) / 2), "one standard error"),
    "standard deviation": (ablation(half_width=spread), "standard deviation"),
    "sqrt(n) missing": (ablation(half_width=lambda a: T95[4] * spread(a)), "sqrt(n)"),
    "not paired": (
        ablation(half_width=lambda a: T95[4] * math.sqrt(
            (stdev(a["control_scores"]) ** 2 + stdev(a["treatment_scores"]) ** 2) / 4)), "paired"),
    "claim by hand": (ablation(claim=lambda a: "higher"), "by hand"),
    "claim from the mean": (ablation(claim=lambda a: "higher" if a["difference"] > 0 else "lower"), "contains 0"),
    "own words": (ablation(claim=lambda a: "better"), "higher, lower, not shown"),
    "no claim": (lambda trial: {"control": D[0], "treatment": D[1]}, "missing", "claim"),
}  # fmt: skip


@pytest.mark.parametrize("case", ABLATION)
def test_ablation_mistakes(case):
    turned_away("ablation", *ABLATION[case])


@pytest.mark.parametrize("seeds", [[5, 6], [1, 2, 3], list(range(10))])
def test_other_sound_ablations_pass(seeds):
    assert check("ablation", designed({"method": "trades"}, {"method": "trades", "beta": 3.0}, seeds))
    assert check("ablation", designed({}, {"w_clean": 0.0}, seeds))


def test_the_simulated_worlds_are_what_they_say():
    truths = ((0.15, 0.004, "higher"), (-0.15, 0.004, "lower"), (0, 0.03, "not shown"), (0.01, 0.2, "not shown"))
    for effect, noise, claim in truths:
        assert ablate(World(*D, effect, noise))["claim"] == claim


# ---- whatever a student may hand over


THINGS = [
    None, 3, "text", torch.zeros(3), np.zeros(2), (), [None], {},
    lambda *a, **k: None,
    lambda: None,
    lambda *a, **k: 1 / 0,
    lambda *a, **k: [object()] * 2,
    lambda *a, **k: {"pair": None, "batch": 3},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("thing", THINGS)
def test_never_raises(name, thing):
    result = check(name, (thing, thing) if name == "table_row" and callable(thing) else thing)
    assert not result and result.hint and repr(result) and result._repr_html_()


def test_leaving_python_is_a_hint():
    assert "SystemExit" in turned_away("kl", lambda p, q: exit(1)).hint


def test_an_unknown_exercise_names_the_nearest():
    result = check("pdg", None)
    assert not result and "did you mean 'pgd'" in result.hint


def test_the_line_of_the_mistake_is_shown():
    def broken(p_logits, q_logits):
        wrong = p_logits @ q_logits
        return wrong, wrong

    result = turned_away("kl", broken, "wrong = p_logits @ q_logits", "RuntimeError")
    assert f"line {broken.__code__.co_firstlineno + 1}" in result.hint


def test_a_torch_not_implemented_error_is_no_stub():
    def odd(p_logits, q_logits):
        return torch.ones(2, dtype=torch.bool).svd(), None

    assert check("kl", odd).status == NOT_YET


def test_the_random_state_and_threads_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    check("pgd", exercise("pgd").reference)
    check("ablation", exercise("ablation").reference)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_checks_work_under_no_grad():
    with torch.no_grad():
        assert check("fgsm", lambda m, x, y, e: (x + e * gradient(m, x, y).sign()).clamp(0, 1))


def test_an_answer_in_words_numbers_and_html():
    result = turned_away("pgd", pgd(project=False))
    text, page = repr(result), result._repr_html_()
    assert "not yet" in text and "got: largest change" in text and "expected: at most 0.3" in text and "hint:" in text
    assert "not yet" in page and "ok" in page and "hint" in page  # the word, not only the colour
    assert "<script" not in check("kl", lambda p, q: ("<script>", 1))._repr_html_()
    with pytest.raises(AssertionError, match="project"):
        result.require()
    assert check("pgd", pgd()).require() is None
