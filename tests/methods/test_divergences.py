"""Divergences against figures worked out by hand and against torch.distributions."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from d2rkit.methods import divergences
from d2rkit.methods.divergences import DIVERGENCES

# p = (0.9, 0.1) and q = (0.5, 0.5), as logits; sums by hand.
P, Q = (torch.tensor([row], dtype=torch.float64).log() for row in ((0.9, 0.1), (0.5, 0.5)))
KL_PQ = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
KL_QP = -0.5 * math.log(0.36)  # 0.5 log(0.5/0.9) + 0.5 log(0.5/0.1)
KL_PM = 0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3)
KL_QM = 0.5 * math.log(0.5 / 0.7) + 0.5 * math.log(0.5 / 0.3)
BY_HAND = {
    "kl": KL_PQ,
    "reverse-kl": KL_QP,
    "symmetric-kl": 0.4 * math.log(9),  # sum of (p - q) log(p / q)
    "absolute-gap": abs(KL_PQ - KL_QP),
    "jensen-shannon": (KL_PM + KL_QM) / 2,
    "cross-entropy": math.log(2),
    "logit-mse": (math.log(1.8) ** 2 + math.log(0.2) ** 2) / 2,
    "probability-mse": 0.16,
    "total-variation": 0.4,
    "cosine": 1 - 0.5 / math.sqrt(0.82 * 0.5),
}


def random_logits(classes=7, seed=0):
    return 3 * torch.randn(2, 5, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_divergence_has_a_figure_by_hand():
    assert BY_HAND.keys() == DIVERGENCES.keys()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_by_hand(name):
    value = DIVERGENCES[name](P, Q)
    assert value.shape == (1,)
    assert value.item() == pytest.approx(BY_HAND[name], abs=1e-12)


def test_kl_agrees_with_torch_distributions():
    p, q = random_logits()
    torch.testing.assert_close(divergences.kl(p, q), kl_divergence(Categorical(logits=p), Categorical(logits=q)))
    torch.testing.assert_close(
        divergences.reverse_kl(p, q), kl_divergence(Categorical(logits=q), Categorical(logits=p))
    )


def test_cross_entropy_is_kl_plus_entropy():
    p, q = random_logits()
    torch.testing.assert_close(divergences.cross_entropy(p, q), divergences.kl(p, q) + Categorical(logits=p).entropy())


@pytest.mark.parametrize("name", sorted(DIVERGENCES.keys() - {"cross-entropy"}))
def test_zero_at_equality_and_never_below(name):
    p, q = random_logits()
    assert DIVERGENCES[name](p, p).abs().max() < 1e-12
    assert DIVERGENCES[name](p, q).min() > 0


@pytest.mark.parametrize("name", sorted(DIVERGENCES.keys() - {"logit-mse"}))
def test_blind_to_a_shift_of_the_logits(name):
    p, q = random_logits()
    torch.testing.assert_close(DIVERGENCES[name](p + 2, q - 3), DIVERGENCES[name](p, q))


def test_logit_mse_sees_the_shift():
    p, _ = random_logits()
    torch.testing.assert_close(divergences.logit_mse(p + 2, p), torch.full((5,), 4.0, dtype=p.dtype))


@pytest.mark.parametrize(
    "name", ["symmetric-kl", "absolute-gap", "jensen-shannon", "logit-mse", "total-variation", "cosine"]
)
def test_symmetric_ones_are_symmetric(name):
    p, q = random_logits()
    torch.testing.assert_close(DIVERGENCES[name](p, q), DIVERGENCES[name](q, p))


@pytest.mark.parametrize(("name", "limit"), [("jensen-shannon", math.log(2)), ("total-variation", 1), ("cosine", 1)])
def test_bounded_ones_reach_their_bound_at_opposite_corners(name, limit):
    p, q = torch.tensor([[50.0, 0.0]]).double(), torch.tensor([[0.0, 50.0]]).double()
    assert DIVERGENCES[name](p, q).item() == pytest.approx(limit, abs=1e-9)


def test_smoothing_is_inside_the_first_logarithm_only():
    smoothed = 0.9 * math.log(0.90001 / 0.5) + 0.1 * math.log(0.10001 / 0.5)
    assert divergences.kl(P, Q, 1e-5).item() == pytest.approx(smoothed, abs=1e-12)
    both = smoothed + 0.5 * math.log(0.50001 / 0.9) + 0.5 * math.log(0.50001 / 0.1)
    assert divergences.symmetric_kl(P, Q, 1e-5).item() == pytest.approx(both, abs=1e-12)


def test_the_released_gap_is_signed_and_not_a_divergence():
    gap = divergences.kl_gap(P, Q)
    assert gap.item() == pytest.approx(KL_PQ - KL_QP) and gap < 0
    torch.testing.assert_close(divergences.kl_gap(Q, P), -gap)
    mirrored = P.flip(1)  # (0.1, 0.9) is far from (0.9, 0.1), yet both directions agree
    assert divergences.kl(P, mirrored) > 1 and divergences.kl_gap(P, mirrored).abs() < 1e-12


def test_the_gap_is_of_third_order_near_equality():
    p, direction = random_logits()
    far, near = (divergences.absolute_gap(p, p + h * direction) for h in (1e-2, 5e-3))
    torch.testing.assert_close(far / near, torch.full_like(far, 8), rtol=0.1, atol=0)


def test_large_logits_stay_finite():
    p, q = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    for name, divergence in DIVERGENCES.items():
        assert torch.isfinite(divergence(p, q)).all(), name


@pytest.mark.parametrize("name", sorted(set(DIVERGENCES) - {"logit-mse"}))
def test_a_class_masked_on_both_sides_counts_nothing(name):
    """A logit of -inf, in value and in gradient: as if the class were not there."""
    generator = torch.Generator().manual_seed(0)
    few = [z.requires_grad_() for z in torch.randn(2, 5, 4, dtype=torch.float64, generator=generator).unbind()]
    many = [torch.cat([z.detach(), torch.full((5, 1), -torch.inf)], 1).requires_grad_() for z in few]
    values = [DIVERGENCES[name](*pair) for pair in (few, many)]
    scale = 5 / 4 if name == "probability-mse" else 1  # a mean over classes
    torch.testing.assert_close(values[1] * scale, values[0])
    for some, all_ in zip(*(torch.autograd.grad(v.sum(), pair) for v, pair in zip(values, (few, many), strict=True)),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(all_[:, :4] * scale, some)
        assert not all_[:, 4].any()


def test_a_class_masked_on_one_side():
    p, q = torch.tensor([[0.0, 1.0, -torch.inf]]), torch.tensor([[1.0, 0.0, 2.0]])
    assert divergences.kl(p, q).isfinite() and divergences.cross_entropy(p, q).isfinite()
    assert divergences.kl(q, p) == divergences.cross_entropy(q, p) == divergences.symmetric_kl(p, q) == torch.inf
    assert divergences.kl(p, q, smoothing=1e-5).isfinite()
    assert 0 < divergences.jensen_shannon(p, q) < math.log(2)
    torch.testing.assert_close(divergences.jensen_shannon(p, q), divergences.jensen_shannon(q, p))
