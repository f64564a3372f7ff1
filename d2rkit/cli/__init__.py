"""`d2rkit`: doctor, data, plan, reproduce, sweep, status, tune, table, pack, verify, train, evaluate, export,
leaderboard, claim, class, lab. Every command accepts --plugin FILE, also repeatedly: Python files that register your
own methods, networks, data sets, attacks or presets (also listed in $D2RKIT_PLUGINS); see docs/your_own.md. Wherever a
preset is named, a TOML file that describes your own table works too.

Exit codes: 0 success, 1 a run failed, 2 bad input, 3 a machine problem (disk, memory, network, permission), 70 a bug
in the kit (a report file has the details), 130 interrupted with the state saved, 141 the reader closed the output."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import sys

from d2rkit.cli import class_desk, evaluate, exporting, jobs, planning, robustbench, runs, tables, verifying  # noqa: F401  (each adds its commands)
from d2rkit.cli.base import app, without_plugins
from d2rkit.core import starting
from d2rkit.core.faults import INPUT, MACHINE, UNEXPECTED, fault, write_report
from d2rkit.experiments.plugins import FAULTS, LOADED, load_plugin
from d2rkit.experiments.run import Interrupted
from d2rkit.experiments.run_locks import Busy

PLUGGED = re.compile("unknown (method|network|data set|attack|preset) '")  # what a plug-in file may have registered
CODES = {INPUT: 2, MACHINE: 3, UNEXPECTED: 70}


def _stop(number: int, frame: object) -> None:
    """SIGTERM, a batch system's way to say stop, and SIGHUP, a closed terminal's, are taken as one Ctrl-C however often
    they come: the kernel and the shell both hang up, and a second Ctrl-C does not wait for a state to be saved."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) is _stop:
            signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt


def _prepare() -> None:
    logging.basicConfig(format="d2rkit: %(message)s", level=logging.WARNING)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a letter gets its number, and every result
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is none
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _stop)


def main() -> None:
    """Entry point: whatever happens ends with at most one sentence and the exit code that the help tells."""
    try:
        starting.begun()
        _prepare()
        if FAULTS:  # of $D2RKIT_PLUGINS, said when the kit was imported
            sys.exit(CODES[INPUT])
        words, files = without_plugins(sys.argv[1:])
        for file in files:
            load_plugin(file)
        app.parsed(__doc__ or "", words)()
        sys.stdout.flush()
    except (KeyboardInterrupt, Interrupted):
        _end(130, "stopped; rerun the same command to resume")
    except BrokenPipeError:
        # Nobody reads on; what is still in the buffer must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Busy as error:
        _end(CODES[INPUT], str(error))
    except Exception as error:
        kind, sentence = fault(error)
        if kind == UNEXPECTED:
            file = write_report(error, sys.argv)
            sentence = f"a bug in the kit: {sentence}" + (f"; report: {file}" if file else "")
        if kind == INPUT and not LOADED and PLUGGED.search(sentence) and "did you mean" not in sentence:
            sentence += "; if a file of yours registers it, add --plugin FILE"
        _end(CODES[kind], sentence)


def _end(code: int, sentence: str) -> None:
    print(f"d2rkit: {sentence}", file=sys.stderr)
    sys.exit(code)
