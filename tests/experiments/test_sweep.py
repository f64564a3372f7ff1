import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest

from d2rkit.experiments import sweep as module
from d2rkit.experiments.experiment import read_runs
from d2rkit.experiments.sweep import sweep
from tests.experiments.test_experiment import TINY

CELLS = [dataclasses.replace(TINY, method=method) for method in ("trades", "d2r-cag")]


def test_a_sweep_fills_every_cell_isolates_failures_and_is_the_same_with_workers(spawned, tmp_path):
    broken = dataclasses.replace(TINY, test_images=999)  # passes the check, fails when the data is there
    accuracies = []
    for workers in (0, 2) if (os.cpu_count() or 1) > 1 else (0, 1):
        root = tmp_path / str(workers)
        outcomes = sweep([broken, *CELLS], root, workers=workers, device="cpu", quiet=True)
        assert [o.status for o in outcomes[1:]] == ["done", "done"]
        assert outcomes[0].status == "error: test_images 999 is more than the 397 test images of digits"
        accuracies.append([r.result["accuracy"] for r in read_runs(root)])
        before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
        assert [o.status for o in sweep(CELLS, root, workers=workers, quiet=True)] == ["done", "done"]
        assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert len(accuracies[0]) == 2 and accuracies[0] == accuracies[1]


def die(number, experiment, *_):
    """In place of a run, in a worker process."""
    os._exit(1) if experiment.method == "mart" else None
    return "done"


@pytest.mark.parametrize("workers", [1, min(2, os.cpu_count() or 1)])
def test_a_worker_that_dies_takes_no_other_run_with_it(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(module, "_work", die)
    cells = [dataclasses.replace(TINY, method=method) for method in ("trades", "mart", "pgd-at", "lbgat0")]
    statuses = [outcome.status for outcome in sweep(cells, tmp_path, workers=workers, device="cpu", quiet=True)]
    assert statuses[1].startswith("error: the worker process died") and [*statuses[:1], *statuses[2:]] == ["done"] * 3


def test_too_many_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="cores here"):
        sweep(CELLS, tmp_path, workers=10_000)


SCRIPT = """
import sys, dataclasses, signal
sys.path.insert(0, {tests!r})
from tests.experiments.test_experiment import TINY
from d2rkit.experiments.sweep import sweep
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started in the background would ignore Ctrl-C
    cells = [dataclasses.replace(TINY, epochs=6, seed=s) for s in (0, 1)]
    try:
        sweep(cells, sys.argv[1], workers=int(sys.argv[2]), device="cpu")
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [0, 1])
def test_ctrl_c_saves_every_run_and_the_same_call_goes_on(tmp_path, workers):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=os.getcwd()))
    command = [sys.executable, str(script), str(tmp_path / "runs"), str(workers)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "runs").glob("*/history.csv")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and its workers
    assert process.wait(timeout=60) == 130
    (state,) = (tmp_path / "runs").glob("*/resume.pt")
    assert not list((tmp_path / "runs").glob("*/result.json"))
    saved = state.stat().st_mtime_ns
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=240).returncode == 0
    assert state.stat().st_mtime_ns > saved
    runs = read_runs(tmp_path / "runs")
    assert [r.result["epochs"] for r in runs] == [6, 6]
