"""report(): text, JSON, several notebooks into one file, and what a lecturer reads."""

import json
import os

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
    found = json.loads((tmp_path / "handin.json").read_text(encoding="utf-8"))
    assert (found["format"], found["student"], found["passed"], found["of"]) == (1, "Ada", 0, 11)
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
        "title.json": hand_in(title=None), "entry.json": '{"format": 1, "exercises": {"kl": 3}}',
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
