"""The benchmarks run, and what they time against each other gives equal results; how long it takes is not tested."""

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

import d2rkit.panels
from benchmarks import anytime, evaluate, growth, panels_browser, quick_recipe, step
from d2rkit.core.files import read_json
from d2rkit.core.paths import shipped
from d2rkit.evaluation.autoattack import AutoAttackBudget, autoattack
from d2rkit.experiments.presets import get_preset


@pytest.fixture
def case():
    return replace(step.CASES["digits-cnn"], batch=16)


def test_the_released_schedule_and_our_step_end_with_equal_weights(case):
    torch.manual_seed(0)
    x, y = torch.rand(case.batch, case.channels, case.size, case.size).double(), torch.randint(10, (case.batch,))
    plain, ours = step.pair_of(case).double(), step.Ours(step.pair_of(case).double(), case, "64-true")
    before = [p.detach().clone() for p in plain.parameters()]
    torch.manual_seed(0)  # the seed of our step's generator
    step.as_released(plain, torch.optim.SGD(plain.parameters(), 0.01, 0.9, weight_decay=2e-4), case, x, y)
    ours(x, y)
    for old, expected, ours_now in zip(before, plain.parameters(), ours.pair.parameters(), strict=True):
        assert (ours_now - expected).abs().max() < 1e-9 < (expected - old).abs().max()


def test_the_step_benchmark_gives_its_ratios(case):
    row = step.measure(case, repeats=1, fast_repeats=0, levers=False, compiled=False)
    assert row["name"] == "digits-cnn" and row["ratio_exact"] > 0 and row["share_of_peak"] > 0
    assert "ratio_fast" not in row
    assert step.measure(case, repeats=1, fast_repeats=1, levers=False, compiled=False)["ratio_fast"] > 0


def test_plain_attacks_and_ours_leave_equal_flags(trained_once, digits):
    x, y = digits.test.pixels(slice(0, 60)), digits.test.labels[:60]
    for attack in evaluate.compared(trained_once.target, x, y, 0.2, 25, 1, ("pgd20", "cw20")):
        assert attack["differ"] == [] and 0 < attack["accuracy_ours"] == attack["accuracy_plain"] < 1


def test_flags_that_differ_are_listed(trained_once, digits, monkeypatch):
    x, y = digits.test.pixels(slice(0, 60)), digits.test.labels[:60]
    monkeypatch.setattr(evaluate, "plain_pgd", lambda *_: torch.ones(60, dtype=torch.bool))
    (row,) = evaluate.compared(trained_once.target, x, y, 0.2, 25, 1, ("pgd20",))
    assert row["differ"] and row["accuracy_plain"] > row["accuracy_ours"]


SHORT = AutoAttackBudget(iterations=5, queries=20)


def test_bounds_of_every_order_lie_above_the_full_number(trained_once, digits):
    network, x, y = trained_once.target, digits.test.pixels(slice(0, 40)), digits.test.labels[:40]
    run = anytime.measured(network, x, y, 0.15, 10, SHORT)
    after = autoattack(network, x, y, eps=0.15, batch_size=10, budget=SHORT).after
    kept = anytime.measured(network, x, y, 0.15, 10, SHORT, after)
    for result in (run, kept):
        assert result["autoattack"] == pytest.approx(int(after["square"].sum()) / 40)
        assert result["clean"] > result["autoattack"] > 0 and result["too_low"] == []
        for order in result["orders"].values():
            assert result["clean"] >= order["bound"] >= result["autoattack"] and 0 < order["share"] <= anytime.WITHIN
    with pytest.raises(ValueError, match="right on other images"):
        anytime.measured(network, x, y, 0.15, 10, SHORT, after | {"clean": ~after["clean"]})


def test_a_preview_that_breaks_too_much_is_seen(trained_once, digits, monkeypatch):
    network, x, y = trained_once.target, digits.test.pixels(slice(0, 20)), digits.test.labels[:20]
    everything = torch.ones(20, dtype=torch.bool)
    monkeypatch.setattr(anytime, "attack_batch", lambda *how: everything[: len(how[3])])
    after = dict.fromkeys(("clean", *anytime.STAGES), anytime.correct(network, x, y, 20))
    result = anytime.measured(network, x, y, 0.15, 10, SHORT, after)
    assert result["too_low"] == after["clean"].nonzero().flatten().tolist() != []


