"""The command `export`: a trained target for other programs."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro

from d2rkit.cli.base import HERE, File, Place, Word, app, number_words
from d2rkit.core.digests import weights_digest
from d2rkit.core.files import read_json
from d2rkit.core.validation import nearest
from d2rkit.data.datasets import DATASETS, load_data
from d2rkit.experiments.experiment import Experiment, read_run
from d2rkit.experiments.plugins import command_words
from d2rkit.networks.export import SUFFIXES, export_network
from d2rkit.networks.loading import load_released
from d2rkit.planning.synthetic import shape_of
from d2rkit.training.guides import guide_of


@app.command(name="export")
def export_command(
    source: Word,
    to: str = "onnx",
    output: File = "",
    checkpoint: str = "best",
    data: str = "",
    network: str = "",
    key: str = "",
    mean: str = "",
    std: str = "",
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Export a trained target as ONNX, TorchScript or safetensors, after verifying that the logits agree.

    The exported network takes float32 images (N, channels, height, width) with pixels in [0, 1]; any input
    normalisation is part of it, and its metadata names the classes. `d2rkit evaluate FILE` reads the safetensors file.

    Args:
        source: a run folder, a run's name in the runs folder, or a checkpoint file, as for evaluate.
        to: onnx (needs d2rkit[export]), torchscript or safetensors.
        output: the file to write (default: named after the source, in the current folder).
        checkpoint: for a run: best (on the validation images) or last.
        data: for a foreign file: the data set its network was trained on (default: cifar10).
        network: for a foreign file: the architecture (default: inferred from the file).
        key: which network, if the file contains several; for a run or one of the kit's checkpoints: target or guide.
        mean: for a foreign file: mean of the input normalisation, as for evaluate.
        std: for a foreign file: the standard deviation, likewise.
    """
    if to not in SUFFIXES:
        raise nearest(to, SUFFIXES, "format")
    options = {"data": data, "network": network, "mean": mean, "std": std}
    trained = _find(source, checkpoint, place.runs_root, key, options)
    if trained.data not in DATASETS:
        raise nearest(trained.data, DATASETS, "data set")
    shape = shape_of(trained.data)
    loaded = load_released(
        trained.weights, trained.network or None, shape.size, key=trained.key or None, mean=mean or None,
        std=std or None, shape=(shape.classes, shape.size, shape.channels),
    )  # fmt: skip
    image = (shape.channels, shape.size, shape.size)
    with torch.no_grad():
        outputs = loaded.model.eval()(torch.zeros(1, *image)).shape[1]
    classes, why_none = _class_names(trained.data, place.data_root, outputs)
    notes: dict[str, Any] = {
        "source": trained.name, "network": trained.network, "data": trained.data, "classes": classes,
        "input": f"images: float32 (N, {', '.join(map(str, image))}), pixels in [0, 1]", "output": "logits",
        "normalisation": loaded.normalisation, "weights": weights_digest(loaded.model), "d2rkit": version("d2rkit"),
    }  # fmt: skip
    file = output or f"{trained.name}{SUFFIXES[to]}"
    done = export_network(loaded.model, file, to, image, notes, name=trained.network or None)
    print(*loaded.notes, f"input normalisation: {loaded.normalisation}", sep="\n")
    if why_none:
        print(f"the metadata has no class names, since {why_none}")
    print(f"written: {done.path}, {notes['input']}")
    print(f"its logits differ from the network's by at most {done.difference:.1e} on {done.images} random images")
    if to == "safetensors":
        words = ["d2rkit", "evaluate", str(done.path), "--data", trained.data]
        words += ["--network", trained.network] if trained.network else []
        words += ["--eps", number_words(trained.eps)] if trained.eps else []
        print(f"to attack it: {shlex.join([*words, *command_words()])}")


class Trained(NamedTuple):
    """Where a trained network lies, and what is known of it; network and key are "" where the file must tell,
    eps, the radius of its evaluation, is 0 where nothing does."""

    weights: Path
    name: str
    data: str
    network: str
    key: str
    eps: float = 0.0


def _find(source: str, checkpoint: str, runs_root: Path, key: str, options: dict[str, str]) -> Trained:
    """ValueError for options that a run or a checkpoint of the kit answers itself."""
    path = Path(source).expanduser()
    folder = path if path.exists() else runs_root / source
    if folder.is_dir():
        if checkpoint not in ("best", "last"):
            raise ValueError(f"unknown checkpoint {checkpoint!r}; allowed: best, last")
        cell = read_run(folder).experiment
        weights, name = folder / f"{checkpoint}.safetensors", f"{cell.run_name}-{checkpoint}"
        if not weights.is_file():
            raise ValueError(f"{folder} holds no {weights.name}: it was shipped without its weights")
    elif path.is_file():
        weights, name, cell = path, path.stem, _settings_beside(path)
    else:
        raise ValueError(f"{source} is neither a run folder, nor a run below {runs_root}, nor a file")
    if cell is None:
        return Trained(weights, name, options["data"] or "cifar10", options["network"], key)
    if given := [f"--{option}" for option, value in options.items() if value]:
        raise ValueError(f"{source} says itself what {' and '.join(given)} would: leave that out")
    networks = {"target": cell.target, "guide": guide_of(cell)}
    key = key or "target"
    if key not in networks:
        raise nearest(key, networks, "network of a run")
    if not networks[key]:
        raise ValueError(f"{source} has no guide: {cell.method} trains the target alone")
    return Trained(weights, name if key == "target" else f"{name}-guide", cell.data, networks[key], key, cell.radius)


def _settings_beside(path: Path) -> Experiment | None:
    """What a checkpoint of data/checkpoints was trained with, from the file of the same name beside it; None for a
    foreign checkpoint, whatever lies beside that."""
    try:
        return Experiment.from_dict(read_json(path.with_suffix(".json")))
    except ValueError:
        return None


def _class_names(data: str, data_root: str, outputs: int) -> tuple[list[str], str]:
    """The names, or why there are none."""
    try:
        names = list(load_data(data, data_root or None, download=False, test_only=True).class_names)
    except ValueError:
        return [], f"{data} is not here"
    if len(names) != outputs:
        return [], f"the network tells {outputs} classes apart, and {data} here has {len(names)}"
    return names, ""
