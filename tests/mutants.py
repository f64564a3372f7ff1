"""Break one line, and a test must go red: are the tests able to fail where it matters?

    python tests/mutants.py                    all of them, some minutes on one core
    python tests/mutants.py --only attacks     those whose name, file or tests hold the word
    python tests/mutants.py --jobs 2           side by side (each in a process of its own; needs fork: no Windows)

Works on a copy of the tree in a temporary folder. First the tests named below must pass on the copy as it is; then
each line is broken by itself, and the tests named beside it must fail. Exit status 1 if one lives, or if the text to
break is no longer there exactly once ("stale": write the mutant anew for the code as it is).
"""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from mutant_evaluation import EVALUATION
from mutant_family import FAMILY
from mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 240  # seconds for the tests of one mutant; what hangs has been noticed too
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs", "results", "cache", ".*_cache", ".hypothesis")


def copy_of_the_tree(folder: Path) -> Path:
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    return folder


def preload() -> None:
    """What takes seconds to import, once for all: each trial is a fork of this process."""
    for name in ("torch", "pytest", "pandas", "scipy.stats", "sklearn.datasets", "lightning_fabric",
                 "matplotlib.pyplot", "pyautoattack", "torch.fx.experimental.optimization"):  # fmt: skip
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)  # a thread pool would not survive the fork
    assert "d2rkit" not in sys.modules, "the kit must be that of the copy"


def pytest(folder: Path, tests: tuple[str, ...], limit: float) -> tuple[int, str]:
    """Exit status (124: out of time) and output of pytest on these tests of the copy, in a process of its own."""
    log = folder / "pytest.log"
    child = os.fork()
    if child == 0:
        _run_and_exit(folder, tests, log)
    end = time.monotonic() + limit
    while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 124, ""
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(status[1]), log.read_text(errors="replace")


def _run_and_exit(folder: Path, tests: tuple[str, ...], log: Path) -> None:
    status = 3
    try:
        os.setsid()
        with log.open("w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.chdir(folder)
        # Without bytecode: two versions of a file of one size within a second would look alike to Python.
        sys.dont_write_bytecode = True
        os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        sys.path.insert(0, str(folder))
        status = int(sys.modules["pytest"].main(["-q", "-x", "-p", "no:cacheprovider", *tests]))
        kit = sys.modules.get("d2rkit")
        if kit is not None and not kit.__file__.startswith(str(folder)):
            print(f"{kit.__file__} was tested, not the copy")
            status = 3
        sys.stdout.flush()
    finally:
        os._exit(status)


def trial(mutant: Mutant, folder: Path) -> tuple[str, str]:
    """killed, LIVED or stale, and a remark."""
    file = folder / mutant.file
    text = file.read_text() if file.exists() else ""
    if text.count(mutant.old) != 1:
        return "stale", f"{mutant.file} holds the text to break {text.count(mutant.old)} times, not once"
    file.write_text(text.replace(mutant.old, mutant.new))
    try:
        status, output = pytest(folder, mutant.tests, LIMIT)
    finally:
        file.write_text(text)
    if status in (1, 124):
        return "killed", "" if status == 1 else "out of time"
    if status == 0:
        return "LIVED", "no test of " + " ".join(mutant.tests) + " noticed"
    return "stale", f"pytest could not run {' '.join(mutant.tests)}: {output.strip().splitlines()[-1:]}"


def series(folder: Path, mutants: list[Mutant]) -> list[str]:
    """The trials of these mutants one after the other, each told in a line."""
    outcomes = []
    for mutant in mutants:
        since = time.perf_counter()
        outcome, remark = trial(mutant, folder)
        print(f"{outcome:7} {time.perf_counter() - since:5.1f} s  {mutant.name}  {remark}".rstrip(), flush=True)
        outcomes.append(outcome)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Break one line, and a test must go red.")
    parser.add_argument("--only", default="", help="mutants whose name, file or tests hold this word")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried side by side")
    words = parser.parse_args()
    chosen = [m for m in MUTANTS + EVALUATION + FAMILY if words.only in f"{m.name} {m.file} {' '.join(m.tests)}"]
    if not chosen:
        parser.error(f"no mutant's name, file or tests hold {words.only!r}")
    stale = 0  # named tests that are gone
    began, jobs = time.perf_counter(), max(1, words.jobs)
    preload()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        copies = [copy_of_the_tree(Path(place) / str(number)) for number in range(jobs)]
        tests = tuple(dict.fromkeys(test for m in chosen for test in m.tests))
        status, output = pytest(copies[0], tests, LIMIT * 4)
        while missing := {test for test in tests if f"not found: {copies[0]}/{test}\n" in output}:
            for mutant in [m for m in chosen if missing & set(m.tests)]:
                print(f"stale            {mutant.name}  there is no test {' '.join(missing & set(mutant.tests))}")
                chosen.remove(mutant)
                stale += 1
            tests = tuple(test for test in tests if test not in missing)
            status, output = pytest(copies[0], tests, LIMIT * 4)
        if status:
            print(output[-3000:])
            print("the tests do not pass on the tree as it is: nothing can be learned from breaking it")
            return 1
        print(f"{len(tests)} sets of tests pass unbroken in {time.perf_counter() - began:.0f} s", flush=True)
        with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
            parts = pool.map(series, copies, [chosen[number::jobs] for number in range(jobs)])
            outcomes = [outcome for part in parts for outcome in part] + ["stale"] * stale
    counts = {kind: outcomes.count(kind) for kind in ("killed", "LIVED", "stale")}
    print(f"{len(outcomes)} mutants: {counts} in {time.perf_counter() - began:.0f} s")
    return 0 if counts["killed"] == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
