"""What must hold of divergences, objectives and attacks for any input, not for chosen ones."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from d2rkit.methods import attacks, divergences, family, objectives
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.divergences import DIVERGENCES
from d2rkit.methods.objectives import D2R_WEIGHTS, Logits

TRUE_DIVERGENCES = sorted(DIVERGENCES.keys() - {"cross-entropy", "absolute-gap", "logit-mse"})
OBJECTIVES = {
    **{f"d2r-{v}": (objectives.d2r, {"variant": v}) for v in D2R_WEIGHTS},
    "pgd-at": (objectives.pgd_at, {}),
    "natural": (objectives.natural, {}),
    "trades": (objectives.trades, {}),
    "mart": (objectives.mart, {}),
    "lbgat6": (objectives.lbgat, {"beta": 6.0}),
    "adagat": (objectives.adagat, {}),
    "rslad": (family.rslad, {}),
    "rslad-online": (family.rslad_online, {}),
    "peeraid": (family.peeraid, {"f_ce": 1.0}),
    "adaad": (family.adaad, {"alpha": 0.5}),
    "iad": (family.iad, {}),
    "dgad": (family.dgad, {}),
    "adr": (family.adr, {}),
    "ikl": (family.ikl, {}),
    "ikl-guided": (family.ikl, {"guided": True}),
}
STOPPED = {"adagat", "rslad", "rslad-online", "peeraid", "adaad", "iad", "dgad", "adr", "ikl", "ikl-guided"}
# The logits whose network each weighted term trains, as the docstrings say it.
F_CLEAN, F_ADV, G = "target_clean", "target_adv", "guide_clean"
GRADIENTS = {
    "d2r-symmetric": {"ce": {G}, "mse": {F_ADV, G}, "clean": {F_CLEAN, G}, "adv": {F_ADV, G}},
    "d2r-released": {"ce": {G}, "mse": {F_ADV, G}, "clean": {F_CLEAN, G}, "adv": {F_ADV, G}},
    "d2r-jeffreys-adv": {"ce": {G}, "mse": set(), "clean": {F_CLEAN, G}, "adv": {F_ADV, G}, "reverse": {F_ADV, G}},
    "pgd-at": {"ce": {F_ADV}},
    "natural": {"ce": {F_CLEAN}},
    "trades": {"ce": {F_CLEAN}, "adv": {F_CLEAN, F_ADV}},
    "mart": {"ce": {F_ADV}, "margin": {F_ADV}, "adv": {F_CLEAN, F_ADV}},
    "lbgat6": {"ce": {G}, "mse": {F_ADV, G}, "adv": {F_CLEAN, F_ADV}},
    "adagat": {"ce": {G}, "mse": {F_ADV, G}, "guide": {G}},
}


@st.composite
def logits(draw, count=2, spread=8.0):
    """`count` tensors (B, C) of one shape; labels (B,)."""
    batch, classes = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.floats(0.01, spread))
    parts = [scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64) for _ in range(count)]
    return (*parts, torch.randint(0, classes, (batch,), generator=generator))


close = torch.testing.assert_close


@settings(max_examples=60, deadline=None)
@given(logits())
def test_divergences_are_never_negative_and_zero_only_at_equality(drawn):
    p, q, _ = drawn
    apart = (p.softmax(1) - q.softmax(1)).abs().amax(1) > 1e-3
    for name, divergence in DIVERGENCES.items():
        assert divergence(p, q).min() >= -1e-12, name
    for name in TRUE_DIVERGENCES:
        assert DIVERGENCES[name](p, p).abs().max() < 1e-12, name
        assert (DIVERGENCES[name](p, q)[apart] > 1e-12).all(), name


@settings(max_examples=60, deadline=None)
@given(logits(), st.floats(-50, 50), st.integers(0, 2**31))
def test_divergences_ignore_shifts_and_follow_permutations(drawn, shift, seed):
    p, q, _ = drawn
    generator = torch.Generator().manual_seed(seed)
    classes, batch = (torch.randperm(n, generator=generator) for n in (p.shape[1], p.shape[0]))
    for name, divergence in DIVERGENCES.items():
        value = divergence(p, q)
        close(divergence(p[:, classes], q[:, classes]), value, rtol=1e-9, atol=1e-9)
        close(divergence(p[batch], q[batch]), value[batch])
        for one in range(len(p)):  # no example sees another
            close(divergence(p[one : one + 1], q[one : one + 1]), value[one : one + 1])
        if name != "logit-mse":
            close(divergence(p + shift, q - shift), value, rtol=1e-7, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(logits())
def test_relations_between_divergences(drawn):
    p, q, _ = drawn
    d = {name: divergence(p, q) for name, divergence in DIVERGENCES.items()}
    close(d["kl"] + d["reverse-kl"], d["symmetric-kl"])
    close(divergences.kl_gap(p, q).abs(), d["absolute-gap"])
    assert (2 * d["total-variation"].square() <= d["kl"] + 1e-12).all()  # Pinsker
    assert (d["jensen-shannon"] <= d["total-variation"] * 2**0.5 + 1e-12).all()
    assert (d["jensen-shannon"] <= d["symmetric-kl"] / 4 + 1e-12).all()
    assert (d["cross-entropy"] >= d["kl"] - 1e-12).all()


def test_kl_is_not_symmetric():
    p, q = torch.tensor([[3.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert (divergences.kl(p, q) - divergences.kl(q, p)).abs() > 0.1


@settings(max_examples=40, deadline=None)
@given(logits(4), st.integers(0, 2**31))
def test_objectives_follow_permutations_and_their_gradients_are_right(drawn, seed):
    *parts, y = drawn
    generator = torch.Generator().manual_seed(seed)
    classes, batch = (torch.randperm(n, generator=generator) for n in (parts[0].shape[1], len(y)))
    renamed = torch.argsort(classes)[y]
    for name, (objective, options) in OBJECTIVES.items():
        total = objective(Logits(*parts), y, **options).total
        assert total.ndim == 0 and torch.isfinite(total), name
        close(objective(Logits(*(z[batch] for z in parts)), y[batch], **options).total, total, rtol=1e-9, atol=1e-9)
        moved = objective(Logits(*(z[:, classes] for z in parts)), renamed, **options).total
        close(moved, total, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_agree_with_differences(name):
    objective, options = OBJECTIVES[name]
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(3, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(4)]
    y = torch.tensor([0, 3, 1])
    if name in STOPPED:  # what a term stops on purpose is constant: only the other gradients are those of the total
        stopped = {"adagat": {1}, "ikl": {0}, "peeraid": {3}}.get(name, {2, 3})
        parts = [z.detach() if at in stopped else z for at, z in enumerate(parts)]
    assert torch.autograd.gradcheck(lambda *z: objective(Logits(*z), y, **options).total, parts)


@pytest.mark.parametrize("name", GRADIENTS)  # of the others: test_family.py
def test_every_term_trains_the_networks_it_should(name):
    objective, options = OBJECTIVES[name]
    generator = torch.Generator().manual_seed(2)
    reached = {}
    for term in GRADIENTS[name]:
        parts = Logits(*(torch.randn(4, 5, generator=generator).requires_grad_() for _ in range(4)))
        loss = objective(parts, torch.arange(4), **options).parts
        assert loss.keys() == GRADIENTS[name].keys()
        if loss[term].requires_grad:
            loss[term].backward()
        reached[term] = {n for n, z in parts._asdict().items() if z.grad is not None and z.grad.any()}
    assert reached == GRADIENTS[name]


@pytest.mark.parametrize("variant", D2R_WEIGHTS)
@pytest.mark.parametrize("detached", [False, True])
def test_terms_times_networks_of_d2r(variant, detached):
    """With detach_guide every term but CE stops training the guide, and nothing else changes."""
    generator = torch.Generator().manual_seed(3)
    parts = Logits(*(torch.randn(4, 5, generator=generator).requires_grad_() for _ in range(4)))
    weights = {"w_mse": 1.0, "variant": variant, "detach_guide": detached}
    for term, value in objectives.d2r(parts, torch.arange(4), **weights).parts.items():
        gradients = torch.autograd.grad(value, list(parts), retain_graph=True, allow_unused=True)
        trained = {n for n, g in zip(Logits._fields, gradients, strict=True) if g is not None and g.any()}
        expected = {"ce": {G}, "mse": {F_ADV, G}, "clean": {F_CLEAN, G}, "adv": {F_ADV, G}, "reverse": {F_ADV, G}}[term]
        assert trained == (expected - {G} if detached and term != "ce" else expected), term


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_not_need_what_they_do_not_forward(name):
    """A logit tensor that a method leaves out is None, and the loss is there all the same."""
    method = METHODS[name]
    z = torch.randn(4, 4, 5, generator=torch.Generator().manual_seed(0))
    needed = Logits(z[0] if method.needs_clean else None, None if method.attack == "none" else z[1],
                    z[2] if method.needs_guide and method.needs_guide_clean else None,
                    z[3] if method.needs_guide_adv else None)  # fmt: skip
    assert torch.isfinite(method.loss(needed, torch.arange(4)).total)
    for part, words in (("guide_clean", "on x"), ("guide_adv", "on x'")):
        if getattr(needed, part) is not None:
            with pytest.raises(ValueError, match=f"needs a guide's logits {words}, but {part} is None"):
                method.loss(needed._replace(**{part: None}), torch.arange(4))


# -- attacks -------------------------------------------------------------------------------------------------
@st.composite
def attacked(draw):
    """A linear model, images, labels, and a budget."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    net = nn.Linear(6, draw(st.integers(2, 5))).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    batch = draw(st.integers(1, 5))
    x = torch.rand(batch, 6, generator=generator, dtype=torch.float64)
    y = torch.randint(0, net.out_features, (batch,), generator=generator)
    start = torch.randn(x.shape, generator=generator, dtype=torch.float64) * draw(st.floats(0, 0.5))
    budget = {"eps": draw(st.floats(0, 0.5)), "step_size": draw(st.floats(0, 0.5)), "steps": draw(st.integers(0, 4))}
    return net, x, y, start, budget, draw(st.sampled_from(attacks.NORMS))


