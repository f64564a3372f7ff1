"""report(): text, JSON, several notebooks into one file, and what a lecturer reads."""

import json

import pytest

from d2rkit.exercises import NAMES, check, collect, exercise, report
from d2rkit.exercises import report as report_function
from d2rkit.exercises.handin import SESSION, attempts, forget, read_handin


@pytest.fixture(autouse=True)
def fresh():
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
    assert text.startswith("Ada: 1 of 10 exercises passed")
    lines = {line.split()[1]: line for line in text.splitlines()[1:]}
    assert set(lines) == set(NAMES)
    assert "passed" in lines["kl"] and "not yet" in lines["pgd"] and "not yet written" in lines["cag"]
    assert "1 of 10 exercises passed" in report("<b>")._repr_html_() and "<b>" not in report("<b>")._repr_html_()


def test_json_has_status_hint_attempts_code_and_versions(tmp_path):
    def my_kl(p_logits, q_logits):
        return p_logits

    check("kl", my_kl)
    fail("kl")
    report("Ada").save(tmp_path / "handin.json")
    found = json.loads((tmp_path / "handin.json").read_text(encoding="utf-8"))
    assert (found["format"], found["student"], found["passed"], found["of"]) == (1, "Ada", 0, 10)
    entry = found["exercises"]["kl"]
    assert entry["status"] == "not yet" and entry["hint"] and entry["tries"] == {SESSION: 2} and entry["when"]
    assert {"torch", "python", "d2rkit"} <= set(found["versions"])
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


def test_the_public_name_is_the_function():
    assert callable(report_function)
