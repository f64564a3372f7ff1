"""Recipe: everything that decides the weights that come out of training, apart from data and networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from d2rkit.core.validation import nearest
from d2rkit.methods.catalogue import Method, get_method

SCHEDULES = ("cosine", "released", "constant")
UPDATES = ("joint", "two-step")
SPEEDS = ("exact", "fast")
PRECISIONS = ("32-true", "bf16-mixed")
LossOption = float | str | bool


@dataclass(frozen=True)
class Recipe:
    """Training recipe: everything besides data and networks that determines the trained weights."""

    method: str = "d2r-cag"
    """E.g. pgd-at, trades, lbgat0, d2r-cag (symmetric) or d2r-cag-released; an unknown name lists them all."""
    seed: int = 0
    """Seeds the initial weights, the order of images, augmentation and the attack's random start."""
    epochs: int = 100
    """Passes over the training images."""
    batch_size: int = 128
    """Images of a step of the optimiser."""
    micro_batch: int = 0
    """Images forwarded at once, gradients being added up to batch_size: for small cards; 0 for the whole batch.
    BatchNorm, the released gap and adversarial weight perturbation then see so many images, not the batch."""
    lr: float = 0.1
    """Peak learning rate of SGD; 0.1 as released, less where training is stuck at chance."""
    schedule: str = "cosine"
    """cosine, released (steps at 75 % and 90 % of the epochs, first epoch at a fifth), constant."""
    warmup: float = 0.0
    """Epochs of linear warm-up from 0 (cosine only); guards D2R against an early collapse."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """2e-4 as released; 5e-4 gives TRADES about 0.7 AutoAttack points more in published runs."""
    eps: float = 8 / 255
    """Radius of the L-infinity ball in training, pixel scale."""
    step_size: float = 2 / 255
    """Step of the training attack, pixel scale."""
    steps: int = 10
    """Steps of the training attack."""
    loss: Mapping[str, LossOption] = field(default_factory=dict)
    """Options of the method's objective to change, e.g. w_clean 2.0 or beta 3."""
    update: str = "joint"
    """joint: one step on the whole loss, as released; two-step: the adversarial terms, then the clean ones."""
    guide_share: float = 0.0
    """Share of CE(g(x'), y) in CAG's objective."""
    guide_warmup: int = 0
    """Epochs, before the others, in which the guide trains alone on clean images; on attacked ones where the method
    freezes it afterwards, as RSLAD, AdaAD, IAD-I and DGAD do."""
    awp_warmup: int = 10
    """Epochs before a method with adversarial weight perturbation begins to perturb."""
    padding: int = 4
    """Random crops after padding by so many pixels."""
    flip: bool = True
    """Random left-right flips."""
    ema: float = 0.0
    """Decay a step of an average of the target's weights, which then is what is evaluated; 0 for none."""
    precision: str = "32-true"
    """32-true or bf16-mixed; evaluation is always float32."""
    speed: str = "exact"
    """exact, or fast: networks are laid out for the device, and the training attack runs through copies with BatchNorm
    folded into convolutions. Equal up to rounding, so single signs of the attack can differ where a gradient is
    about 0, and weights of a long training differ as they do between two machines."""
    compile: bool = False
    """With speed fast: the attack's copies compiled by torch.compile (on a GPU as CUDA graphs), equal up to rounding.
    Takes half a minute at first; whether it pays, benchmarks/step.py --compile tells. A CPU needs a C++ compiler."""
    val_steps: int = 10
    """Steps of the PGD attack on the validation images by which the best epoch is chosen."""

    def __hash__(self) -> int:
        """Of every setting; loss options, a mapping, in no order."""
        values = (getattr(self, each.name) for each in fields(self))
        return hash(tuple(frozenset(v.items()) if isinstance(v, Mapping) else v for v in values))

    def check(self) -> Method:
        """The method; ValueError, in one sentence, for a value that makes no sense."""
        check_types(self)
        method = get_method(self.method)
        method.check_options(self.loss)
        for value, allowed, what in (
            (self.schedule, SCHEDULES, "schedule"),
            (self.update, UPDATES, "update"),
            (self.precision, PRECISIONS, "precision"),
            (self.speed, SPEEDS, "speed"),
        ):
            if value not in allowed:
                raise nearest(value, allowed, what)
        for name in ("epochs", "batch_size", "lr", "eps", "step_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        counts = ("steps", "warmup", "guide_warmup", "awp_warmup", "padding", "val_steps", "micro_batch")
        for name in (*counts, "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("guide_share", "momentum", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")
        if self.update == "two-step" and ("variant" not in method.options or method.awp):
            raise ValueError(f"update two-step splits the plain D2R loss; {method.title} is not that")
        if self.update == "two-step" and self.micro_batch:
            raise ValueError("update two-step takes the whole batch at once; set micro_batch to 0")
        if self.guide_warmup and method.guide == "average":
            raise ValueError(f"the guide of {method.title} is an average of the target; set guide_warmup to 0")
        if self.compile and self.speed != "fast":
            raise ValueError("compile is of the copies that speed fast attacks; set speed to fast")
        if self.eps > 1:
            raise ValueError(f"eps is in pixel scale, e.g. 8/255 = 0.0314, not {self.eps}")
        return method


# What a field may hold, by its annotation, and how a sentence calls that. A bool is an int to Python, not to us.
NUMBERS = {"int": (int, "a whole number"), "float": ((int, float), "a number")}
KINDS = NUMBERS | {
    "bool": (bool, "true or false"),
    "str": (str, "a word"),
    "tuple[str, ...]": (tuple, "a list of words"),
}
LARGEST = 2**31 - 1  # of whole numbers: seeds are multiplied, and no count comes near


def check_types(settings: Any) -> None:
    """ValueError, in one sentence, for a field of the dataclass `settings` of another type than it says, or for a
    number that is not finite or beyond any use."""
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name == "loss":
            _check_loss(value)
            continue
        kind, words = KINDS.get(str(each.type), (Mapping, "digests by name"))
        if not isinstance(value, kind) or (each.type in NUMBERS and isinstance(value, bool)):
            raise ValueError(f"{each.name} must be {words}, not {_shown(value)}")
        if each.type in NUMBERS:
            _check_number(each.name, value)
        for word in value if isinstance(value, tuple) else ():
            if not isinstance(word, str):
                raise ValueError(f"{each.name} must be {words}, not {_shown(value)}")


def _check_loss(loss: Any) -> None:
    if not isinstance(loss, Mapping):
        raise ValueError(f"loss must be options of the objective by name, e.g. beta 3, not {_shown(loss)}")
    for name, value in loss.items():
        if not isinstance(name, str) or not isinstance(value, int | float | str):
            raise ValueError(f"loss option {_shown(name)} must be a number, a word, true or false, not {_shown(value)}")
        if isinstance(value, int | float):
            _check_number(f"loss option {name}", value)


def _check_number(name: str, value: float) -> None:
    if isinstance(value, float) and not abs(value) < 1e300:  # no NaN, and not what a sum would make infinite
        raise ValueError(f"{name} must be a finite number, not {value}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"{name} must lie between -{LARGEST} and {LARGEST}, not {_shown(value)}")


def _shown(value: Any) -> str:
    """A value in one short line, whatever its own way to be shown does."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of anyone's class, or of a number too long to be written
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Learning rate at a moment of training, counted in epochs from 0."""
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "released":  # 0.02, then 0.1, 0.01 from epoch 76, 0.001 from epoch 91 of 100
        whole = math.floor(epoch)
        if whole < 1:
            return recipe.lr * 0.2
        done = whole / recipe.epochs
        return recipe.lr * (1.0 if done < 0.75 else 0.1 if done < 0.9 else 0.01)
    if epoch < recipe.warmup:
        return recipe.lr * epoch / recipe.warmup
    done = (epoch - recipe.warmup) / max(recipe.epochs - recipe.warmup, 1e-9)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def generator_for(purpose: str, seed: int, device: torch.device | str = "cpu", rank: int = 0) -> torch.Generator:
    """A generator of its own for each purpose, so that changing one use of randomness leaves the others be."""
    offset = {"init": 0, "shuffle": 1, "augment": 2, "attack": 3}[purpose]
    return torch.Generator(device).manual_seed((seed * 1_000_003 + offset) * 1_009 + rank)
