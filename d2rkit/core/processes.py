"""Processes of this machine: workers, each of which makes one call after the other, and groups that share one run.

    with Worker(threads=1) as worker:     a process of its own
        worker.submit(function, argument).result()
    launch(2, function, arguments)        two processes, joined in a group, run function(*arguments, ...)

Both end with the process that started them, however that ends. Groups are started and watched by torch. Fabric's own
launcher would do so, too, but it asks every GPU for its random state first, and so opens each of them in this process.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from d2rkit.core.devices import GROUP

GRACE = 5.0  # seconds that processes of a group get to end by themselves once one of them has ended early


def check_cores(workers: int, threads: int) -> None:
    """ValueError if so many workers of so many threads are none, or more than this machine has cores."""
    cores = os.cpu_count() or 1
    if workers < 0 or threads < 1 or workers * threads > cores:
        raise ValueError(f"workers x threads must lie between 0 and the {cores} cores here, not {workers} x {threads}")


@contextmanager
def threads_of_children(threads: int) -> Iterator[None]:
    """Processes started inside have so many threads: OpenMP reads its variable when a process starts, and
    torch.set_num_threads alone comes too late for some kernels."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does, however that ends: it would go on with nobody
    to hear it, and where the parent holds the run's lock nobody may write to the run folder without it."""

    parent = multiprocessing.parent_process()
    assert parent is not None, "only a process that multiprocessing started has a parent to end with"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Worker:
    """A process with so many torch threads, which makes one call at a time: its peak memory is that of its calls, and
    if it dies, one call is all that is lost (BrokenProcessPool), after which begin() starts another process.

    card: what CUDA_VISIBLE_DEVICES is there, None for as here. polite: Ctrl-C and hang-ups are for this process to
    hear, which asks the worker to stop by `stop`. Inside, `say` puts `messages` into its queue, and `told_to_stop` asks
    for `stop`. Processes start with the first call: see threads_of_children."""

    def __init__(self, threads: int, card: str | None = None, polite: bool = False):
        cores = os.cpu_count() or 1
        if not 1 <= threads <= cores:
            raise ValueError(f"threads must lie between 1 and the {cores} cores here, not {threads}")
        self.threads, self.card, self.polite = threads, card, polite
        self.begin()

    def begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.messages, self.stop = context.Queue(), context.Event()
        arguments = (self.threads, self.card, self.polite, self.messages, self.stop)
        self.pool = ProcessPoolExecutor(1, context, _begin_worker, arguments)

    def submit(self, function: Callable, *arguments: Any) -> Future:
        """function(*arguments) over there."""
        with threads_of_children(self.threads):
            return self.pool.submit(function, *arguments)

    def heard(self) -> Iterator[Any]:
        """What it has said since the last time."""
        with suppress(queue.Empty):
            while True:
                yield self.messages.get_nowait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.shutdown()


# What a worker process was given at its start; module level, because functions sent to it cannot carry these.
_worker: dict[str, Any] = {}


def _begin_worker(threads: int, card: str | None, polite: bool, messages, stop) -> None:
    for number in (signal.SIGINT, signal.SIGHUP) if polite else ():
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(threads)
    if card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = card  # nothing has touched CUDA yet
    _worker.update(messages=messages, stop=stop)


def say(message: Any) -> None:
    """Inside a worker: to whoever started it."""
    _worker["messages"].put(message)


def told_to_stop() -> bool:
    """Inside a worker: whether it is asked to stop."""
    return _worker["stop"].is_set()


# -- a group ---------------------------------------------------------------------------------------------------
def launch(
    count: int,
    function: Callable[..., None],
    arguments: tuple = (),
    *,
    report: Callable[[float, str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> None:
    """Run function(*arguments, report=..., should_stop=...) in `count` processes of this machine at once, their
    environment ready for a process group of that size (Fabric's "ddp" strategy joins it).

    report hears the first process. An exception of a process is raised here, and the others are stopped. Ctrl-C
    asks all to stop in their own time, then raises KeyboardInterrupt."""
    group = _Group.of(count)
    with threads_of_children(group.threads):
        started = start_processes(_begin_member, (group, function, arguments), count, join=False, start_method="spawn")
    assert started is not None, "join=False returns the processes"
    failures: list[Exception] = []

    def hear() -> None:
        with suppress(queue.Empty):
            while True:
                message = group.messages.get_nowait()
                if isinstance(message, Exception):
                    failures.append(message)
                elif report:
                    report(*message)

    asked, died = False, None
    try:
        while True:
            try:
                if started.join(0.2):
                    break
                hear()
                if should_stop and should_stop():
                    group.stop.set()
            except KeyboardInterrupt:
                if asked:
                    break  # a second Ctrl-C does not wait for a state to be saved
                asked = True
                group.stop.set()
            except ProcessRaisedException:  # which has told us the exception itself
                break
            except ProcessExitedException:
                died = RuntimeError(f"a process of {count} died (out of memory?); the state of its last save is kept")
                break
    finally:
        for process in cast(list[BaseProcess], started.processes):
            process.kill()
    hear()
    if asked:
        raise KeyboardInterrupt
    if died or failures:
        raise died or failures[0]


@dataclass(frozen=True)
class _Group:
    """What the processes of a group share; `ended` is a barrier for those that end early."""

    count: int
    port: int
    threads: int
    messages: Any
    stop: Any
    ended: Any

    @classmethod
    def of(cls, count: int) -> _Group:
        context = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        threads = max(1, torch.get_num_threads() // count)
        return cls(count, port, threads, context.Queue(), context.Event(), context.Barrier(count))


def _begin_member(rank: int, group: _Group, function: Callable[..., None], arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and sets `stop`
    end_with_parent()
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # of a torchrun above: it would wait for that one's store
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(group.port), RANK=str(rank), LOCAL_RANK=str(rank), NODE_RANK="0",
        GROUP_RANK="0", WORLD_SIZE=str(group.count), OMP_NUM_THREADS=str(group.threads), **{GROUP: "1"},
    )  # fmt: skip
    torch.set_num_threads(group.threads)

    def report(done: float, words: str) -> None:
        if rank == 0:
            group.messages.put((done, words))

    try:
        function(*arguments, report=report, should_stop=group.stop.is_set)
    except Exception as error:
        group.messages.put(_sendable(error, f"in process {rank} of {group.count}:\n{traceback.format_exc()}"))
        # Where all end likewise, each does so in its own time, since it may be writing; else torch stops the rest.
        try:
            group.ended.wait(GRACE)
        except threading.BrokenBarrierError:
            raise error from None
        return
    if dist.is_initialized():
        dist.destroy_process_group()


def _sendable(error: Exception, note: str) -> Exception:
    error.add_note(note)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some exceptions cannot be taken apart or put together again
        return RuntimeError(f"{type(error).__name__}: {error}\n{note}")
    return error
