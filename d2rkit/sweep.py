"""A list of experiments -> run folders: in this process, or by several workers on this machine.

Each run is isolated: one that fails is reported and the others go on. Runs that are done are skipped, runs
that another process works on are left to it. Ctrl-C lets every run save its state; the same call goes on.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from d2rkit.border import home
from d2rkit.experiment import Busy, Experiment, Interrupted, run

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
    threads: int = 1,
    device: str = "auto",
    data_root: str | Path | None = None,
    quiet: bool = False,
) -> list[Outcome]:
    """Run all that is not done yet; returns one outcome an experiment, in order.

    workers: processes; 0 runs one after the other in this process. threads: of torch, for each worker; small
    networks are bound by threads, so workers * threads must not exceed the machine's cores (ValueError).
    Raises KeyboardInterrupt after Ctrl-C, once every worker has saved its state."""
    for experiment in experiments:
        experiment.check()
    root = Path(root) if root is not None else home("runs")
    cores = os.cpu_count() or 1
    if workers < 0 or threads < 1 or workers * threads > cores:
        raise ValueError(f"workers x threads must lie between 0 and the {cores} cores here, not {workers} x {threads}")
    todo = [e for e in experiments if not (root / e.run_name / "result.json").exists()]
    outcomes = {e.run_name: Outcome(e, "done") for e in experiments}
    if not todo:
        return list(outcomes.values())
    with tqdm(total=len(todo), desc="training and attacking", bar_format=BAR, disable=quiet, smoothing=0.05) as bar:
        if workers:
            found = _with_workers(todo, root, min(workers, len(todo)), threads, device, data_root, bar)
        else:
            found = _here(todo, root, device, data_root, bar)
    outcomes |= {outcome.experiment.run_name: outcome for outcome in found}
    if any(outcome.status == "interrupted" for outcome in found):
        raise KeyboardInterrupt
    return list(outcomes.values())


def _attempt(experiment: Experiment, root: Path, device: str, data_root, report, should_stop) -> str:
    try:
        run(experiment, root, device=device, data_root=data_root, report=report, should_stop=should_stop)
    except Interrupted:
        return "interrupted"
    except Busy:
        return "busy"
    except ValueError as error:
        return f"error: {error}"
    except Exception as error:  # one broken run must not take the table with it
        return f"error: {type(error).__name__}: {error}"
    return "done"


def _here(todo: list[Experiment], root: Path, device: str, data_root, bar: tqdm) -> list[Outcome]:
    found = []
    for number, experiment in enumerate(todo):

        def report(done: float, words: str, number: int = number, experiment: Experiment = experiment) -> None:
            bar.set_postfix_str(f"{experiment.method} seed {experiment.seed}: {words}", refresh=False)
            bar.update(number + done - bar.n)

        status = _attempt(experiment, root, device, data_root, report, None)
        found.append(Outcome(experiment, status))
        if status == "interrupted":
            break
        bar.update(number + 1 - bar.n)
    return found


# What a worker process was given at its start; module level, because functions sent to it cannot carry these.
_worker: dict = {}


def _begin_worker(threads: int, messages, stop) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and sets `stop`
    torch.set_num_threads(threads)
    _worker.update(messages=messages, stop=stop)


def _work(number: int, experiment: Experiment, root: Path, device: str, data_root) -> str:
    def report(done: float, words: str) -> None:
        _worker["messages"].put((number, done, f"{experiment.method} seed {experiment.seed}: {words}"))

    if _worker["stop"].is_set():
        return "interrupted"
    return _attempt(experiment, root, device, data_root, report, _worker["stop"].is_set)


def _with_workers(
    todo: list[Experiment], root: Path, workers: int, threads: int, device: str, data_root, bar: tqdm
) -> list[Outcome]:
    context = multiprocessing.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    done = [0.0] * len(todo)
    words: dict[int, str] = {}

    def show() -> None:
        bar.set_postfix_str("; ".join(words[i] for i in sorted(words)), refresh=False)
        bar.update(sum(done) - bar.n)

    # OpenMP reads this when a worker starts; torch.set_num_threads alone comes too late for some kernels.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        with ProcessPoolExecutor(workers, context, _begin_worker, (threads, messages, stop)) as pool:
            futures = [pool.submit(_work, i, e, root, device, data_root) for i, e in enumerate(todo)]
            while not all(future.done() for future in futures):
                try:
                    number, fraction, text = messages.get(timeout=0.2)
                    done[number], words[number] = fraction, text
                except queue.Empty:
                    pass
                except KeyboardInterrupt:
                    bar.set_description_str("stopping: every run saves its state")
                    stop.set()
                for i, future in enumerate(futures):
                    if future.done():
                        done[i] = 1.0 if _status(future) == "done" else done[i]
                        words.pop(i, None)
                show()
            return [Outcome(e, _status(f)) for e, f in zip(todo, futures, strict=True)]
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _status(future: Future) -> str:
    try:
        return future.result()
    except BrokenProcessPool:
        return "error: the worker process died (out of memory?); the state of its last save is kept"
