"""Networks for the panels: the best pair that this machine has, and undefended ones for contrast.

A shipped CIFAR-10 checkpoint is used where there is one (data/checkpoints/NAME.safetensors, whose
NAME.json is the experiment's config); otherwise a small pair is trained here on scikit-learn's digits.
Either way `source` says in a sentence what is shown.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2rkit.core.files import read_json
from d2rkit.core.paths import shipped
from d2rkit.core.validation import nearest
from d2rkit.data.datasets import load_data
from d2rkit.data.sample_images import CIFAR10_CLASSES, cifar10_20
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import Experiment, read_run
from d2rkit.methods.catalogue import METHODS, get_method
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.networks.checkpoints import load_weights
from d2rkit.networks.loading import load_released
from d2rkit.panels.shares import Share
from d2rkit.reporting.significance import flags_of
from d2rkit.training.guides import by_method
from d2rkit.training.loop import Recipe, fit, generator_for

DATA = ("best", "digits", "cifar10-20")
# What trains a digits pair in about ten seconds on one core; eps in pixel scale.
DIGITS_RECIPE = {
    "epochs": 10, "lr": 0.1, "padding": 0, "flip": False, "batch_size": 64, "steps": 7, "schedule": "cosine",
    "warmup": 2, "eps": 0.2, "step_size": 0.05, "val_steps": 3, "speed": "fast",
}  # fmt: skip


@dataclass(frozen=True)
class SamplePair:
    """A trained pair, in eval mode, and images it has not seen.

    images: (N, C, H, W) in [0, 1]; labels: (N,); eps: the radius it was trained for, pixel scale;
    title: a few words; source: which data and networks these are, in a sentence; experiment: of a shipped one."""

    pair: GuidedPair
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    eps: float
    title: str
    source: str
    experiment: Experiment | None = None

    @property
    def parameters(self) -> int:
        """Of the target."""
        return sum(p.numel() for p in self.pair.target.parameters())

    def choices(self, count: int = 20) -> dict[str, int]:
        """The first `count` images to choose from: what they are called, and their number."""
        return {f"{i}: {self.class_names[self.labels[i]]}": i for i in range(min(count, len(self.labels)))}

    @torch.no_grad()
    def first_right(self, count: int = 20) -> int:
        """Number of the first of `count` images that the target gets right, so that an attack has something to
        break; 0 if there is none."""
        device = next(self.pair.parameters()).device
        right = self.pair.target(self.images[:count].to(device)).argmax(1).cpu() == self.labels[:count]
        return int(right.int().argmax())


def best_pair(
    data: str = "best", method: str = "d2r-cag", seed: int = 0, report: Callable[[float, str], None] | None = None
) -> SamplePair:
    """A pair trained with `method`. data: "cifar10-20" wants a shipped CIFAR-10 checkpoint and the 20 sample
    images, "digits" trains live (about ten seconds), "best" takes CIFAR-10 if it is there and else digits.

    ValueError for an unknown name, or if "cifar10-20" is asked for and its checkpoint or images are missing."""
    if data not in DATA:
        raise nearest(data, DATA, "data for the panels")
    get_method(method)
    if data == "digits":
        return digits_pair(method, seed, report=report)
    try:
        shipped = shipped_pair(method)
    except ValueError:
        if data == "cifar10-20":
            raise
        return digits_pair(method, seed, report=report)
    if report:
        report(1.0, "read")
    return shipped


def shipped_pair(method: str, folder: Path | None = None, like: Experiment | None = None) -> SamplePair:
    """The first CIFAR-10 checkpoint of `method` in data/checkpoints, with the 20 sample images. like: only of the same
    target and training images as this experiment. ValueError if there is none."""
    folder = folder or shipped("checkpoints")
    for file in sorted(folder.glob("*.json")):
        config = read_json(file)
        config = config.get("experiment", config.get("config", config))
        if (config.get("data"), config.get("method")) != ("cifar10", method):
            continue
        if like and any(config.get(name) != getattr(like, name) for name in ("target", "subset")):
            continue
        if file.with_suffix(".safetensors").exists():
            break
    else:
        same = f" with the target and the training images of {like.run_name}" if like else ""
        raise ValueError(f"no CIFAR-10 checkpoint of {method}{same} in {folder}; use data 'digits', which trains here")
    images, labels, names = cifar10_20()
    target = build_model(config["target"], 10)
    guide = build_model(config["guide"], 10) if METHODS[method].needs_guide else None
    pair = load_weights(file.with_suffix(".safetensors"), GuidedPair(target, guide)).eval()
    title = f"{METHODS[method].title} on CIFAR-10"
    beside = f", guide {config['guide']}" if guide else ""
    source = (
        f"Shown: {title}, target {config['target']}{beside}, from the shipped checkpoint {file.stem}; "
        "the images are 20 CIFAR-10 test images."
    )
    experiment = Experiment.from_dict(config) if "eps" in config else None
    return SamplePair(pair, images, labels, names, config.get("eps", 8 / 255), title, source, experiment)


def control_for(
    defended: SamplePair, otherwise: SamplePair, report: Callable[[float, str], None] | None = None
) -> tuple[SamplePair, str]:
    """A network without defence to compare `defended` with, and in a sentence what else differs.

    It is of the same size and saw the same images: trained here for digits, a shipped checkpoint for CIFAR-10. Where no
    such checkpoint is shipped it is `otherwise`, and the sentence says that the comparison is confounded."""
    if defended.images.shape[-1] < 32:
        return digits_pair("natural", report=report), "The same network, trained on the same images; no defence."
    try:
        if defended.experiment is None:
            raise ValueError("its recipe is not known")
        control = shipped_pair("natural", like=defended.experiment)
    except ValueError:
        return otherwise, (
            f"Beware: confounded. No undefended network of the same size, trained on the same images, is shipped. "
            f"{otherwise.title} has {otherwise.parameters:,} parameters, the "
            f"defended target {defended.parameters:,}, and it saw other images for longer: what differs below is due "
            "to all of that."
        )
    if report:
        report(1.0, "read")
    return control, (
        f"The control has the same network ({control.parameters:,} parameters), training images, number of epochs and "
        "learning rate; only the defence is missing. Its last epoch is used: without a defence, PGD accuracy on "
        "validation images is no criterion for selecting one."
    )


def flags_at_hand(
    sample: SamplePair, count: int | None = None, attacks: tuple[str, ...] = ("clean", "pgd20")
) -> dict[str, np.ndarray]:
    """Which test images the target gets right at its eps: (N,) bool. Of a shipped checkpoint those of its shipped run;
    of others, or with `count`, on the first `count` of the sample's own images, now."""
    folder = None
    if count is None and sample.experiment:
        folder = next(iter(sorted(shipped("results").glob(f"*/runs/{sample.experiment.run_name}"))), None)
    if folder:
        run = read_run(folder)
        return {name: flags_of(run, name, next(iter(run.result["accuracy"]))) for name in attacks}
    evaluation = evaluate(sample.pair, (sample.images[:count], sample.labels[:count]), attacks, sample.eps)
    return {name: flags.numpy() for name, flags in evaluation.flags.items()}


