"""Nothing above a question, and nothing between it and its commit, answers it."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# question -> words above it that would give its answer away: goals and headings once did
GIVEN_AWAY = {
    "03/surer": ["that the guide pays"],
    "06/liked": ["rates far above", "look robust"],
    "10/turns": ["turns back", "turn back"],
    "11/border": ["overlap alone asks for no trade-off", "single point"],
    "11/waste": ["dial.compared"],
    "12/pgd": ["loose bound proves nothing", "seeds_table"],
    "12/tight": ["and a tighter one much", "seeds_table"],
    "12/decided": ["closes the gap", "seeds_table"],
    "12/wide": ["by_radius", "near the top of the picture", "panel.static"],
}
# what shows an outcome: it belongs into what a reveal hides
OUTCOMES = {"11": ["dial.compared(", "dial.words("], "12": ["bread.by_radius("]}


def cells_of(number):
    (file,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    return nbformat.read(file, 4).cells


@pytest.mark.parametrize("question", list(GIVEN_AWAY))
def test_no_text_above_a_question_answers_it(question):
    cells = cells_of(question[:2])
    at = next(i for i, cell in enumerate(cells) if f'"{question}"' in cell.source)
    above = "\n".join(cell.source for cell in cells[:at])
    assert [words for words in GIVEN_AWAY[question] if words in above] == []


@pytest.mark.parametrize("number", list(OUTCOMES))
def test_what_shows_an_outcome_stands_in_a_reveal(number):
    for cell in cells_of(number):
        if cell.cell_type == "code" and any(words in cell.source for words in OUTCOMES[number]):
            assert re.search(r"^\w+\.reveal\(", cell.source, re.MULTILINE), cell.source


def test_clean_accuracy_is_not_in_a_table_above_the_question_about_its_cost():
    from d2rkit.panels import sandwich_seeds as bread
    from d2rkit.panels.certified_sandwich import load

    facts = load().facts
    assert "clean" not in bread.seeds_table(facts)
    assert "±" in bread.cost_of_proof(facts)["words"]
