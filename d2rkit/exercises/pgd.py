"""Exercise 4: projected gradient descent, with its projection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from d2rkit.exercises import probes
from d2rkit.exercises.checking import Exercise, Step, compare, functions
from d2rkit.exercises.fgsm import input_gradient
from d2rkit.exercises.settings import threshold
from d2rkit.methods import attacks

BUDGET = {"eps": 0.3, "step_size": 0.08, "steps": 6}  # wide enough for the mistakes to lead elsewhere


def reference(model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
    """PGD on CE from x itself: x (B, C, H, W) in [0, 1], eps and step_size in pixel scale. The network
    attacks in eval mode and is afterwards as it was (Madry et al. 2018)."""
    return attacks.pgd_ce(model, x, y, eps=eps, step_size=step_size, steps=steps)


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    model, x, y = probes.network(1), probes.images(seed=2), probes.labels()
    for budget in (BUDGET, BUDGET | {"steps": 1}, {"eps": 8 / 255, "step_size": 2 / 255, "steps": 5}):
        given, twin = x.clone(), probes.twin(model, training=True)
        before = probes.modes(twin)
        x_adv = solution(twin, given, y.clone(), **budget)
        yield from probes.inside(x_adv, given, x, budget["eps"])
        yield compare(
            f"adversarial images at eps {budget['eps']:.3f}, {budget['steps']} steps", x_adv,
            reference(model, x, y, **budget), _mistakes(model, x, y, **budget),
            "each step: gradient at the current image, x_adv + step_size * sign, project, clamp",
            threshold("pgd_share"),
        )  # fmt: skip
        yield Step(
            "the network's mode is restored", probes.modes(twin) == before, "mode changed", "train mode, as it came",
            "the network came in train mode and was left in eval mode, in which training would go on: put it back",
        )  # fmt: skip
        same = all(torch.equal(a, b) for a, b in zip(model.buffers(), twin.buffers(), strict=True))
        hint = "BatchNorm statistics changed: train mode was left on while the attack called the network"
        yield Step("BatchNorm statistics are unchanged", same, "running statistics changed", "as they were", hint)


def _mistakes(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int
) -> dict[str, Callable[[], Tensor]]:
    def loop(
        count=steps, size=step_size, radius=eps, sign=1.0, training=False, direction=torch.sign, around_last=False
    ):
        network, x_adv = probes.twin(model, training), x
        for _ in range(count):
            centre = x_adv if around_last else x
            moved = x_adv + sign * size * direction(input_gradient(network, x_adv, y))
            x_adv = attacks.project(moved, centre, radius)
        return x_adv

    def stale() -> Tensor:
        return attacks.project(x + steps * step_size * input_gradient(model, x, y).sign(), x, eps)

    mistakes = {
        "train mode was left on: BatchNorm then uses the batch's statistics; attack in eval mode": (
            lambda: loop(training=True)
        ),
        "the sign is wrong: you descend the loss; an attack climbs": lambda: loop(sign=-1.0),
        "the sign is missing: L-infinity steps use sign(gradient), so every pixel moves by step_size": lambda: loop(
            direction=lambda g: g
        ),
        "each step has size eps: use step_size": lambda: loop(size=eps),
        "the scale of eps or step_size is wrong: both are in pixel scale already, do not divide by 255": lambda: loop(
            size=step_size / 255
        ),
        "do not divide eps by 255: it is in pixel scale already": lambda: loop(radius=eps / 255),
        "the image did not move: does the loop use its own result?": lambda: x,
    }
    if steps > 1:
        mistakes |= {
            "only one step was taken: start the next step from the last x_adv": lambda: loop(count=1),
            "the gradient is stale: recompute it at the current x_adv in every step": stale,
            "one step is missing: the loop must run `steps` times": lambda: loop(count=steps - 1),
            "the projection is around the last image, not around the clean x": lambda: loop(around_last=True),
        }
    return mistakes


EXERCISE = Exercise("pgd", "PGD with projection", 20, "my_pgd(model, x, y, eps, step_size, steps)", probe, reference)
