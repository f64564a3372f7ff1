"""Signals that ask a run to stop: its state is saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def polite_stop() -> Iterator[threading.Event]:
    """Ctrl-C, SIGTERM and SIGHUP set the event instead of breaking a step in two; a second Ctrl-C breaks at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def handle(number, frame):
        if asked.is_set() and number == signal.SIGINT:  # a closed terminal hangs up twice, timeout terminates twice
            raise KeyboardInterrupt
        asked.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means what it says
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
