"""What a lecturer may change, and what is said about a file that cannot be used."""

import re
import tomllib
from pathlib import Path

import pytest

from d2rkit.exercises import NAMES, check, exercise, report
from d2rkit.exercises import settings as module
from d2rkit.exercises.class_desk import class_desk
from d2rkit.exercises.handin import forget
from d2rkit.exercises.settings import VARIABLE, general, said, step_name, threshold, title

OWN_WORDS = """
[titles]
kl = "KL und <symmetrische> KL"
[steps]
"returns two results" = "gibt zwei Ergebnisse zurück"
"KL(p || q)" = "KL, vorwärts"
[texts]
"nothing came back: is a `…` missing?" = "Es kam nichts zurück: fehlt `…`?"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    def write(text):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        file.write_text(text, encoding="utf-8")
        monkeypatch.setenv(VARIABLE, str(file))
        return file

    monkeypatch.setenv("D2RKIT_ANSWERS", str(tmp_path / "answers"))
    forget()
    yield write
    forget()


def nothing(p, q):
    return None


def test_the_kits_titles_stand_in_the_file():
    """As comments, from which a lecturer's own file can be made."""
    text = Path(module.__file__).with_name("settings.toml").read_text(encoding="utf-8")
    listed = tomllib.loads("\n".join(re.findall(r"^# (\w+ = .*)$", text, re.M)))
    assert listed == {name: exercise(name).title for name in NAMES}


def test_titles_and_steps_of_ones_own_are_what_a_check_and_the_report_show(own):
    own(OWN_WORDS)
    result = check("kl", nothing)
    assert result.title == "KL und <symmetrische> KL" and result.steps[-1].name == "gibt zwei Ergebnisse zurück"
    assert "KL und <symmetrische> KL" in repr(result) and "not  gibt zwei Ergebnisse zurück" in repr(result)
    assert "KL und &lt;symmetrische&gt; KL" in result._repr_html_() and "gibt zwei Ergebnisse" in result._repr_html_()
    passed = check("kl", exercise("kl").reference)
    assert passed and "KL, vorwärts" in repr(passed) and "KL(p || q) + KL(q || p)" in repr(passed)
    shown = report()._repr_html_()
    assert "KL und &lt;symmetrische&gt; KL" in shown and "Where the released gap is blind" in shown
    assert step_name("names dealt 1 of 2") == "names dealt 1 of 2" and title("pgd", "PGD") == "PGD"


def test_the_numbers_of_a_step_are_kept(own):
    own('[steps]\n"the masked model, names dealt # of #" = "Runde # von #"\n')
    assert step_name("the masked model, names dealt 1 of 2") == "Runde 1 von 2"


def test_the_class_page_is_in_the_lecturers_words_whatever_the_students_had(own, tmp_path):
    folder = tmp_path / "handins"
    folder.mkdir()
    check("kl", nothing)  # as a student without the lecturer's file
    report("Ada").save(folder / "ada.json")
    assert "KL and symmetric KL" in class_desk(folder).html()
    own(OWN_WORDS)
    forget()
    check("kl", nothing)  # as one who has it
    report("Bo").save(folder / "bo.json")
    desk = class_desk(folder)
    page, table = desk.html(), desk.csv()
    assert "KL und &lt;symmetrische&gt; KL" in page and "KL and symmetric KL" not in page
    assert "PGD with projection" in page
    (one,) = desk.misconceptions
    assert one.students == ("Ada", "Bo") and one.step == "gibt zwei Ergebnisse zurück" and "returns two" not in page
    assert one.hint == "Es kam nichts zurück: fehlt `return`?"
    assert "KL und <symmetrische> KL" in table and "returns two results" not in table


def test_a_hand_in_saved_under_other_titles_gets_those_of_today(own, tmp_path):
    check("kl", nothing)
    report().save(tmp_path / "handin.json")
    own(OWN_WORDS)
    forget()
    assert report().save(tmp_path / "handin.json").exercises["kl"]["title"] == "KL und <symmetrische> KL"


def test_a_file_that_cannot_be_used_is_nobodys_mistake(own, tmp_path):
    folder = tmp_path / "handins"
    folder.mkdir()
    check("kl", nothing)
    report("Ada").save(folder / "ada.json")
    own("[titles]\nkll = 'KL'\n")
    result = check("kl", exercise("kl").reference)
    assert not result and "the lecturer's file cannot be used: unknown exercise in titles of" in result.hint
    assert "did you mean 'kl'" in result.hint and not result.steps
    shown = report()
    assert "the lecturer's file cannot be used" in repr(shown) and "KL and symmetric KL" in shown._repr_html_()
    with pytest.raises(ValueError, match="did you mean 'kl'"):
        class_desk(folder)


def test_a_hint_in_other_words_keeps_its_numbers(own):
    text = '"that is KL(#): #" = "nein"\n"a pixel moved by #, see `…`" = "`…` bewegt um #"\n'
    own(f"[texts]\n{text}")
    assert said("a pixel moved by 0.132, see `x`") == "0.132 bewegt um `x`"  # in the order of the kit's
    assert said("something else 3") == "something else 3"
    assert general("eps is 8e-3, `a = 1`") == "eps is #, `…`"


def test_students_read_the_lecturers_words(own):
    own('[texts]\n"nothing came back: is a `return` missing?" = "Es kam nichts zurück: fehlt `…`?"\n')
    assert check("kl", lambda p, q: None).hint == "Es kam nichts zurück: fehlt `return`?"


def test_a_threshold_of_ones_own_decides(own):
    def blind():
        import torch

        p, q = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.1, 0.81, 0.09]])
        sure, flat = torch.tensor([[0.98, 0.01, 0.01]]), torch.tensor([[0.4, 0.3, 0.3]])
        return {"pair": (p, q), "batch": (torch.cat([sure, flat]), torch.cat([flat, sure]))}

    assert not check("gap", blind)
    own("[thresholds]\ngap_zero = 0.2\n")
    assert threshold("gap_zero") == 0.2 and threshold("pgd_share") == 0.95
    assert check("gap", blind)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[thresholds]\npgd_shere = 0.9\n", "did you mean 'pgd_share'"),
        ("[thresholds]\npgd_share = 'much'\n", "must be a finite number"),
        ("[text]\n", "did you mean 'texts'"),
        ("[title]\nkl = 'KL'\n", "did you mean 'titles'"),
        ("[titles]\nklo = 'KL'\n", "did you mean 'kl'"),
        ("[titles]\nkl = ' '\n", "the title of kl in .* is empty"),
        ("[titles]\nkl = 3\n", "'kl' in titles of .* must be text, not 3"),
        ("[steps]\n'FGSM' = ['a']\n", "must be text"),
        ("steps = 'a'\n", "must be a table"),
        ("[texts]\na = 3\n", "must be text"),
        ("texts = 3\n", "must be a table"),
        ("[texts\n", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(own, text, words):
    file = own(text)
    with pytest.raises(ValueError, match=words) as caught:
        threshold("pgd_share")
    assert file.name in str(caught.value)
