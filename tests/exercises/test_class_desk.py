"""The lecturer's desk on a class that was made up from known mistakes: what it finds is compared with what went in."""

import csv
import io
import json
import os
from html.parser import HTMLParser
from itertools import combinations

import pytest

from d2rkit.exercises.class_desk import as_text, class_desk
from d2rkit.exercises.settings import general
from tests.exercises import a_class


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of hand-ins, and for each student the exercises with a mistake and the words of its hint."""
    folder = tmp_path_factory.mktemp("handins")
    truth = {}
    with pytest.MonkeyPatch.context() as patch:
        for number, name in enumerate(a_class.NAMES):
            patch.setenv("D2RKIT_ANSWERS", str(tmp_path_factory.mktemp(f"answers{number}")))
            truth[name] = a_class.hand_in(folder, number)
    return folder, truth


@pytest.fixture(scope="module")
def desk(made):
    return class_desk(made[0])


def test_at_least_nine_in_ten_get_the_right_misconception(made, desk):
    _, truth = made
    assert len(truth) >= 30 and len(set(a_class.MISTAKES)) >= 30
    hints = {}
    for one in desk.misconceptions:
        for student in one.students:
            hints[student, one.exercise] = one.hint
    students = [all(words in hints.get((name, exercise), "") for exercise, words in each.items())
                for name, each in truth.items()]  # fmt: skip
    known = [(name, exercise, words) for name, each in truth.items() for exercise, words in each.items()]
    cells = [words in hints.get((name, exercise), "") for name, exercise, words in known]
    assert sum(students) >= 0.9 * len(students), f"{sum(students)} of {len(students)} students"
    assert sum(cells) >= 0.9 * len(cells), f"{sum(cells)} of {len(cells)} solutions"
    assert len(hints) == len(cells)  # and nobody who was right got one


def test_the_same_mistake_is_one_misconception_and_another_is_another(made, desk):
    _, truth = made
    groups = {(name, one.exercise): i for i, one in enumerate(desk.misconceptions) for name in one.students}
    known = [(name, exercise, words) for name, each in truth.items() for exercise, words in each.items()]
    together = [(groups[a[:2]] == groups[b[:2]], a[1:] == b[1:]) for a, b in combinations(known, 2) if a[1] == b[1]]
    assert sum(same for _, same in together) > 20 and all(grouped == same for grouped, same in together)
    sizes = [len(one.students) for one in desk.misconceptions]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1


def test_every_cell_says_what_was_handed_in(made, desk):
    _, truth = made
    for student in desk.students:
        for exercise, cell in student.cells.items():
            if exercise in truth[student.name]:
                assert cell.status == "not yet" and cell.hint and cell.attempts == 1
            else:
                assert cell.status in ("passed", "not yet written") and not cell.hint
        assert student.passed == 1


def test_predictions_before_and_after(desk):
    by_name = {one.name: one for one in desk.predictions}
    assert set(by_name) == {"02/half", "03/quiz-1", "06/batchmean"}
    count = len(a_class.NAMES)
    batchmean = by_name["06/batchmean"]
    right = sum(n % 6 < 2 * (n % 3) + 1 for n in range(count))
    assert batchmean.right == (right, count) and batchmean.came == {"balance": count} and 0 < right < count
    page = desk.html()
    assert f"{right} of {count} right" in page and "✔ came out" in page
    assert "52.5 %" in page and "certain: " in page and "right at the first try" in page


class Page(HTMLParser):
    """Every tag closed in order, and what a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.fetched += [value for key, value in attributes if key in ("src", "href") and not value.startswith("#")]
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_no_network(desk):
    page = Page(desk.html())
    assert page.open == [] and page.fetched == [] and "<script" not in desk.html()
    assert all(name in page.text for name in a_class.NAMES) and "url(" not in desk.html()


def test_the_table_has_a_row_for_each_student_and_exercise(made, desk):
    rows = list(csv.DictReader(io.StringIO(desk.csv())))
    assert len(rows) == len(desk.students) * len(desk.exercises)
    _, truth = made
    for row in rows:
        assert bool(row["hint"]) == (row["exercise"] in truth[row["student"]]) == (row["status"] == "not yet")


def test_nothing_is_overwritten(desk, tmp_path):
    page, table = desk.save(tmp_path / "class")
    assert (page.name, table.name) == ("class.html", "class.csv")
    before = page.read_text(encoding="utf-8")
    for name in ("class", "class.html"):
        with pytest.raises(ValueError, match=r"class\.html is there already"):
            desk.save(tmp_path / name)
    page.unlink()
    with pytest.raises(ValueError, match=r"class\.csv is there already"):
        desk.save(tmp_path / "class")
    assert not page.exists() and desk.html() == before


def test_the_same_files_give_the_same_page(made, desk):
    assert class_desk(made[0]).html() == desk.html()


# ---- whatever lies in the folder


