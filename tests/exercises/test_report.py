"""report(): text, JSON, several notebooks into one file, and what a lecturer reads."""

import json
import os

import pytest

from d2rkit.exercises import NAMES, OWN, answers, check, collect, exercise, register_exercise, report
from d2rkit.exercises import report as report_function
from d2rkit.exercises.checking import Step
from d2rkit.exercises.handin import SESSION, attempts, forget, read_handin


@pytest.fixture(autouse=True)
def fresh(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("D2RKIT_ANSWERS", str(tmp_path_factory.mktemp("answers")))
    forget()
    yield
    forget()


def solve(name):
    assert check(name, exercise(name).reference)


def fail(name):
    assert not check(name, lambda *args: None)


def test_the_text_names_every_exercise_in_words():
    solve("kl")
    fail("pgd")
    text = repr(report("Ada"))
    assert text.startswith("Ada: 1 of 11 exercises passed")
    lines = {line.split()[1]: line for line in text.splitlines()[1:]}
    assert set(lines) == set(NAMES)
    assert "passed" in lines["kl"] and "not yet" in lines["pgd"] and "not yet written" in lines["cag"]
    assert "1 of 11 exercises passed" in report("<b>")._repr_html_() and "<b>" not in report("<b>")._repr_html_()


def test_json_has_status_hint_attempts_code_and_versions(tmp_path):
    def my_kl(p_logits, q_logits):
        return p_logits

    check("kl", my_kl)
    fail("kl")
    report("Ada").save(tmp_path / "handin.json")
    saved = json.loads((tmp_path / "handin.json").read_text(encoding="utf-8"))
    assert (saved["format"], saved["student"], saved["passed"], saved["of"]) == (1, "Ada", 0, 11)
    entry = saved["exercises"]["kl"]
    assert entry["status"] == "not yet" and entry["hint"] and entry["tries"] == {SESSION: 2} and entry["when"]
    assert {"torch", "python", "d2rkit"} <= set(saved["versions"])
    solve("kl")
    assert "def reference" in report().exercises["kl"]["code"]


def test_a_pass_stays_a_pass_and_attempts_add_up():
    fail("kl")
    solve("kl")
    fail("kl")
    entry = report().exercises["kl"]
    assert entry["status"] == "passed" and attempts(entry) == 3


def test_a_stub_counts_no_attempt():
    def stub(p, q):
        raise NotImplementedError()

    check("kl", stub)
    assert attempts(report().exercises["kl"]) == 0 and report().exercises["kl"]["status"] == "not yet written"


def test_notebooks_add_to_one_file_and_saving_twice_counts_once(tmp_path, monkeypatch):
    file = tmp_path / "handin.json"
    solve("kl")
    report("Ada").save(file)
    report("Ada").save(file)
    assert attempts(read_handin(file)["exercises"]["kl"]) == 1
    forget()
    monkeypatch.setattr("d2rkit.exercises.handin.SESSION", "another")
    fail("kl")
    solve("gap")
    whole = report().save(file)
    assert whole.passed == 2 and whole.student == "Ada"
    assert attempts(whole.exercises["kl"]) == 2 and whole.exercises["kl"]["status"] == "passed"
    assert read_handin(file)["passed"] == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 2, "exercises": {}}', '{"format": 1, "exercises": {"kl": {}}}']
)
def test_another_file_is_never_overwritten(tmp_path, text):
    file = tmp_path / "handin.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"handin\.json"):
        report().save(file)
    assert file.read_text() == text


def test_a_lecturer_reads_a_folder(tmp_path):
    solve("kl")
    report("Ada").save(tmp_path / "ada.json")
    forget()
    report("Bob").save(tmp_path / "bob" / "handin.json") if (tmp_path / "bob").mkdir() is None else None
    (tmp_path / "broken.json").write_text("{")
    table = collect(tmp_path).set_index("file")
    assert table.loc["ada.json", "kl"] == "passed" and table.loc["ada.json", "passed"] == 1
    assert table.loc["handin.json", "student"] == "Bob" and table.loc["handin.json", "passed"] == 0
    assert "no hand-in" in table.loc["broken.json", "problem"]


CHOICE = {"kind": "choice", "question": "What?", "options": {"up": "it rises", "down": "it falls"}}


