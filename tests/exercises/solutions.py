"""Solutions with a switch for each mistake, and what the tests of several exercises share."""

import torch
import torch.nn.functional as F

from d2rkit.exercises import check
from d2rkit.exercises.checking import NOT_YET


def turned_away(name, solution, *words):
    """The check says no, and its hint has all the words."""
    result = check(name, solution)
    assert not result and result.status == NOT_YET, repr(result)
    for word in words:
        assert word in result.hint, f"{word!r} is not in: {result.hint}"
    return result


def both(function):
    return lambda p, q: (function(p, q), function(p, q) + function(q, p))


def right_kl(p, q):
    p, q = p.log_softmax(1), q.log_softmax(1)
    return (p.exp() * (p - q)).sum(1)


def gradient(model, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


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
