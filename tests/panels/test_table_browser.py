"""table_browser and table_rows: ours and published apart, ε never mixed, commands that can run, text to copy."""

import math

import pytest
import tyro

from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.presets import PRESETS
from d2rkit.panels import table_rows as rows
from d2rkit.panels.sample_runs import find_runs, tiny_preset
from d2rkit.panels.table_browser import TableBrowser
from d2rkit.panels.table_rows import ALL, Setting
from d2rkit.reporting.published import published
from tests.synthetic import make_run, preset, runs_of

CIFAR = Setting("cifar10", "wrn-34-10", 8 / 255)
RELEASED = Setting("cifar10", "wrn-34-10", 0.031)


def cifar_run(root, method="trades", seed=0, accuracy=None, **changes):
    settings = {"data": "cifar10", "target": "wrn-34-10", "guide": "resnet18-guide", "eps": 8 / 255} | changes
    accuracy = accuracy or {"clean": 0.8, "autoattack": 0.5}
    return make_run(root, Experiment(method=method, seed=seed, attacks=tuple(accuracy), **settings), accuracy)


def test_without_runs_nothing_is_ours():
    panel = TableBrowser()
    assert panel.error == "" and "none is ours" in panel.text.value
    for what in ("cifar10", "cifar100", "tiny-imagenet"):
        panel.controls["what"].main.value = what
        assert panel.error == "" and all(not entry.ours for entry in panel.data.entries)
        assert all(entry.command or entry.published for entry in panel.data.entries)
        ours = [row for row in panel.data.table.rows if row[1].text == "ours"]
        assert ours and all(cell.text == "–" for row in ours for cell in row[2:-1])


def test_dropdowns_change_the_words_and_the_text_to_copy():
    panel = TableBrowser()
    seen = {(panel.text.value, panel.markdown.value, panel.latex.value)}
    panel.controls["attack"].main.value = "autoattack"
    seen.add((panel.text.value, panel.markdown.value, panel.latex.value))
    panel.controls["setting"].main.value = RELEASED
    assert "0.031 (a little below 8/255 = 0.0314)" in panel.text.value
    seen.add((panel.text.value, panel.markdown.value, panel.latex.value))
    panel.controls["what"].main.value = "tiny-imagenet"
    assert panel.settings["setting"].data == "tiny-imagenet"
    seen.add((panel.text.value, panel.markdown.value, panel.latex.value))
    assert len({texts for triple in seen for texts in triple}) == 12 and panel.error == ""
    assert panel.latex.value.startswith("% needs") and "| Method" in panel.markdown.value
    panel.reset.click()
    assert panel.error == "" and panel.settings["what"] == "cifar10" and panel.settings["setting"] == CIFAR


@pytest.mark.parametrize("what", ["cifar10", "cifar100", "tiny-imagenet"])
def test_every_published_number_stands_in_exactly_one_table(what):
    known = published()
    known = known[(known["dataset"] == what) & known["radius"].notna()]
    rows_seen = 0
    for setting in rows.settings_for(what, ()):
        shown = [e for e in rows.compute(what, setting, ALL).entries if e.published]
        here = known[(known["target"] == setting.target) & (abs(known["radius"] - setting.eps) < 1e-9)]
        assert sorted(e.published["clean"][0] for e in shown) == sorted(here["clean"])
        rows_seen += len(shown)
    assert rows_seen == len(known)


def test_unstated_numbers_stand_in_no_cell_and_below_the_table_beside_what_to_compare_them_with():
    for what in ("cifar10", "cifar100"):
        for setting in rows.settings_for(what, ()):
            assert not math.isnan(setting.eps)
            table = rows.compute(what, setting, ALL).table
            cells = " ".join(cell.text for row in table.rows for cell in row)
            assert "59.4" not in cells and "32.6" not in cells
            quoted = [text for _, text in table.notes if "59.4" in text or "32.6" in text]
            assert all(
                "attack and eps not stated; compare: as AutoAttack it would lie above" in text for text in quoted
            )
    assert "59.4 % robust accuracy, attack and eps not stated" in str(rows.compute("cifar10", CIFAR, ALL).remarks)


def test_a_difference_needs_the_same_eps(tmp_path):
    runs = [cifar_run(tmp_path, seed=seed) for seed in (0, 1)]
    here = rows.compute("cifar10", CIFAR, "autoattack", runs)
    trades = [e for e in here.entries if e.label == "TRADES"]
    assert [rows.difference(e, "autoattack") for e in trades] == pytest.approx([50 - 53.8, 50 - 53.37])
    assert "−3.8" in str(here.table.rows) and here.n_test == 100
    there = rows.compute("cifar10", RELEASED, "autoattack", runs)
    assert all(math.isnan(rows.difference(e, "autoattack")) and not e.ours for e in there.entries)
    panel = TableBrowser(runs)
    assert panel.settings["what"] == "cifar10" and "furthest from a published number" in panel.text.value
    panel.set(setting=RELEASED)
    assert panel.error == "" and "None of the 2 run(s) on this machine belongs here" in panel.text.value


def test_a_subset_is_not_compared(tmp_path):
    run = cifar_run(tmp_path, subset="10k")
    setting = rows.setting_of(run.experiment)
    here = rows.compute("cifar10", setting, ALL, [run])
    assert all(not entry.published for entry in here.entries) and "10k training images" in here.remarks[0]
    assert CIFAR in rows.settings_for("cifar10", [run]), "the published table keeps an entry of its own"


