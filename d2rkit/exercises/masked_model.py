"""Exercise 8: three models, one of which only looks robust because its gradients are masked."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.exercises.checking import Exercise, Step, functions, one_thread, short
from d2rkit.exercises.settings import threshold
from d2rkit.methods import attacks
from d2rkit.networks.architectures import build_model

EPS = 0.15  # pixel scale; large, because 8x8 digits are coarse
COUNT = 150  # test images
NAMES = ("amber", "birch", "cedar")


class Suspects(NamedTuple):
    """models: name -> network in eval mode; x: (N, 1, 8, 8) in [0, 1]; y: (N,); eps in pixel scale."""

    models: dict[str, nn.Module]
    x: Tensor
    y: Tensor
    eps: float


def suspects(shuffle: int = 0) -> Suspects:
    """The three models under the names amber, birch and cedar; another `shuffle` gives the names away anew."""
    names: list[str] = list(NAMES)
    random.Random(shuffle).shuffle(names)
    test = load_data("digits").test
    models = dict(sorted(zip(names, _trained(), strict=True)))
    return Suspects(models, test.pixels(slice(COUNT)), test.labels[:COUNT], EPS)


def masked_name(shuffle: int = 0) -> str:
    names = list(NAMES)
    random.Random(shuffle).shuffle(names)
    return names[0]


class Sharp(nn.Module):
    """The same decisions, with logits so large that softmax saturates and CE has no gradient in float32
    (the effect behind defensive distillation: Carlini & Wagner 2017)."""

    def __init__(self, network: nn.Module, factor: float = 1e4):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.network(x)


@lru_cache(maxsize=1)
def _trained() -> tuple[nn.Module, nn.Module, nn.Module]:
    """Masked, undefended, adversarially trained: MLPs on digits, about two seconds."""
    with torch.random.fork_rng(devices=[]), one_thread():
        return Sharp(_train(seed=1, eps=0.0)).eval(), _train(seed=2, eps=0.0), _train(seed=3, eps=EPS)


def _train(seed: int, eps: float) -> nn.Module:
    torch.manual_seed(seed)
    train = load_data("digits").train
    x, y = train.pixels(), train.labels
    model = build_model("mlp-64", 10, image_size=64, channels=1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150 if eps else 100):
        index = torch.randint(len(y), (256,))
        images = x[index]
        if eps:
            images = attacks.pgd_ce(model, images, y[index], eps=eps, step_size=eps / 2, steps=5)
        loss = F.cross_entropy(model(images), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def reference(models: Mapping[str, nn.Module], x: Tensor, y: Tensor, eps: float) -> dict:
    """The model whose accuracy falls most from PGD-20 to the better of two other attacks: the margin loss and
    images made against the other models. {"masked": name, "pgd": {name: share}, "stronger": {name: share}}."""
    pgd, stronger = {}, {}
    for name, model in models.items():
        evaluation = evaluate(model, (x, y), ("pgd20", "cw20"), eps)
        pgd[name], stronger[name] = evaluation.accuracy("pgd20"), evaluation.accuracy("cw20")
        for other in models.values():
            x_adv = attacks.pgd_ce(other, x, y, eps=eps, step_size=eps / 4, steps=20)
            with torch.no_grad():
                stronger[name] = min(stronger[name], (model(x_adv).argmax(1) == y).float().mean().item())
    return {"masked": max(models, key=lambda name: pgd[name] - stronger[name]), "pgd": pgd, "stronger": stronger}


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    least = threshold("masked_model_drop")
    for shuffle in (0, 1):  # other names the second time: a name typed by hand cannot be right twice
        case, right = suspects(shuffle), masked_name(shuffle)
        answer = solution(dict(case.models), case.x.clone(), case.y.clone(), case.eps)
        yield from _form(answer, case.models)
        truth = _truth(shuffle)
        yield from _evidence(answer, truth, case)
        named = answer["masked"]
        yield Step(f"the masked model, names dealt {shuffle + 1} of 2", named == right, repr(named), "another one",
                   _name_hint(named, truth, shuffle))  # fmt: skip
        drop = answer["pgd"][named] - answer["stronger"][named]
        hint = (
            "your stronger attack finds hardly any more adversarial examples than PGD-20, so it proves nothing: PGD "
            "follows the gradient of cross-entropy; what if that is 0? Try the margin loss (attacks.cw) or images made "
            "against another model"
        )
        yield Step(f"it loses {least} to the stronger attack", drop >= least, short(drop), f"at least {least}", hint)


def _form(answer: Any, models: Mapping[str, nn.Module]) -> Iterator[Step]:
    keys = {"masked", "pgd", "stronger"}
    right = isinstance(answer, Mapping) and keys <= set(answer)
    hint = "return a dict with masked, pgd and stronger; is a `return` missing?"
    yield Step("returns a name and two sets of accuracies", right, type(answer).__name__, "masked, pgd, stronger", hint)
    hint = "masked is the name of one of the models that came in (a key of `models`)"
    yield Step("a name from the list", answer["masked"] in models, repr(answer["masked"]), ", ".join(models), hint)
    for key in ("pgd", "stronger"):
        given = answer[key]
        complete = isinstance(given, Mapping) and set(given) == set(models)
        hint = f"{key} holds one accuracy for each model, also for those you clear: they are the controls"
        yield Step(f"{key}: a number for every model", complete, short(given), ", ".join(models), hint)
        numbers = [float(v) for v in given.values()]
        percent = max(numbers) > 1
        hint = "these look like percentages: give shares in [0, 1]" if percent else "accuracies lie in [0, 1]"
        yield Step(f"{key}: shares", all(0 <= v <= 1 for v in numbers), short(max(numbers)), "in [0, 1]", hint)


@lru_cache(maxsize=4)
def _truth(shuffle: int) -> dict:
    return reference(*suspects(shuffle))


def _evidence(answer: Mapping, truth: Mapping, case: Suspects) -> Iterator[Step]:
    """The numbers must be measurements: PGD-20 near ours, the stronger attack not better than any we know."""
    noise = 3 * 0.5 / math.sqrt(len(case.y))
    for name in case.models:
        got, expected = answer["pgd"][name], truth["pgd"][name]
        hint = (
            f"PGD-20 here means 20 steps of eps/4 from a random start at eps = {case.eps}, on all images "
            "(evaluate(model, (x, y), ('pgd20',), eps)): is eps in another scale, or the model in train mode?"
        )
        yield Step(f"pgd: {name} can be reproduced", abs(got - expected) <= noise, short(got), short(expected), hint)
        got, least = answer["stronger"][name], truth["stronger"][name]
        hint = (
            "no attack of the kit gets the accuracy that low: are the images inside the eps-ball and in [0, 1]? "
            "Any model falls if eps is larger"
        )
        yield Step(
            f"stronger: {name} stays within eps", got >= least - noise, short(got), f"about {least:.2f} or more", hint
        )


def _name_hint(named: str, truth: Mapping, shuffle: int) -> str:
    if truth["pgd"][named] == min(truth["pgd"].values()):
        return (
            "that model falls to plain PGD: it is undefended and does not hide it. Masked means: high under PGD, "
            "low under an attack that does not need the gradient of cross-entropy"
        )
    if shuffle:
        return "the names were dealt anew, and your answer did not follow the models: decide from the numbers"
    return (
        "that model's accuracy hardly changes between attacks, so it is robust as far as anyone can tell. "
        "Look for the largest fall from PGD-20 to another attack"
    )


EXERCISE = Exercise("masked_model", "Find the masked model", 30, "find_masked(models, x, y, eps)", probe, reference)
