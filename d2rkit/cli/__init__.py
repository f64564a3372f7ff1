"""`d2rkit`: doctor, data, plan, reproduce, sweep, status, tune, table, pack, verify, train, evaluate, lab."""

from __future__ import annotations

import logging
import signal
import sys

from d2rkit.cli import evaluate, jobs, planning, runs, tables, verifying  # noqa: F401  (each adds its commands)
from d2rkit.cli.base import app
from d2rkit.experiment import Busy, Interrupted


def _stop(number: int, frame: object) -> None:
    """SIGTERM, a batch system's way to say stop, is taken as Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: bad input ends with one sentence and exit code 2, Ctrl-C with 130."""
    logging.basicConfig(format="d2rkit: %(message)s", level=logging.WARNING)
    signal.signal(signal.SIGTERM, _stop)
    try:
        app.cli(prog="d2rkit", description=__doc__)
    except (ValueError, Busy) as error:
        print(f"d2rkit: {error}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, Interrupted):
        print("d2rkit: stopped; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
