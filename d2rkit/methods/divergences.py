"""How far apart two predictions are: the pieces from which objectives are built.

Every function takes two logit tensors, (B, C) and (B, C), and returns one number an example, (B,). `p` is the
first argument's softmax and `q` the second's. To measure between points of the probability simplex, pass
their logarithms. A logit of -inf (a masked class) is a probability of 0, and 0 log 0 = 0; where q lacks a
class that p has, KL(p || q) and H(p, q) are infinite. NaN is left for what has no value: the gap of two
infinite KLs, and `logit_mse` where both logits are -inf. Reductions over the batch belong to `objectives`.
ValueError unless both are floating point, of one shape with B >= 1 and C >= 2, on one device; smoothing must
be finite and not negative.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.core.validation import check_logits, check_number

Divergence = Callable[[Tensor, Tensor], Tensor]


def kl(p_logits: Tensor, q_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """KL(p || q) = sum_c p_c (log(p_c + smoothing) - log q_c), in nats.

    smoothing: 0 for the divergence proper; the D2R release adds 1e-5 inside the first logarithm only."""
    check_logits(p_logits, q_logits)
    check_number("smoothing", smoothing)
    log_p, log_q = p_logits.log_softmax(1), q_logits.log_softmax(1)
    p = log_p.exp()
    ratio = (torch.log(p + smoothing) if smoothing else log_p) - log_q
    return (p * ratio.masked_fill(p == 0, 0)).sum(1)


def reverse_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(q || p)."""
    return kl(q_logits, p_logits)


def symmetric_kl(p_logits: Tensor, q_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """KL(p || q) + KL(q || p), Jeffreys' divergence."""
    return kl(p_logits, q_logits, smoothing) + kl(q_logits, p_logits, smoothing)


def kl_gap(p_logits: Tensor, q_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """KL(p || q) - KL(q || p), signed. Not a divergence: it is 0 wherever both directions agree and of
    third order near p = q. The D2R release penalises the absolute value of its mean over a batch."""
    return kl(p_logits, q_logits, smoothing) - kl(q_logits, p_logits, smoothing)


def absolute_gap(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """|KL(p || q) - KL(q || p)| of each example."""
    return kl_gap(p_logits, q_logits).abs()


def jensen_shannon(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """(KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2; at most log 2."""
    check_logits(p_logits, q_logits)
    least = torch.finfo(p_logits.dtype).min  # not -inf, whose difference with itself is no number
    log_p, log_q = (logits.log_softmax(1).clamp_min(least) for logits in (p_logits, q_logits))
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=log_p.dtype, device=log_p.device))
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(1)


def cross_entropy(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """H(p, q) = -sum_c p_c log q_c = KL(p || q) + H(p)."""
    check_logits(p_logits, q_logits)
    p, log_q = p_logits.softmax(1), q_logits.log_softmax(1)
    return -(p * log_q.masked_fill(p == 0, 0)).sum(1)


def logit_mse(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Mean over classes of the squared difference of raw logits; sees the shift that softmax ignores."""
    check_logits(p_logits, q_logits)
    return (p_logits - q_logits).square().mean(1)


def probability_mse(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Mean over classes of the squared difference of probabilities."""
    check_logits(p_logits, q_logits)
    return (p_logits.softmax(1) - q_logits.softmax(1)).square().mean(1)


def total_variation(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Half the L1 distance of the probabilities, in [0, 1]."""
    check_logits(p_logits, q_logits)
    return 0.5 * (p_logits.softmax(1) - q_logits.softmax(1)).abs().sum(1)


def cosine(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """1 - cosine similarity of the probability vectors, in [0, 1]."""
    check_logits(p_logits, q_logits)
    return 1 - F.cosine_similarity(p_logits.softmax(1), q_logits.softmax(1), dim=1)


DIVERGENCES: dict[str, Divergence] = {
    "kl": kl,
    "reverse-kl": reverse_kl,
    "symmetric-kl": symmetric_kl,
    "absolute-gap": absolute_gap,
    "jensen-shannon": jensen_shannon,
    "cross-entropy": cross_entropy,
    "logit-mse": logit_mse,
    "probability-mse": probability_mse,
    "total-variation": total_variation,
    "cosine": cosine,
}
