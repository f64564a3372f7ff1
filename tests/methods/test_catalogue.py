"""The rows of every table: what each attack and objective is, and that a step of each runs."""

import pytest
import torch

from d2rkit.methods import attacks, objectives
from d2rkit.methods.catalogue import METHODS, PAIR_ATTACKS, TWO_STEP, get_method
from tests.conftest import make_pair

BUDGET = {"eps": 0.2, "step_size": 0.05, "steps": 2}


def batch(digits):
    return digits.train.pixels(slice(0, 16)), digits.train.labels[:16]


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method(name, digits):
    method, (x, y) = METHODS[name], batch(digits)
    pair = make_pair(guide=method.needs_guide)
    x_adv = method.perturb(pair, x, y, generator=torch.Generator().manual_seed(0), **BUDGET)
    assert method.attack in PAIR_ATTACKS and (x_adv is None) == (method.attack == "none")
    logits = method.forward(pair, x, x_adv)
    loss = method.loss(logits, y)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert all(p.grad is not None and p.grad.any() for p in pair.target.convs.parameters())
    assert (logits.guide_clean is not None) == (method.needs_guide and method.needs_guide_clean)
    assert (logits.guide_adv is not None) == method.needs_guide_adv and not (method.needs_guide_adv and not pair.guide)
    if x_adv is not None:
        assert 0 < (x_adv - x).abs().max() <= BUDGET["eps"] + 1e-6


def expected_attack(name, pair, x, y):
    generator = torch.Generator().manual_seed(3)
    if METHODS[name].attack == "ce":
        uniform = name in ("pgd-at", "adr")
        start = attacks.uniform_start(x, 0.2, generator) if uniform else attacks.gaussian_start(x, generator)
        return attacks.pgd_ce(pair.target, x, y, start=start, **BUDGET)
    start = attacks.gaussian_start(x, generator)
    if name in ("adaad", "dgad"):
        return attacks.kl_pair(pair.target, pair.guide, x, start=start, **BUDGET)
    if name.startswith("d2r-cag") or name in ("rslad", "rslad-online", "peeraid", "ikl-guided"):
        return attacks.cag(pair.target, pair.guide, x, start=start, **BUDGET)
    return attacks.kl_self(pair.target, x, start=start, **BUDGET)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"natural"}))
def test_the_attack_is_the_published_one(name, digits):
    x, y = batch(digits)
    pair = make_pair()
    x_adv = METHODS[name].perturb(pair, x, y, generator=torch.Generator().manual_seed(3), **BUDGET)
    base = name.removesuffix("-awp")  # weight perturbation leaves the attack as it is
    assert torch.equal(x_adv, expected_attack(base, pair, x, y))


def test_guide_share_reaches_cag(digits):
    x, y = batch(digits)
    pair = make_pair()
    x_adv, plain = (
        METHODS["d2r-cag"].perturb(pair, x, y, generator=torch.Generator().manual_seed(3), guide_share=s, **BUDGET)
        for s in (1.0, 0.0)
    )
    start = attacks.gaussian_start(x, torch.Generator().manual_seed(3))
    assert torch.equal(x_adv, attacks.pgd_ce(pair.guide, x, y, start=start, **BUDGET))
    assert not torch.equal(x_adv, plain)


def test_the_order_of_forwards_is_as_released():
    """BatchNorm statistics depend on it."""
    first = {"trades", "trades-awp", "mart", "ikl", "adaad", "iad", "dgad"}
    assert {name for name, method in METHODS.items() if method.clean_first} == first
    assert not METHODS["pgd-at"].needs_clean
    for name in ("lbgat0", "lbgat6", "adagat", "d2r", "d2r-cag", "d2r-cag-released"):
        assert METHODS[name].needs_clean and METHODS[name].needs_guide


def test_options_and_changes_reach_the_objective(digits):
    _, y = batch(digits)
    logits = objectives.Logits(*torch.randn(3, 16, 10).unbind())
    assert METHODS["lbgat6"].loss(logits, y).total == objectives.lbgat(logits, y, beta=6).total
    assert METHODS["lbgat6"].loss(logits, y, {"beta": 2.0}).total == objectives.lbgat(logits, y, beta=2).total
    assert METHODS["trades"].loss(logits, y).total == objectives.trades(logits, y, beta=6).total
    released = objectives.d2r(logits, y, variant="released").total
    assert METHODS["d2r-cag-released"].loss(logits, y).total == released != METHODS["d2r-cag"].loss(logits, y).total


def test_two_step_groups_cover_every_part_of_d2r_once(digits):
    _, y = batch(digits)
    logits = objectives.Logits(*torch.randn(3, 16, 10).unbind())
    terms = [term for group in TWO_STEP for term in group]
    assert len(terms) == len(set(terms))
    for variant in objectives.D2R_WEIGHTS:
        assert objectives.d2r(logits, y, variant=variant).parts.keys() <= set(terms)


def test_unknown_method_and_option_are_refused():
    with pytest.raises(ValueError, match=r"unknown method 'd2r_cag' \(did you mean 'd2r-cag'\?\).*natural, pgd-at"):
        get_method("d2r_cag")
    with pytest.raises(ValueError, match=r"unknown loss option of TRADES 'betta' \(did you mean 'beta'\?\)"):
        get_method("trades").check_options({"betta": 1})
    with pytest.raises(ValueError, match="loss option of PGD-AT 'beta'"):
        get_method("pgd-at").check_options({"beta": 1})
    get_method("d2r").check_options({"w_clean": 1.0, "detach_guide": True})