@settings(max_examples=80, deadline=None)
@given(attacked())
def test_attacks_of_a_linear_model_stay_inside_and_never_lose(drawn):
    """Two classes: the margin is linear, so no step may lower it and nothing beats the closed form."""
    net, x, y, start, budget, norm = drawn
    images = {
        "pgd_ce": attacks.pgd_ce(net, x, y, norm=norm, **budget),
        "cw": attacks.cw(net, x, y, norm=norm, **budget),
        "started": attacks.pgd_ce(net, x, y, start=start, norm=norm, **budget),
        "kl_self": attacks.kl_self(net, x, start=start, norm=norm, **budget),
        "cag": attacks.cag(net, copy.deepcopy(net), x, start=start, norm=norm, **budget),
    }
    for name, x_adv in images.items():
        assert x_adv.min() >= 0 and x_adv.max() <= 1, name
        length = torch.linalg.vector_norm(x_adv - x, torch.inf if norm == "linf" else 2, dim=1)
        assert (length <= budget["eps"] + 1e-9).all(), name
        if budget["eps"] == 0:
            assert torch.equal(x_adv, x), name
    if net.out_features == 2:
        with torch.no_grad():
            before = attacks.margin(net(x), y)
            w = net.weight[1 - y] - net.weight[y]
            dual = w.abs().sum(1) if norm == "linf" else w.norm(dim=1)  # the norm dual to that of the ball
            for name in ("pgd_ce", "cw"):
                after = attacks.margin(net(images[name]), y)
                assert (after >= before - 1e-9).all() and (after <= before + budget["eps"] * dual + 1e-9).all(), name


