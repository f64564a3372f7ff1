"""The command `export`: a trained target for other programs."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from d2rkit.border import nearest
from d2rkit.checkpoints import read_json
from d2rkit.cli.base import HERE, File, Place, Word, app
from d2rkit.data import DATASETS, load_data
from d2rkit.digests import weights_digest
from d2rkit.experiment import Experiment, read_run
from d2rkit.models import load_released
from d2rkit.network_export import SUFFIXES, export_network
from d2rkit.rehearsal import shape_of


@app.command(name="export")
def export_command(
    source: Word,
    to: str = "onnx",
    output: File = "",
    checkpoint: str = "best",
    data: str = "cifar10",
    network: str = "",
    key: str = "",
    mean: str = "",
    std: str = "",
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Write a trained target as ONNX, TorchScript or safetensors, once its logits there were found equal.

    The new file takes float32 images (N, channels, height, width) with pixels in [0, 1], normalises them itself where
    its network was trained so, and names the classes in its metadata; evaluate takes the safetensors back.

    Args:
        source: a run folder, a run's name below the runs folder, or a checkpoint file, as for evaluate.
        to: onnx (needs d2rkit[export]), torchscript or safetensors.
        output: the new file (default: named after the source, in the current folder).
        checkpoint: of a run: best (on the validation images) or last.
        data: of a file: the data set its network was trained on.
        network: of a file: the architecture (default: read off the file).
        key: of a file: which network, where it holds several.
        mean: of a file: the input normalisation, as for evaluate.
        std: of a file: likewise.
    """
    if to not in SUFFIXES:
        raise nearest(to, SUFFIXES, "format")
    found = _find(source, checkpoint, place.runs_root, Trained(Path(source), "", data, network, key))
    if found.data not in DATASETS:
        raise nearest(found.data, DATASETS, "data set")
    shape = shape_of(found.data)
    loaded = load_released(
        found.weights, found.network or None, shape.size, key=found.key or None, mean=mean or None, std=std or None,
        shape=(shape.classes, shape.size, shape.channels),
    )  # fmt: skip
    classes = _class_names(found.data, place.data_root)
    image = (shape.channels, shape.size, shape.size)
    notes: dict[str, Any] = {
        "source": found.name, "network": found.network, "data": found.data, "classes": classes,
        "input": f"images: float32 (N, {', '.join(map(str, image))}), pixels in [0, 1]", "output": "logits",
        "normalisation": loaded.normalisation, "weights": weights_digest(loaded.model), "d2rkit": version("d2rkit"),
    }  # fmt: skip
    file = output or f"{found.name}{SUFFIXES[to]}"
    done = export_network(loaded.model, file, to, image, notes, name=found.network or None)
    print(*loaded.notes, f"input normalisation: {loaded.normalisation}", sep="\n")
    if not classes:
        print(f"the metadata has no class names, since {found.data} is not here")
    print(f"written: {done.path}, {notes['input']}")
    print(f"its logits differ from the network's by at most {done.difference:.1e} on {done.images} random images")
    if to == "safetensors":
        option = f" --network {found.network}" if found.network else ""
        print(f"to attack it: d2rkit evaluate {done.path} --data {found.data}{option}")


class Trained(NamedTuple):
    """Where a trained network lies, and what is known of it; network and key are "" where the file must tell."""

    weights: Path
    name: str
    data: str
    network: str
    key: str


def _find(source: str, checkpoint: str, runs_root: Path, otherwise: Trained) -> Trained:
    path = Path(source).expanduser()
    folder = path if path.exists() else runs_root / source
    if folder.is_dir():
        if checkpoint not in ("best", "last"):
            raise ValueError(f"unknown checkpoint {checkpoint!r}; allowed: best, last")
        run = read_run(folder)
        weights = folder / f"{checkpoint}.safetensors"
        if not weights.is_file():
            raise ValueError(f"{folder} holds no {weights.name}: it was shipped without its weights")
        cell, name = run.experiment, f"{run.experiment.run_name}-{checkpoint}"
    elif path.suffix == ".safetensors" and path.with_suffix(".json").is_file():  # of data/checkpoints
        weights, name = path, path.stem
        cell = Experiment.from_dict(read_json(path.with_suffix(".json")))
    elif path.is_file():
        return otherwise._replace(weights=path, name=path.stem)
    else:
        raise ValueError(f"{source} is neither a run folder, nor a run below {runs_root}, nor a file")
    return Trained(weights, name, cell.data, cell.target, "target")


def _class_names(data: str, data_root: str) -> list[str]:
    """None of them where the data set is not at hand."""
    try:
        return list(load_data(data, data_root or None, download=False, test_only=True).class_names)
    except ValueError:
        return []
