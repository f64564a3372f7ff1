"""D2R's relatives against their formulas, written out with plain loops in float64, and where their gradients flow."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2rkit.methods import attacks, family, objectives
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.divergences import kl
from d2rkit.methods.objectives import Logits
from d2rkit.methods.pair import GuidedPair

B, C = 7, 5
Y = torch.arange(B) % C
FAMILY = ("rslad", "rslad-online", "peeraid", "adaad", "iad", "dgad", "adr", "ikl", "ikl-guided")
F_CLEAN, F_ADV, G, G_ADV = Logits._fields


def networks(seed=0):
    torch.manual_seed(seed)
    return GuidedPair(*(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, C)).double() for _ in "fg"))


def images(seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(B, 6, generator=generator, dtype=torch.float64)
    return x, (x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)


def sharpened(pair):
    """Predictions far from uniform, so that the guide is right on some images and wrong on others."""
    with torch.no_grad():
        for network in (pair.target, pair.guide):
            network[-1].weight.mul_(30)
    return pair


# -- the formulas, one image and class at a time ----------------------------------------------------------------
def softmax(z, temperature=1.0):
    weights = [(value / temperature).exp() for value in z]
    total = sum(weights)
    return [weight / total for weight in weights]


def plain_kl(p, q, smoothing=0.0):
    return sum(a * ((a + smoothing).log() - b.log()) for a, b in zip(p, q, strict=True))


def plain_ce(z, y):
    return -softmax(z)[y].log()


def winning(z, y):
    values = list(z)
    top = max(range(C), key=lambda c: float(z[c]))
    values[top], values[y] = values[y], values[top]
    return values


def by_hand(name, f, a, g, h, y, *, means=None, progress=1.0):
    """The loss of one image from its logits f = f(x), a = f(x'), g = g(x), h = g(x'); the batch's is the mean."""
    if name in ("rslad", "rslad-online"):
        soft = softmax(g.detach())
        loss = (5 / 6 * plain_kl(soft, softmax(a), 1e-5) + 1 / 6 * plain_kl(soft, softmax(f), 1e-5)) / C
        return loss + (plain_ce(g, y) if name == "rslad-online" else 0)
    if name == "peeraid":
        guide = plain_ce(h, y) + 0.1 * plain_kl(softmax(a), softmax(h)) / C
        cooled = plain_kl(softmax(h.detach(), 5), softmax(a, 5)) + plain_kl(softmax(f, 5), softmax(a, 5))
        return guide + 25 * cooled / C
    if name == "adaad":
        return plain_kl(softmax(h.detach()), softmax(a))
    if name == "iad":
        trust = softmax(h.detach())[y] ** 0.1
        own = (1 - trust) * plain_kl(softmax(f), softmax(a)) if progress >= 0.3 else 0
        return plain_kl(softmax(g.detach()), softmax(a)) + own
    if name == "dgad":
        wrong = max(range(C), key=lambda c: float(g[c])) != y
        teacher, student = (g, f) if wrong else (h, a)
        pull = sum((p - q) ** 2 for p, q in zip(softmax(a), softmax(f), strict=True)) / C
        return plain_kl(softmax(winning(teacher.detach(), y)), softmax(student)) + pull
    if name == "adr":
        done = (1 - math.cos(math.pi * progress)) / 2
        p = softmax(g.detach(), 2 - done)
        share = min(max(0.7 + 0.25 * done - float(max(p) - p[y]), 0.0), 1.0)
        q = [share * p[c] + (1 - share) * (c == y) for c in range(C)]
        return -sum(q[c] * softmax(a)[c].log() for c in range(C))
    n = g if name == "ikl-guided" else f
    w = [1 / C] * C if means is None else means[y].tolist()
    squares = sum(w[j] * w[k] * ((n[j] - n[k]) - (a[j] - a[k])) ** 2 for j in range(C) for k in range(C))
    soft = softmax(n.detach())
    return plain_ce(n, y) + 20 * squares / 4 - 4 * sum(soft[c] * softmax(a)[c].log() for c in range(C))