def test_a_bound_counts_what_ended_within_the_cost():
    calls = [anytime.Call("apgd-ce", torch.arange(4), torch.tensor(broken), 10) for broken in ([0], [1, 2], [3])]
    clean = torch.ones(4, dtype=torch.bool)
    assert [anytime.bound(clean, calls, cost) for cost in (9, 10, 29, 30)] == [(1, 0), (0.75, 10), (0.25, 20), (0, 30)]


def test_growth_lies_on_a_line(monkeypatch):
    monkeypatch.setitem(growth.LINES, "steps", ("attack steps", (1, 2, 3), lambda v: v, lambda v: v))
    monkeypatch.setattr(growth, "seconds_of", lambda work: 2.0 + 3 * work)
    line = growth.measured("steps", 2)
    assert line["base"] == pytest.approx(2) and line["slope"] == pytest.approx(3)
    assert all(abs(point["off_line"]) < 1e-9 for point in line["points"])


def test_a_benchmark_writes_its_results_with_command_and_hardware(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(growth, "seconds_of", lambda work: 1.0 + work.steps)
    file = tmp_path / "growth.json"
    monkeypatch.setattr(sys, "argv", ["somewhere/growth.py", "--lines", "steps", "--repeats", "1", "--to", str(file)])
    growth.main()
    written = read_json(file)
    assert written["made_by"].startswith("python benchmarks/growth.py --lines steps --repeats 1 --to ")
    assert written["hardware"] and written["torch"] == torch.__version__
    assert [point["seconds"] for point in written["lines"][0]["points"]] == [2, 6, 11, 21]
    assert "attack steps" in capsys.readouterr().out  # what is printed stays


@pytest.mark.parametrize("work", [growth.Work(images=8, size=16, steps=1), growth.Work(evaluated=2, size=16)])
def test_points_of_growth_take_time(work):
    assert growth.seconds_of(work) > 0


def test_without_data_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--data-root", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        evaluate.main()
    assert "cifar10" in str(stop.value) and "\n" not in str(stop.value)


COLUMNS = ["row", "seed", "lr", "batch_size", "val_pgd"]


def recipe_lines(*shift):
    """Two rows, one seed; the other recipe is better by `shift`."""
    scores = {("a", 0.4): 80.0, ("b", 0.4): 60.0, ("a", 0.8): 80.0 + shift[0], ("b", 0.8): 60.0 + shift[1]}
    lines = [(row, 10, lr, 48, score) for (row, lr), score in scores.items()]
    return pd.DataFrame(lines, columns=COLUMNS)


def test_recipes_are_compared_cell_by_cell():
    summary = quick_recipe.compared(recipe_lines(1.0, 3.0), (0.4, 48)).set_index("lr")
    assert summary.loc[0.4, "difference"] == 0 and summary.loc[0.8, "difference"] == 2
    assert summary.loc[0.8, "mean"] == 72 and summary.loc[0.8, "standard_error"] == pytest.approx(1.0)
    lacking = pd.concat([recipe_lines(1.0, 3.0), pd.DataFrame([("c", 10, 0.4, 48, 99.0)], columns=COLUMNS)])
    assert set(quick_recipe.compared(lacking, (0.4, 48))["cells"]) == {2}  # a cell counts if every recipe has it


@pytest.mark.parametrize(("shift", "winners"), [((1.0, 3.0), []), ((2.0, 3.0), [0.8]), ((-2.0, -3.0), [])])
def test_a_recipe_wins_beyond_two_standard_errors(shift, winners):
    summary = quick_recipe.compared(recipe_lines(*shift), (0.4, 48))
    assert list(quick_recipe.better(summary)["lr"]) == winners


def test_the_shipped_comparison_follows_from_its_cells_and_leaves_the_preset():
    folder, base = shipped("results") / "quick", get_preset("quick").base
    summary = quick_recipe.compared(pd.read_csv(folder / "recipe_cells.csv"), (base.lr, base.batch_size))
    told = pd.read_csv(folder / "recipes.csv")
    pd.testing.assert_frame_equal(summary.reset_index(drop=True), told, check_dtype=False, atol=1e-3)
    assert len(quick_recipe.better(told)) == 0 and set(told["lr"]) == {recipe["lr"] for recipe in quick_recipe.GRID}


def test_the_sliders_that_are_timed_in_a_browser_are_there():
    files = (Path(d2rkit.panels.__file__).parent).glob("*.py")
    texts = "".join(file.read_text(encoding="utf-8") for file in files)
    assert [name for _, name, _ in panels_browser.PANELS.values() if f'"{name}"' not in texts] == []
