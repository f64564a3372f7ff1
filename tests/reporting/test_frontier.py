"""The frontier: points of a weight in their order, worst case over attacks, intervals, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest

from d2rkit.core.binomial import interval
from d2rkit.experiments.presets import get_preset
from d2rkit.reporting.frontier import draw_frontier, varied_options
from d2rkit.reporting.significance import flags_of
from tests.synthetic import make_run, preset

BASE = replace(preset().base, attacks=("clean", "pgd20", "cw20"))


def run_of(root, method="trades", loss=None, accuracy=(0.9, 0.6, 0.55), seed=0, **changes):
    experiment = replace(BASE, method=method, loss=loss or {}, seed=seed, **changes)
    return make_run(root, experiment, dict(zip(BASE.attacks, accuracy, strict=True)))


def test_points_are_worst_cases_in_the_order_of_the_weight(tmp_path):
    values = {1.0: (0.9, 0.5, 0.52), 12.0: (0.7, 0.64, 0.6), 3.0: (0.85, 0.6, 0.58)}
    runs = [run_of(tmp_path, loss={"beta": beta}, accuracy=found) for beta, found in values.items()]
    runs += [run_of(tmp_path, accuracy=(0.8, 0.62, 0.6)), run_of(tmp_path, "pgd-at")]  # TRADES as it is has beta 6
    figure = draw_frontier(runs)
    data = figure.d2r_data.set_index(["method", "value"])
    assert data.loc["trades"].index.tolist() == [1, 3, 6, 12] and data.loc["trades", "option"].eq("beta").all()
    standing = flags_of(runs[0], "pgd20") & flags_of(runs[0], "cw20")
    assert data.loc[("trades", 1.0), "robust"] == standing.mean() <= 0.5
    assert data.loc[("trades", 1.0), ["robust_low", "robust_high"]].tolist() == list(interval(standing.sum(), 100))
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["PGD-AT", "TRADES: β 1 to 12"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "3", "6", "12"]
    assert figure.axes[0].get_ylabel() == "accuracy under PGD-20 and C&W-20 (%)"


def test_weights_left_to_the_variant_have_its_values(tmp_path):
    runs = [run_of(tmp_path, "d2r-cag-released", loss) for loss in ({}, {"w_adv": 5.0})]
    assert draw_frontier(runs).d2r_data["value"].tolist() == [5, 30]
    runs = [run_of(tmp_path, "d2r-cag", loss) for loss in ({}, {"w_adv": 5.0})]
    assert draw_frontier(runs).d2r_data["value"].tolist() == [5, 15]


def test_seeds_are_averaged_and_lbgat_is_named_once(tmp_path):
    runs = [
        run_of(tmp_path, "lbgat6", {"beta": beta}, (0.9, 0.4 + 0.02 * seed, 0.4 + 0.02 * seed), seed)
        for beta in (0.0, 6.0)
        for seed in (0, 1)
    ]
    figure = draw_frontier(runs)
    assert figure.d2r_data["seeds"].tolist() == [2, 2]
    expected = np.mean([(flags_of(run, "pgd20") & flags_of(run, "cw20")).mean() for run in runs[:2]])
    assert figure.d2r_data["robust"].iloc[0] == pytest.approx(expected)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["LBGAT: β 0 to 6"]


def test_what_is_no_frontier_is_refused(tmp_path):
    first = run_of(tmp_path)
    with pytest.raises(ValueError, match="TRADES differ in more than one loss option"):
        draw_frontier([first, run_of(tmp_path, epochs=9)])
    with pytest.raises(ValueError, match="differ in w_adv, w_clean; a frontier is of one number"):
        draw_frontier([run_of(tmp_path, "d2r-cag", loss) for loss in ({"w_adv": 1.0}, {"w_clean": 3.0})])
    with pytest.raises(ValueError, match="differ in variant"):
        draw_frontier([run_of(tmp_path, "d2r-cag", loss) for loss in ({}, {"variant": "released"})])
    with pytest.raises(ValueError, match="needs an attack"):
        only = make_run(tmp_path, replace(BASE, attacks=("clean",)), {"clean": 0.9})
        draw_frontier([only])
    with pytest.raises(ValueError, match="not all of these runs were evaluated at checkpoint 'last'"):
        draw_frontier([first], "last")
    with pytest.raises(ValueError, match="different eps"):
        draw_frontier([first, run_of(tmp_path, loss={"beta": 1.0}, test_eps=0.1)])


def test_the_preset_is_a_frontier_of_three_methods():
    assert varied_options(get_preset("frontier").experiments()) == {
        "trades": "beta", "lbgat6": "beta", "d2r-cag-released": "w_adv",
    }  # fmt: skip
