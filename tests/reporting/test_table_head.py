"""The sentence at the head of table.md."""

from d2rkit.experiments.presets import get_preset
from d2rkit.reporting.tables import write_table
from tests.synthetic import make_run


def test_signs_and_warnings_are_no_opposites(tmp_path):
    here, sign = get_preset("quick"), [{"name": "step", "passed": False, "words": "fewer"}]
    experiment = here.experiments()[0]
    run = make_run(tmp_path, experiment, {"clean": 0.1}, masking=sign, autoattack_warnings={"best": ["Square"]})
    write_table(here, [run], tmp_path / "table")
    head = (tmp_path / "table" / "table.md").read_text().splitlines()[2]
    assert "signs in 1 of 1 runs, and AutoAttack warns of 1" in head


def test_the_head_of_a_table_tells_of_autoattacks_warnings_too(tmp_path):
    here, fine = get_preset("quick"), [{"name": "step", "passed": True, "words": "fine"}]
    for warnings, expected in (([], "no sign in 1 runs."), (["Square"], "no sign in 1 runs, but AutoAttack warns")):
        folder = tmp_path / str(len(warnings))
        run = make_run(
            folder, here.experiments()[0], {"clean": 0.1}, masking=fine, autoattack_warnings={"best": warnings}
        )
        write_table(here, [run], folder / "table")
        assert expected in (folder / "table" / "table.md").read_text().splitlines()[2]
