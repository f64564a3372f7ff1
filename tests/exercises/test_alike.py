"""Whose code is alike: copies are found however they are disguised, and solutions written one by one are not."""

import re
from itertools import combinations

import pytest

from d2rkit.exercises.alike import alike, similarity, tokens
from d2rkit.exercises.settings import threshold
from tests.exercises.a_class import solution

THRESHOLD, SHORTEST = threshold("alike_share"), threshold("alike_tokens")
# PGD as five people wrote it.
PGD = {
    "notebook": solution("pgd"),
    "minimum of deltas": """
def my_pgd(model, x, y, eps, step_size, steps):
    mode = model.training
    model.eval()
    delta = torch.zeros_like(x, requires_grad=True)
    for step in range(steps):
        loss = F.cross_entropy(model(x + delta), y)
        loss.backward()
        with torch.no_grad():
            delta += step_size * delta.grad.sign()
            delta.clamp_(-eps, eps)
            delta.copy_((x + delta).clamp(0, 1) - x)
        delta.grad.zero_()
    model.train(mode)
    return (x + delta).detach()
""",
    "clip": """
def my_pgd(model, x, y, eps, step_size, steps):
    training = model.training
    model.train(False)
    lower = torch.clip(x - eps, min=0)
    upper = torch.clip(x + eps, max=1)
    current = x.clone().detach()
    for i in range(steps):
        current.requires_grad = True
        gradient = torch.autograd.grad(F.cross_entropy(model(current), y), [current])[0]
        with torch.no_grad():
            current = current + step_size * torch.sign(gradient)
            current = torch.max(torch.min(current, upper), lower)
    model.train(training)
    return current
""",
    "helpers": """
def gradient_of(model, x, y):
    x = x.clone().requires_grad_(True)
    F.cross_entropy(model(x), y).backward()
    return x.grad


def my_pgd(model, x, y, eps, step_size, steps):
    was = model.training
    model.eval()
    adv = x
    while steps > 0:
        adv = adv + step_size * gradient_of(model, adv, y).sign()
        adv = x + (adv - x).clamp(-eps, eps)
        adv = adv.clamp(0.0, 1.0)
        steps -= 1
    if was:
        model.train()
    return adv
""",
    "try": """
def my_pgd(model, x, y, eps, step_size, steps):
    state = model.training
    try:
        model.eval()
        z = x.detach().clone()
        for _ in range(steps):
            z = z.detach()
            z.requires_grad_()
            nll = -torch.log_softmax(model(z), dim=1)[torch.arange(len(y)), y].sum()
            g = torch.autograd.grad(nll, z)[0]
            z = (z + step_size * g.sign()).detach()
            z = torch.clamp(z, x - eps, x + eps)
            z = torch.clamp(z, 0, 1)
        return z
    finally:
        model.train(state)
""",
}
KL = {
    "notebook": solution("kl"),
    "probabilities": """
def my_kl(p_logits, q_logits):
    p = torch.softmax(p_logits, dim=1)
    q = torch.softmax(q_logits, dim=1)
    lp = torch.log_softmax(p_logits, dim=1)
    lq = torch.log_softmax(q_logits, dim=1)
    kl = torch.sum(p * (lp - lq), dim=1)
    return kl, kl + torch.sum(q * (lq - lp), dim=1)
""",
    "library": """
def my_kl(p_logits, q_logits):
    def direction(a, b):
        return F.kl_div(F.log_softmax(b, -1), F.log_softmax(a, -1), log_target=True, reduction="none").sum(-1)

    one = direction(p_logits, q_logits)
    other = direction(q_logits, p_logits)
    return one, one + other
""",
    "jeffreys": """
def my_kl(p_logits, q_logits):
    log_ratio = p_logits.log_softmax(1) - q_logits.log_softmax(1)
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    kl = (p * log_ratio).sum(dim=1)
    symmetric = ((p - q) * log_ratio).sum(dim=1)
    return kl, symmetric
""",
}


def disguised(code):
    """Other names, comments, layout, a docstring."""
    code = code.replace("x_adv", "perturbed").replace("gradient", "g").replace("was_training", "m")
    code = code.replace("delta", "noise").replace("current", "z").replace("log_p", "a").replace("log_q", "b")
    code = (
        code.replace(":\n", ":  # my own work\n", 1)
        .replace("(model", "( model")
        .replace("\n    return", "\n\n\n    return")
    )
    return code


@pytest.mark.parametrize("codes", [PGD, KL], ids=["pgd", "kl"])
def test_solutions_written_one_by_one_stay_well_below_the_threshold(codes):
    shares = [similarity(tokens(a), tokens(b)) for a, b in combinations(codes.values(), 2)]
    assert max(shares) < 0.7 < THRESHOLD - 0.15 and min(len(tokens(code)) for code in codes.values()) >= SHORTEST


@pytest.mark.parametrize("code", [*PGD.values(), *KL.values()])
def test_a_disguised_copy_is_the_same(code):
    assert disguised(code) != code and tokens(disguised(code)) == tokens(code)


def test_a_line_more_does_not_hide_a_copy():
    for name, code in PGD.items():
        longer = re.sub(r"^( +)(\w+ = )", r"\1count = 0\n\1\2", code, count=1, flags=re.M)
        assert longer.count("\n") > code.count("\n")
        assert similarity(tokens(code), tokens(longer)) > 0.95 > THRESHOLD, name


def test_copies_are_named_and_nobody_else_is():
    class_of = [(name, {"pgd": code, "kl": KL["notebook"]}) for name, code in PGD.items()]
    class_of += [("copy", {"pgd": disguised(PGD["clip"])}), ("another", {"pgd": disguised(PGD["clip"])})]
    groups = {one.exercise: one for one in alike(class_of)}
    assert groups["pgd"].students == ("another", "clip", "copy") and groups["pgd"].share == 1
    assert groups["kl"].students == tuple(sorted(PGD))  # a class of five that hands in the same


def test_what_most_of_a_class_has_marks_nobody():
    (one,) = alike([(f"s{i}", {"kl": KL["notebook"] if i < 4 else list(KL.values())[i - 3]}) for i in range(7)])
    assert one.common and len(one.students) == 4


def test_short_code_and_no_code_are_not_compared():
    assert alike([(f"s{i}", {"kl": "def f(p, q):\n    return p, q\n"}) for i in range(3)]) == ()
    for text in ("", "def f(:", "\x00", "(" * 1000, "  x = 1"):
        assert tokens(text) == ()


@pytest.mark.parametrize("code", ["-" * 100_000 + "1", "x" + ".a" * 100_000], ids=["signs", "attributes"])
def test_code_that_python_cannot_take_in_is_not_compared(code):
    assert tokens(f"def f(x):\n    return {code}\n") == ()


def test_very_long_code_costs_no_more_than_long_code():
    """Comparing takes the square of the length; a file may have 16 MiB."""
    code = "def f(x):\n" + "".join(f"    a{i} = x + {i} * x\n" for i in range(3000))
    assert len(tokens(code)) == len(tokens(code + code)) <= 2000
    shorter = "def f(x):\n" + "".join(f"    a{i} = x + {i} * x\n" for i in range(200))
    assert len(tokens(shorter)) > 1000


@pytest.mark.filterwarnings("error")
def test_what_python_warns_of_in_code_is_the_students_affair():
    assert tokens("def f(x):\n    return x + '\\d'\n")
