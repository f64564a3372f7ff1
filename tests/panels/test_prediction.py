"""Predict, commit, reveal, through traits: what is stored, what is locked, and what must not be seen too early."""

import json

import ipywidgets as widgets
import nbformat
import pytest

from d2rkit.exercises import answers
from d2rkit.panels import Prediction, Question, Quiz, base
from d2rkit.panels.figure_maker import FigureMaker
from d2rkit.panels.prediction import COMMIT_FIRST
from d2rkit.panels.quiz import capitalised
from tests.forked_kernel import ForkedKernels

OPTIONS = ("it rises", "it falls", "it stays")
SECRET = "because the gradient vanishes"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("D2RKIT_ANSWERS", str(tmp_path / "answers"))
    return tmp_path / "answers"


def choice(**changes):
    return Prediction("02/eps", "What does accuracy do?", **{"options": OPTIONS, **changes})


def number():
    return Prediction("02/half", "At which ε is half lost?", between=(0, 100), unit="%")


def commit(prediction, value, sure="fairly sure"):
    prediction.field.value, prediction.sure.value = value, sure
    prediction.button.click()
    return prediction


def every_widget(widget):
    return [widget, *(w for child in getattr(widget, "children", ()) for w in every_widget(child))]


def everything(widget):
    """All that a browser gets of a widget and its children, as one text."""
    state = {k: v for k, v in widget.get_state().items() if k not in ("children", "layout", "style")}
    return str(state) + "".join(everything(child) for child in getattr(widget, "children", ()))


def stored(folder, name="02"):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["answers"]


# ---- commit


def test_what_is_typed_reaches_the_kernel_before_the_button_next_to_it(tmp_path):
    # Letter by letter, changes wait for a busy kernel while a click does not: "35 %" was committed as "3".
    for panel in (number(), FigureMaker((), tmp_path)):
        fields = [w for w in every_widget(panel.widget) if isinstance(w, widgets.Text)]
        assert fields and not any(field.continuous_update for field in fields)


def test_a_committed_choice_is_stored_locked_and_shown(folder):
    prediction = choice()
    assert prediction.field.value is None and prediction.sure.value is None and not folder.exists()
    commit(prediction, "b", "certain")
    entry = stored(folder)["eps"]
    assert (entry["kind"], entry["answer"], entry["confidence"]) == ("choice", "b", "certain")
    assert entry["question"] == "What does accuracy do?" and entry["options"]["b"] == "it falls" and entry["when"]
    assert all(part.disabled for part in (prediction.field, prediction.sure, prediction.button))
    assert "role='status'" in prediction.message.value and "b) it falls (certain)" in prediction.message.value


def test_a_committed_answer_cannot_be_changed(folder):
    prediction = commit(choice(), "b")
    prediction.field.value = "a"
    prediction.button.click()
    assert prediction.answer == "b" and stored(folder)["eps"]["answer"] == "b"
    again = choice()  # the cell runs once more, or tomorrow
    assert again.committed and again.answer == "b" and again.field.disabled and again.field.value == "b"
    other = answers.store("02/eps", answer="c", when="3000")  # another kernel that asked before
    assert other["answer"] == "b"


def test_the_first_of_two_kernels_wins(folder):
    one, two = choice(), choice()
    commit(one, "a")
    commit(two, "c")
    assert two.answer == "a" and "a) it rises" in two.message.value and stored(folder)["eps"]["answer"] == "a"


def test_nothing_is_committed_without_answer_and_confidence(folder):
    prediction = choice()
    prediction.button.click()
    assert "choose one of the options" in prediction.message.value and "role='alert'" in prediction.message.value
    prediction.field.value = "a"
    prediction.button.click()
    assert "how sure" in prediction.message.value and not prediction.committed and not folder.exists()


@pytest.mark.parametrize("text", ["", "many", "-1", "101", "nan", "inf", "1e999"])
def test_what_is_no_number_in_range_is_asked_again(text, folder):
    prediction = commit(number(), text)
    assert "a number from 0 to 100" in prediction.message.value and not prediction.committed and not folder.exists()


@pytest.mark.parametrize(("text", "value"), [("40", 40), (" 12,5 % ", 12.5), ("0", 0), ("100%", 100)])
def test_numbers_as_people_write_them(text, value, folder):
    assert commit(number(), text).answer == value and stored(folder)["half"]["answer"] == value
    assert number().field.value == f"{value:g}"


@pytest.mark.parametrize("unit", ["", "points", "percentage points"])
def test_the_range_in_a_field_is_not_cut(unit):
    """As a browser needs: half an em and a bit for each letter of it and of its label, and two em for the edges."""
    field = Prediction("t/wide", "How many?", between=(-20, 20), unit=unit).field
    letters = len(field.description) + len(field.placeholder)
    assert unit in field.placeholder and float(field.layout.width.removesuffix("em")) >= 0.56 * letters + 2


