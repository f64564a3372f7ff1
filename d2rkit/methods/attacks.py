"""Attacks: one loop (`pgd`) over a pure function of the perturbed image.

Images x: (B, C, H, W), or any (B, ...), in [0, 1]; y: (B,) int64; eps and step_size in pixel scale
(8/255 = 0.0314). Every attack returns adversarial images inside the ball around x and inside [0, 1],
puts the networks into eval mode, computes no parameter gradients, and leaves both as they were.
`start` is an initial perturbation, of x's shape and dtype; the loop's first gradient is taken at x + start.
ValueError where x, y and start do not go with each other or with the networks, or where eps, step_size (finite
numbers) or steps (a whole number) are negative. Shapes and dtypes are looked at, never pixels: x may be anything.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.core.validation import (
    check_batch,
    check_choice,
    check_count,
    check_labels,
    check_logits,
    check_number,
    logits_of,
    shown,
)
from d2rkit.methods.pair import eval_mode, frozen

NORMS = ("linf", "l2")
MOST_STEPS = 1_000_000
START_SCALE = 0.001  # standard deviation of the random start of the KL attacks, as released


def pgd(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    start: Tensor | None = None,
    norm: str = "linf",
) -> Tensor:
    """Projected gradient ascent of `objective` (images -> scalar) in the eps-ball of `norm` around x.

    L-infinity moves by step_size * sign(gradient), L2 by step_size along the normalised gradient
    (Madry et al. 2018). ValueError for an unknown norm or a negative eps, step size or number of steps."""
    if not callable(objective):
        raise ValueError(f"objective must be a function of the images, not {shown(objective)}")
    check_choice(norm, NORMS, "norm")
    check_number("eps", eps)
    check_number("step_size", step_size)
    check_count("steps", steps, high=MOST_STEPS)
    check_batch(x, start)
    x = x.detach()
    x_adv = x if start is None else x + start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        with torch.enable_grad():
            gradient = _gradient(objective(x_adv), x_adv)
        direction = gradient.sign() if norm == "linf" else _direction(gradient)
        x_adv = project(x_adv.detach() + step_size * direction, x, eps, norm)
    return project(x_adv.detach(), x, eps, norm)


def project(x_adv: Tensor, x: Tensor, eps: float, norm: str = "linf") -> Tensor:
    """The image nearest to x_adv in the eps-ball around x, then cut to [0, 1] (which cannot leave the ball)."""
    check_choice(norm, NORMS, "norm")
    check_number("eps", eps)
    for images in (x, x_adv):
        check_batch(images)
    if x_adv.shape != x.shape or x_adv.device != x.device:
        raise ValueError(f"x_adv must be like x, of shape {tuple(x.shape)} on {x.device}, not {shown(x_adv)}")
    if norm == "linf":
        return torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp_(0, 1)
    delta = x_adv - x
    delta = delta * (eps / _length(delta)).clamp_max(1)
    return (x + delta).clamp_(0, 1)


def _gradient(value: Tensor, x_adv: Tensor) -> Tensor:
    if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
        (gradient,) = torch.autograd.grad(value, x_adv, allow_unused=True)
        if gradient is not None:
            return gradient
    raise ValueError("an attack's objective must be one number that depends on the images differentiably")


def _least(x: Tensor) -> float:
    """The shortest length that is divided by, which is not 0 in x's precision."""
    return max(1e-12, torch.finfo(x.dtype).tiny)


def _length(x: Tensor) -> Tensor:
    """L2 norm of each example, at least `_least`, shaped to broadcast over it."""
    return x.flatten(1).norm(dim=1).clamp_min(_least(x)).view(-1, *[1] * (x.ndim - 1))


def _direction(gradient: Tensor) -> Tensor:
    """The gradient of each example at length 1, however short it was. One that is 0, as float16's are below 3e-8, has
    no direction: the attack stands still there."""
    length = _length(gradient)
    largest = gradient.abs().flatten(1).amax(1).view_as(length)
    gradient = gradient / torch.where((length <= _least(gradient)) & (largest > 0), largest, 1)  # squares might be 0
    return gradient / _length(gradient)


def _check_same_classes(target: Tensor, guide: Tensor) -> None:
    if target.shape != guide.shape:
        classes = f"{target.shape[1]} and {guide.shape[1]}"
        raise ValueError(f"target and guide must tell the same classes apart, not {classes}")


def gaussian_start(x: Tensor, generator: torch.Generator | None = None, scale: float = START_SCALE) -> Tensor:
    """scale * N(0, 1), of x's shape, dtype and device."""
    check_batch(x)
    check_number("scale", scale)
    return scale * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def uniform_start(x: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """Uniform in [-eps, eps] at each pixel, of x's shape, dtype and device."""
    check_batch(x)
    check_number("eps", eps)
    return (2 * torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) - 1) * eps


