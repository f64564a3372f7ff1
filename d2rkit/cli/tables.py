"""Commands about whole tables: reproduce, tune, table, pack."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from d2rkit.cli.base import (
    AS_IS,
    HERE,
    Changes,
    Folder,
    Place,
    Word,
    app,
    check_counts,
    log_to,
    tables_of,
    workers_here,
)
from d2rkit.core.files import write_atomically
from d2rkit.core.paths import home
from d2rkit.data.datasets import load_data
from d2rkit.experiments.experiment import Experiment, machine, read_runs
from d2rkit.experiments.own_presets import with_versions
from d2rkit.experiments.presets import Preset, get_preset
from d2rkit.experiments.sweep import sweep


@app.command
def reproduce(
    preset: Word,
    rows: tuple[str, ...] = (),
    seeds: int = 0,
    workers: int = -1,
    threads: int = 0,
    devices: int = 1,
    log: tuple[str, ...] = (),
    results: Folder = "",
    dry_run: bool = False,
    batch: int = 2,
    changes: tyro.conf.OmitArgPrefixes[Changes] = AS_IS,
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Fill a table: train and attack every unfinished cell, then write the table and its figures.

    Args:
        preset: a table by name, e.g. quick, or a family of tables, e.g. paper.
        rows: only these rows.
        seeds: only the first N seeds (0: the preset's).
        workers: processes on this machine (-1: one per core on a CPU, sequential runs on a GPU; one in a dry run,
            whose networks are big).
        threads: torch threads per worker (0: one; in a dry run, or without workers, all cores).
        devices: GPUs, or processes on a CPU, that share each batch; runs are then sequential.
        log: besides history.csv, log each epoch to tensorboard, mlflow or both, in each run's folder.
        results: folder for table and figures (default: results/PRESET).
        dry_run: instead, smoke-test every cell on random images: a step, a resume, another step, one batch of each
            attack; writes results/PRESET/dry_run.csv and no run.
        batch: batch size of a dry run.
    """
    if dry_run:
        check_counts(batch=batch)
        folder = Path(results) if results else home("results") / Path(preset).stem
        workers = 1 if workers == -1 else workers
        threads = threads or max(1, (os.cpu_count() or 1) // max(1, workers))
        workers_here(workers, threads, place)
        return _dry_run(tables_of(preset, changes), rows, batch, workers, threads, place.device, folder)
    workers = workers_here(workers, threads or 1, place, devices)
    failed = False
    for chosen in tables_of(preset, changes):
        experiments = chosen.experiments(rows, seeds)
        log_to(log, experiments, place)
        print(f"{chosen.title}: {len(experiments)} runs in {place.runs_root}", flush=True)
        outcomes = sweep(
            experiments, place.runs_root, workers=workers, threads=threads, device=place.device, count=devices,
            data_root=place.data_root or None,
        )  # fmt: skip
        there = _write(chosen, experiments, place, _folder(results, preset, chosen))
        for outcome in outcomes:
            left_out = outcome.status == "done" and outcome.experiment.run_name not in there
            if left_out or outcome.status != "done":
                failed = True
                words = "left out of the table" if left_out else outcome.status
                print(f"d2rkit: {outcome.experiment.run_name}: {words}", file=sys.stderr)
    if failed:
        sys.exit(1)


def _dry_run(
    tables: list[Preset], rows: tuple[str, ...], batch: int, workers: int, threads: int, device: str, folder: Path
) -> None:
    from d2rkit.planning.dry_run import CUT, dry_run, write_log

    cells = dry_run(tables, rows, batch=batch, workers=workers, threads=threads, device=device)
    at_once = f"{workers} process(es) of {threads} thread(s)"
    hardware, names = machine(device).split(", ")[0], ", ".join(table.name for table in tables)
    print(f"dry run of {names} at batch {batch}, {at_once}, {hardware}\n{CUT}", flush=True)
    file, rehearsals = folder / "dry_run.csv", []
    for rehearsal in cells:
        rehearsals.append(rehearsal)
        print(rehearsal, flush=True)
        write_log(file, rehearsals)
    failed = [rehearsal for rehearsal in rehearsals if rehearsal.error]
    peak = max(rehearsal.memory for rehearsal in rehearsals) / 2**20
    print(f"{len(rehearsals) - len(failed)} of {len(rehearsals)} cells ran; at most {peak:.0f} MiB; log: {file}")
    if failed:
        sys.exit(1)


@app.command
def tune(
    preset: Word,
    rates: tuple[float, ...] = (0.05, 0.1, 0.2),
    subset: str = "auto",
    epochs: int = 3,
    rows: tuple[str, ...] = (),
    workers: int = -1,
    threads: int = 0,
    results: Folder = "",
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Search learning rates for each row of a table with the same small budget, on validation images.

    Args:
        preset: a table by name, e.g. small.
        rates: the learning rates to try.
        subset: number of training images per trial (auto: 3k, or all where there are fewer).
        epochs: epochs per trial.
        rows: only these rows.
        workers: processes on this machine (-1: one per core on a CPU, sequential runs on a GPU).
        threads: torch threads per worker (0: one; without workers, all cores).
        results: folder for learning_rates.csv (default: results/PRESET).
    """
    from d2rkit.experiments.tuning import outcomes, trials  # pandas takes a second to import

    chosen = get_preset(preset)
    if subset == "auto":
        data = load_data(chosen.base.data, place.data_root or None)
        subset = "3k" if len(data.train) + len(data.val) > 3000 else ""
    row_trials = trials(chosen, rates, subset, epochs, rows)
    workers = workers_here(workers, threads or 1, place)
    print(f"{chosen.title}: {len(row_trials)} trials in {place.runs_root}", flush=True)
    done = sweep(
        [trial for _, trial in row_trials], place.runs_root, workers=workers, threads=threads, device=place.device,
        data_root=place.data_root or None,
    )  # fmt: skip
    frame = outcomes(row_trials, place.runs_root)
    if len(frame):  # else an earlier search's results would give way to nothing
        file = (Path(results) if results else home("results") / chosen.name) / "learning_rates.csv"
        with write_atomically(file) as draft:
            frame.to_csv(draft, index=False, lineterminator="\n")
        print(frame.to_string(index=False), f"written: {file}", sep="\n")
    failures = [outcome for outcome in done if outcome.status != "done"]
    for outcome in failures:
        print(f"d2rkit: {outcome.experiment.run_name}: {outcome.status}", file=sys.stderr)
    if failures:
        sys.exit(1)


@app.command
def table(
    preset: Word,
    results: Folder = "",
    changes: tyro.conf.OmitArgPrefixes[Changes] = AS_IS,
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Rebuild a preset's table and figures from the finished runs; trains nothing.

    Args:
        preset: a table by name, e.g. quick, or a family of tables, e.g. paper.
        results: folder for table and figures (default: results/PRESET).
    """
    if place.runs and not place.runs_root.is_dir():  # else a slip of the pen would replace a table by an empty one
        raise ValueError(f"the runs folder {place.runs} does not exist")
    written = [
        _write(chosen, chosen.experiments(), place, _folder(results, preset, chosen))
        for chosen in tables_of(preset, changes)
    ]
    if not any(written):
        sys.exit(2)


@app.command(name="pack")
def pack_command(
    preset: Word,
    folder: Annotated[Folder, tyro.conf.Positional],
    weights: Folder = "",
    half: bool = False,
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Copy a table's runs (settings, histories, per-image correctness flags) to a folder small enough for git.

    Args:
        preset: a table by name, e.g. quick.
        folder: receives runs/ and the table; a run's file with other content is never replaced, nor another table.
        weights: a folder for the weights of each row's first seed (default: none are copied).
        half: store those weights in float16; `verify` reports how many flags the rounding changes.
    """
    if half and not weights:
        raise ValueError("--half is about the networks; name a folder for them with --weights")
    from d2rkit.reporting.pack import pack  # pandas takes a second to import

    files = pack(get_preset(preset), read_runs(place.runs_root), folder, weights or None, half=half)
    print(f"{len(files)} files in {folder}" + (f" and {weights}" if weights else ""))


def _folder(results: str, asked: str, chosen: Preset) -> Path:
    """Where a table goes; each table of a family gets a folder of its own."""
    if not results:
        return home("results") / chosen.name
    return Path(results) if Path(asked).stem == chosen.name else Path(results) / chosen.name


def _write(preset: Preset, experiments: list[Experiment], place: Place, folder: Path) -> set[str]:
    """The whole table, whichever of its cells were asked for, with seeds beyond the preset's if they were; returns the
    names of its runs. Without any, a table that is there already stays."""
    from d2rkit.reporting.figures import write_figures  # pandas and seaborn take seconds to import
    from d2rkit.reporting.tables import write_table

    all_runs = read_runs(place.runs_root)
    preset = with_versions(preset, all_runs)
    names = {e.run_name for e in [*preset.experiments(), *experiments]}
    runs = [r for r in all_runs if r.experiment.run_name in names]
    if not runs:
        kept = f"; {folder / 'table.md'} stays as it is" if (folder / "table.md").exists() else ""
        print(f"d2rkit: no finished run of {preset.name} in {place.runs_root}{kept}", file=sys.stderr)
        if kept:
            return set()
    files = write_table(preset, runs, folder) + (write_figures(preset, runs, folder) if runs else [])
    print((folder / "table.md").read_text(encoding="utf-8"))
    print("written:", *(f"  {path}" for path in files), sep="\n")
    return {run.experiment.run_name for run in runs}
