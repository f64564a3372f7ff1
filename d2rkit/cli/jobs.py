"""Commands about many runs on many machines: sweep, status."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence

import tyro

from d2rkit.cli.base import AS_IS, HERE, Changes, Place, Word, app, command_line, log_to, tables_of, workers_here
from d2rkit.core.validation import nearest
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.slurm import Slurm, submit_slurm
from d2rkit.experiments.status import progress, progress_table, totals
from d2rkit.experiments.sweep import sweep, unfinished

EXECUTORS = ("here", "slurm")
SLURM = Slurm()


@app.command(name="sweep")
def sweep_command(
    preset: Word,
    executor: str = "here",
    rows: tuple[str, ...] = (),
    seeds: int = 0,
    cell: int = -1,
    workers: int = -1,
    threads: int = 1,
    devices: int = 1,
    log: tuple[str, ...] = (),
    slurm: Slurm = SLURM,
    changes: tyro.conf.OmitArgPrefixes[Changes] = AS_IS,
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Run every unfinished cell of a table, on this machine or on a Slurm cluster; writes no table.

    Each cell runs only once, whoever starts it: finished cells are not submitted, a cell that another process is
    running is left alone, and an interrupted one resumes. `d2rkit status PRESET` shows the progress of all cells.

    Args:
        preset: a table by name, e.g. quick, or a family of tables, e.g. paper.
        executor: here (processes that end with this command), or slurm (one job per run; needs d2rkit[slurm]).
        rows: only these rows.
        seeds: only the first N seeds (0: the preset's).
        cell: only this cell, counted from 0, e.g. $SLURM_ARRAY_TASK_ID in a batch script (-1: all).
        workers: with executor here: processes (-1: one per core on a CPU, none on a GPU).
        threads: with executor here: torch threads per worker.
        devices: with executor here: GPUs, or processes on a CPU, that share each batch; runs are then sequential.
        log: besides history.csv, log each epoch to tensorboard, mlflow or both, in each run's folder.
        slurm: resources that each job requests.
    """
    if executor not in EXECUTORS:
        raise nearest(executor, EXECUTORS, "executor")
    experiments = [e for chosen in tables_of(preset, changes) for e in chosen.experiments(rows, seeds)]
    if not -1 <= cell < len(experiments):
        raise ValueError(f"cell must lie between 0 and {len(experiments) - 1}, or be -1 for all, not {cell}")
    if devices > 1 and executor != "here":
        raise ValueError(f"--devices is for --executor here; {executor} is told with --slurm.gpus")
    experiments = experiments if cell < 0 else [experiments[cell]]
    log_to(log, experiments, place)
    where = {"device": place.device, "data_root": place.data_root or None}
    todo = unfinished(experiments, place.runs_root)
    print(f"{len(experiments)} runs in {place.runs_root}, {len(todo)} of them to do", flush=True)
    if executor == "slurm":
        jobs = submit_slurm(todo, place.runs_root, options=slurm, **where)
        if jobs:
            print(f"submitted: {len(jobs)} of them, as Slurm job {jobs[0].job_id.split('_')[0]}")
            print(f"logs: {place.runs_root / 'jobs'}")
            print(f"how far they are: {command_line('status', preset, rows, seeds, changes, place)}")
        return
    workers = workers_here(workers, threads, place, devices)
    outcomes = sweep(todo, place.runs_root, workers=workers, threads=threads, count=devices, **where)
    _complain(experiments, place, {each.experiment.run_name: each.status for each in outcomes if each.status != "done"})


def _complain(experiments: Sequence[Experiment], place: Place, said: Mapping[str, str]) -> None:
    """Exit code 1, and a line for each run without a result. said: what became of runs by name, as far as this
    process knows: on a full disk their folders cannot tell."""
    rest = [c for c in progress(experiments, place.runs_root) if c.state not in ("done", "failed")]
    for status in rest:
        name = status.experiment.run_name
        print(f"d2rkit: {name}: {said.get(name, f'{status.state} {status.words}')}".rstrip(), file=sys.stderr)
    if rest:
        sys.exit(1)


@app.command
def status(
    preset: Word,
    rows: tuple[str, ...] = (),
    seeds: int = 0,
    changes: tyro.conf.OmitArgPrefixes[Changes] = AS_IS,
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Show the progress of each cell of a table, read from the run folders, whoever runs them.

    Args:
        preset: a table by name, e.g. quick, or a family of tables, e.g. paper.
        rows: only these rows.
        seeds: only the first N seeds (0: the preset's).
    """
    width = shutil.get_terminal_size((120, 24)).columns
    everything = []
    for chosen in tables_of(preset, changes):
        cells = progress(chosen.experiments(rows, seeds), place.runs_root)
        print(chosen.title, progress_table(rows or chosen.rows, cells, width), "", sep="\n")
        everything += cells
    print(totals(everything), f"in {place.runs_root}")
    if any(cell.state == "running" for cell in everything):
        print("running: epochs or attacks finished, and the time since its folder last changed")
    rest = any(cell.state not in ("done", "failed", "running") for cell in everything)
    words = ("the rest", "sweep", preset, rows, seeds) if rest else ("the table", "table", preset, (), 0)
    print(f"{words[0]}: {command_line(*words[1:], changes, place)}")
