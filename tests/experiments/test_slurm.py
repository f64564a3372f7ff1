import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("submitit")
from submitit.core.submission import process_job
from submitit.slurm.test_slurm import mocked_slurm

from d2rkit.cli import main
from d2rkit.cli.jobs import slurm_script
from d2rkit.experiments import slurm as jobs
from d2rkit.experiments.run import run
from d2rkit.experiments.slurm import Slurm, Worker, submit_local, submit_slurm, wait
from d2rkit.experiments.status import progress
from d2rkit.networks.checkpoints import load_resume
from tests.experiments.test_experiment import TINY

CELLS = [dataclasses.replace(TINY, method=method, attacks=()) for method in ("trades", "d2r-cag")]
BROKEN = dataclasses.replace(TINY, test_images=999)  # passes the check, fails when the data is there
TICK = 20_000_000  # ns; file times come from a coarser clock than time.time_ns()
TEN_MINUTES = Slurm(minutes=10, requeues=1, cpus=1, gpus=0)
WEIGHTS = ("best.safetensors", "last.safetensors")


def until(true, seconds=120):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def logs_of(started):
    return "".join(job.paths.stdout.read_text() for job in started if job.paths.stdout.exists())


# -- jobs on this machine --------------------------------------------------------------------------------------


def test_two_local_workers_run_every_cell_once_and_a_broken_one_harms_no_other(tmp_path):
    workers = min(2, os.cpu_count() or 1)
    experiments = [BROKEN, *CELLS]
    started = submit_local(experiments, tmp_path, workers=workers, device="cpu")
    assert len(started) == workers
    wait(started, experiments, tmp_path, quiet=True)
    assert [cell.state for cell in progress(experiments, tmp_path)] == ["error", "done", "done"]
    log = logs_of(started)
    assert [log.count(f"{cell.run_name}: epoch 1/2") for cell in experiments] == [0, 1, 1], log
    error = (tmp_path / BROKEN.run_name / "error.txt").read_text()
    assert error.splitlines()[1] == "test_images 999 is more than the 397 test images of digits"
    assert all(job.result() for job in started)  # the jobs themselves ended well, the one with the broken run too
    assert {job.paths.folder.parent for job in started} == {tmp_path / "jobs"}
    assert submit_local(CELLS, tmp_path, workers=workers, device="cpu") == []


def test_what_failed_in_this_sweep_is_left_alone_and_what_failed_before_is_tried_again(tmp_path):
    worker = Worker((BROKEN, CELLS[0]), tmp_path, "cpu", None, 1)
    ends = worker().splitlines()
    assert "error: test_images" in ends[0] and ends[1].endswith(": done")
    since = time.time()
    assert worker().startswith(f"{BROKEN.run_name}: error: test_images")  # without a moment, every error is old
    assert dataclasses.replace(worker, since=since)() == f"{BROKEN.run_name}: failed in another worker"
    assert "error: test_images" in dataclasses.replace(worker, since=time.time() + TICK / 1e9)()


