"""Square with several queries at once: the same flags as the package's, in fewer and larger batches.

Square (Andriushchenko et al. 2020) tries 5,000 random squares one after the other and keeps those that lower the
margin. The squares themselves depend on nothing that was kept, so the next few can be tried side by side from where
the images are now. Most are turned down; after one that is kept, the squares behind it are tried again for that image.
A square that changes no pixel, since all it covers are at that bound already, costs a query but no forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from d2rkit.methods.attacks import margin

AT_ONCE = 8  # squares; more hardly pay
IN_VAIN = 0.05  # no more squares at once than make about this share of all be tried in vain, and so again


@torch.no_grad()
def squares_side_by_side(
    predict: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    count: int,
    share: Callable[[int], float],
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Untargeted L-infinity Square on images x: (N, C, H, W) of labels y: (N,): the queries that each took, and where
    it ended. count: queries an image gets at most. share: of the pixels, which the square of a query covers. rows: no
    more images at once, unless one square alone has more."""
    channels, _, width = x.shape[1:]
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    best = (x + eps * _signs([len(x), channels, 1, width]).to(x.device)).clamp(0, 1)

    def score(images: Tensor, labels: Tensor) -> Tensor:
        """z_y - max_{c != y} z_c, which is not above 0 where an image is fooled: (N,)."""
        return -margin(predict(images), labels)

    margins = score(best, y)
    queries = torch.ones(len(x), device=x.device)
    done, kept_share = 0, 1.0
    while done < count and len(left := (margins > 0).nonzero().flatten()):
        at_once = min(AT_ONCE, max(1, rows // len(left)), count - done)
        at_once = max(1, min(at_once, int(2 * IN_VAIN / max(kept_share, 1e-9))))
        squares = [_square(share(done + i), eps, x.shape[1:]) for i in range(at_once)]
        squares = torch.stack(squares).to(x.device)
        number = torch.arange(at_once, device=x.device)
        due = torch.zeros(len(left), dtype=torch.long, device=x.device)  # each image's next square of these
        kept, tried = 0, at_once * len(left)
        while len(left):
            image, square = (due[:, None] <= number).nonzero(as_tuple=True)
            labels, start, lowest, highest = (t.index_select(0, left[image]) for t in (y, best, low, high))
            moved = torch.clamp(start + squares.index_select(0, square), lowest, highest)
            new = (moved - start).flatten(1).abs().amax(1).nonzero().flatten()
            scores = margins.new_full((len(left), at_once), torch.inf)
            if len(new):
                scores[image[new], square[new]] = score(moved.index_select(0, new), labels[new])
            better = scores < margins[left, None]
            first = torch.where(better, number, at_once).amin(1)
            queries[left] += (first + 1).clamp(max=at_once) - due
            hit = (first < at_once).nonzero().flatten()
            row = torch.full((len(left), at_once), -1, device=x.device)
            row[image, square] = torch.arange(len(image), device=x.device)
            best[left[hit]] = moved[row[hit, first[hit]]]
            margins[left[hit]] = scores[hit, first[hit]]
            kept += len(hit)
            again = hit[(first[hit] + 1 < at_once) & (margins[left[hit]] > 0)]
            left, due = left[again], first[again] + 1
        kept_share = kept / tried
        done += at_once
    return queries, best


def _square(share: float, eps: float, shape: Sequence[int]) -> Tensor:
    """The change that a query tries on every image, drawn as the package draws it: (C, H, W)."""
    channels, height, width = shape
    size = max(round(math.sqrt(share * height * width)), 1)
    size = min(size, height, width)
    top, left = _whole(height - size), _whole(width - size)
    change = torch.zeros(channels, height, width)
    change[:, top : top + size, left : left + size] = 2.0 * eps * _signs([channels, 1, 1])
    return change


# Drawn on the CPU like the package's, where they also stay until a whole round goes to the device at once.
def _signs(shape: list[int]) -> Tensor:
    return torch.sign(2 * torch.rand(shape) - 1)


def _whole(high: int) -> Tensor:
    return (high * torch.rand(1)).long()