def gradients(pair, total):
    pair.zero_grad()
    total.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in pair.named_parameters()}


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("name", FAMILY)
def test_loss_and_gradients_are_those_of_the_formula(name, progress):
    method, pair, (x, x_adv) = METHODS[name], sharpened(networks()), images()
    means = torch.rand(C, C, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).softmax(1)
    loss = method.loss(method.forward(pair, x, x_adv), Y, class_means=means, progress=progress).total
    mine = gradients(pair, loss)
    all_logits = [pair.target(x), pair.target(x_adv), pair.guide(x), pair.guide(x_adv)]
    one_by_one = [by_hand(name, *(z[b] for z in all_logits), int(Y[b]), means=means, progress=progress)
                  for b in range(B)]  # fmt: skip
    expected = sum(one_by_one) / B
    theirs = gradients(pair, expected)
    assert abs(float((loss - expected).detach())) <= 1e-9 and loss > 0
    for parameter, mine_there in mine.items():
        there = theirs[parameter]
        assert (mine_there is None or not mine_there.any()) == (there is None or not there.any()), parameter
        if there is not None and mine_there is not None:
            assert (mine_there - there).abs().max() <= 1e-9, parameter
    assert all(mine[f"target.{n}"].any() for n, _ in pair.target.named_parameters())


def test_the_batch_of_the_parity_test_has_every_case():
    """Images on which the guide is right, and wrong, on x and on x'; shares of ADR at 0 and between."""
    pair, (x, x_adv) = sharpened(networks()), images()
    for z in (pair.guide(x), pair.guide(x_adv)):
        right = z.argmax(1) == Y
        assert right.any() and not right.all()
    p = (pair.guide(x) / 2).softmax(1)
    share = 0.7 - (p.amax(1) - p.gather(1, Y[:, None]).squeeze(1))
    assert (share < 0).any() and (share > 0).any()


# -- where gradients flow ---------------------------------------------------------------------------------------
# term x logits, stop-gradients included; "target" and "guide" networks follow from it.
FLOW = {
    "rslad": {"adv": {F_ADV}, "clean": {F_CLEAN}},
    "rslad-online": {"ce": {G}, "adv": {F_ADV}, "clean": {F_CLEAN}},
    "peeraid": {"guide_ce": {G_ADV}, "guide_kl": {F_ADV, G_ADV}, "ce": {F_ADV}, "adv": {F_ADV},
                "self": {F_CLEAN, F_ADV}},
    "adaad": {"adv": {F_ADV}, "clean": {F_CLEAN}},
    "iad": {"adv": {F_ADV}, "self": {F_CLEAN, F_ADV}},
    "dgad": {"clean": {F_CLEAN}, "adv": {F_ADV}, "mse": {F_CLEAN, F_ADV}},
    "adr": {"ce": {F_ADV}},
    "ikl": {"ce": {F_CLEAN}, "mse": {F_CLEAN, F_ADV}, "soft": {F_ADV}},
    "ikl-guided": {"ce": {G}, "mse": {G, F_ADV}, "soft": {F_ADV}},
}  # fmt: skip
NOTHING_IS_ZERO = {"peeraid": {"f_ce": 1.0}, "adaad": {"alpha": 0.5}}  # weights that are 0 by default


