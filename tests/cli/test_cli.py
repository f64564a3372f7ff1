import os
import pickle
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from d2rkit.cli import main
from d2rkit.cli.base import number, number_words
from d2rkit.cli.runs import doctor


def d2rkit(*words):
    """The command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "d2rkit", *words], capture_output=True, text=True, timeout=240)


TINY = ("--epochs", "1", "--batch-size", "100", "--eps", "0.2", "--step-size", "0.05", "--steps", "1", "--padding", "0")


COMMANDS = (
    "doctor", "data", "plan", "reproduce", "sweep", "status", "tune", "table", "pack", "verify", "train", "evaluate",
    "lab",
)  # fmt: skip


def test_help_lists_the_commands():
    answer = d2rkit("--help")
    assert answer.returncode == 0
    for word in COMMANDS:
        assert word in answer.stdout


def test_help_tells_the_effect_of_every_setting_and_radii_as_people_write_them():
    said = " ".join(d2rkit("train", "--help").stdout.replace("│", " ").split())
    assert not re.findall(r"--[a-z-]+ [A-Z]+ \(default", said)
    assert "default: 8/255" in said and "default: 2/255" in said and "0.03137" not in said
    for example in ("d2r-cag-released", "wrn-34-10", "clean, fgsm, autoattack, pgdN or cwN (N steps)"):
        assert example in said


@pytest.mark.parametrize("value", [0.0, 0.031, 0.1, 0.2, 1.0, 8 / 255, 2 / 255, 5e-4])
def test_a_number_in_words_is_the_same_number(value):
    assert number(number_words(value)) == value


@pytest.mark.parametrize(("slow", "advice"), [(torch.float32, "can pay"), (torch.bfloat16, "does not pay")])
def test_doctor_measures_whether_bfloat16_pays(monkeypatch, capsys, slow, advice):
    seconds = {torch.float32: 0.002, torch.bfloat16: 0.002, slow: 0.02}
    monkeypatch.setattr("torch.nn.functional.conv2d", lambda x, w, padding: time.sleep(seconds[x.dtype]) or x)
    doctor()
    assert f"--precision bf16-mixed {advice}" in capsys.readouterr().out


def test_doctor_names_what_every_extra_but_dev_brings(monkeypatch, capsys):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("d2rkit.cli.runs.version", missing)
    doctor()
    said = capsys.readouterr().out
    for extra in project["optional-dependencies"].keys() - {"dev"}:
        assert f"is missing: pip install -e '.[{extra}]'" in said


def test_doctor_goes_on_where_bfloat16_cannot_be_tried(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(torch.nn.functional, "conv2d", broken)
    doctor()
    said = capsys.readouterr().out
    assert "bfloat16 could not be tried" in said and "digits: 1200 train" in said


def test_the_module_and_the_command_are_the_same():
    command = shutil.which("d2rkit", path=str(Path(sys.executable).parent))
    assert command, "the d2rkit command is not installed"
    assert subprocess.run([command, "--help"], capture_output=True, text=True).stdout == d2rkit("--help").stdout


def test_train_a_pair_and_read_it_again(tmp_path):
    words = ["train", "--runs", str(tmp_path), *TINY, "--test-images", "20", "--attacks", "clean", "pgd2"]
    answer = d2rkit(*words)
    assert answer.returncode == 0, answer.stderr
    assert "accuracy on 20 test images, eps 0.2 (pixel scale):" in answer.stdout
    assert "best: clean" in answer.stdout and "gradient masking: " in answer.stdout
    assert d2rkit(*words).stdout == answer.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data", "cifar11"], "unknown data set 'cifar11' (did you mean 'cifar10'?)"),
        (["data", "digits", "--subset", "lots"], "subset 'lots' is not a number"),
        (["reproduce", "quik"], "unknown preset 'quik' (did you mean 'quick'?)"),
        (["reproduce", "quick", "--rows", "trade"], "did you mean 'trades'"),
        (["train", "--method", "d2r-cga"], "unknown method 'd2r-cga' (did you mean 'd2r-cag'?)"),
        (["train", "--target", "vgg"], "unknown network 'vgg'"),
        (["train", "--loss", "variant", "sym"], "unknown D2R variant 'sym'"),
        (["evaluate", "nowhere.pt"], "checkpoint nowhere.pt does not exist"),
        (["evaluate", "nowhere.pt", "--test-images", "-5"], "test_images must be a whole number of at least 0, not -5"),
        (["evaluate", "nowhere.pt", "--batch-size", "0"], "batch_size must be a whole number of at least 1, not 0"),
        (["evaluate", "nowhere.pt", "--attacks"], "there is no attack to evaluate with"),
        (["evaluate", "nowhere.pt", "--eps", "0,031"], "write 0.031"),
        (["evaluate", "nowhere.pt", "--eps", "8/255"], "checkpoint nowhere.pt does not exist"),
        (["evaluate", "nowhere.pt", "--eps", "8"], "eps is in pixel scale"),
        (["evaluate", "nowhere.pt", "--device", "tpu"], "unknown device 'tpu'"),
        (["lab", "09_nothing.ipynb"], "unknown notebook '09_nothing.ipynb'"),
    ],
)
def test_bad_input_gets_one_sentence_and_a_non_zero_exit(tmp_path, words, sentence, monkeypatch, capsys):
    place = ["--runs", str(tmp_path)] if words[0] in ("train", "reproduce") else []
    monkeypatch.setattr(sys, "argv", ["d2rkit", *words, *place])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    complaint = capsys.readouterr().err
    assert sentence in complaint and "Traceback" not in complaint and complaint.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_input_in_a_process_of_its_own():
    answer = d2rkit("train", "--method", "d2r-cga")
    assert answer.returncode == 2 and answer.stdout == ""
    assert answer.stderr.startswith("d2rkit: unknown method 'd2r-cga'") and answer.stderr.count("\n") == 1


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "evil.pt"
    file.write_bytes(pickle.dumps({"state_dict": Evil()}))
    answer = d2rkit("evaluate", str(file), "--data", "digits")
    assert answer.returncode == 2 and "cannot be read as a checkpoint" in answer.stderr
    assert not (tmp_path / "ran").exists()
