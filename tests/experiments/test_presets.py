from pathlib import Path

import pytest

from d2rkit.cli.base import Changes, tables_of
from d2rkit.experiments.presets import MEDIUM, PRESETS, QUICK, get_preset, presets_of
from d2rkit.methods.catalogue import METHODS
from d2rkit.reporting.frame import attack_title


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_every_cell_of_every_preset_can_run(preset):
    cells = preset.experiments()
    assert len(cells) == len(preset.rows) * len(preset.seeds)
    assert len({cell.run_name for cell in cells}) == len(cells)
    for cell in cells:
        cell.check()
    assert preset.name in preset.command and preset.time and preset.expect


def test_medium_is_the_table_of_the_readme_and_quick_the_one_that_demo_makes():
    """Methods in the presets' order, their columns, and numbers that are shipped."""
    project = Path(__file__).parents[2]
    for page, heading, preset in (
        ("README.md", "## What came out", MEDIUM),
        ("docs/tables.md", "## The quick table", QUICK),
    ):
        section = (project / page).read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        header, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
        titles = [METHODS[row].title for row in preset.rows]
        assert [row[0] for row in body] == [title for title in titles if title in {row[0] for row in body}]
        assert header[:6] == ["Method", *map(attack_title, preset.base.attacks)] and len(body) >= 4
        table = (project / "data" / "results" / preset.name / "table.md").read_text(encoding="utf-8")
        rows = [line.split("|") for line in table.splitlines() if line.startswith("| ")]
        shipped = {row[1].split("[")[0].strip(): row for row in reversed(rows)}  # the paired tests come second
        for name, *numbers in body:
            assert numbers[:5] == [cell.strip() for cell in shipped[name][2:7]]
    assert "reproduce quick" in (project / "Makefile").read_text(encoding="utf-8")


def test_rows_and_seeds_on_request():
    cells = QUICK.experiments(("trades",), 2)
    assert [(c.method, c.seed) for c in cells] == [("trades", 0), ("trades", 1)]
    assert {c.run_name for c in cells} <= {c.run_name for c in QUICK.experiments()}
    with pytest.raises(ValueError, match="unknown row of preset quick 'tradse'"):
        QUICK.experiments(("tradse",))
    with pytest.raises(ValueError, match="of preset quick"):
        QUICK.experiments(("natural",))
    with pytest.raises(ValueError, match="did you mean 'quick'"):
        get_preset("quik")


def test_a_family_is_all_its_tables_and_a_preset_is_itself():
    assert presets_of("quick") == [QUICK]
    for family in ("paper", "paper-tuned"):
        tables = presets_of(family)
        assert [(t.base.data, t.base.target) for t in tables] == [
            ("cifar10", "wrn-34-10"), ("cifar10", "preactresnet18"), ("cifar100", "wrn-34-10"),
            ("cifar100", "preactresnet18"), ("tiny-imagenet", "preactresnet18"),
        ]  # fmt: skip
        assert all(t.base.checkpoints == ("best", "last") for t in tables)
    with pytest.raises(ValueError, match="did you mean 'paper'"):
        presets_of("papers")


def test_a_row_may_have_its_own_method_and_settings():
    cell = get_preset("ablation").experiment("no-mse", 1)
    assert (cell.method, cell.seed, cell.loss) == ("d2r-cag", 1, {"w_mse": 0.0})
    with pytest.raises(ValueError, match="unknown row of preset quick 'no-mse'"):
        QUICK.experiment("no-mse", 0)


def test_changes_make_other_experiments_and_say_so():
    (table,) = tables_of("quick", Changes(precision="bf16-mixed", micro_batch=16, speed="exact"))
    cell = table.experiment("trades", 1)
    assert (cell.precision, cell.micro_batch, cell.speed) == ("bf16-mixed", 16, "exact")
    assert not {c.run_name for c in table.experiments()} & {c.run_name for c in QUICK.experiments()}
    assert table.command == "d2rkit reproduce quick --precision bf16-mixed --micro-batch 16 --speed exact"
    assert table.name != "quick" and table.title.endswith(", precision bf16-mixed, micro_batch 16, speed exact")
    assert tables_of("quick", Changes()) == [QUICK]
    with pytest.raises(ValueError, match="did you mean 'fast'"):
        tables_of("quick", Changes(speed="fats"))


def test_more_seeds_than_anyone_could_run_are_refused_at_once():
    with pytest.raises(ValueError, match=r"seeds must be at most 1000, not 1001"):
        PRESETS["quick"].experiments(seeds=1001)
    with pytest.raises(ValueError, match=r"seeds must be at most 1000, not 999"):
        PRESETS["quick"].experiments(seeds=10**30 - 1)
    assert len(PRESETS["quick"].experiments(("trades",), 1000)) == 1000
