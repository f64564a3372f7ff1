"""Real faults, which take minutes: `make faults`, no part of `make test`.

Every trial disturbs a command on digits with tiny networks, then gives the same command again, which must end with the
weights, flags and table that it has undisturbed, to the bit. Nothing here is imitated: processes are killed, disks are
small, full or read-only, bytes are flipped.
"""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from d2rkit.core.files import read_json
from tests.faults.conftest import count

SMALL = [
    "--target", "cnn-4", "--guide", "cnn-4", "--batch-size", "100", "--eps", "0.2", "--step-size", "0.1",
    "--padding", "0", "--no-flip", "--val-steps", "1", "--steps", "1", "--lr", "0.1", "--test-images", "20",
]  # fmt: skip
TABLE = ["quick", "--rows", "pgd-at", "trades", "--seeds", "1"]
COMMANDS = {
    "train": ["train", *SMALL, "--method", "d2r-cag", "--epochs", "40", "--attacks"],
    "whole": ["train", *SMALL, "--method", "d2r-cag", "--epochs", "3", "--attacks", "clean", "pgd5"],
    "evaluation": ["train", *SMALL, "--method", "trades", "--epochs", "1", "--attacks", "clean", "pgd50", "autoattack"],
    "sweep": ["sweep", *TABLE, "--workers", "2"],
    "reproduce": ["reproduce", *TABLE, "--workers", "1"],
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
KILLED = {"train": 5, "evaluation": 5, "sweep": 3, "reproduce": 3}  # trials of each command
MEASURED = ("seconds", "machine")  # what differs from one time to the next, in any file

# The quick table with networks that take seconds, in a process of its own; Ctrl-C and a hang-up are heard there even if
# this process was started deaf to them, as by a shell in the background or nohup.
CODE = """
import dataclasses, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from d2rkit.experiments import presets
from d2rkit.cli import main
if __name__ == "__main__":
    quick = presets.QUICK
    small = {"target": "cnn-4", "guide": "cnn-4", "epochs": 12, "test_images": 20, "attacks": ("clean", "pgd5")}
    base = dataclasses.replace(quick.base, **small)
    presets.PRESETS["quick"] = dataclasses.replace(quick, base=base)
    main()
"""


@pytest.fixture(scope="module", autouse=True)
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("script") / "tiny.py"
    file.write_text(CODE)
    return file


def start(script, words, root):
    places = [f"--runs={root / 'runs'}"] + ([f"--results={root / 'results'}"] if words[0] == "reproduce" else [])
    root.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, script, *words, *places], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env=environment, cwd=root,
    )  # fmt: skip


def ended(process, codes):
    """What a command said, whose exit code must be one of those."""
    try:
        said = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    if "Traceback" in said:
        count("tracebacks")
    assert "Traceback" not in said, said
    assert process.returncode in codes, (process.returncode, said)
    return said


def outcome(root):
    """All that a command leaves and that must be the same each time: content by file, times taken out."""
    contents = {}
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        if not file.is_file() or file.name in ("lock", "resume.pt", "error.txt"):
            continue
        assert not file.name.endswith(".tmp") and not file.name.startswith(".tmp"), f"{name} was left"
        if file.name == "result.json":
            contents[name] = {key: value for key, value in read_json(file).items() if not key.endswith(MEASURED)}
        elif file.name == "history.csv":
            rows = [line.split(",") for line in file.read_text().splitlines()]
            column = rows[0].index("seconds")
            contents[name] = [row[:column] + row[column + 1 :] for row in rows]
        elif file.suffix in (".safetensors", ".npz") or file.name in ("table.csv", "config.json"):
            contents[name] = file.read_bytes()
    assert any(name.endswith("result.json") for name in contents)
    return contents


@pytest.fixture(scope="module")
def undisturbed_root(script, tmp_path_factory):
    """command -> the folder in which it ran, each once."""
    roots = {}

    def of(name):
        if name not in roots:
            roots[name] = tmp_path_factory.mktemp(name)
            ended(start(script, COMMANDS[name], roots[name]), (0,))
        return roots[name]

    return of


@pytest.fixture(scope="module")
def undisturbed(undisturbed_root):
    """command -> what it leaves."""
    return functools.cache(lambda name: outcome(undisturbed_root(name)))


def finished(script, name, root, undisturbed):
    """The same command again leaves what it leaves undisturbed."""
    count("injected")
    said = ended(start(script, COMMANDS[name], root), (0,))
    now, before = outcome(root), undisturbed(name)
    assert now.keys() == before.keys(), said
    assert [file for file in now if now[file] != before[file]] == [], said
    count("survived")


def reached(process, name, root, rng):
    """Wait until a command is somewhere in the midst of its work: told by its files, since clocks differ between busy
    machines. What is disturbed then has work, and files to write, before it."""
    epochs, flags = (0, rng.randrange(3)) if name == "evaluation" else (rng.randrange(20 if name == "train" else 12), 0)
    deadline = time.monotonic() + 200
    while rows(root) < epochs or len(list(root.glob("runs/*/evaluation/*.npz"))) < flags or not begun(root):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.2))  # anywhere between two files
    assert process.poll() is None, process.communicate()[0]


