"""d2rkit verify: the weights of a run confirm its flags, and other weights do not."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from d2rkit.cli.base import Place
from d2rkit.cli.verifying import verify_command
from d2rkit.core.files import read_json, write_json
from d2rkit.experiments.experiment import build_pair, read_run
from d2rkit.experiments.presets import PRESETS
from d2rkit.experiments.run import run
from d2rkit.networks.checkpoints import half_precision, load_weights, save_weights
from d2rkit.reporting.verify import rows_of, verify
from tests.experiments.test_experiment import TINY

EXPERIMENT = dataclasses.replace(TINY, attacks=("clean", "pgd20"), checkpoints=("best", "last"), test_images=100)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(EXPERIMENT, tmp_path_factory.mktemp("runs"), device="cpu")


@pytest.fixture
def copy(done, tmp_path):
    return shutil.copytree(done.folder, tmp_path / done.folder.name)


def test_a_run_confirms_its_flags_to_the_last_image(done):
    answers = verify(done, device="cpu")
    assert [answer.checkpoint for answer in answers] == ["best", "last"]
    for answer in answers:
        assert answer.confirmed and answer.differing == {"clean": 0, "pgd20": 0} and answer.count == 100
        assert answer.allowed == {"clean": 1, "pgd20": 1} and "no table of a preset" in str(answer)


def test_a_packed_run_needs_its_weights_beside_it(done, copy):
    for file in copy.glob("*.safetensors"):
        file.unlink()
    packed = read_run(copy)
    with pytest.raises(ValueError, match=r"best\.safetensors is not here; name it by --weights"):
        verify(packed, device="cpu")
    (answer,) = verify(packed, done.folder / "best.safetensors", device="cpu")
    assert answer.confirmed


def test_the_command_shows_no_bar_where_nothing_is_measured(copy, tmp_path, capsys):
    for file in copy.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="name it by --weights"):
        verify_command(str(tmp_path), place=Place(device="cpu"))
    assert capsys.readouterr().err == ""


def test_weights_packed_in_float16_confirm_the_flags_of_those_they_were_rounded_from(done, digits, copy, tmp_path):
    small = tmp_path / "half.safetensors"
    small.write_bytes(half_precision(done.folder / "best.safetensors"))
    assert small.stat().st_size < 0.7 * (done.folder / "best.safetensors").stat().st_size
    (answer,) = verify(read_run(copy), small, device="cpu")
    assert answer.confirmed and not answer.fault
    other = build_pair(dataclasses.replace(EXPERIMENT, seed=5), digits)
    save_weights(tmp_path / "other.safetensors", other.target, other.guide)
    small.write_bytes(half_precision(tmp_path / "other.safetensors"))
    (answer,) = verify(read_run(copy), small, device="cpu")
    assert not answer.confirmed and "its flags are of" in answer.fault


def test_weights_too_large_for_float16_are_refused(done, digits, tmp_path):
    pair = load_weights(done.folder / "best.safetensors", build_pair(EXPERIMENT, digits))
    with torch.no_grad():
        next(pair.target.parameters()).mul_(1e7)
    save_weights(tmp_path / "large.safetensors", pair.target, pair.guide)
    with pytest.raises(ValueError, match="has values that float16 cannot hold"):
        half_precision(tmp_path / "large.safetensors")


def test_other_weights_are_not_confirmed(digits, copy):
    other = build_pair(dataclasses.replace(EXPERIMENT, seed=5), digits)
    save_weights(copy / "other.safetensors", other.target, other.guide)
    for file in copy.glob("evaluation*/*.npz"):  # as older versions wrote them, without a digest
        with np.load(file) as arrays:
            content = {name: arrays[name] for name in arrays.files if name != "fact_weights"}
        np.savez_compressed(file, **content)
    result = read_json(copy / "result.json")
    result.pop("weights", None)
    write_json(copy / "result.json", result)
    (answer,) = verify(read_run(copy), copy / "other.safetensors", device="cpu")
    assert not answer.confirmed and answer.differing["pgd20"] > 1 and "NOT confirmed" in str(answer)


def test_a_digest_tells_weights_apart_before_anything_is_measured(digits, copy):
    other = build_pair(dataclasses.replace(EXPERIMENT, seed=5), digits)
    save_weights(copy / "other.safetensors", other.target, other.guide)
    for attack in EXPERIMENT.attacks:
        file = copy / "evaluation" / f"{attack}.npz"
        with np.load(file) as arrays:
            content = dict(arrays) | {"fact_weights": "0" * 16}
        np.savez_compressed(file, **content)
    result = read_json(copy / "result.json") | {"weights": {"best": "0" * 16}}
    write_json(copy / "result.json", result)
    (copy / "best.safetensors").unlink()
    (answer,) = verify(read_run(copy), copy / "other.safetensors", device="cpu")
    assert not answer.confirmed and "its flags are of 0000000000000000" in str(answer)


def test_the_command_ends_with_1_where_something_is_not_confirmed(done, copy, capsys):
    verify_command(str(done.folder))
    said = capsys.readouterr().out
    assert said.count("confirmed") == 2 and "NOT" not in said
    shutil.copytree(copy, copy.with_name("a copy"))
    with pytest.raises(SystemExit) as end:
        verify_command(str(copy.parent))
    said = capsys.readouterr().out
    assert end.value.code == 1 and "left out" in said and said.count(": confirmed") == 2
    with pytest.raises(ValueError, match="neither a folder nor a run"):
        verify_command("nowhere")


def test_presets_rows_are_named(done):
    cell = PRESETS["quick"].experiment("trades", 2)
    assert "of table quick, seed 2" in rows_of(dataclasses.replace(done, experiment=cell))
    assert rows_of(done) == ""