@settings(max_examples=40, deadline=None)
@given(attacked())
def test_images_of_a_batch_do_not_see_each_other(drawn):
    net, x, y, start, budget, norm = drawn
    together = attacks.pgd_ce(net, x, y, start=start, norm=norm, **budget)
    for one in range(len(x)):
        part = slice(one, one + 1)
        alone = attacks.pgd_ce(net, x[part], y[part], start=start[part], norm=norm, **budget)
        close(alone, together[part], rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", attacks.NORMS)
def test_projecting_twice_is_projecting_once_and_moves_least(norm):
    generator = torch.Generator().manual_seed(0)
    x, far = (torch.rand(50, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    far = 3 * far - 1
    once = attacks.project(far, x, 0.2, norm)
    close(attacks.project(once, x, 0.2, norm), once, rtol=0, atol=1e-12)
    inside = (x + 0.01 * (far - x)).clamp(0, 1)
    close(attacks.project(inside, x, 0.5, norm), inside)
    if norm == "linf":
        close(once, torch.minimum(torch.maximum(far, (x - 0.2).clamp_min(0)), (x + 0.2).clamp_max(1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_in_its_dtype_and_ball(dtype):
    net = nn.Linear(6, 3).to(dtype)
    x = torch.rand(4, 6).to(dtype)
    x_adv = attacks.pgd_ce(net, x, torch.arange(4) % 3, eps=0.125, step_size=0.0625, steps=3)
    assert x_adv.dtype == dtype and (x_adv - x).abs().max() <= 0.125 + 0.01 and F.relu(x_adv - 1).max() == 0


def test_one_image_in_train_mode_is_attacked_with_the_running_statistics():
    """A batch of one would stop BatchNorm in train mode; an attack puts the network into eval mode."""
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).train()
    x_adv = attacks.pgd_ce(net, torch.rand(1, 6), torch.tensor([1]), eps=0.1, step_size=0.1, steps=2)
    assert x_adv.shape == (1, 6) and net.training and net[1].num_batches_tracked == 0