def measured(sample: SamplePair) -> dict[str, Share]:
    """`flags_at_hand` as shares."""
    return {name: Share.of(flags) for name, flags in flags_at_hand(sample).items()}


def digits_pair(
    method: str = "d2r-cag", seed: int = 0, epochs: int = 0, report: Callable[[float, str], None] | None = None
) -> SamplePair:
    """Train a pair of small CNNs on digits, here and now. epochs: 0 for the usual number."""
    natural = method == "natural"
    epochs = epochs or (5 if natural else DIGITS_RECIPE["epochs"])
    digits = load_data("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for("init", seed).initial_seed())
        networks = [build_model("cnn-16", 10, 8, 1) for _ in range(2 if METHODS[method].needs_guide else 1)]
    pair = GuidedPair(*networks)
    recipe = Recipe(**DIGITS_RECIPE | {"seed": seed, "epochs": epochs, "warmup": min(2, epochs / 5)})
    recipe = by_method(recipe, method)
    done = fit(pair, digits, recipe, device="cpu", report=report)
    if done.status != "done":
        raise ValueError(f"training on digits ended with: {done.status}")
    title = f"{METHODS[method].title} on digits"
    source = (
        f"Shown: {title}, two CNNs of {sum(p.numel() for p in pair.target.parameters()):,} parameters each "
        if METHODS[method].needs_guide
        else f"Shown: {title}, one CNN of {sum(p.numel() for p in pair.target.parameters()):,} parameters "
    ) + f"trained just now for {epochs} epochs; the images are 8×8 test scans from scikit-learn."
    images, labels = digits.test.pixels(), digits.test.labels
    return SamplePair(pair.eval(), images, labels, digits.class_names, DIGITS_RECIPE["eps"], title, source)


def undefended_cifar10() -> SamplePair:
    """A CIFAR-10 ResNet-18 trained without defence, which the package pyautoattack carries, and the 20
    sample images. ValueError if either is missing."""
    spec = importlib.util.find_spec("pyautoattack")
    file = Path(spec.origin).parent / "examples" / "model_test.pt" if spec and spec.origin else None
    if file is None or not file.is_file():
        raise ValueError(
            "the undefended CIFAR-10 network comes with pyautoattack (examples/model_test.pt), which lacks it"
        )
    images, labels, _ = cifar10_20()
    network = load_released(file, "resnet18", 32).model.eval()
    source = (
        "Shown: a CIFAR-10 ResNet-18 trained without defence (from the package pyautoattack); "
        "the images are 20 CIFAR-10 test images."
    )
    return SamplePair(GuidedPair(network), images, labels, CIFAR10_CLASSES, 8 / 255, "Undefended ResNet-18", source)
