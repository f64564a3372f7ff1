"""The `d2rkit` command: doctor, data, reproduce, train, evaluate, table, lab."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tqdm.auto import tqdm

from d2rkit.border import PROJECT, home, nearest
from d2rkit.data import DATASETS, load_data
from d2rkit.evaluation import ATTACKS, evaluate
from d2rkit.experiment import Busy, Experiment, Interrupted, chosen_test, read_runs, run
from d2rkit.models import load_released
from d2rkit.presets import Preset, get_preset
from d2rkit.sweep import sweep

app = tyro.extras.SubcommandApp()
Word = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class Place:
    """Where things lie and what computes; the defaults suit a checkout."""

    runs: str = ""
    """Folder of run folders (default: $D2RKIT_RUNS, else runs/)."""
    data_root: str = ""
    """Folder of data sets (default: $D2RKIT_DATA, else data/)."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    @property
    def runs_root(self) -> Path:
        return Path(self.runs) if self.runs else home("runs")


@app.command
def doctor() -> None:
    """Say what this machine has, and what is missing for which part of the kit."""
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    for package, part in (("torch", ""), ("torchvision", ""), ("pyautoattack", ""), ("lightning-fabric", ""),
                          ("jupyterlab", "[lab]"), ("ipywidgets", "[lab]"), ("submitit", "[slurm]")):  # fmt: skip
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} is missing" + (f": pip install -e '.{part}'" if part else ": run `make install`"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only (no GPU is needed for digits)"
    print(f"Device: {device}")
    for name in DATASETS:
        try:
            data = load_data(name, subset=None, download=False)
            print(
                f"  {name}: {len(data.train)} train, {len(data.val)} validation, {len(data.test)} test; {data.source}"
            )
        except ValueError as error:
            print(f"  {name}: {error}")


@app.command
def data(name: Word, subset: str = "", place: tyro.conf.OmitArgPrefixes[Place] = Place()) -> None:
    """Fetch a data set if it is not there, decode it once, and say what it holds.

    Args:
        name: digits, cifar10, cifar100 or tiny-imagenet.
        subset: number of training images, e.g. 10k.
    """
    found = load_data(name, place.data_root or None, subset or None)
    size = f"{found.image_size}x{found.image_size}x{found.channels}"
    print(f"{name}: {found.num_classes} classes, {size} pixels; {found.source}")
    print(f"{len(found.train)} training, {len(found.val)} validation, {len(found.test)} test images")


@app.command
def reproduce(
    preset: Word,
    methods: tuple[str, ...] = (),
    seeds: int = 0,
    workers: int = -1,
    threads: int = 1,
    results: str = "",
    place: tyro.conf.OmitArgPrefixes[Place] = Place(),
) -> None:
    """Fill a table: train and attack every cell that is not done, then write table and figures.

    Args:
        preset: a table by name, e.g. quick.
        methods: only these rows.
        seeds: only the first so many seeds (0: the preset's).
        workers: processes on this machine (-1: one a core on a CPU, one run after the other on a GPU).
        threads: torch threads of each worker.
        results: folder for table and figures (default: results/PRESET).
    """
    chosen = get_preset(preset)
    experiments = chosen.experiments(methods, seeds)
    if workers < 0:
        on_gpu = torch.cuda.is_available() and place.device != "cpu"
        workers = 0 if on_gpu else max(1, (os.cpu_count() or 1) // threads)
    print(f"{chosen.title}: {len(experiments)} runs in {place.runs_root}", flush=True)
    outcomes = sweep(
        experiments, place.runs_root, workers=workers, threads=threads, device=place.device,
        data_root=place.data_root or None,
    )  # fmt: skip
    failures = [o for o in outcomes if o.status != "done"]
    _write(chosen, experiments, place, results)
    for outcome in failures:
        print(f"d2rkit: {outcome.experiment.run_name}: {outcome.status}", file=sys.stderr)
    if failures:
        sys.exit(1)


@app.command
def table(
    preset: Word,
    results: str = "",
    place: tyro.conf.OmitArgPrefixes[Place] = Place(),
) -> None:
    """Write table and figures of a preset anew from the runs that are done; trains nothing.

    Args:
        preset: a table by name, e.g. quick.
        results: folder for table and figures (default: results/PRESET).
    """
    chosen = get_preset(preset)
    _write(chosen, chosen.experiments(), place, results)


def _write(preset: Preset, experiments: list[Experiment], place: Place, results: str) -> None:
    from d2rkit.figures import write_figures  # pandas and seaborn take seconds to import
    from d2rkit.tables import write_table

    names = {e.run_name for e in experiments}
    runs = [r for r in read_runs(place.runs_root) if r.experiment.run_name in names]
    folder = Path(results) if results else home("results") / preset.name
    files = write_table(preset, runs, folder) + (write_figures(preset, runs, folder) if runs else [])
    print((folder / "table.md").read_text())
    print("written:", *(f"  {path}" for path in files), sep="\n")


@app.command
def train(
    experiment: tyro.conf.OmitArgPrefixes[Experiment],
    place: tyro.conf.OmitArgPrefixes[Place] = Place(),
) -> None:
    """Train and evaluate one pair; the same command goes on where it stopped."""
    experiment.check()
    folder = place.runs_root / experiment.run_name
    print(f"run folder: {folder}", flush=True)
    with tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| [{elapsed} gone, {remaining} left]{postfix}") as bar:

        def report(done: float, words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)

        done = run(experiment, place.runs_root, device=place.device, data_root=place.data_root or None, report=report)
    print(f"status: {done.result['status']}")
    for checkpoint, accuracies in done.result["accuracy"].items():
        print(f"{checkpoint}: " + ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items()))
    if done.result["status"].startswith("failed"):
        sys.exit(1)


