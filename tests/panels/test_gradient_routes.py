"""Routes of gradients against one backward pass, and stops against the detached loss."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2rkit.methods.catalogue import METHODS, get_method
from d2rkit.methods.objectives import Logits
from d2rkit.panels import gradient_routes, stopped_runs, training_paths
from d2rkit.panels import who_gets_the_gradient as panel_module
from d2rkit.panels.base import plain_text
from d2rkit.panels.gradient_routes import ROUTES, flow
from d2rkit.panels.who_gets_the_gradient import WhoGetsTheGradient
from d2rkit.training.recipe import generator_for

TINY = replace(training_paths.RECIPE, target="cnn-4", guide="cnn-4", epochs=2, batch_size=40, warmup=0.5, steps=1)
SHOWN = [name for name, row in METHODS.items() if not row.awp]


@pytest.fixture(scope="module")
def batches(few_digits):
    return gradient_routes.stages(few_digits, 0, at=(0, 2), images=40, recipe=TINY)


def step(batch, name, **changes):
    """The gradients of one whole training step, by network, as one backward pass gives them."""
    pair, row = copy.deepcopy(batch.pair).train(), get_method(name)
    generator = generator_for("attack", TINY.seed)
    x_adv = row.perturb(pair, batch.x, batch.y, eps=TINY.eps, step_size=TINY.step_size, steps=1, generator=generator)
    row.loss(row.forward(pair, batch.x, x_adv), batch.y, changes).total.backward()
    return {
        network: torch.cat([p.grad.flatten() for p in getattr(pair, network).parameters()])
        for network in ("target", "guide")
    }


# -- routes -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("name", ["d2r-cag", "d2r-cag-released", "lbgat6", "adagat", "ikl-guided"])
def test_all_routes_together_are_one_backward_pass(batches, epoch, name):
    expected = step(batches[epoch], name)
    flows = flow(batches[epoch], name)
    assert flows.total == pytest.approx([g.norm().item() for g in expected.values()], rel=1e-4)


def test_each_route_of_d2r_s_adversarial_term(batches):
    """Its gradient in f is that of KL with g fixed, and the other way round; no other route is open."""
    batch = batches[1]
    flows = flow(batch, "d2r-cag")
    row = flows.terms.index("adv")
    assert flows.sizes[row, ROUTES.index("target_clean")] == 0 and np.isnan(flows.sizes[row, ROUTES.index("guide_adv")])
    pair, method = copy.deepcopy(batch.pair).train(), get_method("d2r-cag")
    generator = generator_for("attack", TINY.seed)
    x_adv = method.perturb(pair, batch.x, batch.y, eps=TINY.eps, step_size=TINY.step_size, steps=1, generator=generator)
    f_clean, f_adv, g_clean, _ = method.forward(pair, batch.x, x_adv)
    for route, network, logits in (
        ("target_adv", pair.target, Logits(f_clean, f_adv, g_clean.detach())),
        ("guide_clean", pair.guide, Logits(f_clean, f_adv.detach(), g_clean)),
    ):
        part = method.loss(logits, batch.y).parts["adv"]
        grads = torch.autograd.grad(part, list(network.parameters()), retain_graph=True)
        expected = torch.cat([g.flatten() for g in grads]).norm().item()
        assert flows.sizes[row, ROUTES.index(route)] == pytest.approx(expected, rel=1e-4)


def test_ce_agrees_with_itself_and_the_balance_adds_up(batches):
    flows = flow(batches[1], "d2r-cag")
    assert flows.agreement[flows.terms.index("ce")] == pytest.approx(1, abs=1e-5)
    whole = step(batches[1], "d2r-cag")["guide"]
    pair = copy.deepcopy(batches[1].pair).train()
    ce = torch.autograd.grad(F.cross_entropy(pair.guide(batches[1].x), batches[1].y), list(pair.guide.parameters()))
    along = torch.cat([g.flatten() for g in ce])
    assert flows.along.sum() == pytest.approx((whole @ along / along.norm()).item(), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["rslad", "adaad", "iad", "dgad", "adr", "trades", "mart", "pgd-at", "natural"])
def test_methods_that_send_a_guide_nothing(batches, name):
    flows = flow(batches[1], name)
    assert not flows.guide.any() and np.isnan(flows.sizes[:, 2:]).all() and flows.target.any()


def test_peeraid_s_guide_learns_from_attacked_images(batches):
    flows = flow(batches[1], "peeraid")
    row = flows.terms.index("guide_ce")
    assert flows.sizes[row, ROUTES.index("guide_adv")] > 0 and np.isnan(flows.sizes[row, ROUTES.index("guide_clean")])


def test_the_pair_is_left_as_it_was(batches):
    before = {name: value.clone() for name, value in batches[1].pair.state_dict().items()}
    flow(batches[1], "d2r-cag", ("adv",))
    for name, value in batches[1].pair.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in batches[1].pair.parameters())


# -- stops --------------------------------------------------------------------------------------------------
def test_every_stop_is_the_detached_loss(batches):
    flows = flow(batches[1], "d2r-cag", ("mse", "clean", "adv"))
    expected = step(batches[1], "d2r-cag", detach_guide=True)
    assert flows.total == pytest.approx([g.norm().item() for g in expected.values()], rel=1e-4)
    plain = flow(batches[1], "d2r-cag")
    np.testing.assert_allclose(flows.target, plain.target, rtol=1e-5)  # the target feels no difference
    np.testing.assert_allclose(flows.values, plain.values, rtol=1e-5)


def test_a_stop_closes_one_term_only(batches):
    plain, flows = flow(batches[1], "d2r-cag"), flow(batches[1], "d2r-cag", ("adv",))
    row, column = flows.terms.index("adv"), ROUTES.index("guide_clean")
    assert flows.stopped.sum() == 1 and flows.stopped[row, column] and flows.sizes[row, column] == 0
    others = ~flows.stopped & ~np.isnan(plain.sizes)
    np.testing.assert_allclose(flows.sizes[others], plain.sizes[others], rtol=1e-5)


def test_f_of_x_can_be_stopped_where_f_of_x_adv_follows_it(batches):
    flows = flow(batches[1], "trades", ("own",))
    row = flows.terms.index("adv")
    assert flows.stopped[row].tolist() == [True, False, False, False]
    assert flows.sizes[row, 1] > 0 and flows.sizes[flows.terms.index("ce"), 0] > 0


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda b: flow(b[0], "d2r-cga"), "did you mean 'd2r-cag'"),
        (lambda b: flow(b[0], "d2r-cag", ("msee",)), "did you mean 'mse'"),
        (lambda b: panel_module.compute(b, "trades", 5, ()), "no pair of epoch 5"),
    ],
)
def test_bad_input_in_words(batches, ask, words):
    with pytest.raises(ValueError, match=words):
        ask(batches)


def test_an_epoch_that_training_does_not_have(few_digits):
    with pytest.raises(ValueError, match="no epoch 3"):
        gradient_routes.stages(few_digits, at=(0, 3), recipe=TINY)


# -- the panel ----------------------------------------------------------------------------------------------
def test_the_panel_shows_every_method(batches):
    panel = WhoGetsTheGradient(batches, method="trades", epoch=0)
    assert set(panel.controls["method"].spec.options.values()) == set(SHOWN)
    for name in SHOWN:
        panel.set(method=name)
        assert panel.error == "" and METHODS[name].title in plain_text(panel.text.value), name


# -- trainings with stops -----------------------------------------------------------------------------------
def test_nothing_stopped_is_d2r_itself(batches):
    logits = Logits(*(torch.randn(6, 10, requires_grad=True) for _ in range(3)))
    y = torch.arange(6)
    for terms, options in (((), {}), (stopped_runs.EVERY, {"detach_guide": True})):
        ours = stopped_runs.stopped(terms).loss(logits, y)
        theirs = get_method("d2r-cag").loss(logits, y, options)
        grads = [torch.autograd.grad(loss.total, logits[:3], retain_graph=True) for loss in (ours, theirs)]
        for one, other in zip(*grads, strict=True):
            assert torch.allclose(one, other, atol=1e-7)
