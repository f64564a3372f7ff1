"""FAB-T with its target classes side by side: the same flags as the package's, in fewer and larger batches.

Standard AutoAttack runs FAB-T (Croce & Hein 2020) once for each of 9 target classes. One run draws no random numbers
and treats each image by itself, so runs for several classes can share a batch: a small network takes hardly longer for
four times the images, since most of its time goes into starting operators. The package projects onto the decision
boundary by sorting every pixel, which takes a third of its time; here a few passes over the pixels do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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


@torch.no_grad()
def classes_side_by_side(
    predict: Callable[[Tensor], Tensor],
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    classes: int,
    ball: tuple[float, float],
    rows: int,
) -> Tensor:
    """x: (N, C, H, W) of labels y: (N,), replaced by what FAB found where it succeeded against one of the `classes`
    that the network, `predict`, finds likeliest after the first.

    run: FAB for (images, labels, targets). ball: the norm's p, and the radius within which an attack must end. rows:
    no more images at once, unless one class alone has more."""
    adversarial, (p, eps) = x.clone(), ball
    order = predict(x).argsort(1, descending=True)
    left = (order[:, 0] == y).nonzero().flatten()
    first = 1
    while first <= classes and len(left):
        ranks = range(first, min(first + max(1, rows // len(left)), classes + 1))
        targets = torch.cat([order[left, rank] for rank in ranks])
        images, labels = x[left].repeat(len(ranks), 1, 1, 1), y[left].repeat(len(ranks))
        candidates = run(images, labels, targets)
        distance = (candidates - images).flatten(1).norm(p=p, dim=1)
        fooled = ((predict(candidates).argmax(1) != labels) & (distance <= eps)).view(len(ranks), -1)
        rank = fooled.int().argmax(0)  # the first class of success, as one after the other would find it
        best = candidates.view(len(ranks), len(left), *x.shape[1:])[rank, torch.arange(len(left), device=x.device)]
        any_fooled = fooled.any(0)
        adversarial[left[any_fooled]] = best[any_fooled]
        left, first = left[~any_fooled], ranks.stop
    return adversarial
