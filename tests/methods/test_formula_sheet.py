"""docs/formulas.md says what the library computes."""

import re

from d2rkit.core.paths import PROJECT
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.objectives import D2R_WEIGHTS

SHEET = (PROJECT / "docs" / "formulas.md").read_text()


def test_weights_are_the_library_s():
    weights = {}
    for line in SHEET.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) == 9 and (name := re.match(r"`([a-z-]+)`", cells[0])):
            weights[name[1]] = dict(zip(("w_ce", "w_mse", "w_clean", "w_adv"), map(float, cells[4:8]), strict=True))
            row = cells[1].strip("`")
            assert METHODS[row].options["variant"] == name[1]
    assert weights == D2R_WEIGHTS


def test_every_row_that_it_names_is_a_method():
    section = SHEET.split("## Other methods")[1].split("##")[0]
    names = re.findall(r"\| `([a-z0-9-]+)` \|", section)
    assert len(names) == 7 and set(names) <= set(METHODS)
