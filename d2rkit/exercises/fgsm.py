"""Exercise 3: the fast gradient sign method."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.exercises import probes
from d2rkit.exercises.checking import Exercise, Step, compare, functions
from d2rkit.exercises.settings import threshold
from d2rkit.methods import attacks


def reference(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """x + eps sign(gradient of CE), cut to [0, 1]; x: (B, C, H, W), y: (B,), eps in pixel scale."""
    return attacks.fgsm(model, x, y, eps=eps)


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    model, x, y = probes.network(), probes.images(), probes.labels()
    for eps in (0.1, 8 / 255):
        given, twin = x.clone(), probes.twin(model)
        x_adv = solution(twin, given, y.clone(), eps)
        yield from probes.inside(x_adv, given, x, eps)
        expected = reference(model, x, y, eps)
        hint = "one step of size eps along the sign of the gradient of the cross-entropy with respect to x"
        yield compare(
            f"adversarial images at eps = {eps:.3f}",
            x_adv,
            expected,
            _mistakes(model, x, y, eps),
            hint,
            threshold("fgsm_share"),
        )
    touched = any(not torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    yield Step(
        "the weights are unchanged", not touched, "weights changed", "unchanged weights", "change x, not the weights"
    )
    still = solution(probes.twin(model), x.clone(), y.clone(), 0.0)
    yield compare("eps = 0 changes nothing", still, x, {}, "is eps really the size of the step?")


def _mistakes(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> dict[str, Callable[[], Tensor]]:
    gradient = input_gradient(model, x, y)

    def step(direction: Tensor, size: float = eps) -> Tensor:
        return (x + size * direction).clamp(0, 1)

    def with_argmax() -> Tensor:
        return step(input_gradient(model, x, model(x).argmax(1)).sign())

    return {
        "the image did not move: is eps in the wrong scale (divided by 255 again), or is the step missing?": (
            lambda: step(gradient.sign(), eps / 255)
        ),
        "the sign of the step is wrong: the loss went down; an attack climbs": lambda: step(-gradient.sign()),
        "the gradient itself is tiny: FGSM uses its sign, so that every pixel moves by eps": lambda: step(gradient),
        "the step is scaled to L2 norm eps; L-infinity takes the sign": lambda: step(
            gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        ),
        "eps is an argument: your step is 8/255 whatever eps is": lambda: step(gradient.sign(), 8 / 255),
        "the cross-entropy must use the true labels y, not the prediction": with_argmax,
        "the image did not move: add eps times the sign of the gradient": lambda: x,
    }


def input_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


EXERCISE = Exercise("fgsm", "FGSM", 15, "my_fgsm(model, x, y, eps)", probe, reference)
