"""What the checks try solutions on: images and networks so small that a check takes milliseconds."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from d2rkit.exercises.checking import Step, returned, short
from d2rkit.networks.architectures import SmallCNN

CLASSES = 4


def images(count: int = 6, seed: int = 0) -> Tensor:
    """(count, 1, 8, 8) in [0, 1]; many pixels are exactly black or white, so that a missing clamp shows."""
    noise = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return ((noise - 0.3) * 2.5).clamp(0, 1)


def labels(count: int = 6) -> Tensor:
    return torch.arange(count) % CLASSES


def network(seed: int = 0) -> nn.Module:
    """A random CNN in eval mode. Its BatchNorm statistics are not those of `images`: train mode shows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallCNN(4, CLASSES)
        with torch.no_grad():
            for norm in cast(Iterable[Any], model.norms):
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.3, 1.5)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
            model.linear.weight.mul_(4)  # clear opinions, so that KL terms are not all near 0
    return model.eval()


def twin(model: nn.Module, training: bool = False) -> nn.Module:
    """A copy for one call: whatever a solution does to it, the next call sees a fresh one."""
    return copy.deepcopy(model).train(training)


def modes(*models: nn.Module) -> list[bool]:
    return [module.training for model in models for module in model.modules()]


def inside(x_adv: Tensor, x: Tensor, untouched: Tensor, eps: float) -> Iterator[Step]:
    """What every attack promises: x is left alone, no graph comes along, pixels in [0, 1], nothing outside the ball."""
    yield returned("returns images of the same shape", x_adv, tuple(untouched.shape))
    moved = not torch.equal(x, untouched)
    yield Step(
        "the clean images are unchanged", not moved, "x was changed", "x unchanged",
        "x itself was changed in place (x += …, x.clamp_(…)): work on a copy, e.g. x_adv = x.clone()",
    )  # fmt: skip
    low, high = x_adv.min().item(), x_adv.max().item()
    distance = (x_adv.detach() - untouched).abs().max().item()
    words = f"pixels in [{low:.3f}, {high:.3f}]"
    if x_adv.detach().abs().max().item() <= 1.001 * eps < 1:
        hint = "that is the perturbation alone: add it to x and return the image"
        yield Step("inside the eps-ball", False, short(x_adv), "images, not their change", hint)
    if distance > min(8 * eps, 0.9):  # a wrong scale may leave [0, 1] too, but the clamp is not what is wrong
        hint = (
            f"the image moved by {distance:.3g}, eps is {eps:.3g}: eps is in pixel scale already; do not scale by 255"
        )
        yield Step("inside the eps-ball", False, short(distance), f"at most {eps:.4g}", hint)
    yield Step(
        "pixels stay in [0, 1]", low >= -1e-6 and high <= 1 + 1e-6, words, "pixels in [0, 1]",
        "no pixel may be below 0 or above 1: clamp the result",
    )  # fmt: skip
    yield Step(
        "inside the eps-ball", distance <= eps + 1e-5, f"largest change {distance:.4g}", f"at most {eps:.4g}",
        f"a pixel moved by {distance:.3g}, more than eps = {eps:.3g}: project back into the ball around the clean x",
    )  # fmt: skip
    yield Step(
        "the images are detached", not x_adv.requires_grad, "requires_grad=True", "requires_grad=False",
        "the result is still attached to the attack's graph: a training step would backpropagate through the whole "
        "attack, and matplotlib could not draw the image; return x_adv.detach()",
    )  # fmt: skip
