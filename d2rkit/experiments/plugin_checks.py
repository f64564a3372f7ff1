"""What is looked at before something of a user's is registered, and each time it is called: one sentence a fault."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from d2rkit.core.faults import MEMORY, one_line
from d2rkit.core.validation import nearest, shown
from d2rkit.data.arrays import FEWEST, Split
from d2rkit.evaluation.autoattack import FEWEST_CLASSES
from d2rkit.methods.catalogue import GUIDES, PAIR_ATTACKS, Method
from d2rkit.methods.objectives import Logits, Loss
from d2rkit.methods.pair import GuidedPair, eval_mode

if TYPE_CHECKING:
    from d2rkit.data.datasets import ImageData
    from d2rkit.experiments.experiment import Experiment

NAME = re.compile(r"[a-z][a-z0-9]*([.-][a-z0-9]+)*")  # what stands in a run's name


def check_name(kind: str, name: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > 60:
        raise ValueError(f"a {kind} is named with small letters, digits and single hyphens, not {shown(name)}")


def check_facts(facts: Mapping[str, Any]) -> None:
    """The fields of Method but for the objective, each of the type of its default."""
    known = {each.name: each.default for each in fields(Method) if each.name != "objective"}
    for name, value in facts.items():
        if name not in known:
            raise nearest(name, known, "field of a method")
        kind = {"title": str, "options": Mapping, "awp": int | float}.get(name) or type(known[name])
        if not isinstance(value, kind) or (name == "awp" and isinstance(value, bool)):
            raise ValueError(
                f"{name} must be like {'a dict' if known[name] is MISSING else known[name]!r}, not {shown(value)}"
            )
    attack, guide = facts.get("attack", known["attack"]), facts.get("guide", "trained")
    for value, allowed, what in ((attack, PAIR_ATTACKS, "attack"), (guide, GUIDES, "kind of guide")):
        if value not in allowed:
            raise nearest(value, allowed, what)
    if not facts.get("needs_guide") and (PAIR_ATTACKS[attack].with_guide or guide != "trained"):
        raise ValueError(f"attack {attack!r} with a guide that is {guide} takes needs_guide=True")


def check_call(kind: str, name: str, function: Any, *arguments: Any) -> None:
    try:
        inspect.signature(function).bind(*arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the {kind} {name!r} must be a function of {len(arguments)} argument(s): {error}") from error


def try_objective(name: str, method: Method) -> None:
    """On a batch of four examples of three classes, with the logits that a step will have."""
    generator = torch.Generator().manual_seed(0)
    there = (
        method.needs_clean, method.attack != "none", method.needs_guide and method.needs_guide_clean,
        method.needs_guide and method.needs_guide_adv,
    )  # fmt: skip
    logits = [torch.randn(4, 3, generator=generator, requires_grad=True) if each else None for each in there]
    words = f"the objective of method {name!r}"
    try:
        loss = method.loss(
            Logits(*logits), torch.tensor([0, 1, 2, 0]), progress=0.5, class_means=torch.full((3, 3), 1 / 3)
        )
    except Exception as error:
        raise ValueError(
            f"{words} fails on a batch of four examples: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(loss, Loss) or not isinstance(loss.parts, dict) or not loss.parts:
        raise ValueError(f"{words} must return Loss(total, parts), not {shown(loss)}")
    for part, value in {"total": loss.total, **loss.parts}.items():
        if not isinstance(value, Tensor) or value.ndim or not value.isfinite():
            raise ValueError(f"{words} must return finite scalars, but {part} is {shown(value)}")
    if not torch.isclose(loss.total, sum(loss.parts.values(), loss.total.new_zeros(())), rtol=1e-4, atol=1e-6):
        raise ValueError(f"{words} has parts that do not sum to its total, {loss.total.item():.4g}")
    if not loss.total.requires_grad:
        raise ValueError(f"{words} has no gradient: it must be computed from the logits")


def try_attack(name: str, make: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    pair = GuidedPair(*(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)) for _ in range(2))).eval()
    x, y = torch.rand(2, 3, 4, 4, generator=generator), torch.tensor([0, 1])
    start = 0.001 * torch.randn(x.shape, generator=generator)
    adversarial = make(pair, x, y, start=start, guide_share=0.0, eps=0.1, step_size=0.05, steps=1)
    if not isinstance(adversarial, Tensor) or adversarial.shape != x.shape:
        raise ValueError(f"the attack {name!r} must return images like x, not {shown(adversarial)}")
    if not ((adversarial - x).abs().max() <= 0.1 + 1e-6 and adversarial.min() >= 0 and adversarial.max() <= 1):
        raise ValueError(f"the attack {name!r} left the ball of radius eps about x, or the pixels' range [0, 1]")


def guarded(kind: str, name: str, function: Callable, check: Callable[[str, Any], Any] | None = None) -> Callable:
    """`function`, whose errors become sentences that say whose they are, and whose results are checked."""

    @functools.wraps(function, updated=())
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            returned = function(*arguments, **options)
        except (ValueError, OSError, MemoryError):
            raise
        except Exception as error:
            if any(words in str(error) for words in MEMORY):
                raise
            raise ValueError(f"the {kind} {name!r} failed: {type(error).__name__}: {one_line(error)}") from error
        return check(f"the {kind} {name!r}", returned) if check else returned

    return call


def network(words: str, returned: Any) -> nn.Module:
    if not isinstance(returned, nn.Module):
        raise ValueError(f"{words} must be a torch.nn.Module, not {shown(returned)}")
    return returned


def arrays(words: str, loaded: Any) -> tuple[Split, Split, tuple[str, ...], str]:
    """What a loader returned, checked; the images copied, since load_data moves them about."""
    if not isinstance(loaded, tuple) or len(loaded) != 4 or not all(isinstance(each, Split) for each in loaded[:2]):
        raise ValueError(
            f"{words} must be loaded as (train Split, test Split, class names, source), not {shown(loaded)}"
        )
    train, test, names, source = loaded
    names = tuple(map(str, names))
    if len(names) < 2 or not isinstance(source, str) or not source.isprintable():
        raise ValueError(f"{words} needs two classes or more and a source in one line, not {shown(loaded[2:])}")
    for part, split, least in (("train", train, FEWEST), ("test", test, 1)):
        images, labels = split.images, split.labels
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(f"{words}: images of {part} must be uint8 of shape (N, C, H, H), not {shown(images)}")
        if images.shape[1:] != train.images.shape[1:] or images.shape[2] != images.shape[3]:
            raise ValueError(f"{words}: images of {part} must be square and alike, not {tuple(images.shape)}")
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"{words}: labels of {part} must be int64, one an image, not {shown(labels)}")
        if len(images) < least:
            raise ValueError(f"{words} holds {len(images)} images of {part}; at least {least} are needed")
        if labels.min() < 0 or labels.max() >= len(names):
            raise ValueError(f"{words}: labels of {part} must lie in 0..{len(names) - 1}")
    return Split(train.images.clone(), train.labels.clone()), test, names, source


def try_out(experiment: Experiment, pair: GuidedPair, data: ImageData) -> None:
    """ValueError unless both networks turn the data set's images into logits, and its attacks can attack them."""
    images, classes = data.test.pixels(slice(2)), data.num_classes
    if "autoattack" in experiment.attacks and classes < FEWEST_CLASSES:
        words = f"standard AutoAttack needs at least {FEWEST_CLASSES} classes, and {data.name} has {classes}"
        raise ValueError(f"{words}: leave it out of attacks")
    for net in filter(None, (pair.target, pair.guide)):
        try:
            with eval_mode(net), torch.no_grad():
                logits = net(images)
        except Exception as error:
            words = f"a network fails on images of shape {tuple(images.shape)}"
            raise ValueError(f"{words}: {type(error).__name__}: {one_line(error)}") from error
        if not isinstance(logits, Tensor) or logits.shape != (len(images), classes):
            raise ValueError(f"a network must return logits of shape ({len(images)}, {classes}), not {shown(logits)}")
