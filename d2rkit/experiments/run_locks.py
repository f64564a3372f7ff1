"""Only one process works on a run folder, and only as long as the folder is there."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Busy(Exception):
    """Another process works on this run."""


def watching(folder: Path, should_stop: Callable[[], bool] | None) -> Callable[[], bool]:
    """should_stop(), which also raises FileNotFoundError once the folder is no longer the one that is locked."""

    def identity() -> tuple[int, int] | None:
        with suppress(OSError):
            state = os.stat(folder / "lock", follow_symlinks=False)
            return state.st_dev, state.st_ino
        return None

    locked = identity()

    def stop() -> bool:
        if locked is None or identity() != locked:
            reason = "the run folder vanished while the run worked in it; the same command begins anew"
            raise FileNotFoundError(errno.ENOENT, reason, str(folder))
        return bool(should_stop and should_stop())

    return stop


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Only one process works on a run; the lock goes with the process, however it ends."""
    try:  # what a link points to is not ours, and nothing is to be emptied
        number = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if (folder / "lock").is_symlink():
            raise ValueError(f"{folder / 'lock'} is a symbolic link, which no run makes; move it away") from error
        raise
    with os.fdopen(number, "rb", closefd=True) as file:
        for attempt in range(5):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:  # `d2rkit status` looks at the lock for a moment
                if attempt == 4:
                    raise Busy(f"{folder} is being worked on by another process") from error
                time.sleep(0.05)
            except OSError as error:
                raise ValueError(f"files in {folder} cannot be locked ({error}); choose another runs folder") from error
        yield
