"""Networks to attack through: a folded copy where it was proven to be the same function, else the network itself.

torch.fx does not see all that a network does: hooks, parametrizations and Python code that depends on values are lost
or frozen in a traced copy, and an attack on another function than the one that is judged reports robustness that is
not there. So a copy is used only after its logits and its gradients with respect to the images agreed with the
network's, on the images at hand and at their corners, in batches of two sizes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from d2rkit.acceleration.folding import FoldedCopy
from d2rkit.acceleration.memory_format import is_layout_hook
from d2rkit.core.validation import printable
from d2rkit.methods.pair import GuidedPair, eval_mode, frozen

log = logging.getLogger("d2rkit")

PROBED = 64  # images that a network and its copy are compared on
CORNER = 8 / 255  # how far from the images, in every pixel, agreement is asked for, too
PROVE_EVERY = 200  # steps of training after which a copy is proven again


class Tolerance(NamedTuple):
    """What is rounding. logits: of the largest logit; gradient: of each image's gradient (L2), the median; jump: the
    largest of them, where rounding moves a ReLU across its kink."""

    logits: float
    gradient: float
    jump: float


# Measured on the kit's networks and torchvision's: 2e-6, 1e-6 and, at kinks, 7e-3 in float32.
FLOAT32 = Tolerance(1e-4, 1e-3, 0.5)
BFLOAT16 = Tolerance(0.05, 0.3, 2.0)

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class AttackCopy:
    """network: what attacks should use. reason: why that is the network itself, in a clause; "" for a proven copy."""

    network: nn.Module
    reason: str = ""


def attack_copy(network: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> AttackCopy:
    """A folded, frozen copy of `network` as it is now, proven on images x: (B, C, H, W) in [0, 1], or the network.

    dtype: hold the copy's weights in it, for use under autocast; the proof is in float32 and comes before. Never
    raises for a network that itself takes x."""
    if reason := why_not(network):
        return AttackCopy(network, reason)
    try:
        twin = FoldedCopy(network)
    except Exception as error:  # torch.fx runs the network's own code on its proxies: anything may happen
        return AttackCopy(network, f"torch.fx cannot trace it ({printable(error)})")
    if reason := difference(network, twin.twin, x):
        return AttackCopy(network, reason)
    if dtype is not None:
        twin.cast(dtype, x)
    return AttackCopy(twin.twin)


def why_not(network: nn.Module) -> str:
    """What in `network` a traced copy would lose, in a clause; "" if nothing of the kind is known of it."""
    if isinstance(network, torch.jit.ScriptModule):
        return "it is scripted"
    if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return f"it is wrapped in {type(network).__name__}"
    if any(vars(global_hooks)[f"_global{kind}"] for kind in HOOKS if f"_global{kind}" in vars(global_hooks)):
        return "hooks are registered for all modules"
    for name, module in network.named_modules():
        where = f" (in {name})" if name else ""
        if isinstance(module, torch._dynamo.eval_frame.OptimizedModule):
            return f"it is compiled by torch.compile{where}"
        if type(module).__call__ is not nn.Module.__call__ or "forward" in vars(module):
            return f"{type(module).__name__} has a call of its own{where}"
        if any(not is_layout_hook(hook) for kind in HOOKS for hook in getattr(module, kind).values()):
            return f"it has hooks{where}"
        if hasattr(module, "parametrizations"):
            return f"it has parametrizations{where}"
    return ""


def difference(network: nn.Module, other: nn.Module, x: Tensor, tolerance: Tolerance = FLOAT32) -> str:
    """How `other` differs from `network` as a function of images x: (B, C, H, W), in a clause; "" if it does not but
    for rounding. In eval mode. The network's buffers are afterwards as they were; one that changes them differs."""
    x = x[:PROBED].detach()
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, x.shape, generator=generator).to(x.device, x.dtype).mul_(2).sub_(1)
    batches = {"the first images": x, "their corners": (x + CORNER * signs).clamp_(0, 1), "one image": x[:1]}
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        for words, images in batches.items():
            if reason := _apart(network, other, images, tolerance):
                return f"{reason} on {words}"
    except Exception as error:  # whatever a copy may do
        return f"its copy fails ({printable(error)})"
    finally:
        changed = [name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])]
        with torch.no_grad():
            for name in changed:
                network.get_buffer(name).copy_(before[name])
    return f"it changes its own {changed[0]} in forward" if changed else ""