def begun(root):
    """Whether a run folder is there: before it, there is nothing to lose."""
    return any(root.glob("runs/*/config.json"))


def rows(root):
    """Epochs in all histories."""
    return sum(len(file.read_text().splitlines()) - 1 for file in root.glob("runs/*/history.csv"))


# -- killed processes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "trial"), [(name, n) for name, count in KILLED.items() for n in range(count)])
def test_a_command_that_is_ended_at_any_moment_goes_on_to_the_same_end(script, undisturbed, tmp_path, name, trial):
    rng, number = random.Random(f"{name}{trial}"), SIGNALS[trial % len(SIGNALS)]
    process = start(script, COMMANDS[name], tmp_path)
    reached(process, name, tmp_path, rng)
    # A terminal tells all processes, a batch system only one.
    (os.killpg if trial % 2 else os.kill)(process.pid, number)
    said = ended(process, (130,) if number != signal.SIGKILL else (-number,))
    assert "rerun the same command to resume" in said or number == signal.SIGKILL
    ended_with_it(process.pid)
    finished(script, name, tmp_path, undisturbed)


def ended_with_it(session):
    """Workers of a killed command end with it, within seconds."""
    deadline = time.monotonic() + 20
    while left := [pid for pid in processes_of(session) if pid != session]:
        assert time.monotonic() < deadline, f"processes {left} outlived their command"
        time.sleep(0.1)


def processes_of(session):
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(session) and fields[0] != "Z":
            yield int(folder.name)


# -- disks -----------------------------------------------------------------------------------------------------


@contextmanager
def disk(folder, size):
    """A disk of its own of so many bytes, as root may have it."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder):
    """Leave no byte free; returns the file that takes them."""
    file = folder / "filler"
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(2**12))
        except OSError:
            return file


@pytest.mark.parametrize("name", ["train", "evaluation", "sweep", "reproduce"])
def test_a_disk_that_fills_up_is_said_and_nothing_is_lost(script, undisturbed, tmp_path, name):
    with disk(tmp_path / "disk", 2**23) as root:
        process = start(script, COMMANDS[name], root)
        reached(process, name, root, random.Random(name))
        filler = fill(root)
        said = ended(process, (1, 3))
        assert "the disk is full" in said, said
        filler.unlink()
        finished(script, name, root, undisturbed)


@pytest.mark.parametrize("name", ["train", "sweep"])
def test_a_disk_that_is_read_only_by_now_is_said_and_nothing_is_lost(script, undisturbed, tmp_path, name):
    """The lock is open for writing, so that a disk can become read-only only between two calls."""
    with disk(tmp_path / "disk", 2**24) as root:
        process = start(script, COMMANDS[name], root)
        reached(process, name, root, random.Random(name))
        process.terminate()
        ended(process, (130,))
        remount(root, "ro")
        said = ended(start(script, COMMANDS[name], root), (1, 3))
        assert "the file system is read-only" in said, said
        remount(root, "rw")
        finished(script, name, root, undisturbed)


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


# -- bytes and folders -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["best.safetensors", "resume.pt", "history.csv", "config.json", "evaluation/clean.npz"]
)
@pytest.mark.parametrize("trial", range(2))
def test_a_flipped_bit_is_a_sentence_or_changes_nothing(script, undisturbed, undisturbed_root, tmp_path, file, trial):
    """In a run that was killed just before its result was there."""
    root, rng = tmp_path / "root", random.Random(f"{file}{trial}")
    shutil.copytree(undisturbed_root("whole"), root)
    (folder,) = root.glob("runs/*/")
    (folder / "result.json").unlink()
    content = bytearray((folder / file).read_bytes())
    kept, place = bytes(content), rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    (folder / file).write_bytes(content)
    count("injected")
    process = start(script, COMMANDS["whole"], root)
    said = ended(process, (0, 2))
    if process.returncode == 0:
        now, before = outcome(root), undisturbed("whole")
        differs = [name for name in now if now[name] != before.get(name)]
        assert differs in ([], [f"runs/{folder.name}/{file}"]), (place, said)  # what nobody reads again stays as it is
    else:
        assert file.rpartition("/")[2] in said or folder.name in said, said
        (folder / file).write_bytes(kept)
        ended(start(script, COMMANDS["whole"], root), (0,))
        assert outcome(root) == undisturbed("whole")
    count("survived")


@pytest.mark.parametrize("trial", range(2))
def test_a_folder_that_vanishes_leaves_no_run_stuck(script, undisturbed, tmp_path, trial):
    process = start(script, COMMANDS["train"], tmp_path)
    reached(process, "train", tmp_path, random.Random(trial))
    (folder,) = tmp_path.glob("runs/*/")
    folder.rename(tmp_path / "elsewhere")  # as who tidies up does, at once
    said = ended(process, (3,))
    assert "vanished while the run worked in it" in said, said
    shutil.rmtree(tmp_path / "elsewhere")
    finished(script, "train", tmp_path, undisturbed)