def test_one_file_a_notebook_keeps_all_its_answers(folder):
    commit(choice(), "a")
    commit(number(), "30")
    commit(Prediction("03/term", "Which?", options={"mse": "MSE", "adv": "the other"}), "adv")
    assert set(stored(folder)) == {"eps", "half"} and stored(folder, "03")["term"]["answer"] == "adv"
    loaded, problems = answers.load_all()
    assert set(loaded) == {"02/eps", "02/half", "03/term"} and not problems
    assert [path.name for path in folder.iterdir() if path.suffix != ".json"] == []  # no drafts are left


def test_options_keep_the_order_in_which_they_are_asked():
    prediction = commit(Prediction("03/term", "Which?", options={"mse": "MSE", "adv": "the other"}), "adv")
    again = Prediction("03/term", "Which?", options={"mse": "MSE", "adv": "the other"})
    for each in (prediction, again):
        assert "b) the other" in each.message.value and "a) MSE" in each.reveal("mse").text.value


def test_an_edited_question_is_asked_anew(folder):
    commit(choice(), "a")
    edited = choice(options=("up", "down"))
    assert not edited.committed
    assert commit(edited, "b").answer == "b" and stored(folder)["eps"]["options"] == {"a": "up", "b": "down"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"format": 2}', '{"format": 1, "answers": {"eps": {"kind": "choice", "answer": 1}}}']
)
def test_a_damaged_file_is_named_and_left_alone(text, folder):
    folder.mkdir()
    (folder / "02.json").write_text(text)
    prediction = choice()
    assert "02.json" in prediction.message.value and "Traceback" not in prediction.message.value
    commit(prediction, "a")
    assert prediction.answer == "a" and "not be in your hand-in" in prediction.message.value
    assert (folder / "02.json").read_text() == text
    loaded, (problem,) = answers.load_all()
    assert loaded == {} and "02.json" in problem
    assert "Right" in prediction.reveal("a").text.value  # this kernel still knows it


@pytest.mark.parametrize(
    "wrong",
    [
        {"options": ("one",)}, {"options": tuple("abcdef")}, {"options": ("a", "a")}, {"options": "ab"},
        {"options": None}, {"between": (0, 1)}, {"options": None, "between": (1, 0)}, {"options": ("", "b")},
    ],
)  # fmt: skip
def test_authors_hear_of_their_mistakes(wrong):
    with pytest.raises(ValueError, match=r"option|prediction has either|high must be"):
        choice(**wrong)


@pytest.mark.parametrize("name", ["eps", "02/", "../x/y", "02/a/b", 3])
def test_a_name_has_a_notebook_and_a_question(name):
    with pytest.raises(ValueError, match="NOTEBOOK/QUESTION"):
        Prediction(name, "?", options=OPTIONS)


# ---- reveal


def test_before_the_commit_nothing_of_the_answer_is_in_the_page():
    prediction = choice()
    made = base.figure(1, 1)
    reveal = prediction.reveal("c", words=SECRET, picture=base.still(made, "a falling curve"))
    page = everything(reveal.widget) + everything(prediction.widget) + repr(reveal)
    assert COMMIT_FIRST in page and "role='status'" in reveal.text.value
    assert SECRET not in page and "came out" not in page and "falling" not in page and "<img" not in page
    assert reveal.anyway.layout.display != "none"
    commit(prediction, "c")
    page = everything(reveal.widget)  # by itself: the cell need not run again
    assert SECRET in page and "c) it stays" in page and "a falling curve" in page and "<img" in page
    assert reveal.anyway.layout.display == "none"


@pytest.mark.parametrize(
    ("given", "sure", "words"),
    [
        ("c", "certain", "Right, and you were certain"),
        ("c", "guess", "Right. You called it a guess"),
        ("a", "certain", "though you were certain"),
        ("a", "guess", "called it a guess, so no assumption"),
    ],
)
def test_the_verdict_is_calibrated(given, sure, words, folder):
    prediction = commit(choice(), given, sure)
    text = prediction.reveal("c").text.value
    assert words in text and ("✔" in text) == (given == "c") and "c) it stays" in text and "You predicted" in text
    entry = stored(folder)["eps"]
    assert entry["actual"] == "c" and entry["right"] == (given == "c") and entry["answer"] == given


def test_a_number_hears_how_far_off_it_was(folder):
    text = commit(number(), "40").reveal(52.125, interval=(48, 56)).text.value
    assert "12.1 percentage points too low" in text and "52.12 %" in text and "95 % interval 48 to 56" in text
    assert stored(folder)["half"]["right"] is False and "✘" in text


@pytest.mark.parametrize(
    ("given", "told", "right"),
    [
        ("49", {"interval": (48, 56)}, True), ("47.2", {}, True), ("47.1", {"close": 0}, False), ("52.125", {}, True),
        ("60", {"close": 10}, True), ("58", {}, False),
    ],
)  # fmt: skip
def test_what_counts_as_right_for_a_number(given, told, right):
    text = commit(number(), given).reveal(52.125, **told).text.value
    assert ("✔" in text) == right and ("✘" in text) != right and ("exactly so" in text) == (given == "52.125")