def test_a_killed_job_is_made_good_by_the_next_sweep(tmp_path):
    cell = dataclasses.replace(TINY, epochs=6, attacks=())
    folder = tmp_path / "cut" / cell.run_name
    started = submit_local([cell], tmp_path / "cut", workers=1, device="cpu")
    until(lambda: (folder / "history.csv").exists() or started[0].done())
    os.kill(int(re.search(rf"(\d+) {cell.run_name}: epoch 1/6", logs_of(started))[1]), signal.SIGKILL)
    wait(started, [cell], tmp_path / "cut", quiet=True)
    assert [c.state for c in progress([cell], tmp_path / "cut")] == ["stopped"]
    assert Worker((cell,), tmp_path / "cut", "cpu", None, 1)() == f"{cell.run_name}: done"
    whole = run(cell, tmp_path / "whole", device="cpu")
    for name in WEIGHTS:
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_ctrl_c_lets_local_jobs_save_their_state(tmp_path):
    words = ["sweep", "quick", "--executor", "local", "--rows", "pgd-at", "--seeds", "2", "--workers", "1"]
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from d2rkit.cli import main; main()"
    )
    command = [sys.executable, "-c", code, *words, "--runs", str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    until(lambda: list(tmp_path.glob("*/resume.pt")) or process.poll() is not None)
    (state,) = tmp_path.glob("*/resume.pt")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command, and to what it started
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    assert "2 runs in" in output and "0/2" in output and "goes on where it stopped" in output
    assert load_resume(state)["step"] > 0  # within an epoch, where only being asked makes it save so early
    assert [path.parent for path in tmp_path.glob("digits-*/*.json")] == [state.parent]  # the other was not begun
    assert not (state.parent / "result.json").exists() and not (state.parent / "error.txt").exists()


@pytest.mark.parametrize("workers", [0, 10_000])
def test_a_number_of_workers_that_cannot_be_is_refused(tmp_path, workers):
    with pytest.raises(ValueError, match=r"at least 1 worker|cores here"):
        submit_local(CELLS, tmp_path, workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_without_submitit_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for submit in (
        lambda: submit_local(CELLS, tmp_path, workers=1),
        lambda: submit_slurm(CELLS, tmp_path, options=Slurm()),
    ):
        with pytest.raises(ValueError, match=re.escape("pip install -e '.[slurm]'")):
            submit()


# -- a Slurm cluster, as submitit's own tests imitate one ------------------------------------------------------


@pytest.fixture
def slurm(monkeypatch):
    monkeypatch.setenv("SUBMITIT_FOLDER", "")  # submitit sets it for good
    numbers = (signal.SIGTERM, signal.SIGCONT, signal.SIGUSR2)
    before, threads = [signal.getsignal(number) for number in numbers], torch.get_num_threads()
    with mocked_slurm() as cluster:
        yield cluster
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
    torch.set_num_threads(threads)


@contextmanager
def requeued(times):
    with patch("submitit.slurm.slurm.SlurmJobEnvironment._requeue") as requeue:
        yield requeue
    assert requeue.call_count == times


def play(cluster, job):
    """What Slurm does when the job's turn has come."""
    with cluster.job_context(job.job_id):
        process_job(job.paths.folder)


def interrupt_at(monkeypatch, number, steps):
    """Signal `number` comes after so many reports of a run; returns a list that gets the moment."""
    count, moments = iter(range(1, 100_000)), []

    def report(done, words):
        if next(count) == steps:
            moments.append(time.time_ns())
            os.kill(os.getpid(), number)

    monkeypatch.setattr(jobs, "_log_steps", lambda name: report)
    return moments


def test_slurm_gets_one_array_with_what_was_asked_for_and_no_done_cell(tmp_path, slurm):
    run(CELLS[0], tmp_path, device="cpu")
    options = Slurm(partition="gpu", minutes=90, gpus=2, cpus=6, at_once=5, extra={"account": "abc"})
    more = [dataclasses.replace(TINY, seed=seed) for seed in range(1, 8)]
    submitted = submit_slurm([*CELLS, *more], tmp_path, options=options)
    assert [job.job_id for job in submitted] == [f"12_{number}" for number in range(8)]
    assert [job.submission().function.experiments for job in submitted] == [(cell,) for cell in [*CELLS[1:], *more]]
    assert {job.submission().function.count for job in submitted} == {2}  # as many devices as there are GPUs
    script = submitted[0].paths.submission_file.parent.parent / "12" / "12_submission.sh"
    asked = {line for line in script.read_text().splitlines() if line.startswith(("#SBATCH", "export"))}
    assert asked >= {
        "#SBATCH --partition=gpu", "#SBATCH --time=90", "#SBATCH --gpus-per-node=2", "#SBATCH --cpus-per-task=6",
        "#SBATCH --array=0-7%5", "#SBATCH --account=abc", "#SBATCH --signal=USR2@180", "#SBATCH --open-mode=append",
        "#SBATCH --job-name=d2rkit", "export OMP_NUM_THREADS=6",
        f"#SBATCH --output={tmp_path}/jobs/%A_%a/%A_%a_0_log.out",
    }  # fmt: skip
    assert submit_slurm(CELLS[:1], tmp_path, options=options) == []


def test_jobs_run_their_cell_and_a_broken_one_ends_well(tmp_path, slurm):
    submitted = submit_slurm([BROKEN, TINY], tmp_path, options=TEN_MINUTES, device="cpu")
    for job in submitted:
        play(slurm, job)
    assert [job.result().split(": ")[1] for job in submitted] == ["error", "done"]
    play(slurm, submitted[1])  # one that is done when its turn comes ends at once
    assert submitted[1].result() == "nothing left to do"


def test_a_job_out_of_time_saves_its_state_is_requeued_and_goes_on_to_the_same_result(tmp_path, slurm, monkeypatch):
    whole = run(TINY, tmp_path / "whole", device="cpu")
    (job,) = submit_slurm([TINY], tmp_path / "cut", options=TEN_MINUTES, device="cpu")
    again = job.submission().function.checkpoint()
    assert type(again).__name__ == "DelayedSubmission" and again.function == job.submission().function
    warned = interrupt_at(monkeypatch, signal.SIGUSR2, steps=15)
    with requeued(1) as requeue, pytest.raises(SystemExit):
        play(slurm, job)
    requeue.assert_called_with(0)  # one of one time-outs is used up
    folder = tmp_path / "cut" / TINY.run_name
    assert (folder / "resume.pt").stat().st_mtime_ns > warned[0] - TICK  # no step is lost
    with requeued(0):
        play(slurm, job)
    assert job.result() == f"{TINY.run_name}: done"
    for name in WEIGHTS:
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_a_cancelled_job_saves_its_state_and_is_not_requeued(tmp_path, slurm, monkeypatch):
    (job,) = submit_slurm([TINY], tmp_path, options=TEN_MINUTES, device="cpu")
    interrupt_at(monkeypatch, signal.SIGTERM, steps=3)
    with requeued(0):
        play(slurm, job)
    assert job.result() == f"{TINY.run_name}: interrupted"
    assert (tmp_path / TINY.run_name / "resume.pt").exists()


def test_a_job_that_cannot_save_in_time_is_requeued_all_the_same(tmp_path, slurm, monkeypatch):
    def deaf(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(60)

    (job,) = submit_slurm([TINY], tmp_path, options=TEN_MINUTES)
    monkeypatch.setattr(jobs, "attempt", deaf)
    monkeypatch.setattr(jobs, "GRACE", 0.2)
    began = time.monotonic()
    with requeued(1), pytest.raises(SystemExit):
        play(slurm, job)
    assert time.monotonic() - began < 30
    assert threading.active_count() < 10 and signal.getsignal(signal.SIGUSR2) != signal.SIG_DFL


@pytest.mark.parametrize(
    ("options", "words"),
    [(Slurm(minutes=5), "minutes must be at least 6"), (Slurm(cpus=0), "at least 1"), (Slurm(gpus=-1), "at least 0")],
)
def test_what_no_cluster_grants_is_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        submit_slurm(CELLS, tmp_path, options=options)


# -- the commands ----------------------------------------------------------------------------------------------


def d2rkit(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["d2rkit", *words])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_command_hands_a_family_to_slurm_and_says_what_to_do_next(tmp_path, slurm, monkeypatch, capsys):
    words = ("--rows", "trades", "d2r-cag", "--seeds", "1", "--runs", str(tmp_path))
    code, said, _ = d2rkit(monkeypatch, capsys, "sweep", "paper", "--executor", "slurm", *words)
    assert code == 0 and said.splitlines() == [
        f"10 runs in {tmp_path}, 10 of them to do",
        "submitted: 10 of them, as Slurm job 12",
        f"logs: {tmp_path}/jobs",
        f"how far they are: d2rkit status paper --rows trades d2r-cag --seeds 1 --runs {tmp_path}",
    ]
    code, said, _ = d2rkit(monkeypatch, capsys, "status", "paper", *words)
    assert code == 0 and "10 runs: 10 not begun" in said
    assert said.endswith(f"the rest: d2rkit sweep paper --rows trades d2r-cag --seeds 1 --runs {tmp_path}\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--executor", "slrum"), "unknown executor 'slrum' (did you mean 'slurm'?)"),
        (("--executor", "slurm"), 'Slurm took no jobs: Could not detect "srun"'),
        (("--cell", "24"), "cell must lie between 0 and 23"),
        (("--executor", "local", "--workers", "0"), "at least 1 worker"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.setenv("PATH", "")  # no Slurm, wherever the tests run
    code, _, complaint = d2rkit(monkeypatch, capsys, "sweep", "quick", *words, "--runs", str(tmp_path))
    assert code == 2 and sentence in complaint and complaint.count("\n") == 1


def test_here_is_a_sweep_without_a_table_and_complains_about_what_is_missing(tmp_path, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr("d2rkit.cli.jobs.sweep", lambda todo, root, **options: asked.update(options, todo=todo) or [])
    code, _, complaint = d2rkit(
        monkeypatch, capsys, "sweep", "quick", "--cell", "9", "--threads", "1", "--runs", str(tmp_path)
    )
    (cell,) = asked["todo"]
    assert (cell.method, cell.seed) == ("trades", 1)
    assert code == 1 and complaint == f"d2rkit: {cell.run_name}: not begun\n"


FAKES = {
    "d2rkit": 'trap "echo saved; exit 130" TERM\necho "$@"; touch began\nwhile [ ! -e done ]; do sleep 0.1; done',
    "scontrol": 'echo "$@"',
}


def test_the_batch_script_saves_and_requeues_before_its_time_is_up(tmp_path):
    text = slurm_script("d2rkit sweep quick", 24, Slurm(partition="gpu", minutes=90, cpus=3, extra={"mem": "32G"}))
    for line in ("--partition=gpu", "--time=90", "--gpus-per-node=1", "--array=0-23%16", "--mem=32G", "--requeue"):
        assert f"#SBATCH {line}\n" in text
    (tmp_path / "script.sh").write_text(text)
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    place = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "7"}

    def start():
        return subprocess.Popen(["bash", "script.sh"], cwd=tmp_path, env=place, stdout=subprocess.PIPE, text=True)

    process = start()
    until((tmp_path / "began").exists)
    process.send_signal(signal.SIGUSR1)
    cell = "sweep quick --workers 0 --devices 1 --cell 7"
    assert process.communicate(timeout=30)[0].splitlines() == [cell, "saved", "requeue 12_7"]
    (tmp_path / "done").touch()
    process = start()
    assert process.communicate(timeout=30)[0].splitlines() == [cell] and process.returncode == 0
