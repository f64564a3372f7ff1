"""FAB-T with its target classes side by side: the same flags as the package's, in fewer and larger batches.

Standard AutoAttack runs FAB-T (Croce & Hein 2020) once for each of 9 target classes. One run draws no random numbers
and treats each image by itself, so runs for several classes can share a batch: a small network takes hardly longer for
four times the images, since most of its time goes into starting operators. The package projects onto the decision
boundary by sorting every pixel, which takes a third of its time; here a few passes over the pixels do.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import FunctionType

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

LOOK_EVERY = 4  # passes: to ask a GPU whether it is done makes it wait, and most images need three


def projection_linf(points: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The smallest steps, in L-infinity, from points (N, D) in [0, 1] to the hyperplanes <w, z> = b within [0, 1],
    or the corner that comes nearest to one that lies outside: (N, D). w: (N, D), b: (N,).

    With steps of length r every pixel moves towards the plane by r or until it meets 0 or 1. So r solves
    sum_i |w_i| min(r, room_i) = |<w, points> - b|, whose left side is concave and piecewise linear: Newton's method
    from r = 0 never overshoots, and ends at the solution once the same pixels are held up as in the step before."""
    gap = torch.linalg.vecdot(w, points)[:, None] - b[:, None]
    way = -w.sign() * torch.where(gap >= 0, 1.0, -1.0)
    room = (way / 2 + 0.5 - points).abs_()  # as far as 1, or as far as 0
    weight, gap = w.abs(), gap.abs()
    reach, r, passed = weight * room, torch.zeros_like(gap), torch.empty_like(room)
    look = 1 if points.device.type == "cpu" else LOOK_EVERY
    for number in range(1, w.shape[1] + 1):
        # Comparisons written as numbers: on a CPU far faster than torch.where.
        left = gap - torch.linalg.vecdot(reach, torch.le(room, r, out=passed))[:, None]
        further = left / torch.linalg.vecdot(weight, torch.gt(room, r, out=passed))[:, None]  # infinite if all stopped
        nearer = (left > 0) & (further > r)
        if number % look == 0 and not nearer.any():
            break  # a pass after the last changes nothing
        r = torch.where(nearer, further, r)
    return way * torch.minimum(room, r)


def _with(function: FunctionType, **names) -> FunctionType:
    """`function`, for which some of its module's names mean something else."""
    if missing := names.keys() - function.__globals__.keys():
        raise ImportError(f"pyautoattack lacks {', '.join(missing)}")
    return FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__)


class SideBySideFAB(FABAttack_PT):
    """FAB for one restart and targets, with batches of up to `rows` images (of one class at a time if that is less)."""

    attack_single_run = _with(FABAttack_PT.attack_single_run, projection_linf=projection_linf)

    def __init__(self, model: nn.Module, *, norm: str, eps: float, seed: int, device: torch.device, rows: int):
        super().__init__(model, norm=norm, eps=eps, seed=seed, device=device, targeted=True)
        self.rows = rows
        self.given: Tensor | None = None

    @torch.no_grad()
    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, C, H, W), y: (N,). Images at which an attack within eps succeeded are replaced by what it found."""
        adversarial = x.clone()
        order = self.predict(x).argsort(1, descending=True)
        left = (order[:, 0] == y).nonzero().flatten()
        first = 1
        while first <= self.n_target_classes and len(left):
            ranks = range(first, min(first + max(1, self.rows // len(left)), self.n_target_classes + 1))
            self.targets = torch.cat([order[left, rank] for rank in ranks])
            images, labels = x[left].repeat(len(ranks), 1, 1, 1), y[left].repeat(len(ranks))
            self.given, self.target_class = labels, 1  # a class is asked for, but the targets are ours
            # The package indexes by CPU tensors, and copies constants to the device, eleven times an iteration.
            with x.device if x.device.type != "cpu" else nullcontext():
                found = self.attack_single_run(images, labels, is_targeted=True)
            distance = (found - images).flatten(1).norm(p=torch.inf if self.norm == "Linf" else 2, dim=1)
            fooled = ((self.predict(found).argmax(1) != labels) & (distance <= self.eps)).view(len(ranks), -1)
            rank = fooled.int().argmax(0)  # the first class of success, as one after the other would find it
            best = found.view(len(ranks), len(left), *x.shape[1:])[rank, torch.arange(len(left), device=x.device)]
            any_fooled = fooled.any(0)
            adversarial[left[any_fooled]] = best[any_fooled]
            left, first = left[~any_fooled], ranks.stop
        return adversarial

    def _get_predicted_label(self, x: Tensor) -> Tensor:
        # A run begins with those it finds right. All are; one at the very boundary may look wrong in another batch.
        given, self.given = self.given, None
        return super()._get_predicted_label(x) if given is None else given

    def get_diff_logits_grads_batch_targeted(self, imgs: Tensor, la: Tensor, la_target: Tensor):
        """z_target - z_label of images (N, C, H, W) at our targets, (N, 1), and its gradient, (N, 1, C, H, W)."""
        with torch.enable_grad():
            images = imgs.clone().requires_grad_()
            logits = self.predict(images)
            difference = -(logits.gather(1, la[:, None]) - logits.gather(1, self.targets[:, None]))
            (gradient,) = torch.autograd.grad(difference.sum(), images)
        return difference.detach(), gradient[:, None]