def write(folder, name="ada.json", **changes):
    entry = {"title": "t", "status": "passed", "tries": {}, "code": "", "hint": ""}
    content = {"format": 1, "student": "Ada", "exercises": {"kl": entry}} | changes
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def test_broken_files_are_named_with_a_sentence_each(tmp_path):
    write(tmp_path)
    bad = {"empty.json": "", "half.json": '{"format": 1, "exer', "list.json": "[]",
           "future.json": '{"format": 9, "exercises": {}}',
           "deep.json": "[" * 100_000, "answers.json": '{"format": 1, "exercises": {}, "answers": 3}'}  # fmt: skip
    for name, text in bad.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.json").write_bytes(b'{"student": "Ren\xe9"}')
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".DS_Store").write_text("")
    os.mkfifo(tmp_path / "pipe.json")
    desk = class_desk(tmp_path)
    assert set(desk.broken) == {*bad, "latin.json", "notes.txt", "pipe.json"} and len(desk.students) == 1
    assert all(
        text and "\n" not in text and "Traceback" not in text and len(text) < 300 for text in desk.broken.values()
    )
    page = Page(desk.html())
    assert all(name in page.text for name in desk.broken)
    assert "half.json" in desk.csv()


def test_what_cannot_be_written_as_utf8_stops_nothing(tmp_path):
    """JSON may hold half a surrogate pair, and a folder unpacked on another system names that are no UTF-8."""
    entry = {"title": "t", "status": "not yet", "tries": {}, "hint": "\udfff", "step": "\ud800", "code": "\ud800"}
    write(tmp_path, student="\ud800x", exercises={"kl": entry})
    for name in (b"M\xfcller.json", b"M\xfcller.txt"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(b"{")
    desk = class_desk(tmp_path)
    page, table = desk.save(tmp_path / "class")
    assert len(desk.broken) == 2 and "ller.txt" in page.read_text(encoding="utf-8")
    assert "\\ud800x" in table.read_text(encoding="utf-8")


def test_a_number_too_large_for_a_float_is_named(tmp_path):
    write(tmp_path)
    answer = {"kind": "number", "question": "q", "unit": "", "answer": 10**400, "when": ""}
    write(tmp_path, "large.json", answers={"x/y": answer})
    assert "is no number" in class_desk(tmp_path).broken["large.json"]


def test_folders_named_after_people_are_no_broken_files(tmp_path):
    write(tmp_path / "Ada B. Lovelace_12_assignsubmission_file_", "handin.json", student="")
    write(tmp_path / "M. Curie", "HANDIN.JSON", student="")
    desk = class_desk(tmp_path)
    assert desk.broken == {}
    assert [s.name for s in desk.students] == ["Ada B. Lovelace", "M. Curie"]


def test_no_name_is_given_twice_not_even_on_purpose(tmp_path):
    for file, name in (("one.json", "Eve"), ("two.json", "Eve"), ("three.json", "Eve (one.json)")):
        write(tmp_path, file, student=name, made=file)  # two of one content would count once
    names = [student.name for student in class_desk(tmp_path).students]
    assert len(set(names)) == 3


def test_no_hand_in_at_all_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="no hand-in below"):
        class_desk(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        class_desk(tmp_path / "nowhere")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"no hand-in below .* writes one; x\.json "):
        class_desk(tmp_path)


def test_what_students_write_is_text_and_nothing_else(tmp_path):
    evil = "<script>alert(1)</script>"
    entry = {"title": evil, "status": "not yet", "tries": {}, "hint": f"=1+1 {evil}", "step": evil, "code": evil}
    answer = {"kind": "choice", "question": evil, "options": {"a": evil}, "answer": "a", "when": "", "right": True}
    write(tmp_path, student=f"=cmd {evil}", exercises={"kl": entry, evil: entry}, answers={evil: answer})
    desk = class_desk(tmp_path)
    assert "<script>" not in desk.html() and Page(desk.html()).open == []
    assert all(not value.startswith(("=", "+", "@")) for row in csv.reader(io.StringIO(desk.csv())) for value in row)
    assert as_text("-1") == "'-1" and as_text("plain") == "plain"


def test_names_come_from_the_file_where_there_is_none_and_are_told_apart(tmp_path):
    write(tmp_path, "ada.json", student="")
    write(tmp_path / "bob", "handin.json", student="")
    write(tmp_path, "one.json", student="Eve")
    write(tmp_path, "two.json", student="Eve", exercises={})
    assert [s.name for s in class_desk(tmp_path).students] == ["ada", "bob", "Eve (one.json)", "Eve (two.json)"]


def test_a_folder_of_moodle_gives_the_students_name(tmp_path):
    write(tmp_path / "Chen Wei_48213_assignsubmission_file_", "handin.json", student="")
    assert [s.name for s in class_desk(tmp_path).students] == ["Chen Wei"]


