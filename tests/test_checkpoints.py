"""Files appear whole or not at all, and damaged ones are refused in words."""

import math

import pytest
import torch
from safetensors.torch import load_file

from d2rkit.checkpoints import (
    load_resume,
    load_weights,
    read_json,
    save_resume,
    save_weights,
    write_atomically,
    write_json,
)
from tests.conftest import make_pair


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path):
    file = tmp_path / "new folder" / "a.txt"
    with write_atomically(file) as draft:
        draft.write_text("old")
        assert not file.exists()
    with pytest.raises(RuntimeError, match="on purpose"), write_atomically(file) as draft:
        draft.write_text("half of the n")
        raise RuntimeError("on purpose")
    assert file.read_text() == "old" and list(file.parent.iterdir()) == [file]


def test_json_round_trip(tmp_path):
    content = {"b": [1, 2.5, None], "a": "ε = 8/255"}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert (tmp_path / "x.json").read_text().index('"a"') < (tmp_path / "x.json").read_text().index('"b"')


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00"])
def test_damaged_json_is_refused(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.json is damaged") as error:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="does not exist"):
        read_json(tmp_path / "y.json")


@pytest.mark.parametrize("guide", [True, False])
def test_weights_round_trip(tmp_path, guide):
    pair, other = make_pair(seed=0, guide=guide), make_pair(seed=1, guide=guide)
    save_weights(tmp_path / "last.safetensors", pair.target, pair.guide)
    assert not equal_states(pair, other)
    assert load_weights(str(tmp_path / "last.safetensors"), other) is other
    assert equal_states(pair, other)
    names = load_file(tmp_path / "last.safetensors")
    assert {name.split(".")[0] for name in names} == ({"target", "guide"} if guide else {"target"})


def test_channels_last_weights_are_saved_too(tmp_path):
    pair = make_pair().to(memory_format=torch.channels_last)
    save_weights(tmp_path / "last.safetensors", pair.target, pair.guide)
    assert equal_states(load_weights(tmp_path / "last.safetensors", make_pair(seed=1)), pair)


def test_weights_that_do_not_fit_are_refused_in_one_sentence(tmp_path):
    file = tmp_path / "last.safetensors"
    pair = make_pair()
    save_weights(file, pair.target, pair.guide)
    for wrong in (make_pair(guide=False), make_pair(name="cnn-8")):
        with pytest.raises(ValueError, match="does not fit these networks") as error:
            load_weights(file, wrong)
        assert "\n" not in str(error.value)
    save_weights(file, pair.target, None)
    with pytest.raises(ValueError, match=r"does not fit these networks.*guide"):
        load_weights(file, make_pair())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_truncated_and_missing_weights(tmp_path, share):
    file, pair = tmp_path / "last.safetensors", make_pair()
    with pytest.raises(ValueError, match="does not exist"):
        load_weights(file, pair)
    save_weights(file, pair.target, pair.guide)
    cut = file.read_bytes()[: int(share * file.stat().st_size)]
    file.write_bytes(cut)
    with pytest.raises(ValueError, match="is damaged") as error:
        load_weights(file, pair)
    assert "\n" not in str(error.value) and file.read_bytes() == cut


def test_resume_state_round_trip(tmp_path):
    state = {"epoch": 3, "best": math.inf, "generator": torch.get_rng_state(), "history": [{"loss": 1.0}]}
    save_resume(tmp_path / "resume.pt", state)
    again = load_resume(tmp_path / "resume.pt")
    assert again["history"] == state["history"] and torch.equal(again["generator"], state["generator"])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_truncated_resume_state_is_refused_and_stays(tmp_path, share):
    file = tmp_path / "resume.pt"
    save_resume(file, {"pair": make_pair().state_dict(), "epoch": 1})
    cut = file.read_bytes()[: int(share * file.stat().st_size)]
    file.write_bytes(cut)
    with pytest.raises(ValueError, match=r"resume\.pt is damaged .* move it away") as error:
        load_resume(file)
    assert "\n" not in str(error.value) and file.read_bytes() == cut


class Bomb:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"epoch": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"bomb\.pt"):
        load_resume(tmp_path / "bomb.pt")
    assert capsys.readouterr().out == ""
