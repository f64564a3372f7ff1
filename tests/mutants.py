"""Break one line, and a test must go red: are the tests able to fail where it matters?

    python tests/mutants.py                    all of them, some minutes on one core
    python tests/mutants.py --only attacks     those whose name, file or tests hold the word
    python tests/mutants.py --jobs 2           side by side

Works on a copy of the tree in a temporary folder. First the tests named below must pass on the copy as it is; then
each line is broken by itself, and the tests named beside it must fail. Exit status 1 if one lives, or if the text to
break is no longer there exactly once ("stale": write the mutant anew for the code as it is).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 240  # seconds for the tests of one mutant; what hangs has been noticed too
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", "runs", "results", "cache", ".*_cache", ".hypothesis")


def copy_of_the_tree(folder: Path) -> Path:
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    return folder


def pytest(folder: Path, tests: tuple[str, ...], limit: float) -> tuple[int, str]:
    """Exit status (124: out of time) and output of pytest on these tests of the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    # Without bytecode: two versions of a file of one size within a second would look alike to Python.
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return 124, ""
    return done.returncode, done.stdout + done.stderr


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


def main() -> int:
    parser = argparse.ArgumentParser(description="Break one line, and a test must go red.")
    parser.add_argument("--only", default="", help="mutants whose name, file or tests hold this word")
    parser.add_argument("--jobs", type=int, default=1, help="mutants tried side by side")
    words = parser.parse_args()
    chosen = [m for m in MUTANTS if words.only in f"{m.name} {m.file} {' '.join(m.tests)}"]
    if not chosen:
        parser.error(f"no mutant's name, file or tests hold {words.only!r}")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        copies: Queue[Path] = Queue()
        for number in range(max(1, words.jobs)):
            copies.put(copy_of_the_tree(Path(place) / str(number)))
        first = copies.get()
        tests = tuple(dict.fromkeys(test for m in chosen for test in m.tests))
        status, output = pytest(first, tests, LIMIT * 4)
        copies.put(first)
        if status:
            print(output[-3000:])
            print("the tests do not pass on the tree as it is: nothing can be learned from breaking it")
            return 1
        print(f"{len(tests)} sets of tests pass unbroken in {time.perf_counter() - began:.0f} s", flush=True)

        def one(mutant: Mutant) -> str:
            folder, since = copies.get(), time.perf_counter()
            try:
                found, remark = trial(mutant, folder)
            finally:
                copies.put(folder)
            print(f"{found:7} {time.perf_counter() - since:5.1f} s  {mutant.name}  {remark}".rstrip(), flush=True)
            return found

        with ThreadPoolExecutor(max(1, words.jobs)) as pool:
            found = list(pool.map(one, chosen))
    counts = {kind: found.count(kind) for kind in ("killed", "LIVED", "stale")}
    print(f"{len(found)} mutants: {counts} in {time.perf_counter() - began:.0f} s")
    return 0 if counts["killed"] == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
