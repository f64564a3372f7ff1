"""Commands about this machine and about one run: doctor, data, train, evaluate, lab."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch
import tyro

from d2rkit.cli.base import HERE, Folder, Place, Word, app, log_to, number_words, progress_bar
from d2rkit.cli.presenting import copies_to_present, surroundings
from d2rkit.cli.working_copies import update
from d2rkit.core.devices import resolve
from d2rkit.core.paths import check_path, home
from d2rkit.core.validation import nearest
from d2rkit.data.datasets import DATASETS, load_data
from d2rkit.experiments.experiment import Experiment, machine
from d2rkit.experiments.plugins import LOADED, VARIABLE
from d2rkit.experiments.run import run
from d2rkit.planning.timing import bfloat16_pace

JUPYTER = Path(__file__).parent / "jupyter"  # no news in a popup; saved notebooks that can be opened again
PRESENTING = JUPYTER / "presenting"  # slides


@app.command
def doctor() -> None:
    """Report what this machine has, and what is missing for which part of the kit."""
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    for package, part in (("torch", ""), ("torchvision", ""), ("pyautoattack", ""), ("lightning-fabric", ""),
                          ("jupyterlab", "[lab]"), ("ipywidgets", "[lab]"), ("anywidget", "[lab]"),
                          ("submitit", "[slurm]"), ("onnx", "[export]"), ("onnxscript", "[export]"),
                          ("onnxruntime", "[export]"), ("tensorboard", "[tensorboard]"), ("mlflow-skinny", "[mlflow]"),
                          ("timm", "[zoo]"), ("transformers", "[zoo]")):  # fmt: skip
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} is missing" + (f": pip install -e '.{part}'" if part else ": run `make install`"))
    kind = resolve().type
    print(f"Device: {machine()}" + (" (no GPU is needed for digits)" if kind == "cpu" else ""))
    if kind == "cpu" and torch.backends.mps.is_available():
        print("  there is an Apple GPU, which is used where you ask for it: --device mps")
    try:
        pace = bfloat16_pace()
    except (RuntimeError, TypeError) as error:
        print(f"  bfloat16 could not be tried: {error}")
    else:
        advice = "can pay for large networks" if pace > 1.1 else "does not pay"
        print(f"  a bfloat16 convolution runs at {pace:.2g} times the pace of float32: --precision bf16-mixed {advice}")
    for name in DATASETS:
        try:
            data = load_data(name, subset=None, download=False)
            print(
                f"  {name}: {len(data.train)} train, {len(data.val)} validation, {len(data.test)} test; {data.source}"
            )
        except ValueError as error:
            print(f"  {name}: {error}")


@app.command
def data(name: Word, subset: str = "", place: tyro.conf.OmitArgPrefixes[Place] = HERE) -> None:
    """Download a data set if it is missing, decode it once, and report what it contains.

    Args:
        name: digits, cifar10, cifar100, tiny-imagenet or tiny-imagenet-20 (twenty classes of it).
        subset: number of training images, e.g. 10k.
    """
    images = load_data(name, place.data_root or None, subset or None)
    size = f"{images.image_size}x{images.image_size}x{images.channels}"
    print(f"{name}: {images.num_classes} classes, {size} pixels; {images.source}")
    print(f"{len(images.train)} training, {len(images.val)} validation, {len(images.test)} test images")


@app.command
def train(
    experiment: tyro.conf.OmitArgPrefixes[Experiment],
    devices: int = 1,
    log: tuple[str, ...] = (),
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Train and evaluate one pair; rerun the same command to resume.

    Args:
        devices: GPUs, or processes on a CPU, that share each batch.
        log: besides history.csv, log each epoch to tensorboard, mlflow or both, in the run folder.
    """
    experiment.check()
    log_to(log, [experiment], place)
    folder = place.runs_root / experiment.run_name
    print(f"run folder: {folder}", flush=True)
    with progress_bar() as report:
        done = run(
            experiment, place.runs_root, device=place.device, count=devices, data_root=place.data_root or None,
            report=report,
        )  # fmt: skip
    print(f"status: {done.result['status']}")
    if done.result["accuracy"]:
        print(f"accuracy on {done.result['n_test']} test images, eps {number_words(experiment.radius)} (pixel scale):")
    for checkpoint, accuracies in done.result["accuracy"].items():
        print(f"{checkpoint}: " + ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items()))
    if looked := done.result.get("masking_verdict"):
        print(f"gradient masking: {looked}")
    for checkpoint, warnings in done.result.get("autoattack_warnings", {}).items():
        for warning in warnings:
            print(f"autoattack says of {checkpoint}: {warning}")
    if done.result["status"].startswith("failed"):
        sys.exit(1)


@app.command
def lab(
    notebook: Word = "00_start_here.ipynb", port: int = 8888, browser: bool = True, folder: Folder = "",
    in_place: bool = False, present: bool = False,
) -> None:  # fmt: skip
    """Open JupyterLab on your own copy of one of the kit's notebooks (needs a checkout; the package has no notebooks).

    Args:
        notebook: a file in notebooks/.
        port: JupyterLab's port (the next free one if it is taken).
        browser: open a browser.
        folder: where your copies are (default: my_notebooks). Files you change are kept; the others follow the kit.
        in_place: open the kit's own notebooks, to develop the kit.
        present: for lecturers: code folded, large panels, one section per screen; Page Down and Page Up turn the pages.
            Uses separate copies (default: presenting) and separate predictions.
    """
    if present and in_place:
        raise ValueError("--present works on copies: leave out --in-place")
    kit = home("notebooks")
    there = sorted(p.name for p in kit.glob("*.ipynb"))
    if not there:
        raise ValueError(
            f"there are no notebooks in {kit}: a checkout of d2rkit has them, the installed package does not; run "
            "`d2rkit lab` in its top folder, or set $D2RKIT_NOTEBOOKS to its folder notebooks"
        )
    if notebook not in there:
        raise nearest(notebook, there, "notebook")
    if find_spec("jupyterlab") is None:
        raise ValueError("JupyterLab is not installed: pip install -e '.[lab]'")
    place = check_path(folder).expanduser().absolute() if folder else home("presenting" if present else "my_notebooks")
    place = kit if in_place else place
    if place != kit:
        done = copies_to_present(kit, place) if present else update(kit, place)
        print(f"Your notebooks are in {place}.")
        for name in done.kept:
            print(f"  {name}: yours differs from the kit's and stays; to get the kit's, rename yours")
    words = [sys.executable, "-m", "jupyterlab", str(place / notebook), f"--port={port}"]
    words += [f"--notebook-dir={place.parent}"] + ([] if browser else ["--no-browser"])
    words += ["--allow-root"] if os.geteuid() == 0 else []  # in a container, which has no other user
    settings = os.pathsep.join(filter(None, [str(JUPYTER), os.environ.get("JUPYTER_CONFIG_PATH")]))
    more = {VARIABLE: os.pathsep.join(LOADED), "JUPYTER_CONFIG_PATH": settings}  # kernels know the plugins, too
    if present:
        words.append(f"--LabApp.extra_labextensions_path={PRESENTING / 'labextensions'}")
        more |= {"JUPYTER_CONFIG_PATH": os.pathsep.join([str(PRESENTING), settings]), **surroundings(place)}
    sys.exit(subprocess.call(words, env=os.environ | more))
