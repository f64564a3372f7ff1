"""A list of experiments -> jobs of a Slurm cluster, one a run, through submitit.

    submit_slurm(experiments, options=Slurm(partition="gpu"))

A run folder is the only state and its lock keeps two processes off one run, so that a job may die at any moment and
nobody needs to know who started it. A job that is warned, because its time is nearly up or because it is preempted
(where the cluster has PreemptParameters=send_user_signal), saves its state, goes back to the queue and goes on from
there. Locks must reach all machines: on NFS they do, Lustre needs its mount option flock.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast

import torch

from d2rkit.core.devices import named
from d2rkit.core.paths import home
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.plugins import travelling
from d2rkit.experiments.sweep import attempt, is_done, unfinished

if TYPE_CHECKING:
    import submitit
    from submitit.helpers import DelayedSubmission

log = logging.getLogger("d2rkit")
Place = tuple[Path, str, Path | None]  # root of the runs, device, folder of the data

GRACE = 180.0  # seconds before a time limit at which a job is told; half of them to finish a step or a batch


@dataclass(frozen=True)
class Slurm:
    """What each job asks a Slurm cluster for; one job a run."""

    partition: str = ""
    """Partition (default: the cluster's)."""
    minutes: int = 24 * 60
    """Time limit of a job; a run that takes longer saves its state, is requeued and goes on."""
    gpus: int = 1
    """GPUs of a job; a run shares its batches out to all of them."""
    cpus: int = 4
    """CPU cores of a job, and torch's threads."""
    at_once: int = 16
    """How many jobs of the array may run at once."""
    requeues: int = 20
    """How often a job may run into its time limit; preemption does not count."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """More of sbatch's options, e.g. account abc mem 32G."""

    def check(self) -> None:
        """ValueError for what no cluster could grant."""
        if self.minutes * 60 < 2 * GRACE:
            raise ValueError(f"minutes must be at least {2 * GRACE / 60:.0f}, for a job to save its state in time")
        if self.gpus < 0 or self.requeues < 0 or min(self.cpus, self.at_once) < 1:
            raise ValueError("cpus and at_once must be at least 1, gpus and requeues at least 0")
        if spread := {"nodes", "N"} & self.extra.keys():
            raise ValueError(f"a run shares the devices of one machine; leave {spread.pop()} out of extra")


@dataclass(frozen=True)
class Job:
    """What a job does: its run, unless that is done or another's. count: devices that share the run's batches."""

    experiment: Experiment
    root: Path
    device: str
    data_root: Path | None
    threads: int
    count: int = 1

    def __call__(self) -> str:
        """The run's name, and what became of it. RuntimeError where that is an error."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stdout)
        torch.set_num_threads(self.threads)
        name = self.experiment.run_name
        if is_done(self.experiment, self.root):
            return f"{name}: nothing left to do"
        with _told_to_stop() as (told, requeue):
            status = attempt(
                self.experiment, self.root, device=self.device, count=self.count, data_root=self.data_root,
                report=_log_steps(name), should_stop=told,
            )  # fmt: skip
            log.info("%s: %s", name, status)
            if not is_done(self.experiment, self.root):
                requeue()
        if status.startswith("error"):
            raise RuntimeError(f"{name}: {status}")  # Slurm, too, calls the job failed and starts nothing after it
        return f"{name}: {status}"

    def checkpoint(self) -> DelayedSubmission:
        """What submitit runs when the job comes out of the queue again: the same, since run folders hold the state."""
        return _submitit().helpers.DelayedSubmission(self)


@contextmanager
def _told_to_stop() -> Iterator[tuple[Callable[[], bool], Callable[[], None]]]:
    """told() says whether SIGTERM (of scancel) or the warning before a time limit or preemption came, so that the run
    saves its state; requeue(), called then, hands a warning on to submitit, which requeues the job and exits. That
    happens uncalled if half of the grace time was not enough."""
    warning = getattr(signal, f"SIG{_submitit().JobEnvironment.USR_SIG}")
    handler = cast("Callable[[int, FrameType | None], None]", signal.getsignal(warning))  # submitit has set it
    came: set[int] = set()
    alarm = threading.Timer(GRACE / 2, os.kill, (os.getpid(), warning))
    alarm.daemon = True

    def note(number: int, frame: FrameType | None) -> None:
        second = number in came
        came.add(number)
        if number == warning:
            handler(number, frame) if second else alarm.start()

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, warning)}
    try:
        yield lambda: bool(came), lambda: handler(warning, None) if warning in came else None
    finally:
        alarm.cancel()
        for number, old in before.items():
            signal.signal(number, old)


def _log_steps(name: str) -> Callable[[float, str], None]:
    """A report that logs each epoch and each attack once."""
    last = ""

    def report(done: float, words: str) -> None:
        nonlocal last
        if words != last:
            log.info("%s: %s", name, words)
            last = words

    return report


def submit_slurm(
    experiments: Sequence[Experiment],
    root: str | Path | None = None,
    *,
    options: Slurm,
    device: str = "auto",
    data_root: str | Path | None = None,
) -> list[submitit.Job]:
    """Hand what is not done to Slurm, one job a run, as one array; ValueError if there is no Slurm, or if it refuses.
    Logs: jobs/<job id>/ below root."""
    options.check()
    named(device)  # whether it is there is for the cluster's machines to say
    root, todo, place = _prepare(experiments, root, device, data_root)
    if not todo:
        return []
    try:
        executor = _submitit().AutoExecutor(
            root / "jobs" / "%j", cluster="slurm", slurm_max_num_timeout=options.requeues
        )
        executor.update_parameters(
            name="d2rkit", timeout_min=options.minutes, gpus_per_node=options.gpus or None, cpus_per_task=options.cpus,
            stderr_to_stdout=True, slurm_partition=options.partition or None, slurm_signal_delay_s=int(GRACE),
            slurm_array_parallelism=options.at_once, slurm_setup=[f"export OMP_NUM_THREADS={options.cpus}"],
            slurm_additional_parameters={"requeue": True, **options.extra},  # some clusters forbid it unless asked
        )  # fmt: skip
        with executor.batch():
            jobs = [executor.submit(Job(e, *place, options.cpus, max(1, options.gpus))) for e in todo]
        return jobs
    except RuntimeError as error:  # of submitit: srun is missing, sbatch said no
        raise ValueError(f"Slurm took no jobs: {' '.join(str(error).split())}") from error


def _prepare(experiments: Sequence[Experiment], root, device: str, data_root) -> tuple[Path, list[Experiment], Place]:
    """Root, what is not done, where and on what jobs run; absolute, since jobs may start elsewhere."""
    root = (Path(root) if root is not None else home("runs")).absolute()
    todo = unfinished(experiments, root)
    for experiment in todo:
        travelling(experiment.registered)
    return root, todo, (root, device, Path(data_root).absolute() if data_root else None)


def _submitit():
    try:
        import submitit
    except ImportError as error:
        raise ValueError("jobs need submitit, which is not installed: pip install -e '.[slurm]'") from error
    return submitit