def four(seed=2):
    generator = torch.Generator().manual_seed(seed)
    return Logits(*(torch.randn(B, C, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(4)))


@pytest.mark.parametrize("name", FAMILY)
def test_every_term_trains_what_it_should(name):
    logits = four()
    parts = METHODS[name].loss(logits, Y, NOTHING_IS_ZERO.get(name)).parts
    reached = {}
    for term, value in parts.items():
        got = torch.autograd.grad(value, list(logits), retain_graph=True, allow_unused=True)
        reached[term] = {n for n, z in zip(Logits._fields, got, strict=True) if z is not None and z.any()}
    assert reached == FLOW[name]


@pytest.mark.parametrize("name", FAMILY)
def test_a_guide_at_rest_learns_nothing_and_keeps_its_statistics(name):
    """Through the networks: only a guide that is trained gets a gradient, or moves its BatchNorm."""
    torch.manual_seed(0)
    nets = (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, C)).double() for _ in "fg")
    pair, method, (x, x_adv) = GuidedPair(*nets).train(), METHODS[name], images()
    if not method.needs_guide:
        pair.guide = None
    before = {} if pair.guide is None else {n: b.clone() for n, b in pair.guide.named_buffers()}
    method.loss(method.forward(pair, x, x_adv), Y).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in pair.target[-1].parameters())
    if pair.guide is not None:
        learns = method.guide == "trained"
        assert all((p.grad is not None) == learns for p in pair.guide.parameters())
        moved = not all(torch.equal(b, before[n]) for n, b in pair.guide.named_buffers())
        assert moved == learns and pair.guide.training


def test_a_step_forwards_what_a_method_asks_for_and_no_more():
    asked = {}
    for name in FAMILY:
        seen, pair = [], networks()
        for whose, network in (("f", pair.target), ("g", pair.guide)):
            network.register_forward_hook(lambda net, inputs, out, w=whose, seen=seen: seen.append((w, inputs[0])))
        x, x_adv = images()
        method = METHODS[name]
        if not method.needs_guide:
            pair.guide = None
        method.forward(pair, x, x_adv)
        asked[name] = [f"{w}(x)" if z is x else f"{w}(x')" for w, z in seen]
    both = ["f(x)", "f(x')", "g(x)", "g(x')"]
    assert asked == {
        "rslad": ["f(x')", "f(x)", "g(x)"], "rslad-online": ["f(x')", "f(x)", "g(x)"],
        "peeraid": ["f(x')", "f(x)", "g(x')"], "adaad": both, "iad": both, "dgad": both,
        "adr": ["f(x')", "g(x)"], "ikl": ["f(x)", "f(x')"], "ikl-guided": ["f(x')", "g(x)"],
    }  # fmt: skip


# -- what the docstrings claim ----------------------------------------------------------------------------------
def rslad_attack(target, guide, x, noise, eps, step_size, steps):
    """RSLAD's inner loop from its formula, the guide asked anew at every step."""
    x_adv = x + 0.001 * noise
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        p = guide(x).softmax(1).detach()
        (p * (torch.log(p + 1e-5) - target(x_adv).log_softmax(1))).sum().backward(inputs=[x_adv])
        x_adv = x_adv.detach() + step_size * x_adv.grad.sign()
        x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv.detach()


def test_cag_is_rslads_inner_attack_with_an_online_guide(digits):
    """To the bit in float64, at the guide's weights of the moment, as it learns."""
    from tests.conftest import make_pair

    pair = make_pair(name="cnn-8").double().eval()
    x, y = digits.train.pixels(slice(0, 24)).double(), digits.train.labels[:24]
    optimizer, attacked = torch.optim.SGD(pair.guide.parameters(), 0.1), []
    for step in range(3):
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(step), dtype=x.dtype)
        budget = {"eps": 0.2, "step_size": 0.05, "steps": 5}
        attacked.append(attacks.cag(pair.target, pair.guide, x, start=0.001 * noise, **budget))
        assert torch.equal(attacked[-1], rslad_attack(pair.target, pair.guide, x, noise, **budget))
        drawn = METHODS["rslad"].perturb(pair, x, y, generator=torch.Generator().manual_seed(step), **budget)
        assert torch.equal(drawn, attacked[-1])  # the row's own attack is the same call
        optimizer.zero_grad()
        F.cross_entropy(pair.guide(x), y).backward()
        optimizer.step()
    assert not torch.equal(attacked[0], attacked[1])


