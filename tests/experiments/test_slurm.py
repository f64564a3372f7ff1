import dataclasses
import os
import re
import signal
import sys
import threading
import time
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import torch

pytest.importorskip("submitit")
from submitit import LocalExecutor
from submitit.core.submission import process_job
from submitit.core.utils import FailedJobError
from submitit.slurm.test_slurm import mocked_slurm

from d2rkit.cli import main
from d2rkit.experiments import slurm as jobs
from d2rkit.experiments.run import run
from d2rkit.experiments.slurm import Slurm, submit_slurm
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


def test_without_submitit_one_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=re.escape("pip install -e '.[slurm]'")):
        submit_slurm(CELLS, tmp_path, options=Slurm())


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
    assert [job.submission().function.experiment for job in submitted] == [*CELLS[1:], *more]
    assert {job.submission().function.count for job in submitted} == {2}  # as many devices as there are GPUs
    script = submitted[0].paths.submission_file.parent.parent / "12" / "12_submission.sh"
    asked = {line for line in script.read_text().splitlines() if line.startswith(("#SBATCH", "export"))}
    assert asked >= {
        "#SBATCH --partition=gpu", "#SBATCH --time=90", "#SBATCH --gpus-per-node=2", "#SBATCH --cpus-per-task=6",
        "#SBATCH --array=0-7%5", "#SBATCH --account=abc", "#SBATCH --signal=USR2@180", "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --job-name=d2rkit", "export OMP_NUM_THREADS=6",
        f"#SBATCH --output={tmp_path}/jobs/%A_%a/%A_%a_0_log.out",
    }  # fmt: skip
    assert submit_slurm(CELLS[:1], tmp_path, options=options) == []


def test_jobs_run_their_cell_and_a_broken_one_is_failed_for_slurm_too(tmp_path, slurm):
    submitted = submit_slurm([BROKEN, TINY], tmp_path, options=TEN_MINUTES, device="cpu")
    with pytest.raises(RuntimeError, match=": error: "):  # so that the process ends with an exit code
        play(slurm, submitted[0])
    with pytest.raises(FailedJobError, match=": error: "):
        submitted[0].result()
    play(slurm, submitted[1])
    assert submitted[1].result() == f"{TINY.run_name}: done"
    play(slurm, submitted[1])  # one that is done when its turn comes ends at once
    assert submitted[1].result() == f"{TINY.run_name}: nothing left to do"


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


def test_a_preempted_job_is_requeued_as_often_as_it_takes(tmp_path, slurm, monkeypatch):
    (job,) = submit_slurm([TINY], tmp_path, options=dataclasses.replace(TEN_MINUTES, minutes=60), device="cpu")
    interrupt_at(monkeypatch, signal.SIGUSR2, steps=15)  # far from its time limit
    with requeued(1) as requeue, pytest.raises(SystemExit):
        play(slurm, job)
    requeue.assert_called_with(1)  # its one time-out is not used up
    assert load_resume(tmp_path / TINY.run_name / "resume.pt")["step"] > 0
    with requeued(0):
        play(slurm, job)
    assert job.result() == f"{TINY.run_name}: done"


@pytest.mark.thorough
def test_a_process_of_a_job_that_is_preempted_ends_and_another_one_goes_on(tmp_path):
    """As submitit's local executor has it: a process that is sent the signal, and a new one out of the queue."""
    cell = dataclasses.replace(TINY, epochs=6, attacks=())
    whole = run(cell, tmp_path / "whole", device="cpu")
    folder = tmp_path / "cut" / cell.run_name
    executor = LocalExecutor(tmp_path / "jobs", max_num_timeout=1)
    executor.update_parameters(timeout_min=60, stderr_to_stdout=True)
    job = executor.submit(jobs.Job(cell, tmp_path / "cut", "cpu", None, 1))
    until(lambda: (folder / "history.csv").exists() or job.done())
    (process,) = re.findall(rf"(\d+) {cell.run_name}: epoch 1/6", job.paths.stdout.read_text())
    os.kill(int(process), signal.SIGUSR2)
    until(job.done)
    assert job.result() == f"{cell.run_name}: done"
    said = job.paths.stdout.read_text()
    assert f"{cell.run_name}: interrupted" in said and "this job is preempted" in said, said
    assert "(1 remaining timeouts)" in said
    assert len(set(re.findall(rf"(\d+) {cell.run_name}: epoch", said))) == 2  # processes
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
        (("--executor", "slurm", "--devices", "2"), "slurm is told with --slurm.gpus"),
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
