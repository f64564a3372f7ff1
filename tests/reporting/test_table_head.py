"""The sentence at the head of table.md, captions, and tables of one's own whose rows differ in more than the method."""

from dataclasses import replace

import pytest

from d2rkit.cli.base import Place
from d2rkit.cli.tables import table
from d2rkit.experiments.presets import get_preset
from d2rkit.reporting.tables import pivot, tidy, write_table
from tests.synthetic import make_run, preset, runs_of


def test_signs_and_warnings_are_no_opposites(tmp_path):
    here, sign = get_preset("quick"), [{"name": "step", "passed": False, "words": "fewer"}]
    experiment = here.experiments()[0]
    run = make_run(tmp_path, experiment, {"clean": 0.1}, masking=sign, autoattack_warnings={"best": ["Square"]})
    write_table(here, [run], tmp_path / "table")
    head = (tmp_path / "table" / "table.md").read_text().splitlines()[2]
    assert "signs in 1 of 1 run, and AutoAttack warns of 1" in head


def test_the_head_of_a_table_tells_of_autoattacks_warnings_too(tmp_path):
    here, fine = get_preset("quick"), [{"name": "step", "passed": True, "words": "fine"}]
    for warnings, expected in (([], "no sign in 1 run."), (["Square"], "no sign in 1 run, but AutoAttack warns")):
        folder = tmp_path / str(len(warnings))
        run = make_run(
            folder, here.experiments()[0], {"clean": 0.1}, masking=fine, autoattack_warnings={"best": warnings}
        )
        write_table(here, [run], folder / "table")
        assert expected in (folder / "table" / "table.md").read_text().splitlines()[2]


def test_the_caption_names_the_radius_that_was_measured(tmp_path):
    """Not that of the base, if every row has another one."""
    here = replace(preset(seeds=(0,)), changes={row: {"eps": 0.3} for row in preset().rows})
    assert "ε = 0.3 (pixel scale)" in pivot(tidy([]), here).caption
    assert "ε = 0.3 (pixel scale)" in pivot(tidy(runs_of(here, tmp_path)), here).caption


def test_attacks_may_be_the_rows_own_or_none(tmp_path):
    here = preset(rows=("trades", "pgd-at"), seeds=(0,), attacks=())
    only_trained = [make_run(tmp_path / "trained", each, {}) for each in here.experiments()]
    text = write_table(here, only_trained, tmp_path / "a")[0].read_text()
    assert "No paired tests: no run was attacked." in text
    own = replace(here, changes={row: {"attacks": ("clean", "pgd20")} for row in here.rows})
    text = write_table(own, runs_of(own, tmp_path / "attacked"), tmp_path / "b")[0].read_text()
    assert "Difference in PGD-20 accuracy from TRADES" in text


@pytest.mark.parametrize("checkpoint", ["last", "bset"])
def test_a_checkpoint_without_runs_is_said(tmp_path, checkpoint):
    with pytest.raises(ValueError, match=f"no run was evaluated at checkpoint '{checkpoint}'"):
        pivot(tidy(runs_of(preset(), tmp_path)), checkpoint=checkpoint)


def test_a_table_is_not_replaced_by_an_empty_one_for_a_slip_in_the_runs_folder(tmp_path):
    with pytest.raises(ValueError, match=r"runs folder .*rnus does not exist"):
        table("quick", results=str(tmp_path / "out"), place=Place(runs=str(tmp_path / "rnus")))
    assert list(tmp_path.iterdir()) == []