def test_a_file_that_an_editor_on_windows_saved_is_read(tmp_path):
    write(tmp_path)
    text = (tmp_path / "ada.json").read_text()
    (tmp_path / "bob.json").write_text(text.replace("Ada", "Bob"), encoding="utf-8-sig")
    (tmp_path / "eve.json").write_text(text, encoding="utf-16")
    (tmp_path / "nobody.json").write_text("")
    (tmp_path / "sheet.ipynb").write_text("{}")
    desk = class_desk(tmp_path)
    assert [s.name for s in desk.students] == ["Ada", "Bob"]
    assert "not UTF-8 text" in desk.broken["eve.json"] and "codec" not in desk.broken["eve.json"]
    assert "it is empty" in desk.broken["nobody.json"] and "is a notebook" in desk.broken["sheet.ipynb"]


def test_a_file_that_was_fetched_twice_counts_once(tmp_path):
    entry = {"title": "t", "status": "passed", "tries": {"a": 1}, "code": a_class.solution("pgd"), "hint": ""}
    write(tmp_path, "a.json", exercises={"pgd": entry})
    write(tmp_path, "a (1).json", exercises={"pgd": entry})
    write(tmp_path, "later.json", exercises={"pgd": entry, "kl": {**entry, "code": ""}})  # Ada again, with more done
    desk = class_desk(tmp_path)
    assert "the same as a.json" in desk.broken["a (1).json"] and len(desk.students) == 2
    assert desk.alike == () and desk.copies == []  # nobody is suspected of copying from herself
    for name in ("one.json", "two.json"):
        write(tmp_path, name, student="", exercises={"pgd": entry})
    assert [set(one.students) >= {"one", "two"} for one in class_desk(tmp_path).alike] == [True]


def test_a_copy_with_another_name_in_it_is_told(tmp_path):
    """Even where the code is so common that it marks nobody: times and sessions are the same, too."""
    entry = {"title": "t", "status": "passed", "tries": {"a": 1}, "code": "", "hint": "", "when": "2026-01-02T10:11:12"}
    for name in ("Ada", "Bob"):
        write(tmp_path, f"{name}.json", student=name, exercises={"kl": entry})
    write(tmp_path, "eve.json", student="Eve", exercises={"kl": {**entry, "when": "2026-01-02T10:11:13"}})
    for name in ("Ida", "Jon"):  # who have not begun
        write(tmp_path, f"{name}.json", student=name, exercises={})
    desk = class_desk(tmp_path)
    assert desk.copies == [["Ada", "Bob"]]
    assert "The same hand-in under several names: Ada, Bob" in section(desk.html(), "short")


def section(page, key):
    return page.split(f"<section id='{key}'>")[1].split("</section>")[0]


def test_in_short_says_what_stands_out_and_nothing_else(made, desk, tmp_path):
    short = section(desk.html(), "short")
    assert f"{len(desk.misconceptions[0].students)} of {len(desk.students)} were left with" in short
    assert "attempt" not in short and "count" not in short.replace("counts", "")
    write(tmp_path, exercises={"kl": {"title": "t", "status": "not yet written", "tries": {}}})
    (tmp_path / "x.json").write_text("")
    short = section(class_desk(tmp_path).html(), "short")
    assert "without an attempt: Ada" in short and "1 file does not count" in short and "were left" not in short


def test_what_nobody_began_is_a_sentence_and_no_column(desk):
    students = section(desk.html(), "students")
    begun = {name for s in desk.students for name, cell in s.cells.items() if cell.attempts}
    assert begun < set(desk.exercises) and students.count("scope='col'") == 1 + len(begun)
    told = Page(students).text.split("Nobody has begun ")[1].split(".")[0]
    assert set(told.split(", ")) == set(desk.exercises) - begun


def test_the_code_behind_a_hint_is_one_click_away(desk):
    one = desk.misconceptions[0]
    (student,) = (s for s in desk.students if s.name == one.students[0])
    shown = Page(section(desk.html(), "misconceptions")).text
    assert student.cells[one.exercise].code.strip() in shown
    assert "side by side" in section(desk.html(), "alike")


def test_a_spreadsheet_reads_the_table_as_it_was_written(tmp_path):
    write(tmp_path, student="Björk Þórðardóttir")
    _, table = class_desk(tmp_path).save(tmp_path.parent / f"{tmp_path.name}.html")
    assert table.read_bytes().startswith(b"\xef\xbb\xbf")  # else Excel shows BjÃ¶rk
    rows = csv.DictReader(io.StringIO(table.read_text(encoding="utf-8-sig")))
    assert {row["student"] for row in rows} == {"Björk Þórðardóttir"}


def test_an_exercise_of_ones_own_has_a_column(tmp_path):
    entry = {"title": "t", "status": "passed", "tries": {"a": 2}, "code": "", "hint": ""}
    write(tmp_path, exercises={"mine": entry, "pgd": entry, "kl": entry})
    assert class_desk(tmp_path).exercises == ("kl", "pgd", "mine")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("moved by 0.132, eps is 0.1", "moved by 0.15, eps is 0.3", True),
        ("line 3, `x = y` – NameError", "line 12, `z` – NameError", True),
        ("sum over classes", "sum over batch", False),
    ],
)
def test_numbers_and_quoted_code_do_not_tell_misconceptions_apart(one, other, same):
    assert (general(one) == general(other)) == same
