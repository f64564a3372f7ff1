"""Evaluator: a network and the images it is judged on, prepared once for every attack, radius and check.

Prepared are the images on the device, the flags without an attack, and a copy of the network that attacks use. The
network itself, in IEEE float32, has the last word on every attacked image; an image whose clean prediction is wrong
counts as not robust under every attack.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from d2rkit.acceleration.attack_copies import attack_copy, has_gradient
from d2rkit.core import devices
from d2rkit.core.validation import as_pixels, check_choice, check_count, nearest, printable, shown
from d2rkit.evaluation.adapters import as_images, as_network
from d2rkit.evaluation.autoattack import FULL, AutoAttackBudget, AutoAttackState, autoattack, correct
from d2rkit.methods import attacks
from d2rkit.methods.pair import eval_mode

ATTACKS = ("clean", "fgsm", "pgd20", "cw20", "autoattack")
PRECISIONS = ("auto", "32-true", "tf32", "bf16")
PROBED = 50  # images that the checks of a network look at
SAME = 1e-3  # two answers are the same if they differ by less, relative to the largest logit
Progress = Callable[[float], None]


def parse_attack(name: str) -> tuple[str, int]:
    """Kind and number of steps: "pgd20" -> ("pgd", 20). ValueError for an unknown name."""
    text = name if isinstance(name, str) else ""
    if match := re.fullmatch(r"(pgd|cw)([1-9]\d*)", text):
        return match[1], int(match[2])
    if text in ("clean", "fgsm", "autoattack"):
        return text, 1
    raise nearest(name, (*ATTACKS, "pgdN and cwN with N steps"), "attack")


def check_radius(eps: float) -> float:
    """eps, or a ValueError if it is no radius in pixel scale."""
    if not isinstance(eps, Real) or isinstance(eps, bool) or not 0 <= eps <= 1:
        raise ValueError(f"eps is in pixel scale and must lie in [0, 1], e.g. 8/255 = 0.0314, not {shown(eps)}")
    return eps


@dataclass(frozen=True)
class Budget:
    """How much of each attack is done. steps: at most so many of PGD and C&W. A number that is reported is of a full
    budget; plans and dry runs cut it, to do all that a run does in little time."""

    steps: int | None = None
    autoattack: AutoAttackBudget = FULL


WHOLE = Budget()


class Evaluator:
    """See the module. model: a network, a GuidedPair (its target is judged) or a function of images (B, C, H, W) in
    [0, 1]; data: see adapters.as_images; num_classes: of the data, where labels alone do not tell.

    seed: of the attacks' random starts. batch_size: images forwarded at once, with or without gradients. exact:
    attack the network as it is, not a faster copy (folding.attack_copy). attack_precision: of the attacked copy, one
    of PRECISIONS; auto is tf32 on a CUDA device and 32-true elsewhere. eot: forward passes over which the gradient of
    a network that answers at random is averaged (Athalye et al. 2018). shared: every process of a group makes the
    same calls, each attacks its share of the batches, and all get all flags.

    notes: sentences about what was judged and how. randomised: why equal calls get different answers, or "".
    ValueError for anything that could not be measured truly: see `check_logits`."""

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        data: Any,
        *,
        seed: int = 0,
        batch_size: int = 250,
        device: torch.device | str | None = None,
        exact: bool = False,
        shared: bool = False,
        attack_precision: str = "auto",
        eot: int = 1,
        num_classes: int | None = None,
        budget: Budget = WHOLE,
    ):
        check_count("batch_size", batch_size, 1)
        check_count("eot", eot, 1)
        check_count("seed", seed, -(2**31))
        check_choice(attack_precision, PRECISIONS, "attack precision")
        self.network, self.notes = as_network(model)
        self.seed, self.batch_size, self.shared, self.budget, self.eot = seed, batch_size, shared, budget, eot
        self.exact = exact
        images, labels, classes = as_images(data)
        held = next((t.device for t in (*self.network.parameters(), *self.network.buffers())), None)
        self.device = held or devices.resolve(device or "cpu")
        if device is not None and held is not None and held.type != devices.resolve(device).type:
            raise ValueError(f"the network is on {held}, not on {device}; move it with .to({str(device)!r}) first")
        self.attack_precision = attack_precision
        if attack_precision == "auto":
            self.attack_precision = "tf32" if self.device.type == "cuda" else "32-true"
        self.images, self.labels = images.to(self.device), labels.to(self.device)
        self.known: dict[tuple[str, float], Tensor] = {}  # flags by attack and eps
        self.autoattack_states: dict[float, AutoAttackState] = {}
        with eval_mode(self.network), torch.no_grad(), devices.ieee_float32():
            self.num_classes, self.randomised = check_logits(
                self.network, self.batch(slice(PROBED))[0], num_classes or classes
            )
        low, high, last = int(self.labels.min()), int(self.labels.max()), self.num_classes - 1
        if low < 0 or high > last:
            raise ValueError(f"labels must lie in 0..{last}, not in {low}..{high}: the network has {last + 1} outputs")
        if self.randomised:
            self.notes.append(f"not deterministic: {self.randomised}; every number depends on chance")

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Pixels (B, C, H, W) in [0, 1] and labels (B,) of the images at `index`."""
        index = index.to(self.device) if isinstance(index, Tensor) else index
        return as_pixels(self.images[index]), self.labels[index]

    @cached_property
    def clean(self) -> Tensor:
        """(N,) bool on the CPU: is the prediction right without an attack?"""
        return self.judge(self.images, self.labels)

    def judge(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B,) bool on the CPU: is the network right on these images? In IEEE float32."""
        with eval_mode(self.network), devices.ieee_float32():
            return correct(self.network, images, labels, self.batch_size)

    @cached_property
    def attacked(self) -> nn.Module:
        """What attacks go through: a copy that was proven to be the same function, or else the network. ValueError for
        a network without gradients, as most quantised ones are."""
        if not has_gradient(self.network, self.batch(slice(1))[0]):
            raise ValueError(
                "the network's logits have no gradient with respect to the images (is it quantised?), so it "
                "can be judged but not attacked; evaluate it with the attack clean alone"
            )
        if self.exact or self.randomised:
            network = self.network
        else:
            dtype = torch.bfloat16 if self.attack_precision == "bf16" else None
            with devices.ieee_float32():
                copied = attack_copy(self.network, self.batch(slice(self.batch_size))[0], dtype)
            network = copied.network
            if copied.reason:
                self.notes.append(f"attacked without BatchNorm folding: {copied.reason}")
        if self.attack_precision == "bf16":
            network = _Autocast(network, self.device.type)
        return network

    def flags(self, attack: str, eps: float, progress: Progress | None = None) -> Tensor:
        """(N,) bool on the CPU: is the image still right after `attack` of radius `eps` (pixel scale)? Measured once.

        "clean", "fgsm", "pgdK" and "cwK" with K steps of eps/4 from a random start, or "autoattack" (standard). With
        eps = 0 every attack gives exactly the clean flags."""
        kind, steps = parse_attack(attack)
        if kind == "clean" or check_radius(eps) == 0:
            return self.clean
        key = (attack, float(eps))
        if key not in self.known:
            progress = progress or (lambda done: None)
            if kind == "autoattack":
                self.known[key] = self.autoattack(eps, None, lambda state, stage, done: progress(done)).robust
            else:
                self.known[key] = self._attack(kind, steps, eps, progress)
        return self.known[key]

    def _attack(self, kind: str, steps: int, eps: float, progress: Progress) -> Tensor:
        steps, robust = min(steps, self.budget.steps or steps), self.clean.clone()
        batches = self.clean.nonzero().flatten().split(self.batch_size)
        for number, index in enumerate(batches):
            if self.shared and number % devices.size() != devices.rank():
                continue
            images, labels = self.batch(index)
            generator = torch.Generator(self.device).manual_seed(self.seed * 100_003 + number)
            start = attacks.uniform_start(images, eps, generator)
            target, y = self.attacked, labels
            if self.eot > 1:
                target, y = _Repeated(self.attacked, self.eot), labels.repeat(self.eot)
            with devices.attack_math(self.attack_precision):
                if kind == "fgsm":
                    adversarial = attacks.fgsm(target, images, y, eps=eps, start=start)
                else:
                    run = attacks.pgd_ce if kind == "pgd" else attacks.cw
                    adversarial = run(target, images, y, eps=eps, step_size=eps / 4, steps=steps, start=start)
            robust[index] = self.judge(adversarial, labels)
            progress((number + 1) / len(batches))
        return devices.all_reduce(robust, "min") if self.shared else robust

    def autoattack(
        self,
        eps: float,
        state: AutoAttackState | None,
        on_batch: Callable[[AutoAttackState, str, float], None],
        previews: bool = False,
    ) -> AutoAttackState:
        """Standard AutoAttack from `state` on (None: from the start). previews: for an early bound, see anytime.py.
        ValueError for a network that is not deterministic: for those it is not defined."""
        if self.randomised:
            raise ValueError(
                f"standard AutoAttack is for deterministic networks, and this one is not: {self.randomised}; attack it "
                "with PGD and eot above 1"
            )
        state = state or AutoAttackState(self.clean.clone())
        if eps:
            state = autoattack(
                self.network, self.images, self.labels, eps=eps, seed=self.seed, batch_size=self.batch_size,
                through=self.attacked, state=state, shared=self.shared, on_batch=on_batch,
                budget=self.budget.autoattack, precision=self.attack_precision,
                previews=previews,
            )  # fmt: skip
        self.autoattack_states[float(eps)] = state
        self.known[("autoattack", float(eps))] = state.robust
        return state

    def curve(self, radii: list[float], attack: str = "pgd20") -> dict[float, Tensor]:
        """Flags of `attack` at each radius; a sound evaluation falls to about 0 as eps grows."""
        return {eps: self.flags(attack, eps) for eps in radii}

    def transferred(self, other: nn.Module, steps: int, eps: float) -> Tensor:
        """(N,) bool on the CPU: right on images that PGD of so many steps of eps/4 made against `other`."""
        key = (f"transfer{steps}", float(eps))
        if key not in self.known:
            robust = self.clean.clone()
            taken = min(steps, self.budget.steps or steps)
            for number, index in enumerate(self.clean.nonzero().flatten().split(self.batch_size)):
                if self.shared and number % devices.size() != devices.rank():
                    continue
                images, labels = self.batch(index)
                with devices.attack_math(self.attack_precision):
                    borrowed = attacks.pgd_ce(other, images, labels, eps=eps, step_size=eps / 4, steps=taken)
                robust[index] = self.judge(borrowed, labels)
            self.known[key] = devices.all_reduce(robust, "min") if self.shared else robust
        return self.known[key]


def check_logits(network: nn.Module, x: Tensor, num_classes: int | None = None) -> tuple[int, str]:
    """The network's number of outputs for images x: (B, C, H, W), and why its answers to equal calls differ, or "".

    The network must be in eval mode. ValueError if it does not take such images, was built for another size, returns
    anything but finite logits (B, classes), or has another number of outputs than num_classes."""
    shape = f"{x.shape[1]} x {x.shape[2]} x {x.shape[3]}"
    sizes = (getattr(module, "image_size", None) for module in network.modules())
    built_for = next((size for size in sizes if isinstance(size, int)), x.shape[-1])
    if built_for != x.shape[-1]:
        raise ValueError(f"the network was built for images of {built_for} pixels a side, these have {x.shape[-1]}")
    try:
        logits = network(x)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        words = f"the network does not take images of {shape} pixels, as this data set's are"
        raise ValueError(f"{words}: {printable(error)}") from error
    if not isinstance(logits, Tensor):
        raise ValueError(f"the network returns a {type(logits).__name__}, not a tensor of logits (B, classes); wrap it")
    if logits.ndim != 2 or len(logits) != len(x) or not logits.is_floating_point():
        raise ValueError(
            f"the network returns {logits.dtype} of shape {tuple(logits.shape)} for {len(x)} images, not logits "
            f"({len(x)}, classes)"
        )
    classes = logits.shape[1]
    if num_classes is not None and classes != num_classes:
        raise ValueError(f"the network has {classes} outputs, the data {num_classes} classes")
    if not torch.isfinite(logits).all():
        raise ValueError(f"the network's logits are not finite on {_bad(logits)} of {len(x)} clean images")
    scale = SAME * float(logits.abs().max()) + 1e-12
    again = network(x)
    try:
        alone = network(x[:1])
    except Exception as error:
        raise ValueError(f"the network takes {len(x)} images at once but not one alone: {printable(error)}") from error
    if float((again - logits).abs().max()) > scale:
        return classes, "the network answers differently on equal calls (noise or dropout in eval mode?)"
    if float((alone - logits[:1]).abs().max()) > scale:
        return classes, "its answer for an image depends on the rest of the batch (a BatchNorm in train mode?)"
    return classes, ""


def _bad(logits: Tensor) -> int:
    return int((~torch.isfinite(logits)).any(1).sum())


class _Autocast(nn.Module):
    """A network under autocast to bfloat16 that returns float32 logits."""

    def __init__(self, network: nn.Module, device: str):
        super().__init__()
        self.network, self.kind = network, device

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.kind, torch.bfloat16):
            return self.network(x).float()


class _Repeated(nn.Module):
    """A network asked `times` times about each image: (B, ...) to logits (times * B, classes)."""

    def __init__(self, network: nn.Module, times: int):
        super().__init__()
        self.network, self.times = network, times

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.network(x) for _ in range(self.times)])