def _apart(network: nn.Module, other: nn.Module, images: Tensor, tolerance: Tolerance) -> str:
    logits, gradient = _logits_and_gradient(network, images)
    others, other_gradient = _logits_and_gradient(other, images)
    if others.shape != logits.shape:
        return f"its copy returns {tuple(others.shape)} instead of {tuple(logits.shape)}"
    gap, scale = (others - logits).abs().max(), logits.abs().max()
    if not gap <= tolerance.logits * scale:  # also catches NaN
        return f"its copy's logits differ by {float(gap):.2g}"
    if gradient is None or other_gradient is None or not gradient.any():
        return "there are no gradients to tell a copy by"
    if len(images) == 1:
        return ""  # at a kink one image says nothing
    gap, scale = ((g.flatten(1)).norm(dim=1) for g in (other_gradient - gradient, gradient))
    share = torch.where(gap == 0, 0.0, gap / scale)
    if not (share.median() <= tolerance.gradient and share.max() <= tolerance.jump):
        return f"its copy's gradients differ by {float(share.median()):.1%} to {float(share.max()):.1%}"
    return ""


def has_gradient(network: nn.Module, x: Tensor) -> bool:
    """Whether the network's logits of images x: (B, C, H, W) can be differentiated with respect to them at all."""
    return _logits_and_gradient(network, x[:1])[1] is not None


def _logits_and_gradient(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits, and the gradient of a sum of them in which no two classes weigh the same; None if there is none."""
    images = images.clone().requires_grad_()
    with eval_mode(network), frozen(network), torch.enable_grad():
        logits = network(images).float()
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device).cos()
        total, gradient = (logits * weights).sum(), None
        if total.requires_grad:
            (gradient,) = torch.autograd.grad(total, images, allow_unused=True)
    return logits.detach(), gradient


class AttackCopies:
    """Copies of a pair's networks that follow it through training; `refresh(x)` gives a pair to attack.

    compiled: the copies by torch.compile, for the shapes that come first, on a GPU as CUDA graphs. guide: whether the
    attack uses the guide, too. dtype: of the copies' weights, for use under autocast. A network whose copy is not
    proven the same function on the first images is attacked itself, with a warning that says why."""

    def __init__(self, pair: GuidedPair, compiled: bool = False, guide: bool = True, dtype: torch.dtype | None = None):
        self.pair, self.compiled, self.dtype = pair, compiled, dtype
        self.copied = ["target"] + (["guide"] if guide and pair.guide is not None else [])
        self.twins: dict[str, FoldedCopy] = {}
        self.attacked: dict[str, nn.Module] = {}
        self.steps = 0

    def refresh(self, x: Tensor) -> GuidedPair:
        """The pair to attack at images like x: (B, C, H, W), with the weights that the pair has now."""
        if self.steps == 0:
            for name in self.copied:
                self._copy(name, x)
        for name, twin in list(self.twins.items()):
            twin.refresh()
            if self.steps and self.steps % PROVE_EVERY == 0:
                self._prove_again(name, twin, x)
        self.steps += 1
        attacked = self.attacked
        return GuidedPair(attacked.get("target", self.pair.target), attacked.get("guide", self.pair.guide))

    def _copy(self, name: str, x: Tensor) -> None:
        network = getattr(self.pair, name)
        if reason := why_not(network):
            return self._drop(name, reason)
        try:
            twin = FoldedCopy(network)
        except Exception as error:  # as in attack_copy
            return self._drop(name, f"torch.fx cannot trace it ({printable(error)})")
        if reason := difference(network, twin.twin, x):
            return self._drop(name, reason)
        if self.dtype is not None:
            twin.cast(self.dtype, x)
        self.twins[name] = twin
        compiled = torch.compile(twin.twin, mode="reduce-overhead", dynamic=False) if self.compiled else twin.twin
        self.attacked[name] = cast(nn.Module, compiled)  # as torch.compile of a network is

    def _prove_again(self, name: str, twin: FoldedCopy, x: Tensor) -> None:
        """What a forward does may depend on what training has changed since."""
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            tolerance = FLOAT32 if self.dtype is None else BFLOAT16
            if reason := difference(getattr(self.pair, name), twin.twin, x, tolerance):
                self._drop(name, reason)

    def _drop(self, name: str, reason: str) -> None:
        log.warning("the %s is attacked as it is, not in a faster copy: %s", name, reason)
        self.twins.pop(name, None)
        self.attacked.pop(name, None)
