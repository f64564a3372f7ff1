"""The command `plan`: what a table will cost on this machine."""

from __future__ import annotations

import os

import tyro

from d2rkit.cli.base import (
    AS_IS,
    HERE,
    Changes,
    Place,
    Word,
    app,
    check_counts,
    command_line,
    tables_of,
    workers_here,
)
from d2rkit.experiments.experiment import read_runs
from d2rkit.planning.cost import duration, lines, plan, survivors_of
from d2rkit.planning.timing import measure

ASSUMPTIONS = """Counted: training with validation, every attack at every checkpoint, curve over eps, masking checks.
Assumed: a run that has begun costs as much as a new one; workers do not slow each other down; AWP perturbs from the
first epoch on."""


@app.command(name="plan")
def plan_command(
    preset: Word,
    rows: tuple[str, ...] = (),
    seeds: int = 0,
    workers: int = -1,
    threads: int = 1,
    clean: float = 0.0,
    robust: float = 0.0,
    steps: int = 5,
    clock: str = "wall",
    changes: tyro.conf.OmitArgPrefixes[Changes] = AS_IS,
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Time a few steps and batches here and estimate what a table will cost: hours, memory, disk; trains nothing.

    Args:
        preset: a table by name, e.g. quick, or a family of tables, e.g. paper.
        rows: only these rows.
        seeds: only the first N seeds (0: the preset's).
        workers: processes on this machine (-1: one per core on a CPU, sequential runs on a GPU).
        threads: torch threads per worker.
        clean: expected clean accuracy, from 0 to 1 (0: taken from finished cells, else assumed).
        robust: expected AutoAttack accuracy, from 0 to 1 (0: likewise).
        steps: training steps to time per method.
        clock: wall, or cpu: CPU time, for a busy machine (with --threads 1).
    """
    workers = workers_here(workers, threads, place)
    check_counts(steps=steps)
    hands, cores = max(1, workers), os.cpu_count() or 1
    runs = read_runs(place.runs_root)
    plans = []
    for chosen in tables_of(preset, changes):
        experiments = chosen.experiments(rows, seeds)
        survivors = survivors_of(chosen, runs, clean, robust)
        measured = measure(
            experiments, survivors.attacked, threads=threads, device=place.device, clock=clock, steps=steps
        )
        done = {run.experiment.run_name for run in runs}
        plans.append(plan(chosen, rows, seeds, done, measured, survivors))
        print(*lines(plans[-1], hands), "", sep="\n", flush=True)
    if len(plans) > 1:
        print(f"all {len(plans)} tables: {duration(sum(each.seconds(hands) for each in plans))}")
    print(ASSUMPTIONS)
    print(f"Measured: {steps} training steps of a kind, {threads} thread(s) of {cores} cores, {clock} clock.")
    if any(each.left for each in plans):
        spread = ("--workers", str(workers), "--threads", str(threads))
        print("the rest:", command_line("reproduce", preset, rows, seeds, changes, place, *spread))
    else:
        print("nothing is left; the table:", command_line("table", preset, (), 0, changes, place))
