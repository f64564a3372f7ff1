"""Exercise 5: collaborative adversarial generation, the attack that listens to the guide."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.exercises import probes
from d2rkit.exercises.checking import Exercise, Step, compare, functions
from d2rkit.exercises.settings import threshold
from d2rkit.methods import attacks
from d2rkit.methods.divergences import kl

BUDGET = {"eps": 0.3, "step_size": 0.06, "steps": 8}  # wide enough for the mistakes to lead elsewhere


def reference(
    target: nn.Module, guide: nn.Module, x: Tensor, eps: float, step_size: float, steps: int, start: Tensor
) -> Tensor:
    """Ascend KL(p_g(x) || p_f(x')) from x + start; both networks in eval mode and afterwards as they were."""
    return attacks.cag(target, guide, x, eps=eps, step_size=step_size, steps=steps, start=start)


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    target, guide, x = probes.network(4), probes.network(15), probes.images(seed=5)
    start = 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(6))
    for budget in (BUDGET, BUDGET | {"steps": 1}):
        f, g, given = probes.twin(target, training=True), probes.twin(guide, training=True), x.clone()
        before, calls = probes.modes(f, g), []
        g.register_forward_hook(lambda module, inputs, output, calls=calls: calls.append(1))
        x_adv = solution(f, g, given, **budget, start=start.clone())
        yield from probes.inside(x_adv, given, x, budget["eps"])
        yield compare(
            f"adversarial images, {budget['steps']} step(s)", x_adv, reference(target, guide, x, **budget, start=start),
            _mistakes(target, guide, x, **budget, start=start),
            "compute the soft labels p_g(x) once, then run PGD on KL(p_g(x) || p_f(x')), starting at x + start",
            threshold("cag_share"),
        )  # fmt: skip
        yield Step(
            "both networks are back in train mode", probes.modes(f, g) == before, "mode changed", "train mode",
            "attack in eval mode, then put target and guide back into train mode",
        )  # fmt: skip
        hint = "p_g(x) does not change during the attack: compute it once, before the loop (same numbers, faster)"
        yield Step("the guide is queried once", len(calls) == 1, f"{len(calls)} forwards of the guide", "1", hint)


def _mistakes(
    target: nn.Module, guide: nn.Module, x: Tensor, eps: float, step_size: float, steps: int, start: Tensor
) -> dict[str, Callable[[], Tensor]]:
    def loop(
        objective: Callable[[nn.Module, nn.Module, Tensor], Tensor], first: Tensor = start,
        training: tuple[bool, bool] = (False, False),
    ):  # fmt: skip
        f, g = probes.twin(target, training[0]), probes.twin(guide, training[1])
        budget = {"eps": eps, "step_size": step_size, "steps": steps}
        return attacks.pgd(lambda x_adv: objective(f, g, x_adv), x, **budget, start=first)

    def right(f: nn.Module, g: nn.Module, x_adv: Tensor) -> Tensor:
        return kl(g(x).detach(), f(x_adv)).sum()

    zero = torch.zeros_like(x)
    return {
        "train mode was left on: BatchNorm then uses the batch's statistics; attack in eval mode": (
            lambda: loop(right, training=(True, True))
        ),
        "train mode was left on in the target: attack with both networks in eval mode": (
            lambda: loop(right, training=(True, False))
        ),
        "train mode was left on in the guide: query it in eval mode, like the target": (
            lambda: loop(right, training=(False, True))
        ),
        "the direction is wrong: that climbs KL(p_f(x') || p_g(x)); the guide's prediction comes first": lambda: loop(
            lambda f, g, x_adv: kl(f(x_adv), g(x).detach()).sum()
        ),
        "the guide's prediction is recomputed on x': it must stay p_g(x), on the clean image, with no gradient": (
            lambda: loop(lambda f, g, x_adv: kl(g(x_adv).detach(), f(x_adv)).sum())
        ),
        "the gradient flows through the guide: p_g is a constant, computed on the clean x without a gradient": (
            lambda: loop(lambda f, g, x_adv: kl(g(x_adv), f(x_adv)).sum())
        ),
        "that is the TRADES attack, KL(p_f(x) || p_f(x')): the soft label is the guide's, not the target's": (
            lambda: loop(lambda f, g, x_adv: kl(f(x).detach(), f(x_adv)).sum())
        ),
        "that attacks the guide: the gradient must go through the target f(x')": lambda: loop(
            lambda f, g, x_adv: kl(f(x).detach(), g(x_adv)).sum()
        ),
        "that uses hard labels: the whole distribution p_g(x) is the label, not its argmax": lambda: loop(
            lambda f, g, x_adv: F.cross_entropy(f(x_adv), g(x).argmax(1))
        ),
        "the sign is wrong: KL got smaller; an attack climbs": lambda: loop(lambda f, g, x_adv: -right(f, g, x_adv)),
        "the start is missing: the first gradient is taken at x + start": lambda: loop(right, first=zero),
        "the image hardly moved: do the steps add step_size * sign(gradient)?": lambda: attacks.project(
            x + start, x, eps
        ),
    }


EXERCISE = Exercise(
    "cag", "Collaborative adversarial generation", 20, "my_cag(target, guide, x, eps, step_size, steps, start)",
    probe, reference,
)  # fmt: skip
