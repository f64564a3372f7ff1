"""The ambiguity dial: the frontier above the networks, the phenomenon on five seeds, and its two controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2rkit.evaluation.frontier import accuracies
from d2rkit.panels import ambiguity_dial as dial
from d2rkit.panels import ambiguous_plane as plane
from d2rkit.panels import base
from d2rkit.panels.ambiguity_dial import AMBIGUOUS, NO_RARE, SEPARATED, AmbiguityDial
from d2rkit.reporting.over_seeds import excludes_zero

PAIR = ("natural", "PGD-AT")


@pytest.fixture(scope="module")
def dials():
    settings = {"rare": AMBIGUOUS, "apart": SEPARATED, "equal": NO_RARE}
    return {name: dial.compute(**at, others=PAIR) for name, at in settings.items()}


def test_the_data_trade_only_where_there_are_rare_cases_in_an_overlap(dials):
    trades = {name: tradeoff.limits.trade for name, tradeoff in dials.items()}
    assert trades["rare"][0] > 0.1 and trades["rare"][1] > 0.1
    assert trades["apart"] == pytest.approx((0, 0), abs=1e-3) and trades["equal"] == pytest.approx((0, 0), abs=1e-3)
    assert dials["equal"].limits.bayes / dials["equal"].limits.total < 0.97  # and yet it overlaps
    assert [dial.same_border(dials[name])["actual"] for name in dials] == ["apart", "same", "same"]


def test_networks_trade_on_five_seeds_and_not_well_apart(dials):
    """The phenomenon, and the control that fails to show it."""
    kinds = {name: {kind.name: kind for kind in tradeoff.tried} for name, tradeoff in dials.items()}
    clean, robust = dial.gap(kinds["rare"]["PGD-AT"], kinds["rare"]["natural"])
    assert clean.high < -0.05 and robust.low > 0.1 and len(kinds["rare"]["PGD-AT"].clean) == 5
    clean, robust = dial.gap(kinds["apart"]["PGD-AT"], kinds["apart"]["natural"])
    assert not excludes_zero(clean) or abs(clean.difference) < 0.002
    table = base.plain_text(dial.compared(dials, "PGD-AT", "natural"))
    assert [line.split()[-1] for line in table.splitlines() if line.startswith(("rare", "apart"))] == ["yes", "no"]


def test_no_network_lies_above_the_frontier_and_the_parts_sum(dials):
    for tradeoff in dials.values():
        assert tradeoff.above == 0 and "WRONG" not in dial.words(tradeoff)
        for kind in tradeoff.tried:
            assert np.allclose(kind.needed + kind.own, tradeoff.limits.bayes / tradeoff.limits.total - kind.clean)
            for answer, clean, robust in zip(kind.decisions, kind.clean, kind.robust, strict=True):
                right = accuracies(answer, tradeoff.known, tradeoff.limits.reach)
                assert np.divide(right, tradeoff.limits.total).tolist() == [clean, robust]


def test_a_network_above_the_frontier_is_said(dials):
    kind = dials["rare"].tried[0]
    planted = replace(dials["rare"], tried=(replace(kind, given=kind.needed - 0.01),))
    assert planted.above == 5 and "WRONG: 5 networks" in dial.words(planted)


def test_networks_side_by_side_are_networks_alone():
    crowd, x = plane.Crowd(3), torch.rand(12, 2, 1, 1)
    whole = crowd(x)
    for seed in range(3):
        hidden = (x[4 * seed : 4 * seed + 4].flatten(1) - 0.5) / 0.2
        for number, (weight, bias) in enumerate(zip(crowd.weights, crowd.biases, strict=True)):
            hidden = (hidden.relu() if number else hidden) @ weight[seed] + bias[seed]
        assert torch.allclose(whole[4 * seed : 4 * seed + 4], hidden, atol=1e-6)
    assert not torch.equal(crowd.weights[0][0], crowd.weights[0][1])


def test_points_come_from_the_masses_and_differ_by_seed():
    known = plane.masses(0.1, 0.15)
    x, y = plane.sample(known, 4000, 2)
    assert x.shape == (8000, 2, 1, 1) and not torch.equal(x[:4000], x[4000:])
    column, row = (x.flatten(1) * plane.SIDE - 0.5).round().long().T.numpy()
    assert (known[y.numpy(), row, column] > 0).all()
    assert x[y == 1][:, 0].mean() < 0.45 < 0.55 < x[y == 0][:, 0].mean()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"eps": 0.05}, "multiple"),
        ({"spread": 0.0}, "spread"),
        ({"rare": 0.9}, "rare"),
        ({"weight": 5}, "weight must be one of"),
        ({"network": "PGD-TA"}, "did you mean 'PGD-AT'"),
    ],
)
def test_bad_input_in_words(settings, words):
    with pytest.raises(ValueError, match=words):
        dial.compute(**settings)


def test_panel_keeps_what_was_tried_on_the_same_data(monkeypatch):
    monkeypatch.setattr(plane, "STEPS", 5)
    plane.trained.cache_clear()
    panel = AmbiguityDial(spread=0.12)
    picture = panel.picture.value if hasattr(panel.picture, "value") else panel.text.value
    panel.controls["network"].main.value = "PGD-AT"
    panel.controls["network"].main.value = "natural"
    assert panel.error == "" and [kind.name for kind in panel.data.tried] == ["PGD-AT", "natural"]
    assert picture != (panel.picture.value if hasattr(panel.picture, "value") else panel.text.value)
    panel.controls["weight"].main.value = 63
    assert panel.error == "" and panel.data.optimum.weight == 63
    panel.set(spread=0.08, network="none")
    assert panel.error == "" and panel.data.tried == ()
    assert dial.draw_prices({"a": dial.compute(spread=0.12, others=PAIR)}).axes
    plane.trained.cache_clear()


def test_what_answers_two_predictions_carries_its_tables():
    tradeoff = dial.compute(**NO_RARE, others=("natural",))
    for answer in (dial.data_share(tradeoff, "natural", "<table>"), dial.wasteful(tradeoff, "<table>")):
        assert answer["words"].startswith("<p") and answer["words"].endswith("<table>")


def test_a_frontier_of_one_point_is_seen_as_a_ghost_too():
    before, now = (dial.compute(**{**NO_RARE, "spread": spread}) for spread in (0.08, 0.09))
    (ax,) = (ax for ax in dial.draw(now, before).axes if ax.get_xlabel() == "clean accuracy")
    (line,) = (line for line in ax.get_lines() if line.get_label() == "frontier before")
    assert np.ptp(line.get_xdata()) < 1e-6 and line.get_marker() not in ("None", None, "")
