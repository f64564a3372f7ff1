"""Attacks: typical mistakes are turned away with a hint that fits."""

import pytest
import torch
import torch.nn.functional as F

from d2rkit.exercises import cag as cag_module
from d2rkit.exercises import check, probes
from d2rkit.exercises import fgsm as fgsm_module
from d2rkit.exercises import pgd as pgd_module
from d2rkit.exercises.checking import agree
from d2rkit.methods import attacks
from tests.exercises.solutions import gradient, pgd, right_kl, turned_away

# ---- fgsm


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
    "trains": (trains_the_network, "change x, not the weights"),
    "returns the change": (lambda m, x, y, e: e * gradient(m, x, y).sign(), "perturbation alone"),
    "no gradient": (lambda m, x, y, e: torch.autograd.grad(m(x).sum(), x)[0], "RuntimeError", "your code stopped"),
    "one number": (lambda m, x, y, e: gradient(m, x, y).mean(), "shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", FGSM)
def test_fgsm_mistakes(case):
    turned_away("fgsm", *FGSM[case])


# ---- pgd, with one switch for each mistake


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
