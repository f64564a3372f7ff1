"""How commands end: codes and sentences for what has to be expected, a report for the rest; signals and workers."""

import errno
import http.client
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from d2rkit import cli
from d2rkit.cli.base import Commands
from d2rkit.core import starting
from d2rkit.experiments.run import Interrupted
from d2rkit.experiments.run_locks import Busy
from d2rkit.experiments.sweep import attempt
from d2rkit.networks.checkpoints import load_resume
from tests.experiments.test_experiment import TINY

thorough = pytest.mark.thorough


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """A function from what a command does to its exit code."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    monkeypatch.chdir(tmp_path)

    def end(command):
        monkeypatch.setattr(Commands, "parsed", lambda self, description, words: command)
        try:
            cli.main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    yield end
    for number, handler in before.items():
        signal.signal(number, handler)


def allocation():
    torch.empty(2**60)


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (raising(ValueError("eps\nis   wrong")), 2, "eps is wrong"),
        (
            raising(ValueError("unknown data set 'quarters'")),
            2,
            "unknown data set 'quarters'; if a file of yours registers it, add --plugin FILE",
        ),
        (
            raising(ValueError("unknown method 'trade' (did you mean 'trades'?)")),
            2,
            "unknown method 'trade' (did you mean 'trades'?)",
        ),
        (raising(Busy("another process")), 2, "another process"),
        (raising(OSError(errno.ENOSPC, "No space left on device", "x")), 3, "x: the disk is full"),
        (raising(OSError(errno.EROFS, "Read-only file system", b"x\xff")), 3, "x"),
        (raising(PermissionError(errno.EACCES, "Permission denied", "x")), 3, "x: permission denied"),
        (raising(OSError(errno.EIO, "Input/output error")), 3, "Input/output error"),
        (raising(urllib.error.URLError("unreachable")), 3, "<urlopen error unreachable>"),
        (raising(http.client.IncompleteRead(b"", 5)), 3, "the network connection broke off"),
        (raising(TimeoutError("timed out")), 3, "timed out"),
        (raising(MemoryError()), 3, "there is not enough memory"),
        (allocation, 3, "there is not enough memory"),
        (raising(BrokenProcessPool("x")), 3, "the worker process died (out of memory?)"),
        (raising(ModuleNotFoundError("No module named 'x'", name="x")), 3, "the package x is missing here"),
        (raising(KeyboardInterrupt()), 130, "stopped; rerun the same command to resume"),
        (raising(Interrupted("x")), 130, "stopped; rerun the same command to resume"),
    ],
)
def test_what_has_to_be_expected_is_one_sentence_and_a_code(tmp_path, capfd, ended, command, code, words):
    assert ended(command) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"d2rkit: {words}")
    assert list(tmp_path.iterdir()) == []
    assert re.search(rf"\b{code} ", cli.__doc__)


@pytest.mark.parametrize("writable", [True, False])
def test_the_unexpected_leaves_a_report_without_secrets(tmp_path, monkeypatch, capsys, ended, writable):
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    for folder in (here, temporary):
        folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    monkeypatch.setattr(sys, "argv", ["d2rkit", "train", "--target", "cnn 4"])
    monkeypatch.chdir(here)
    if not writable:
        here.rmdir()  # root may write anywhere; but nobody where nothing is
    assert ended(lambda: {}["missing"]) == 70
    (report,) = (here if writable else temporary).iterdir()
    line = capsys.readouterr().err
    assert line.startswith("d2rkit: a bug in the kit: KeyError: 'missing'; report: ") and line.count("\n") == 1
    assert str(report) in line
    text = report.read_text(encoding="utf-8")
    assert "command: d2rkit train" in text and "Traceback" in text and "\ntorch: " in text and "s3cret" not in text


def _full(*args, **more):
    raise OSError(errno.ENOSPC, "full")


def test_without_anywhere_to_write_the_unexpected_still_ends_in_a_sentence(tmp_path, monkeypatch, capsys, ended):
    monkeypatch.setattr("d2rkit.core.faults.gettempdir", lambda: str(tmp_path / "gone"))
    tmp_path.rmdir()  # root may write anywhere; but nobody where nothing is
    assert ended(lambda: {}["missing"]) == 70
    assert capsys.readouterr().err == "d2rkit: a bug in the kit: KeyError: 'missing'\n"


def test_a_reader_that_went_away_is_no_failure_of_ours():
    words = [sys.executable, "-m", "d2rkit", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize(
    "encoding", [pytest.param("utf-8", marks=thorough), pytest.param("latin-1", marks=thorough), "ascii"]
)
def test_terminals_that_lack_letters_lose_no_result(encoding):
    code = (
        "import sys; from d2rkit.cli import main, base; sys.argv = ['d2rkit', 'say'];"
        "base.app.command(lambda: print(chr(949), chr(177), chr(0xdcff), 'done'), name='say'); main()"
    )
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0 and done.stdout.endswith(b"\\udcff done\n") and done.stderr == b""


def alive(process):
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(process):
    """All processes below, which do computing: multiprocessing's resource tracker does not."""
    lists = [each.read_text() for each in Path(f"/proc/{process}/task").glob("*/children")]
    children = [int(child) for child in " ".join(lists).split()]
    return [child for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.parametrize("kind", ["sweep", pytest.param("plan", marks=thorough)])
def test_workers_end_with_a_killed_parent(tmp_path, kind):
    words = {
        "sweep": ["sweep", "quick", "--rows", "pgd-at", "--seeds", "1", "--workers", "1", "--runs", str(tmp_path)],
        "plan": ["plan", "quick", "--rows", "pgd-at", "--workers", "1", "--steps", "2000", "--runs", str(tmp_path)],
    }[kind]
    command = subprocess.Popen(
        [sys.executable, "-m", "d2rkit", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: children_of(command.pid))
    workers = children_of(command.pid)
    if kind == "sweep":
        until(lambda: list(tmp_path.glob("*/history.csv")))  # the worker is at its work
    else:
        time.sleep(8)
    command.kill()
    command.wait()
    until(lambda: not any(alive(worker) for worker in workers), seconds=10)


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("script", signal.SIGINT),
        ("script", signal.SIGTERM),
        pytest.param("script", signal.SIGHUP, marks=thorough),
        pytest.param("-m", signal.SIGINT, marks=thorough),
    ],
)
def test_a_signal_while_torch_is_imported_ends_in_a_line(tmp_path, how, number):
    """Even if a library catches what an import raises, as this torch does."""
    slow = "import time\nprint('importing', flush=True)\nwhile True:\n    try:\n        time.sleep(60)\n"
    (tmp_path / "torch.py").write_text(
        slow + "    except KeyboardInterrupt as error:\n        raise ImportError from error\n"
    )
    script = tmp_path / "bin" / "d2rkit"
    script.parent.mkdir()
    script.write_text("from d2rkit.cli import main\nmain()\n")
    words = [sys.executable, *([str(script)] if how == "script" else ["-m", "d2rkit"]), "doctor"]
    path = os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[2])])
    hears = partial(signal.signal, number, signal.SIG_DFL)
    command = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path},
        preexec_fn=hears,
    )  # fmt: skip
    assert command.stdout.readline() == "importing\n"
    command.send_signal(number)
    said = command.communicate(timeout=60)[1]
    assert (command.returncode, said) == (130, "d2rkit: stopped before it had begun\n")


