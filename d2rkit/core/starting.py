"""Ctrl-C, SIGTERM or SIGHUP while the command `d2rkit` is still importing torch ends it in one line, neither in a
traceback nor without a word.

Imported for its effect, and before anything that takes seconds. Only the command's own process is concerned (whoever
imports the kit keeps Python's own handlers), and only until main() answers for these signals.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


def is_command(words: Sequence[str]) -> bool:
    """Whether a process that was started with these words (sys.orig_argv) is `d2rkit` or `python -m d2rkit`. Those of
    its workers are others, although their sys.argv is the command's."""
    return list(words[1:3]) == ["-m", "d2rkit"] or any(Path(word).name == "d2rkit" for word in words[1:2])


def end(number: int, frame: object) -> None:
    """At once: nothing has begun that would have to be saved, and a library that is being imported may catch whatever
    is raised."""
    os.write(2, b"d2rkit: stopped before it had begun\n")
    os._exit(130)


def begun() -> None:
    """From now on Ctrl-C raises KeyboardInterrupt again; main() has its own answer to the other two."""
    if signal.getsignal(signal.SIGINT) is end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if is_command(sys.orig_argv) and threading.current_thread() is threading.main_thread():
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Not what is ignored, as Ctrl-C in the background of a script and SIGHUP under nohup.
        if signal.getsignal(each) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(each, end)
