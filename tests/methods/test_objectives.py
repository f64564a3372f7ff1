"""Objectives against the formulas of the papers, written out with plain probabilities."""

import pytest
import torch
import torch.nn.functional as F

from d2rkit.methods import objectives
from d2rkit.methods.objectives import D2R_WEIGHTS, Logits

B, C = 6, 5
Y = torch.arange(B) % C
VARIANTS = list(D2R_WEIGHTS)
ALL = {
    **{variant: (objectives.d2r, {"variant": variant}) for variant in VARIANTS},
    "pgd-at": (objectives.pgd_at, {}),
    "natural": (objectives.natural, {}),
    "trades": (objectives.trades, {"beta": 6.0}),
    "mart": (objectives.mart, {"beta": 5.0}),
    "lbgat0": (objectives.lbgat, {"beta": 0.0}),
    "lbgat6": (objectives.lbgat, {"beta": 6.0}),
    "adagat": (objectives.adagat, {}),
}


def make_logits(seed=0, grad=False):
    drawn = torch.randn(3, B, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Logits(*(part.clone().requires_grad_(grad) for part in 2 * drawn))


def smoothed_kl(p, q):
    """As released: mean over batch and classes, smoothed inside one logarithm."""
    return (p * (torch.log(p + 1e-5) - torch.log(q))).mean()


def plain_kl(p, q):
    return (p * (p.log() - q.log())).sum(1)


def terms(logits):
    f, f_adv, g = (part.softmax(1) for part in logits[:3])
    ce = -g.gather(1, Y[:, None]).log().mean()
    mse = (logits.target_adv - logits.guide_clean).square().mean()
    return ce, mse, smoothed_kl(f, g), smoothed_kl(g, f), smoothed_kl(g, f_adv), smoothed_kl(f_adv, g)


def test_d2r_released():
    ce, mse, kl1, kl2, _, kl5 = terms(make_logits())
    loss = objectives.d2r(make_logits(), Y, variant="released")
    torch.testing.assert_close(loss.total, ce + mse + 20 * (kl1 - kl2).abs() + 30 * kl5)
    torch.testing.assert_close(loss.signed, {"clean": 20 * (kl1 - kl2)})
    assert not objectives.d2r(make_logits(), Y, variant="symmetric").signed


def test_d2r_symmetric_with_given_weights():
    ce, mse, kl1, kl2, _, kl5 = terms(make_logits())
    loss = objectives.d2r(make_logits(), Y, variant="symmetric", w_clean=3.0, w_adv=7.0, w_mse=0.5, w_ce=2.0)
    torch.testing.assert_close(loss.total, 2 * ce + 0.5 * mse + 3 * (kl1 + kl2) + 7 * kl5)
    assert objectives.d2r(make_logits(), Y).total == objectives.d2r(make_logits(), Y, variant="symmetric").total


def test_d2r_jeffreys_adv():
    ce, _, kl1, kl2, kl3, kl5 = terms(make_logits())
    loss = objectives.d2r(make_logits(), Y, variant="jeffreys-adv")
    torch.testing.assert_close(loss.total, ce + 10 * kl3 + 20 * (kl1 - kl2).abs() + 15 * kl5 + 15 * kl3)


def test_a_weight_of_zero_is_a_weight():
    parts = objectives.d2r(make_logits(), Y, variant="released", w_clean=0.0, w_adv=0.0).parts
    assert parts["clean"] == 0 and parts["adv"] == 0 and parts["ce"] > 0


def test_trades():
    logits = make_logits()
    f, f_adv, _ = (part.softmax(1) for part in logits[:3])
    expected = F.cross_entropy(logits.target_clean, Y) + 4 * plain_kl(f, f_adv).mean()
    torch.testing.assert_close(objectives.trades(logits, Y, beta=4.0).total, expected)


def test_mart():
    logits = make_logits()
    f, f_adv, _ = (part.softmax(1) for part in logits[:3])
    expected = 0
    for p, p_adv, y in zip(f, f_adv, Y, strict=True):
        other = max(p_adv[c] for c in range(C) if c != y)
        boosted = -p_adv[y].log() - torch.log(1.0001 - other + 1e-12)
        expected += boosted + 5 * (1.0000001 - p[y]) * (p * (p.log() - p_adv.log())).sum()
    torch.testing.assert_close(objectives.mart(logits, Y, beta=5.0).total, expected / B)


def test_lbgat_and_adagat():
    logits = make_logits()
    f, f_adv, _ = (part.softmax(1) for part in logits[:3])
    ce, mse, *_ = terms(logits)
    torch.testing.assert_close(objectives.lbgat(logits, Y, beta=0).total, ce + mse)
    torch.testing.assert_close(objectives.lbgat(logits, Y, beta=6).total, ce + mse + 6 * plain_kl(f, f_adv).mean())
    torch.testing.assert_close(objectives.adagat(logits, Y).total, ce + 3.5 * mse)


def test_adversarial_training_and_natural():
    logits = make_logits()
    assert objectives.pgd_at(logits, Y).total == F.cross_entropy(logits.target_adv, Y)
    assert objectives.natural(logits, Y).total == F.cross_entropy(logits.target_clean, Y)
    assert objectives.pgd_at(Logits(None, logits.target_adv, None), Y).total > 0


@pytest.mark.parametrize("name", ALL)
def test_parts_sum_to_the_total(name):
    objective, options = ALL[name]
    loss = objective(make_logits(), Y, **options)
    assert loss.total.shape == ()
    torch.testing.assert_close(sum(loss.parts.values()), loss.total)


@pytest.mark.parametrize("variant", VARIANTS)
def test_batchmean_is_c_times_larger_in_every_kl_term(variant):
    mean, batchmean = (
        objectives.d2r(make_logits(), Y, variant=variant, reduction=r).parts for r in ("mean", "batchmean")
    )
    for name in mean:
        factor = 1 if name in ("ce", "mse") else C
        torch.testing.assert_close(batchmean[name], factor * mean[name])


def test_the_released_gap_is_zero_where_target_and_guide_agree():
    logits = make_logits()
    same = logits._replace(target_clean=logits.guide_clean)
    assert objectives.d2r(same, Y, variant="released").parts["clean"] == 0
    assert objectives.d2r(logits, Y, variant="released").parts["clean"] > 1e-3


def test_the_released_gap_cancels_across_a_batch():
    p, q = torch.tensor([2.0, 0.0, -1.0]), torch.tensor([0.0, 1.0, 0.5])
    logits = Logits(torch.stack([p, q]), torch.stack([p, q]), torch.stack([q, p]))
    y = torch.tensor([0, 1])
    assert objectives.d2r(logits, y, variant="released").parts["clean"] < 1e-6
    assert objectives.d2r(logits, y, variant="symmetric").parts["clean"] > 0.1


def gradient_reaches(objective, **options):
    logits = make_logits(grad=True)
    objective(logits, Y, **options).total.backward()
    return tuple(part.grad is not None and bool(part.grad.any()) for part in logits[:3])


def test_nothing_is_detached_in_d2r_unless_asked():
    assert gradient_reaches(objectives.d2r, variant="released", w_ce=0.0) == (True, True, True)
    assert gradient_reaches(objectives.d2r, variant="released", w_ce=0.0, detach_guide=True) == (True, True, False)
    assert gradient_reaches(objectives.d2r, variant="released", detach_guide=True) == (True, True, True)  # by CE


def test_trades_does_not_detach_its_clean_side():
    logits = make_logits(grad=True)
    objectives.trades(logits, Y).parts["adv"].backward()
    assert logits.target_clean.grad.any() and logits.target_adv.grad.any()


def test_adagat_pulls_the_guide_only():
    logits = make_logits(grad=True)
    objectives.adagat(logits, Y).parts["guide"].backward()
    assert logits.guide_clean.grad.any() and logits.target_adv.grad is None


def test_labels_reach_the_target_through_the_guide_only():
    gradients = []
    for y in (Y, (Y + 1) % C):
        logits = make_logits(grad=True)
        objectives.d2r(logits, y, variant="released").total.backward()
        gradients.append([part.grad for part in logits[:3]])
    assert torch.equal(gradients[0][0], gradients[1][0]) and torch.equal(gradients[0][1], gradients[1][1])
    assert not torch.equal(gradients[0][2], gradients[1][2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "relesed"}, "unknown D2R variant 'relesed' .*'released'.*symmetric, released, jeffreys-adv"),
        ({"reduction": "meen"}, "unknown reduction 'meen' .*'mean'.*mean, batchmean"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(options, words):
    with pytest.raises(ValueError, match=words):
        objectives.d2r(make_logits(), Y, **options)
