"""A list of experiments -> run folders: in this process, or by several workers on this machine.

Each run is isolated: one that fails leaves error.txt in its folder and the others go on. Runs that are done are
skipped, runs that another process works on are left to it. Ctrl-C lets every run save its state; the same call
goes on. Jobs of a cluster: slurm.py.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from d2rkit.core.devices import card_for, resolve
from d2rkit.core.faults import fault
from d2rkit.core.files import write_atomically
from d2rkit.core.paths import home
from d2rkit.core.processes import Worker, check_cores, say, threads_of_children, told_to_stop
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.plugins import travelling
from d2rkit.experiments.run import Interrupted, run
from d2rkit.experiments.run_locks import Busy
from d2rkit.training.loop import Report

BAR = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total:.0f} runs [{elapsed} gone, {remaining} left]{postfix}"


@dataclass(frozen=True)
class Outcome:
    """What became of one experiment: status is "done", "busy", "interrupted" or "error: ..."."""

    experiment: Experiment
    status: str


def sweep(
    experiments: Sequence[Experiment],
    root: str | Path | None = None,
    *,
    workers: int = 0,
    threads: int = 0,
    device: str = "auto",
    count: int = 1,
    data_root: str | Path | None = None,
    quiet: bool = False,
) -> list[Outcome]:
    """Run all that is not done yet; returns one outcome an experiment, in order.

    workers: processes; 0 runs one after the other in this process. threads: of torch, for each worker or for this
    process (0: one for each worker, and here as many as torch has now); small networks are bound by threads, so workers
    * threads must not exceed the machine's cores (ValueError). count: devices that share each run's batches, without
    workers.
    Raises KeyboardInterrupt after Ctrl-C, once every worker has saved its state."""
    root = Path(root) if root is not None else home("runs")
    check_cores(max(1, workers), threads or 1)
    resolve(device)  # a sentence now, not an error in every run
    if workers and count > 1:
        raise ValueError(f"runs that share {count} devices go one after the other: set workers to 0, not {workers}")
    todo = unfinished(experiments, root)
    for experiment in todo if workers else ():
        travelling(experiment.registered)
    outcomes = {e.run_name: Outcome(e, "done") for e in experiments}
    if not todo:
        return list(outcomes.values())
    seconds = 0.1 if sys.stderr.isatty() else 30.0  # a log file needs no line for every moment
    with tqdm(
        total=len(todo), desc="training and attacking", bar_format=BAR, disable=quiet, smoothing=0.05,
        mininterval=seconds,
    ) as bar:  # fmt: skip
        if workers:
            ended = _with_workers(todo, root, min(workers, len(todo)), threads or 1, device, data_root, bar)
        else:
            with _threads_here(threads):
                ended = _here(todo, root, device, count, data_root, bar)
    outcomes |= {outcome.experiment.run_name: outcome for outcome in ended}
    if any(outcome.status == "interrupted" for outcome in ended):
        raise KeyboardInterrupt
    return list(outcomes.values())


def is_done(experiment: Experiment, root: Path) -> bool:
    return (root / experiment.run_name / "result.json").exists()


def unfinished(experiments: Sequence[Experiment], root: Path) -> list[Experiment]:
    """Those without a result; ValueError if any could not run."""
    for experiment in experiments:
        experiment.check()
    return [experiment for experiment in experiments if not is_done(experiment, root)]


def attempt(
    experiment: Experiment,
    root: Path,
    *,
    device: str = "auto",
    count: int = 1,
    data_root: str | Path | None = None,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> str:
    """run(), and what became of it, as in Outcome; an error is written to error.txt in the run folder: the time, one
    sentence, the traceback."""
    try:
        run(experiment, root, device=device, count=count, data_root=data_root, report=report, should_stop=should_stop)
    except Interrupted:
        return "interrupted"
    except Busy:
        return "busy"
    except Exception as error:  # one broken run must not take the table with it
        _, sentence = fault(error)
        lines = (time.strftime("%Y-%m-%d %H:%M:%S %z"), sentence, "", traceback.format_exc())
        # A full disk may well be the error; then the status is all there is.
        with suppress(OSError), write_atomically(root / experiment.run_name / "error.txt") as draft:
            draft.write_text("\n".join(lines))
        return f"error: {sentence}"
    return "done"


@contextmanager
def _threads_here(threads: int) -> Iterator[None]:
    """So many torch threads in this process, and afterwards as many as before; 0 leaves them alone."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _here(todo: list[Experiment], root: Path, device: str, count: int, data_root, bar: tqdm) -> list[Outcome]:
    outcomes = []
    for number, experiment in enumerate(todo):

        def report(done: float, words: str, number: int = number, experiment: Experiment = experiment) -> None:
            bar.set_postfix_str(f"{experiment.method} seed {experiment.seed}: {words}", refresh=False)
            bar.update(number + done - bar.n)

        status = attempt(experiment, root, device=device, count=count, data_root=data_root, report=report)
        outcomes.append(Outcome(experiment, status))
        if status == "interrupted":
            break
        bar.update(number + 1 - bar.n)
    return outcomes


def _work(number: int, experiment: Experiment, root: Path, device: str, data_root) -> str:
    def report(done: float, words: str) -> None:
        say((number, done, f"{experiment.method} seed {experiment.seed}: {words}"))

    return attempt(experiment, root, device=device, data_root=data_root, report=report, should_stop=told_to_stop)


def _with_workers(
    todo: list[Experiment], root: Path, workers: int, threads: int, device: str, data_root, bar: tqdm
) -> list[Outcome]:
    done = [0.0] * len(todo)
    words: dict[int, str] = {}
    processes = [Worker(threads, card_for(number, device), polite=True) for number in range(workers)]
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    stopping = threading.Event()

    def stop() -> None:
        stopping.set()
        for process in processes:
            process.stop.set()

    def alone(number: int, experiment: Experiment) -> str:
        """One run in a process that has no other: if it dies, no other run is lost."""
        process = idle.get()
        try:
            if stopping.is_set():
                return "interrupted"
            return process.submit(_work, number, experiment, root, device, data_root).result()
        except Exception as error:  # of the process; for its run's errors attempt() answers
            process.begin()
            if stopping.is_set():
                return "interrupted"
            return f"error: {fault(error)[1]}"
        finally:
            idle.put(process)

    with threads_of_children(threads), ThreadPoolExecutor(workers) as at_once:
        for process in processes:
            idle.put(process)
        futures = [at_once.submit(alone, number, experiment) for number, experiment in enumerate(todo)]
        try:
            while not all(future.done() for future in futures):
                try:
                    time.sleep(0.2)
                    for process in processes:
                        for number, fraction, text in process.heard():
                            done[number], words[number] = fraction, text
                except KeyboardInterrupt:
                    bar.set_description_str("stopping: every run saves its state")
                    stop()
                for i, future in enumerate(futures):
                    if future.done():
                        done[i] = 1.0 if future.result() == "done" else done[i]
                        words.pop(i, None)
                bar.set_postfix_str("; ".join(words[i] for i in sorted(words)), refresh=False)
                bar.update(sum(done) - bar.n)
        except BaseException:  # a second Ctrl-C: runs that have not begun must not begin now
            stop()
            raise
        for process in processes:
            process.pool.shutdown()
        return [Outcome(e, future.result()) for e, future in zip(todo, futures, strict=True)]
