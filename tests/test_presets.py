import pytest

from d2rkit.methods import METHODS
from d2rkit.presets import PRESETS, QUICK, get_preset


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_every_cell_of_every_preset_can_run(preset):
    cells = preset.experiments()
    assert len(cells) == len(preset.methods) * len(preset.seeds)
    assert len({cell.run_name for cell in cells}) == len(cells)
    for cell in cells:
        cell.check()
    assert preset.name in preset.command and preset.time and preset.expect


def test_quick_is_the_table_of_the_readme():
    assert QUICK.methods == ("pgd-at", "trades", "mart", "lbgat0", "lbgat6", "d2r", "d2r-cag", "d2r-cag-released")
    assert len(QUICK.seeds) == 3 and set(QUICK.methods) <= set(METHODS)


def test_rows_and_seeds_on_request():
    cells = QUICK.experiments(("trades",), 2)
    assert [(c.method, c.seed) for c in cells] == [("trades", 0), ("trades", 1)]
    assert {c.run_name for c in cells} <= {c.run_name for c in QUICK.experiments()}
    with pytest.raises(ValueError, match="unknown method 'tradse'"):
        QUICK.experiments(("tradse",))
    with pytest.raises(ValueError, match="of preset quick"):
        QUICK.experiments(("natural",))
    with pytest.raises(ValueError, match="did you mean 'quick'"):
        get_preset("quik")
