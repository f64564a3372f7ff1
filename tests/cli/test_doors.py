"""Hostile words for every command and hostile values for every setting: an answer or a sentence, never a traceback."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2rkit.cli import main
from d2rkit.core.faults import MACHINE, fault
from d2rkit.core.files import clear_drafts, write_atomically
from d2rkit.core.validation import number
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.run import run
from d2rkit.experiments.run_locks import lock
from tests.experiments.test_experiment import TINY

HOSTILE = (
    "", "-1", "-5", "nan", "-inf", "1e999", "0,031", "8/0", "8/255/3", "/", "None", "../x", "~nobody/x",
    "\x1b[31mred", "caf\udce9", "a\nb", "💥", "9" * 400, "[1, 2]", "1.5", "x" * 300,
)  # fmt: skip
NUMERIC = ("--seeds", "--workers", "--threads", "--devices")
OPTIONS = {
    # Each line ends in something that is refused, so that no hostile value which is fine starts any work.
    ("train", "--subset", "3"): tuple(
        f"--{f.name.replace('_', '-')}"
        for f in dataclasses.fields(Experiment)
        if f.type != "bool" and f.name != "subset"
    ),
    ("sweep", "quick", "--rows", "nothing"): (*NUMERIC, "--executor", "--cell", "--runs", "--precision", "--speed"),
    ("reproduce", "quick", "--rows", "nothing"): (*NUMERIC, "--batch", "--results", "--data-root", "--micro-batch"),
    ("plan", "quick", "--rows", "nothing"): ("--workers", "--threads", "--clean", "--robust", "--steps", "--clock"),
    ("tune", "quick", "--subset", "3"): ("--rates", "--epochs", "--rows", "--workers", "--threads", "--results"),
    ("status",): ("",),
    ("table",): ("",),
    ("data",): ("",),
    ("data", "digits"): ("--subset",),
    ("pack", "nothing"): ("--weights",),
    ("lab",): ("",),
    ("evaluate", "nowhere.pt"): ("--eps", "--seed", "--test-images", "--batch-size", "--data", "--attacks"),
}  # fmt: skip


def asked(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["d2rkit", *words])
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    code = 0
    try:
        main()
    except SystemExit as stopped:
        code = stopped.code
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    return code, capsys.readouterr().err


@pytest.mark.parametrize("line", OPTIONS, ids=" ".join)
def test_hostile_words_get_a_sentence_and_a_documented_code(line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for place, option in enumerate(OPTIONS[line]):
        for value in HOSTILE[place % 3 :: 3] if place else HOSTILE:  # all are read alike: a third is tried of each
            words = [line[0], *([f"{option}={value}"] if option else [value]), *line[1:]]
            if line == ("data", "digits") and value == "":  # all of them
                continue
            code, said = asked(words, monkeypatch, capsys)
            assert code == 2, (words, code, said)
            assert said.count("\n") == 1 and said.startswith("d2rkit: ") and "\x1b" not in said, (words, said)
    assert not list(tmp_path.rglob("d2rkit-error*"))


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.031", 0.031), ("3e-2", 0.03), ("-1/2", -0.5), (" 2 / 255 ", 2 / 255)]
)
def test_numbers_may_be_fractions(text, value):
    assert number(text) == value


def test_a_fraction_reaches_the_experiment_and_names_its_folder(monkeypatch, capsys, tmp_path):
    words = ["train", "--eps", "8/255", "--step-size", "2/255", "--test-eps", "300/255", "--runs", str(tmp_path)]
    assert "test_eps is in pixel scale" in asked(words, monkeypatch, capsys)[1]
    assert Experiment(eps=number("8/255"), step_size=number("2/255")).run_name == Experiment().run_name


ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=4), st.just("../x"),
    st.lists(st.text(max_size=4), max_size=3), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.just({1, 2}), st.just(object()), st.just(np.int64(3)), st.just(np.float32(0.5)), st.just(np.ones(2)),
    st.just(10**5000), st.just(("clean", "clean")), st.just("clean"), st.just(()), st.just((1, [2])),
    st.complex_numbers(),
)  # fmt: skip


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from([f.name for f in dataclasses.fields(Experiment)]), value=ANYTHING)
def test_any_value_of_any_setting_is_fine_or_a_sentence(name, value):
    try:
        chosen = Experiment(**{name: value})
        chosen.check()
    except ValueError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return
    assert "/" not in chosen.run_name and ".." not in chosen.run_name
    assert Experiment.from_dict(chosen.to_dict()) == chosen


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": "../x"}, "seed must be a whole number"),
        ({"epochs": 1.5}, "epochs must be a whole number, not 1.5"),
        ({"epochs": True}, "epochs must be a whole number, not True"),
        ({"flip": "no"}, "flip must be true or false, not 'no'"),
        ({"checkpoints": ()}, "checkpoints must name at least one"),
        ({"attacks": "clean"}, "attacks must be a list of words"),
        ({"attacks": ("clean", "clean")}, "'clean' twice"),
        ({"lr": float("inf")}, "lr must be a finite number"),
        ({"method": ["d2r"]}, "method must be a word"),
        ({"loss": {"w_adv": float("nan")}}, "w_adv must be a finite number"),
        ({"seed": 2**40}, "seed must lie between"),
    ],
)
def test_settings_of_another_type_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        Experiment(**changes).check()


def test_the_lock_follows_no_link_and_empties_nothing(tmp_path):
    (tmp_path / "precious").write_text("a thesis")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="symbolic link"), lock(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "a thesis"


def test_drafts_of_the_dead_are_cleared_and_those_of_the_living_are_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "evaluation").mkdir()
    gone = [tmp_path / f".resume.pt.{dead.pid}.tmp", tmp_path / "evaluation" / f".clean.npz.{dead.pid}.tmp"]
    kept = [tmp_path / f".resume.pt.{os.getppid()}.tmp", tmp_path / ".mine.tmp", tmp_path / "resume.pt"]
    for file in gone + kept:
        file.touch()
    assert clear_drafts(tmp_path) == 2
    assert all(file.exists() for file in kept) and not any(file.exists() for file in gone)


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name(tmp_path, monkeypatch):
    happened = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda n: (happened.append(os.readlink(f"/proc/self/fd/{n}")), real_sync(n)))
    monkeypatch.setattr(os, "replace", lambda a, b: (happened.append("renamed"), real_replace(a, b)))
    with write_atomically(tmp_path / "x") as draft:
        draft.write_text("x")
    assert [Path(each).name for each in happened] == [draft.name, "renamed", tmp_path.name]


def test_a_folder_that_vanishes_is_named_and_the_run_begins_anew(tmp_path):
    short = dataclasses.replace(TINY, attacks=("clean",))
    whole = run(short, tmp_path / "whole", device="cpu")
    folder = tmp_path / "cut" / short.run_name

    def vanish(done, words):
        if words.startswith("epoch 2") and folder.exists():
            folder.rename(tmp_path / f"gone{time.monotonic_ns()}")

    with pytest.raises(FileNotFoundError) as error:
        run(short, tmp_path / "cut", device="cpu", report=vanish)
    assert fault(error.value)[0] == MACHINE and "vanished while the run worked in it" in fault(error.value)[1]
    # What a save after that would have left: a state, and no weights that it could be finished with.
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "resume.pt").write_bytes((whole.folder / "resume.pt").read_bytes())
    again = run(short, tmp_path / "cut", device="cpu")
    assert again.result["accuracy"] == whole.result["accuracy"]
    assert (folder / "best.safetensors").read_bytes() == (whole.folder / "best.safetensors").read_bytes()
    assert (folder / "resume.incomplete.pt").exists()


@pytest.mark.parametrize(
    "line",
    [("evaluate", "nowhere.pt", "--folder"), ("lab", "--folder"), ("verify", "nowhere", "--weights")],
    ids=" ".join,
)
def test_a_place_of_the_wrong_kind_is_said_before_anything_else_is_read(line, monkeypatch, capsys, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir() if line[-1] == "--weights" else wrong.write_text("mine")
    code, said = asked([*line, str(wrong)], monkeypatch, capsys)
    assert code == 2 and f"{wrong} is a f" in said and "is needed" in said
    assert wrong.is_dir() or wrong.read_text() == "mine"


def test_an_empty_table_replaces_none_and_is_said_to_be_empty(monkeypatch, capsys, tmp_path):
    (tmp_path / "runs").mkdir()
    words = ["table", "quick", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    code, said = asked(words, monkeypatch, capsys)
    assert code == 2 and said == f"d2rkit: no finished run of quick in {tmp_path / 'runs'}\n"
    table = tmp_path / "results" / "table.md"
    assert "d2rkit reproduce quick --rows trades" in table.read_text()
    table.write_text("mine")
    code, said = asked(words, monkeypatch, capsys)
    assert code == 2 and said.endswith(f"; {table} stays as it is\n") and table.read_text() == "mine"
