"""Notebook 13: each term's gradients by route, the switches, and five seeds of what the guide pays."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import gradients as script
from d2rkit.methods.catalogue import METHODS
from d2rkit.panels import Prediction, measured, stop_seeds, stopped_runs
from d2rkit.panels.base import plain_text
from d2rkit.panels.gradient_routes import STOPS, flow, stages
from d2rkit.panels.training_paths import RECIPE
from d2rkit.panels.who_gets_the_gradient import WhoGetsTheGradient, compute
from d2rkit.reporting.significance import Difference
from d2rkit.training.recipe import generator_for

TINY = replace(RECIPE, target="cnn-4", guide="cnn-4", epochs=2, warmup=1.0, batch_size=40)
NETWORK = ("target", "target", "guide", "guide")  # of each route


@pytest.fixture(scope="module")
def batches(few_digits):
    return stages(few_digits, 0, at=(0, 2), images=24, recipe=TINY)


def reached(flows) -> dict[str, list[int]]:
    """term -> positions of the routes that its gradient takes."""
    return {
        term: np.flatnonzero(np.nan_to_num(sizes)).tolist()
        for term, sizes in zip(flows.terms, flows.sizes, strict=True)
    }


def test_terms_of_d2r_take_the_routes_that_its_formula_names(batches):
    assert reached(flow(batches[1], "d2r-cag")) == {"ce": [2], "mse": [1, 2], "clean": [0, 2], "adv": [1, 2]}


def test_trades_moves_no_guide_and_its_regulariser_moves_f_through_both_images(batches):
    flows = flow(batches[1], "trades")
    taken = list(reached(flows).values())
    assert all(2 not in routes for routes in taken) and [0, 1] in taken
    assert not flows.guide.any() and np.isnan(flows.agreement).all()


@pytest.mark.parametrize("method", ["d2r-cag", "d2r-cag-released", "trades", "lbgat0", "adaad"])
def test_gradients_of_terms_add_up_to_those_of_the_loss(batches, method):
    """Autograd on the whole loss, the same attack: norms in target and guide."""
    batch, row = batches[1], METHODS[method]
    flows = flow(batch, method)
    pair = copy.deepcopy(batch.pair).train()
    how = {"eps": TINY.eps, "step_size": TINY.step_size, "steps": TINY.steps}
    x_adv = row.perturb(pair, batch.x, batch.y, generator=generator_for("attack", TINY.seed), **how)
    logits = row.forward(pair, batch.x, x_adv)
    row.loss(logits if row.needs_guide else logits._replace(guide_clean=None), batch.y).total.backward()
    for network, norm in zip((pair.target, pair.guide), flows.total, strict=True):
        grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
        assert norm == pytest.approx(torch.cat(grads).norm().item() if grads else 0.0, rel=1e-4, abs=1e-9)


def test_a_switch_closes_its_routes_and_leaves_every_value(batches):
    plain, none = flow(batches[1], "d2r-cag"), flow(batches[1], "d2r-cag", STOPS)
    assert none.values == pytest.approx(plain.values, rel=1e-6)
    assert reached(none) == {"ce": [2], "mse": [1], "clean": [0], "adv": [1]}
    assert none.stopped[1:, 2].all() and not none.stopped[0].any()
    assert none.target == pytest.approx(plain.target, rel=1e-4)
    own = flow(batches[1], "trades", ["own"])
    assert [1] in reached(own).values() and [0, 1] not in reached(own).values()


def test_only_cross_entropy_points_where_the_labels_point(batches):
    flows = flow(batches[0], "d2r-cag")
    assert flows.agreement[0] == pytest.approx(1, abs=1e-5) and (abs(flows.agreement[1:]) < 0.999).all()


def test_the_panel_switches(batches):
    panel = WhoGetsTheGradient(batches)
    assert panel.error == "" and "the guide by CE" in plain_text(panel.text.value)
    before = panel.data.now.guide[3]
    panel.controls["adv"].main.value = True
    assert panel.error == "" and before > 0 and panel.data.now.guide[3] == 0
    assert "Stopped: Adversarial KL into g" in plain_text(panel.text.value)
    panel.controls["method"].main.value = "trades"
    assert panel.error == "" and "the guide by nothing" in plain_text(panel.text.value)


def test_bad_settings_in_words(batches):
    with pytest.raises(ValueError, match="there is no pair of epoch 1; there are those of 0, 2"):
        compute(batches, "trades", 1, ())
    with pytest.raises(ValueError, match="stop"):
        flow(batches[0], "d2r-cag", ["everything"])


def test_stopping_is_for_now(few_digits):
    before = dict(METHODS)
    with stopped_runs.offered(stopped_runs.stopped(("adv",))) as name:
        assert name in METHODS
    assert before == METHODS


# -- five seeds ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def measurement(few_digits):
    stops = tuple(stopped_runs.STOPS)
    return script.measure((0, 1), stops, data=few_digits, recipe=TINY, epochs=(0, 2), images=24, show=lambda _: None)


def test_a_guide_that_no_gradient_reaches_is_the_same_whatever_the_target_does(measurement, tmp_path):
    measured.write(tmp_path / "m.json", measurement)
    data = stop_seeds.read(tmp_path / "m.json")
    assert stop_seeds.same_guide(data)
    assert "Control: with every term stopped, the guide is the same" in plain_text(stop_seeds.words_price(data))
    other = {**data.runs["every"], "guide_ce": data.runs["every"]["guide_ce"] + 1e-4}
    broken = replace(data, runs={**data.runs, "every": other})
    assert "The control failed" in plain_text(stop_seeds.words_price(broken))


def test_the_script_measures_what_the_panel_shows(measurement, batches):
    flows = flow(batches[1], "d2r-cag")
    kept = measurement["flows"][0]["adv"]["agreement"][-1]
    assert kept == pytest.approx(flows.agreement[flows.terms.index("adv")], abs=1e-4)


def with_guide(data, by):
    runs = {**data.runs, "every": {**data.runs["every"], "guide_clean": data.runs["nothing"]["guide_clean"] + by}}
    return replace(data, runs=runs)


def test_verdicts_follow_from_the_numbers():
    data = stop_seeds.read()
    sure, chance = np.array([0.03, 0.031, 0.03, 0.029, 0.03]), np.array([0.03, -0.03, 0.02, -0.02, 0.0])
    assert stop_seeds.price(with_guide(data, sure))["actual"] == 3.0
    assert "Every term stopped: guide +3.0 points" in plain_text(stop_seeds.words_price(with_guide(data, sure)))
    assert "not significant" in plain_text(stop_seeds.words_price(with_guide(data, chance)))
    turned = replace(data, agreement={**data.agreement, "adv": -abs(data.agreement["adv"])})
    assert stop_seeds.direction(turned, "adv") == "against"


def test_the_shipped_measurement_is_five_seeds_of_the_recipe():
    shipped = measured.read(stop_seeds.NAME)
    assert shipped["seeds"] == [0, 1, 2, 3, 4] and list(shipped["runs"]) == list(stopped_runs.STOPS)
    used = RECIPE.to_dict()
    assert {name: used[name] for name in shipped["recipe"]} == shipped["recipe"]
    data = stop_seeds.read()
    for text in (stop_seeds.words_price(data), stop_seeds.words_pulls(data)):
        assert data.source in plain_text(text)
    for made in (stop_seeds.draw_price(data), stop_seeds.draw_pulls(data)):
        made.canvas.draw()
    for answer in (stop_seeds.target_pays(data)["actual"], stop_seeds.direction(data, "mse")):
        assert answer in ("rises", "same", "falls", "along", "across", "against")


def test_what_came_out_answers_the_notebook_s_question():
    asked = Prediction("13/price", "By how much?", between=(-20, 20), unit="points")
    came = stop_seeds.price(stop_seeds.read())
    asked.reveal(**came)  # raises where the answer does not fit the question
    assert came["interval"][0] <= came["actual"] <= came["interval"][1]


def test_an_interval_that_ends_near_0_shows_on_which_side():
    assert stop_seeds.in_points(Difference(-0.048, -0.095, -0.0003)) == "-4.80 points (-9.50 to -0.03)"


def test_the_pulls_are_said_to_be_of_training_images():
    assert "on training images" in plain_text(stop_seeds.words_pulls(stop_seeds.read()))
