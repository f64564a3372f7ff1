"""Files appear whole or not at all, and damaged ones are refused in words."""

import math
import os
import random

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from d2rkit.core.digests import tensors_digest, weights_digest
from d2rkit.core.files import SMALL, read_json, write_atomically, write_json
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.checkpoints import (
    digests_beside,
    half_precision,
    load_resume,
    load_weights,
    rounded_from,
    save_resume,
    save_weights,
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


def flipped(file, rng):
    """One bit of the file turned over."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def same_state(a, b):
    """Equal to the last bit, NaN or not."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and tensors_digest({"": a}) == tensors_digest({"": b})
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same_state, a, b))
    return repr(a) == repr(b)


@pytest.mark.parametrize("name", ["best.safetensors", "resume.pt"])
def test_no_flipped_bit_is_loaded_in_silence(tmp_path, name):
    file, pair, rng = tmp_path / name, make_pair(), random.Random(0)
    optimizer = torch.optim.SGD(pair.parameters(), 0.1, 0.9)
    sum(p.sum() for p in pair.parameters()).backward()
    optimizer.step()
    state = {"pair": pair.state_dict(), "optimizer": optimizer.state_dict(), "history": [{"loss": 1.0}], "epoch": 1}
    if name == "resume.pt":
        save_resume(file, state)
        load, expected = load_resume, state
    else:
        save_weights(file, pair.target, pair.guide)
        load, expected = (lambda f: load_weights(f, make_pair(seed=1)).state_dict()), dict(pair.state_dict())
    whole, refused = file.read_bytes(), 0
    assert same_state(dict(load(file)), expected)
    for _ in range(120):
        file.write_bytes(whole)
        flipped(file, rng)
        try:
            loaded = load(file)
        except ValueError as error:
            assert name in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert same_state(dict(loaded), expected), "a flipped bit went through"
    assert refused > 60


def test_a_part_that_a_bit_has_made_a_folder_is_not_read_as_nothing(tmp_path):
    """Its checksum is right, and torch.load would fill the tensor with whatever the memory held."""
    file, state = tmp_path / "resume.pt", {"pair": make_pair().state_dict()}
    save_resume(file, state)
    whole = file.read_bytes()
    part = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 1)  # the second entry of the directory
    for at in range(part, part + 200):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            loaded = load_resume(file)
        except ValueError:
            continue
        assert same_state(loaded, state), f"the bit at {at} went through"


@pytest.mark.parametrize("beside", [None, {"format": "pt"}])
def test_weights_without_digests_load_as_they_are(tmp_path, beside):
    pair = make_pair()
    save_file({name: value.contiguous() for name, value in pair.state_dict().items()}, tmp_path / "w", beside)
    assert equal_states(load_weights(tmp_path / "w", make_pair(seed=1)), pair) and not digests_beside(tmp_path / "w")


def test_the_header_names_the_weights_as_an_evaluation_does(tmp_path):
    pair = make_pair()
    save_weights(tmp_path / "w", pair.target, pair.guide)
    assert digests_beside(tmp_path / "w") == {
        "target": weights_digest(pair.target), "guide": weights_digest(pair.guide)
    }  # fmt: skip


def test_a_state_that_is_none_of_a_training_is_refused(tmp_path):
    for state in ([1, 2], {"epoch": 1}):
        save_resume(tmp_path / "resume.pt", state)
        with pytest.raises(ValueError, match="not the state of a training"):
            load_resume(tmp_path / "resume.pt", ("epoch", "pair"))


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "deep", "digits", "huge"])
def test_json_that_is_none_is_refused_in_a_sentence(tmp_path, kind):
    file = tmp_path / "x.json"
    make = {
        "folder": file.mkdir, "loop": lambda: file.symlink_to(file), "pipe": lambda: os.mkfifo(file),
        "deep": lambda: file.write_text("[" * 100_000), "digits": lambda: file.write_text("1" * 5_000),
        "huge": lambda: os.truncate(file, SMALL + 1) if file.write_text("{") else None,
    }  # fmt: skip
    make[kind]()
    with pytest.raises(ValueError, match=r"x\.json is (not a file|damaged)") as error:
        read_json(file)
    assert "\n" not in str(error.value)


class Tied(nn.Module):
    """A network that calls one layer under two names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.once_more, self.head = self.again, nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.once_more(self.again(self.first(x)).relu()).relu().mean((2, 3)))


def test_layers_that_share_weights_are_saved(tmp_path):
    pair = GuidedPair(Tied(), Tied())
    save_weights(tmp_path / "last.safetensors", pair.target, pair.guide)
    again = load_weights(tmp_path / "last.safetensors", GuidedPair(Tied(), Tied()))
    assert equal_states(again, pair) and again.target.once_more is again.target.again


@pytest.mark.parametrize("read", [half_precision, rounded_from, digests_beside])
def test_every_reader_of_weights_says_what_is_wrong_with_a_file(tmp_path, read):
    file = tmp_path / "last.safetensors"
    for content, words in ((None, "does not exist"), (b"x" * 100, "is damaged")):
        if content:
            file.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read(file)