def test_only_the_command_itself_answers_for_signals_during_imports():
    """Not its workers, whose sys.argv is the command's, and no program that imports the kit."""
    assert starting.is_command(["python", "/usr/bin/d2rkit", "doctor"])
    assert starting.is_command(["python", "-m", "d2rkit", "doctor"])
    worker = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=5, pipe_handle=7)"
    for others in (["python"], ["python", "-c", worker, "--multiprocessing-fork"], ["python", "x.py", "d2rkit"]):
        assert not starting.is_command(others)
    assert all(signal.getsignal(each) is not starting.end for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


@thorough
def test_a_hang_up_saves_the_state_and_nohup_hears_none(tmp_path):
    words = [sys.executable, "-m", "d2rkit", "train", "--runs", str(tmp_path), "--attacks", "clean", "--epochs", "300"]
    words += ["--target", "cnn-4", "--method", "trades", "--padding", "0", "--steps", "1"]
    hears = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # even if these tests were started with nohup
    command = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hears)
    until(lambda: list(tmp_path.glob("*/history.csv")))
    command.send_signal(signal.SIGHUP)
    said = command.communicate(timeout=60)[1]
    assert command.returncode == 130 and said.endswith("stopped; rerun the same command to resume\n")
    (state,) = tmp_path.glob("*/resume.pt")
    assert load_resume(state)["step"] > 0 and "Traceback" not in said
    deaf = subprocess.Popen(["nohup", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = state.stat().st_mtime_ns
    until(lambda: state.stat().st_mtime_ns > saved)
    deaf.send_signal(signal.SIGHUP)
    saved = state.stat().st_mtime_ns
    until(lambda: state.stat().st_mtime_ns > saved)
    assert deaf.poll() is None
    deaf.terminate()
    assert deaf.wait(timeout=60) == 130


@pytest.mark.parametrize("second", [signal.SIGHUP, signal.SIGTERM])
def test_who_hangs_up_or_terminates_twice_stops_once(second):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # even if these tests were started with nohup
    try:
        cli._prepare()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(second)  # no second Ctrl-C, which would break off what the first one saves
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_full_disk_is_said_by_whoever_started_the_run(tmp_path, monkeypatch):
    """Where error.txt cannot be written either, the status keeps the reason."""
    monkeypatch.setattr("d2rkit.experiments.run.load_data", _full)
    monkeypatch.setattr("d2rkit.experiments.sweep.write_atomically", _full)
    status = attempt(TINY, tmp_path, device="cpu")
    assert status == "error: the disk is full; what was saved before is kept"