def test_a_preset_shows_what_is_missing_and_what_it_costs(tmp_path):
    here = preset(seeds=(0, 1, 2))
    runs = [run for run in runs_of(here, tmp_path) if run.experiment.method != "pgd-at" and run.experiment.seed < 2]
    panel = TableBrowser(runs, {"tiny": here})
    assert panel.error == "" and panel.settings["what"] == "preset:tiny"
    text = panel.markdown.value
    assert "2 of 3 seeds [a]" in text and "`d2rkit reproduce tiny --rows pgd-at`" in text
    assert "preset tiny says" in text and "Of 3 rows of ours, 1 not run and 2 short of seeds" in panel.text.value
    assert "80.0" not in text or "±" in text


def test_rows_are_counted_and_not_commands_nor_sources(tmp_path):
    """Two rows short of seeds share one command, and a method with three sources is one row of ours."""
    here = preset(seeds=(0, 1, 2))
    runs = [run for run in runs_of(here, tmp_path) if run.experiment.seed < 2]
    assert (
        f"Of {len(here.rows)} rows of ours, {len(here.rows)} short of seeds"
        in TableBrowser(runs, {"tiny": here}).text.value
    )
    data = rows.compute("cifar10", CIFAR, ALL)
    ours = {entry.label for entry in data.entries if entry.command}
    assert f"Of {len(ours)} rows of ours, {len(ours)} not run" in TableBrowser(setting=CIFAR).text.value


def test_it_begins_where_it_is_told(tmp_path):
    run = cifar_run(tmp_path, target="wrn-10-1", subset="10k")
    assert not any(entry.published for entry in TableBrowser([run], what="cifar10").data.entries)
    panel = TableBrowser([run], what="cifar10", setting=CIFAR)
    assert any(entry.published for entry in panel.data.entries)
    panel.controls["attack"].main.value = "autoattack"
    panel.reset.click()
    assert panel.settings["setting"] == CIFAR and panel.settings["attack"] == ALL


def test_long_names_wrap_and_stay_on_the_picture():
    from d2rkit.panels import table_browser

    label = "D2R+CAG: batch-mean KL at a tenth of the weights (the same loss)"
    entry = rows.Entry(label, {"clean": (90.0, 1.0)}, {}, seeds=3, wanted=3)
    data = rows.Browsed("T", CIFAR, ("clean",), (entry,), (), 100, 3, rows.Table("", "", (), ()))
    made = table_browser.draw(data)
    made.canvas.draw()
    name = made.axes[0].get_yticklabels()[0]
    assert "\n" in name.get_text() and name.get_window_extent().x0 >= 0


@pytest.mark.parametrize(
    ("ours", "published", "keys"),
    [
        ({"clean": (90.0, 1.0)}, {}, ["ours"]),
        ({}, {"clean": (85.0, math.nan)}, ["published by others"]),
        ({"clean": (90.0, 1.0)}, {"clean": (85.0, math.nan)}, ["ours", "published by others"]),
        ({"pgd20": (9.0, 1.0)}, {}, []),
    ],
)
def test_the_key_promises_no_numbers_that_are_not_drawn(ours, published, keys):
    from d2rkit.panels import table_browser

    entry = rows.Entry("TRADES", ours, published, seeds=3, wanted=3)
    data = rows.Browsed("T", CIFAR, ("clean",), (entry,), (), 100, 3, rows.Table("", "", (), ()))
    (legend,) = table_browser.draw(data).legends
    assert [text.get_text() for text in legend.get_texts()] == keys


def test_a_failed_run_is_said_to_have_failed(tmp_path):
    here = preset(rows=("trades",), seeds=(0,))
    run = make_run(tmp_path, here.experiments()[0], {}, status="failed: the loss is not finite in epoch 3, step 2")
    panel = TableBrowser([run], {"tiny": here})
    assert panel.error == "" and "failed" in panel.markdown.value
    assert "seed 0: failed: the loss is not finite in epoch 3, step 2; not part of the mean" in panel.markdown.value


def test_every_command_can_run():
    for what in ("cifar10", "cifar100", "tiny-imagenet"):
        for setting in rows.settings_for(what, ()):
            for entry in rows.compute(what, setting, ALL).entries:
                words = entry.command.split()
                if words[:2] != ["d2rkit", "train"]:
                    continue
                experiment = tyro.cli(tyro.conf.OmitArgPrefixes[Experiment], args=words[2:])
                assert experiment.check() and rows.setting_of(experiment) == setting


def test_presets_come_first_in_commands():
    command, cost = rows.command_for("trades", rows.setting_of(PRESETS["quick"].base))
    assert command == "d2rkit reproduce quick --rows trades" and PRESETS["quick"].time in cost


def test_bad_input_in_words():
    with pytest.raises(ValueError, match="did you mean 'autoattack'"):
        rows.compute("cifar10", CIFAR, "autoatack")
    with pytest.raises(ValueError, match="has no table for"):
        rows.compute("cifar100", CIFAR, ALL)
    with pytest.raises(ValueError, match="unknown preset 'quik'"):
        rows.settings_for("preset:quik", ())


def test_find_runs_takes_each_once_and_reports_damage(tmp_path):
    runs = runs_of(preset(rows=("trades",)), tmp_path / "a")
    runs_of(preset(rows=("trades",)), tmp_path / "b" / "deeper")
    (runs[0].folder / "result.json").write_text("{")
    search = find_runs([tmp_path / "a", tmp_path / "b", tmp_path / "nowhere"])
    assert len(search.runs) == 2 and len(search.left_out) == 1 and runs[0].folder.name in search.left_out[0]


def test_the_tiny_preset_can_run():
    for experiment in tiny_preset().experiments():
        experiment.check()
