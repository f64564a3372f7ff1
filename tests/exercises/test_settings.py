"""What a lecturer may change, and what is said about a file that cannot be used."""

import pytest

from d2rkit.exercises import check
from d2rkit.exercises.settings import VARIABLE, general, said, threshold


@pytest.fixture
def own(tmp_path, monkeypatch):
    def write(text):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        file.write_text(text, encoding="utf-8")
        monkeypatch.setenv(VARIABLE, str(file))
        return file

    return write


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
        ("[texts]\na = 3\n", "must be text"),
        ("texts = 3\n", "must be tables"),
        ("[texts\n", "is no TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(own, text, words):
    file = own(text)
    with pytest.raises(ValueError, match=words) as caught:
        threshold("pgd_share")
    assert file.name in str(caught.value)