@app.command(name="evaluate")
def evaluate_command(
    checkpoint: Word,
    data: str = "cifar10",
    network: str = "",
    attacks: tuple[str, ...] = ATTACKS,
    eps: float = 8 / 255,
    seed: int = 0,
    test_images: int = 0,
    batch_size: int = 250,
    place: tyro.conf.OmitArgPrefixes[Place] = Place(),
) -> None:
    """Attack a released checkpoint (TRADES, LBGAT, AWP, D2R and like files) and print its accuracies.

    Args:
        checkpoint: a .pt, .pth or .safetensors file.
        data: the data set it was trained on.
        network: the architecture, e.g. wrn-34-10 (default: read off the file).
        attacks: what to attack with.
        eps: radius of the L-infinity ball, pixel scale.
        seed: of the attacks' random starts.
        test_images: only the first so many test images, of every class alike (0: all).
        batch_size: images attacked at once.
    """
    model, dropped = load_released(checkpoint, network or None)
    if dropped:
        print(f"dropped from the file, since the network never uses them: {len(dropped)} tensors ({dropped[0]}, ...)")
    found = load_data(data, place.data_root or None)
    test = chosen_test(Experiment(data=data, test_images=test_images), found)
    device = place.device if place.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    with tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| [{elapsed} gone, {remaining} left]{postfix}") as bar:

        def report(done: float, words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)

        result = evaluate(model.to(device), test, attacks, eps, seed, batch_size=batch_size, report=report)
    for name, accuracy in result.summary().items():
        print(f"{name:12} {accuracy:7.2%} ± {result.standard_error(name):.2%}")
    for warning in result.warnings:
        print(f"autoattack says: {warning}")


@app.command
def lab(notebook: Word = "00_start_here.ipynb", port: int = 8888, browser: bool = True) -> None:
    """Open JupyterLab on a notebook of the kit.

    Args:
        notebook: a file in notebooks/.
        port: where JupyterLab listens (the next free one if it is taken).
        browser: whether to open one.
    """
    if find_spec("jupyterlab") is None:
        raise ValueError("JupyterLab is not installed: pip install -e '.[lab]'")
    folder = PROJECT / "notebooks"
    if not (folder / notebook).exists():
        raise nearest(notebook, sorted(p.name for p in folder.glob("*.ipynb")), "notebook")
    words = [sys.executable, "-m", "jupyterlab", str(folder / notebook), f"--port={port}", f"--notebook-dir={PROJECT}"]
    words += [] if browser else ["--no-browser"]
    words += ["--allow-root"] if os.geteuid() == 0 else []  # in a container, which has no other user
    sys.exit(subprocess.call(words))


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
