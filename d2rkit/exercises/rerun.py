"""The code of a hand-in, run and checked again in a process of its own, with limits.

What it protects against: endless loops (CPU and wall clock), memory and disk that fill up, networks, other programs,
files written or removed outside a temporary folder, by accident or by a plain attempt; where Linux has Landlock, the
kernel sees to the files, whoever writes them (`confined`). What it does not: the code
runs as the user who reads the hand-ins and can read what they can read, and someone who knows Python's insides gets
around the guard within the process. Code that one does not trust belongs into a container or another user's account.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from d2rkit.core.paths import PROJECT
from d2rkit.exercises.checking import STOPPED, SYMBOLS, UNKNOWN
from d2rkit.exercises.settings import VARIABLE

DISK = 2**24  # bytes that one file may have
FOLDER = 2**26  # and all of them
LOOK = 0.2  # seconds between two looks at them
LONGEST = 2000  # characters of a hint
STARTING = 600.0  # seconds that importing torch may take
IMPORTING = 60  # of them on the processor


@dataclass(frozen=True)
class Limits:
    """seconds of one check, on the clock, once torch is imported; memory in MiB of address space, of which torch itself
    takes a part."""

    seconds: float = 60.0
    memory: int = 8192

    def check(self) -> Limits:
        if not 1 <= self.seconds <= 3600:
            raise ValueError(f"seconds must lie between 1 and 3600, not {self.seconds:g}")
        if self.memory < 2048:
            raise ValueError(f"memory must be at least 2048 MiB, which torch needs by itself, not {self.memory}")
        return self


@dataclass(frozen=True)
class Again:
    """What came of running it again: the status, step and hint of the check, or what stopped it (status STOPPED), or
    that this machine does not know the exercise (UNKNOWN)."""

    status: str
    step: str = ""
    hint: str = ""


def rerun(exercise: str, code: str, limits: Limits = Limits(), plugins: Sequence[str] = ()) -> Again:
    """Check `code` (the text of a hand-in) as a solution of `exercise`, in a process of its own."""
    asked = json.dumps({"exercise": exercise, "code": code, "plugins": [str(Path(p).resolve()) for p in plugins]})
    with tempfile.TemporaryDirectory(prefix="d2rkit-") as folder:
        answer = Path(folder) / "answer.json"
        command = [*without_network(), sys.executable, "-m", "d2rkit.exercises.rerun_child", str(answer)]
        kept = {key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
        environment = kept | {
            "HOME": folder, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8",
        }  # fmt: skip
        if own := os.environ.get(VARIABLE):  # thresholds and words of this check are the lecturer's, too
            environment[VARIABLE] = str(Path(own).expanduser().resolve())
        if data := os.environ.get("D2RKIT_DATA"):  # an exercise of one's own may read a data set from there
            environment["D2RKIT_DATA"] = str(Path(data).expanduser().resolve())
        with tempfile.TemporaryFile() as told:  # no pipe, which would wait for a process that does not read
            told.write(asked.encode())
            told.seek(0)
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=told, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: _limit(limits),
            )  # fmt: skip
        try:
            stopped = _watch(process, answer, limits)
        finally:
            _end(process)
        return Again(STOPPED, hint=stopped) if stopped else _read(answer, process.returncode, limits)


def _watch(process: subprocess.Popen, answer: Path, limits: Limits) -> str:
    """Wait for its end; what stopped it before, or "".

    The clock starts with the check, which opens `answer` first: imports that take a busy machine a minute are no fault
    of the student's."""
    end, begun = time.monotonic() + STARTING, False
    while time.monotonic() < end:
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
            return ""
        if not begun and answer.exists():
            end, begun = time.monotonic() + limits.seconds, True
        if _size(answer.parent) > FOLDER:
            return f"it wrote more than {FOLDER // 2**20} MiB"
    return f"it did not end within {limits.seconds:g} s" if begun else f"torch was not imported within {STARTING:g} s"


def _size(folder: Path) -> int:
    """Bytes of all files below a folder in which files come and go."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, file)).st_blocks * 512
    return total


def _limit(limits: Limits) -> None:
    """In the child, before Python starts there."""
    seconds = int(limits.seconds) + IMPORTING  # should _watch be gone; the harder limit is for who ignores the signal
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    memory = limits.memory * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (DISK, DISK))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end(process: subprocess.Popen) -> None:
    """The process and whatever it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(answer: Path, code: int, limits: Limits) -> Again:
    try:
        told = json.loads(answer.read_text(encoding="utf-8"))
        if told["status"] not in (*SYMBOLS, STOPPED, UNKNOWN):
            raise ValueError("a check says something else")
        return Again(told["status"], *(str(told[key])[:LONGEST] for key in ("step", "hint")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # the text may have written there, too
        words = {
            -signal.SIGXCPU: f"it used more than {limits.seconds:g} s",
            -signal.SIGXFSZ: "it wrote too large a file",
        }
        return Again(STOPPED, hint=words.get(code, f"it ended without an answer (exit code {code})"))


@lru_cache(maxsize=1)
def without_network() -> tuple[str, ...]:
    """Words before a command that give it a network of its own, with nothing in it; none where that is not allowed,
    and then only the guard within the process keeps it from the network."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    words = (unshare, "--map-root-user", "--net")
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if tried.returncode == 0 else ()