def test_show_anyway_shows_and_is_remembered(folder):
    prediction = choice()
    reveal = prediction.reveal("c", words=SECRET)
    reveal.anyway.click()
    assert SECRET in reveal.text.value and "You committed no prediction" in reveal.text.value
    assert stored(folder)["eps"]["seen"] and "answer" not in stored(folder)["eps"]
    again = commit(choice(), "c")  # in a kernel that starts anew
    assert stored(folder)["eps"]["late"] is True
    assert "after it had been shown" in again.reveal("c").text.value


def test_words_are_escaped_unless_they_are_html():
    prediction = commit(choice(), "a")
    assert "p &lt; 0.05" in prediction.reveal("a", words="p < 0.05").text.value
    assert "<b>so</b>" in prediction.reveal("a", words="<p><b>so</b></p>").text.value
    strange = Prediction("02/x", "Is <p> > q?", options=("<script>", "no"))
    assert "&lt;p&gt;" in everything(strange.widget)
    assert "<script>" not in commit(strange, "a").reveal("a").text.value + strange.message.value


def test_an_outcome_that_no_option_names_is_an_authors_mistake():
    with pytest.raises(ValueError, match="none of a, b, c"):
        choice().reveal("d")
    with pytest.raises(ValueError, match="actual"):
        number().reveal("12")


def test_every_control_has_a_name():
    one, two = choice(), number()
    for part in (*one.field.buttons.values(), *one.sure.buttons.values(), one.button, two.field, two.button):
        assert part.description and part.tooltip
    one.field.buttons["b"].click()  # what is chosen is said, too
    assert one.field.value == "b" and one.field.buttons["b"].description == "● b) it falls (chosen)"
    assert [b.description for b in one.field.buttons.values() if "chosen" in b.description] == [
        "● b) it falls (chosen)"
    ]


# ---- quiz


def questions(count=3):
    options = [("one", "one is too few"), ("two", "two it is"), ("three", "three is too many")]
    return [Question(f"How many, {i}?", options, right="b") for i in range(count)]


def test_a_wrong_choice_gets_its_reason_and_another_try(folder):
    quiz = Quiz("01/quiz", questions())
    page = everything(quiz.widget)
    assert "too few" not in page and "two it is" not in page  # neither reasons nor the right one are in the page
    part = quiz.parts[0]
    part.button.click()
    assert "Choose one" in part.message.value and not folder.exists()
    part.field.value = "a"
    part.button.click()
    assert "One is too few" in part.message.value and "✘" in part.message.value and not part.field.disabled
    part.field.value = "b"
    part.button.click()
    assert "Two it is" in part.message.value and part.field.disabled
    entry = stored(folder, "01")["quiz-1"]
    assert (entry["answer"], entry["tries"], entry["right"], entry["actual"]) == ("a", ["a", "b"], False, "b")
    assert "1 of 3 answered; 0 right at the first try" in quiz.score.value
    again = Quiz("01/quiz", questions())
    assert again.parts[0].done and again.parts[0].field.disabled and not again.parts[1].tries
    assert "1 of 3 answered" in again.score.value


def test_a_quiz_has_three_to_five_questions_and_reasons_for_wrong_choices():
    for count in (2, 6):
        with pytest.raises(ValueError, match="3 to 5"):
            Quiz("01/quiz", questions(count))
    with pytest.raises(ValueError, match="no reason for the wrong choice a"):
        Question("?", [("one", ""), ("two", "")], right="b")
    with pytest.raises(ValueError, match="one of a, b"):
        Question("?", [("one", "x"), ("two", "")], right="c")


# ---- in a notebook


@pytest.mark.slow
def test_a_notebook_runs_through_with_nothing_committed(folder, tmp_path):
    from nbclient import NotebookClient

    cells = [
        "from d2rkit.panels import Prediction\np = Prediction('02/eps', 'What?', options=('up', 'down'))\np.widget",
        f"p.reveal('b', words={SECRET!r}).widget",
        f"p.reveal('b', words={SECRET!r})",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(
        notebook, timeout=120, kernel_manager_class=ForkedKernels, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.outputs]
    assert [output.output_type for output in outputs] == ["execute_result"] * 3
    assert COMMIT_FIRST in outputs[2].data["text/plain"] and "widget-view+json" in str(outputs[2].data)
    for cell in notebook.cells:
        cell.source = ""
    assert SECRET not in str(notebook) and not folder.exists()


def test_both_are_widgets_that_notebooks_show():
    assert isinstance(choice().widget, widgets.VBox)
    assert "application/vnd.jupyter.widget-view+json" in choice()._repr_mimebundle_()


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("x′ is given to the target.", "x′ is given to the target."),
        ("g(x) is not computed.", "g(x) is not computed."),
        ("p_f − p_g.", "p_f − p_g."),
        ("eight bits.", "Eight bits."),
    ],
)
def test_a_reason_begins_like_a_sentence_and_a_symbol_stays_a_symbol(reason, shown):
    assert capitalised(reason) == shown