def pgd_ce(
    target: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    start: Tensor | None = None,
    norm: str = "linf",
) -> Tensor:
    """Ascend CE(f(x'), y): the attack of PGD-AT and MART, and PGD-20 in evaluation (Madry et al. 2018)."""

    def objective(x_adv: Tensor) -> Tensor:
        logits = logits_of(target, x_adv)
        check_labels(y, *logits.shape)
        return F.cross_entropy(logits, y, reduction="sum")

    with eval_mode(target), frozen(target):
        return pgd(objective, x, eps=eps, step_size=step_size, steps=steps, start=start, norm=norm)


def fgsm(target: nn.Module, x: Tensor, y: Tensor, *, eps: float, start: Tensor | None = None) -> Tensor:
    """One step of size eps along the sign of the gradient of CE (Goodfellow et al. 2015)."""
    return pgd_ce(target, x, y, eps=eps, step_size=eps, steps=1, start=start)


def cw(
    target: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    start: Tensor | None = None,
    norm: str = "linf",
) -> Tensor:
    """Ascend the margin max_{c != y} z_c - z_y: PGD with the loss of Carlini & Wagner 2017."""

    def objective(x_adv: Tensor) -> Tensor:
        return margin(logits_of(target, x_adv), y).sum()

    with eval_mode(target), frozen(target):
        return pgd(objective, x, eps=eps, step_size=step_size, steps=steps, start=start, norm=norm)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{c != y} z_c - z_y of each example, (B,): positive where the prediction is wrong."""
    check_logits(logits, least=0)
    check_labels(y, *logits.shape)
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None]).squeeze(1)


def kl_self(
    target: nn.Module,
    x: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    start: Tensor | None = None,
    norm: str = "linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ascend KL(p_f(x) || p_f(x')), the attack of TRADES and LBGAT (Zhang et al. 2019).

    start: None draws 0.001 N(0, 1) from `generator`, since the gradient at x itself is zero."""
    check_batch(x, start)
    with eval_mode(target), frozen(target):
        with torch.no_grad():
            soft_labels = logits_of(target, x).softmax(1)

        def objective(x_adv: Tensor) -> Tensor:  # KL less the entropy of p_f(x), which is constant
            return F.cross_entropy(logits_of(target, x_adv), soft_labels, reduction="sum")

        start = gaussian_start(x, generator) if start is None else start
        return pgd(objective, x, eps=eps, step_size=step_size, steps=steps, start=start, norm=norm)


def cag(
    target: nn.Module,
    guide: nn.Module,
    x: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    start: Tensor | None = None,
    guide_share: float = 0.0,
    y: Tensor | None = None,
    norm: str = "linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Collaborative adversarial generation (Liu et al. 2025): ascend KL(p_g(x) || p_f(x')), the guide's
    clean prediction being a soft label that is computed once.

    It is the inner attack of RSLAD (Zi et al. 2021) and of PeerAiD (Jung et al. 2024), to the bit: what CAG adds is
    that the guide goes on learning between two attacks.

    guide_share: with share s > 0 the guide sees x' too: ascend (1 - s) KL(p_g(x) || p_f(x')) + s CE(g(x'), y),
    where y defaults to the guide's own clean prediction. start: None draws 0.001 N(0, 1) from `generator`.
    ValueError if guide_share is not in [0, 1]."""
    check_number("guide_share", guide_share, high=1)
    check_batch(x, start)
    with ExitStack() as stack:
        stack.enter_context(eval_mode(target, guide))
        stack.enter_context(frozen(target, guide))
        with torch.no_grad():
            soft_labels = logits_of(guide, x).softmax(1)
        labels = soft_labels.argmax(1) if y is None else y
        check_labels(labels, *soft_labels.shape)

        def objective(x_adv: Tensor) -> Tensor:  # KL less the entropy of p_g(x), which is constant
            logits = logits_of(target, x_adv)
            _check_same_classes(logits, soft_labels)
            value = (1 - guide_share) * F.cross_entropy(logits, soft_labels, reduction="sum")
            if guide_share:
                value = value + guide_share * F.cross_entropy(logits_of(guide, x_adv), labels, reduction="sum")
            return value

        start = gaussian_start(x, generator) if start is None else start
        return pgd(objective, x, eps=eps, step_size=step_size, steps=steps, start=start, norm=norm)


def kl_pair(
    target: nn.Module,
    guide: nn.Module,
    x: Tensor,
    *,
    eps: float,
    step_size: float,
    steps: int,
    start: Tensor | None = None,
    norm: str = "linf",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ascend KL(p_g(x') || p_f(x')), the attack of AdaAD (Huang et al. 2023) and DGAD: the guide is asked about x', and
    the image's gradient goes through both networks, towards where they disagree.

    start: None draws 0.001 N(0, 1) from `generator`."""
    check_batch(x, start)
    with eval_mode(target, guide), frozen(target, guide):

        def objective(x_adv: Tensor) -> Tensor:
            log_p, log_q = (logits_of(network, x_adv).log_softmax(1) for network in (guide, target))
            _check_same_classes(log_q, log_p)
            return (log_p.exp() * (log_p - log_q)).sum()

        start = gaussian_start(x, generator) if start is None else start
        return pgd(objective, x, eps=eps, step_size=step_size, steps=steps, start=start, norm=norm)