def test_predictions_are_listed_and_handed_in(tmp_path):
    answers.store("02/eps", **CHOICE, answer="up", confidence="certain", when="2026-01-02", actual="down", right=False)
    answers.store("02/peek", **CHOICE, seen="2026-01-02")
    number = {"kind": "number", "question": "?", "unit": "%"}
    answers.store("03/x", **number, answer=40.0, confidence="guess", when="2026-01-02")
    for i, tries in enumerate((["up", "down"], ["down"]), 1):
        right = tries[0] == "down"
        answers.store(
            f"03/quiz-{i}", **{**CHOICE, "kind": "quiz"}, answer=tries[0], right=right, tries=tries, when="2026"
        )
    page = report("Ada")
    for text in (repr(page), page._repr_html_()):
        assert "predicted: a) it rises (certain); it came out: b) it falls" in text and "40 % (guess)" in text
        assert "02/peek" in text and "shown without a prediction" in text and "1 of 2 right at the first try" in text
    page.save(tmp_path / "handin.json")
    kept = read_handin(tmp_path / "handin.json")["answers"]
    assert kept["02/eps"]["answer"] == "up" and set(kept) == {"02/eps", "02/peek", "03/x", "03/quiz-1", "03/quiz-2"}


def test_the_first_prediction_stays_in_a_hand_in(tmp_path, monkeypatch):
    file = tmp_path / "handin.json"
    answers.store("02/eps", **CHOICE, answer="up", confidence="certain", when="2026-01-02")
    report().save(file)
    monkeypatch.setenv("D2RKIT_ANSWERS", str(tmp_path / "another"))  # the stored answer was thrown away
    answers.store("02/eps", **CHOICE, answer="down", confidence="certain", when="2026-01-03", actual="down", right=True)
    answers.store("02/new", **CHOICE, answer="down", confidence="certain", when="2026-01-03")
    whole = report().save(file)
    assert whole.answers["02/eps"]["answer"] == "up" and whole.answers["02/new"]["answer"] == "down"


def test_a_damaged_file_of_answers_is_named_and_stops_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("D2RKIT_ANSWERS", str(tmp_path))
    (tmp_path / "02.json").write_text("{")
    page = report()
    assert "02.json" in repr(page) and "02.json" in page._repr_html_() and page.save(tmp_path / "handin")


def test_an_exercise_of_ones_own_is_checked_listed_and_handed_in(tmp_path):
    @register_exercise("twice", reference=lambda x: 2 * x, title="Twice a number")
    def probe(solution):
        yield Step("doubles", solution(2) == 4, str(solution(2)), "4", "add it to itself")

    try:
        assert not check("twice", lambda x: x) and check("twice", lambda x: x + x)
        text = repr(report().save(tmp_path / "handin.json"))
        assert "1 of 12 exercises passed" in text and "twice" in text
        entry = read_handin(tmp_path / "handin.json")["exercises"]["twice"]
        assert (entry["title"], entry["status"], attempts(entry)) == ("Twice a number", "passed", 2)
    finally:
        OWN.pop("twice")
    assert report().save(tmp_path / "handin.json").exercises["twice"]["status"] == "passed"  # a notebook without it


def test_the_failing_step_is_handed_in():
    check("kl", lambda p, q: (p, q))
    entry = report().exercises["kl"]
    assert entry["step"] == "KL has one value per example"
    solve("kl")
    assert report().exercises["kl"]["step"] == ""


def test_the_public_name_is_the_function():
    assert callable(report_function)


def hand_in(**changes):
    entry = {"title": "t", "status": "passed", "tries": {"a": 1}}
    return json.dumps({"format": 1, "student": "Eve", "exercises": {"kl": entry | changes}})


def test_no_file_stops_the_collection(tmp_path):
    bad = {
        "list.json": "[]", "deep.json": "[" * 100_000, "null.json": "null", "digits.json": "1" * 5_000,
        "no-exercises.json": '{"format": 1}', "exercises.json": '{"format": 1, "exercises": [1]}',
        "student.json": '{"format": 1, "student": [], "exercises": {}}',
        "future.json": '{"format": 2, "exercises": {}}',
        "status.json": hand_in(status=["passed"]), "other.json": hand_in(status="excellent"),
        "tries.json": hand_in(tries={"a": "1"}), "nan.json": hand_in(tries={"a": float("nan")}),
        "title.json": hand_in(title=None), "code.json": hand_in(code=3),
        "answers.json": '{"format": 1, "exercises": {}, "answers": {"x": {"kind": "choice", "question": "?", '
        '"options": {"a": "b"}, "answer": "c", "when": ""}}}',
        "entry.json": '{"format": 1, "exercises": {"kl": 3}}',
    }  # fmt: skip
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.json").write_bytes(b'{"student": "Ren\xe9"}')
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to("loop.json")
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "good.json").write_text(hand_in())
    (tmp_path / "sly.json").write_text(hand_in().replace('"kl"', '"passed"'))
    table = collect(tmp_path).set_index("file")
    named = table[table["problem"] != ""].index
    assert set(named) == {*bad, "latin.json", "folder.json", "loop.json", "pipe.json"}
    assert all(name in problem and "\n" not in problem for name, problem in table.loc[named, "problem"].items())
    assert list(table.loc[["good.json", "sly.json"], "passed"]) == [1, 1] and table.loc["good.json", "kl"] == "passed"