def test_d2rs_kl5_is_rslads_first_term_with_the_arguments_exchanged():
    logits = four()
    swapped = Logits(logits.target_clean, logits.guide_clean, logits.target_adv)
    kl5 = objectives.d2r(logits, Y, variant="released", w_adv=1.0).parts["adv"]
    assert torch.equal(kl5, family.rslad(swapped, Y, w_adv=1.0).parts["adv"])


def test_what_the_exchange_changes():
    """The guide doubts, the target has given a class up: KL(p_g || p_f) pulls it back, KL(p_f || p_g) does not; and the
    target sees mass where the guide has none: the second costs without bound, the first does not."""
    guide, target = torch.tensor([[1.0, 1.0, -30.0]]).double(), torch.tensor([[12.0, -12.0, 0.0]]).double()
    grads = []
    for first in (True, False):
        z = target.clone().requires_grad_()
        (kl(guide, z) if first else kl(z, guide)).sum().backward()
        grads.append(z.grad[0])
    assert grads[0][1] < -0.49 and grads[1][1].abs() < 1e-8
    sure, wrong = torch.tensor([[60.0, -60.0]]).double(), torch.tensor([[0.0, 0.0]]).double()
    assert kl(wrong, sure) > 50 and kl(sure, wrong) < 0.7


def test_kl_is_a_weighted_mse_of_differences_plus_a_soft_cross_entropy():
    """The identity behind IKL: with w = sg p_n and one side of each term stopped, the gradients are those of KL."""
    n, a, *_ = four()
    parts = family.weighted_mse(n, a.detach(), n.softmax(1).detach()).sum()
    parts = parts + (-(n.softmax(1).detach() * a.log_softmax(1)).sum())
    for mine, theirs in zip(
        torch.autograd.grad(parts, [n, a]), torch.autograd.grad(kl(n, a).sum(), [n, a]), strict=True
    ):
        assert (mine - theirs).abs().max() <= 1e-12


def test_logits_have_a_fourth_part_that_may_be_missing():
    z = torch.randn(3, B, C)
    assert Logits(*z).guide_adv is None
    for name in ("peeraid", "adaad", "iad", "dgad"):
        with pytest.raises(ValueError, match="needs a guide's logits on x', but guide_adv is None"):
            METHODS[name].loss(Logits(*z), Y)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adaad", {"alpha": 1.5}, r"alpha must be a finite number in \[0, 1\], not 1.5"),
        ("peeraid", {"temperature": 0.0}, "temperature must be above 0, not 0.0"),
        ("peeraid", {"reduction": "meen"}, "unknown reduction 'meen'"),
        ("adr", {"most": 2.0}, r"most must be a finite number in \[0, 1\]"),
        ("adr", {"cool": 0.0}, "cool must be above 0"),
        ("ikl", {"guided": 1.0}, "guided must be True or False, not 1.0"),
        ("iad", {"progress": 0.5}, "unknown loss option of IAD-I 'progress'"),
        ("ikl", {"class_means": 0.5}, "unknown loss option of IKL 'class_means'"),
        ("rslad", {"w_adv": -1.0}, "w_adv must be a finite number of at least 0"),
    ],
)
def test_impossible_options_are_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        METHODS[name].check_options(options)


def test_class_means_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"class_means must be \(C, C\) with C = 5, not \(4, 4\)"):
        family.ikl(four(), Y, class_means=torch.rand(4, 4))


def test_peeraid_batchmean_is_c_times_larger():
    mean, whole = (family.peeraid(four(), Y, reduction=r).parts for r in ("mean", "batchmean"))
    for name in ("guide_kl", "adv", "self"):
        torch.testing.assert_close(whole[name], C * mean[name])
    assert whole["guide_ce"] == mean["guide_ce"]
