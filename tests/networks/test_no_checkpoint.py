"""What is no checkpoint, is cut off, needs code or is made to hang: refused in a sentence, and nothing is run."""

import re
import shutil
import time
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from d2rkit.networks.loading import load_released
from tests.networks.checkpoint_files import network, same_function, write


def test_missing_file():
    with pytest.raises(ValueError, match=r"checkpoint nowhere\.pt does not exist"):
        load_released("nowhere.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused_and_stay(tmp_path, suffix, share):
    file, state = tmp_path / f"cut{suffix}", network("wrn-10-1", 10, 32).state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    cut = file.read_bytes()[: int(share * file.stat().st_size)]
    file.write_bytes(cut)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint") as error:
        load_released(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value) and file.read_bytes() == cut


class Bomb:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_released(tmp_path / "bomb.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("thing", [Bomb(), nn.Conv2d(1, 1, 1)])
def test_what_needs_code_is_refused_without_advice_to_run_it(tmp_path, wrn, thing, capfd):
    with pytest.raises(
        ValueError, match=r"holds an object of [\w.]+, which needs code to be read; save a state_d"
    ) as e:
        load_released(write(tmp_path / "a.pt", {"state_dict": wrn.state_dict(), "thing": thing}))
    assert not re.search("weights_only|add_safe_globals|trust|\x1b|\n", str(e.value))
    assert capfd.readouterr() == ("", "")


def zipped(**members):
    def make(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name.replace("__", "/"), content)

    return make


def scripted(file):
    torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)), file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "it is a web page"),
        (b"<HTML>404", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer.*git lfs pull"),
        (b"\x1f\x8b\x08\x00", "gzip archive; unpack it first"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x08\x0a\x12\x07pytorch\x1a\x05", "an ONNX program"),
        (b"\x80\x04\x95", "damaged"),
        (b"hello", "it is a text file"),
        ('{"accents": "é"}\n'.encode(), "it is a text file"),
        (zipped(photo="x"), r"a zip archive of something else \(it holds 'photo'\)"),
        (zipped(a__data_pkl=b"\0" * 30_000_000), "something else"),
        (lambda file: zipped(**{"a/data.pkl": b"\0" * 30_000_000})(file), "swells"),
        (scripted, "TorchScript"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    file = tmp_path / "a.pt"
    content(file) if callable(content) else file.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot be read as a checkpoint.*{words}") as error:
        load_released(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_folder_is_named_as_such(tmp_path):
    with pytest.raises(ValueError, match="is a folder, not a file"):
        load_released(tmp_path)


def test_a_runs_folder_tells_where_its_weights_are(tmp_path):
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(ValueError, match="is a folder, not a file; it is a run's, whose weights are best"):
        load_released(tmp_path)


def test_content_says_what_a_file_is_not_its_name(tmp_path, wrn):
    save_file(wrn.state_dict(), tmp_path / "a.pt")
    write(tmp_path / "b.safetensors", wrn.state_dict())
    for name in ("a.pt", "b.safetensors"):
        assert same_function(load_released(tmp_path / name).model, wrn, 32)


def test_names_that_are_not_utf8(tmp_path, wrn):
    odd = tmp_path / b"caf\xe9".decode(errors="surrogateescape")
    odd.mkdir()
    save_file(wrn.state_dict(), tmp_path / "a.safetensors")
    shutil.move(tmp_path / "a.safetensors", odd / "a.safetensors")
    shutil.move(write(tmp_path / "b.pt", wrn.state_dict()), odd / "b.pt")
    for name in ("a.safetensors", "b.pt"):
        assert same_function(load_released(odd / name).model, wrn, 32)


def test_crafted_files_end_soon(tmp_path, wrn):
    """10,000 blocks, tensors of 10^15 numbers without memory, content that holds itself: none hangs or fills memory."""
    many = {f"block1.layer.{i}.conv1.weight": torch.ones(1) for i in range(10_000)}
    wide = {"fc.weight": torch.ones(1).expand(10**6, 10**9), "conv1.weight": torch.ones(1).expand(10**6, 3, 3, 3)}
    wide |= {"block1.layer.0.conv1.weight": torch.ones(16, 1, 1, 1)}
    ring = {"epoch": 1}
    for _ in range(3):
        ring[f"a{len(ring)}"] = {f"k{i}": ring for i in range(1000)}
    for content, words in ((wrn.state_dict() | many, "is impossible"), (wide, "does not fit"), (ring, "does not hold")):
        file = write(tmp_path / "a.pt", content)
        start = time.perf_counter()
        with pytest.raises(ValueError, match=words):
            load_released(file)
        assert time.perf_counter() - start < 20


def test_ten_thousand_networks_are_not_all_listed(tmp_path):
    one = torch.ones(1)
    with pytest.raises(ValueError, match="holds 3000 networks") as error:
        load_released(
            write(tmp_path / "many.pt", {f"n{i}": {"conv1.weight": one, "fc.weight": one} for i in range(3000)})
        )
    assert len(str(error.value)) < 500
