"""How far a table is, read off the run folders alone: nothing is started, nothing is written."""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from d2rkit.experiments.experiment import Experiment, check_same, read_run
from d2rkit.experiments.run_files import read_error
from d2rkit.training.history import read_history

STATES = ("done", "running", "stopped", "failed", "error", "damaged", "not begun")


@dataclass(frozen=True)
class RunStatus:
    """One run. state: one of STATES; "failed" is a result (training diverged), "error" is none (see error.txt),
    "damaged" one that cannot be read or does not belong to its folder, which every table leaves out.
    epoch and attacked: how many of `epochs` and `attacks` are finished. age: seconds since its folder changed, None
    without a folder. words: why it failed, or what the error says."""

    experiment: Experiment
    state: str
    epoch: int
    epochs: int
    attacked: int
    attacks: int
    age: float | None
    words: str


def progress(experiments: Sequence[Experiment], root: str | Path) -> list[RunStatus]:
    """What the folders below `root` say of each experiment, in order."""
    return [_status(experiment, Path(root) / experiment.run_name) for experiment in experiments]


def _status(experiment: Experiment, folder: Path) -> RunStatus:
    locked = _locked(folder / "lock")  # first: a run that ends while we look is then "done", not "stopped"
    changes = _changes(folder)
    words = ""
    if "result.json" in changes:
        state, words = _finished(folder)
    elif locked:
        state = "running"
    elif changes and changes.get("error.txt") == max(changes.values()):
        state, words = "error", read_error(folder / "error.txt")
    elif changes:
        state, words = _stopped(folder, experiment)
    else:
        state = "not begun"
    return RunStatus(
        experiment,
        state,
        epoch=_epochs(folder / "history.csv"),
        epochs=experiment.guide_warmup + experiment.epochs,
        attacked=sum(name.endswith(".npz") and ".partial" not in name for name in changes),
        attacks=len(experiment.attacks) * len(experiment.checkpoints),
        age=max(0.0, time.time() - max(changes.values())) if changes else None,
        words=words,
    )


def _finished(folder: Path) -> tuple[str, str]:
    """State of a folder with a result, and words on it. A result that no table would take counts as damaged."""
    try:
        status = read_run(folder).result["status"]
    except ValueError as error:
        return "damaged", str(error)
    state = "failed" if status.startswith("failed") else "done"
    return state, "" if status == "done" else status.removeprefix("failed: ")


def _stopped(folder: Path, experiment: Experiment) -> tuple[str, str]:
    """State of a folder without a result, and words on it if it cannot go on."""
    try:
        check_same(folder, experiment)
    except ValueError as error:
        return "damaged", str(error)
    return "stopped", ""


def _epochs(file: Path) -> int:
    """Rows of history.csv; 0 if it is damaged, for it is written anew with each epoch."""
    try:
        return len(read_history(file))
    except ValueError:
        return 0


def _locked(lock: Path) -> bool:
    """Whether a process works on the run: its lock goes with it, however it ends."""
    with suppress(OSError):  # a lock that cannot be opened is nobody's
        number = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(number)
    return False


def _changes(folder: Path) -> dict[str, float]:
    """When each file of a run folder was last written; drafts come and go meanwhile and do not count."""
    times = {}
    for path in folder.rglob("[!.]*"):
        with suppress(OSError):  # gone, or a link to itself
            times[path.relative_to(folder).as_posix()] = path.stat().st_mtime
    return times


def totals(cells: Sequence[RunStatus]) -> str:
    """ "24 runs: 7 done, 1 running, 16 not begun"."""
    count = Counter(cell.state for cell in cells)
    return f"{len(cells)} runs: " + ", ".join(f"{count[state]} {state}" for state in STATES if count[state])


def progress_table(rows: Sequence[str], cells: Sequence[RunStatus], width: int = 120) -> str:
    """Plain text, a line a row and a column a seed, then what failed. cells: seed by seed, each with every row, as
    Preset.experiments() has them. width: where long sentences are cut, in characters."""
    columns = [cells[i : i + len(rows)] for i in range(0, len(cells), len(rows))]
    text = [["", *rows]]
    text += [[f"seed {column[0].experiment.seed}", *(_short(cell) for cell in column)] for column in columns]
    widths = [max(map(len, column)) for column in text]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in zip(*text, strict=True)]
    for number, cell in enumerate(cells):
        if cell.words:
            line = f"{rows[number % len(rows)]}, seed {cell.experiment.seed}: {cell.state}: {cell.words}"
            lines.append(line if len(line) <= width else line[: width - 3] + "...")
            lines.append(f"  in {cell.experiment.run_name}")
    return "\n".join(lines)


def _short(cell: RunStatus) -> str:
    """ "running 7/15, 12 s": epochs finished, and the age of the last sign of life."""
    if cell.state not in ("running", "stopped"):
        return cell.state
    attacking = cell.epoch >= cell.epochs and cell.attacks
    part = f"attacks {cell.attacked}/{cell.attacks}" if attacking else f"{cell.epoch}/{cell.epochs}"
    return f"{cell.state} {part}" + (f", {_age(cell.age)}" if cell.state == "running" and cell.age is not None else "")


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
