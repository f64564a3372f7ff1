"""The command `evaluate`: attack a checkpoint file from anywhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import tyro

from d2rkit.cli.base import HERE, Folder, Place, Word, app, progress_bar
from d2rkit.core import devices
from d2rkit.core.digests import LENGTH, weights_digest
from d2rkit.core.files import read_json, write_json
from d2rkit.core.validation import check_count
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.autoattack.anytime import seconds_of
from d2rkit.evaluation.evaluate import ATTACKS, Evaluation, accuracy_of, measure_attacks, parse_attacks
from d2rkit.evaluation.evaluator import Evaluator, check_radius
from d2rkit.evaluation.gradient_masking import checks_of, verdict
from d2rkit.experiments.experiment import Experiment, chosen_test, machine
from d2rkit.networks.architectures import MODELS
from d2rkit.networks.loading import load_released
from d2rkit.networks.zoo import is_foreign


@app.command(name="evaluate")
def evaluate_command(
    checkpoint: Word,
    data: str = "cifar10",
    network: str = "",
    key: str = "",
    mean: str = "",
    std: str = "",
    attacks: tuple[str, ...] = ATTACKS,
    eps: float = 8 / 255,
    seed: int = 0,
    eot: int = 1,
    test_images: int = 0,
    batch_size: int = 250,
    attack_precision: str = "auto",
    exact: bool = False,
    budget: str = "",
    masking: bool = True,
    folder: Folder = "",
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Attack a checkpoint (from TRADES, LBGAT, AWP, D2R and similar releases, or from a run) and print its accuracies.

    Only the test images are needed. Rerun the same command to resume an interrupted evaluation.

    Args:
        checkpoint: a .pt, .pth or .safetensors file.
        data: the data set it was trained on.
        network: the architecture, e.g. wrn-34-10 or WideResNet-34-10 (default: inferred from the file), or timm:NAME or
            hf:FOLDER for a timm or transformers classifier (needs d2rkit[zoo]; nothing is downloaded).
        key: which network, if the file contains several, e.g. guide or ema_state_dict.
        mean: mean of the input normalisation it was trained with, if the file does not contain it: one number per
            channel on pixels in [0, 1], e.g. "0.49, 0.48, 0.45", or cifar10, cifar100 or imagenet.
        std: the standard deviation likewise; not needed if mean is a name.
        attacks: the attacks to run: clean, fgsm, autoattack, pgdN or cwN (N steps, e.g. pgd100).
        eps: radius of the L-infinity ball, pixel scale, e.g. 8/255.
        seed: for the attacks' random starts.
        eot: forward passes to average the gradient over, for a randomised network.
        test_images: use only this many test images, balanced over classes (0: all).
        batch_size: images attacked per batch.
        attack_precision: 32-true, tf32 or bf16 for the attacks (auto: tf32 on a CUDA GPU); every attacked image is
            judged in IEEE float32.
        exact: attack the network itself, not a faster copy verified to compute the same function.
        budget: time after which AutoAttack stops with an upper bound, e.g. 90s, 10m or 1.5h (default: none); rerun the
            same command to resume.
        masking: also check for signs of gradient masking.
        folder: where to keep the per-image correctness flags (default: in the runs folder, named after file and
            settings).
    """
    chosen = parse_attacks(attacks)
    check_radius(eps)
    seconds = seconds_of(budget) if budget else None
    for name, count, least in (("test_images", test_images, 0), ("batch_size", batch_size, 1), ("eot", eot, 1)):
        check_count(name, count, least)
    device = devices.resolve(place.device)
    shape = None
    if network in MODELS or is_foreign(network):  # whose tensors say nothing of the images that it takes
        images = load_data(data, place.data_root or None, test_only=True)
        shape = (images.num_classes, images.image_size, images.channels)
    loaded = load_released(
        checkpoint, network or None, key=key or None, mean=mean or None, std=std or None, shape=shape
    )  # fmt: skip
    if loaded.dropped:
        count, first = len(loaded.dropped), loaded.dropped[0]
        print(f"dropped from the file, since the network never uses them: {count} tensors ({first}, ...)")
    print(*loaded.notes, f"input normalisation: {loaded.normalisation}", sep="\n")
    dataset = load_data(data, place.data_root or None, test_only=True)
    test = chosen_test(Experiment(data=data, test_images=test_images), dataset)
    evaluator = Evaluator(
        loaded.model.to(device), test, seed=seed, batch_size=batch_size, exact=exact, eot=eot,
        attack_precision=attack_precision,
    )  # fmt: skip
    settings = {"data": data, "eps": eps, "seed": seed, "count": len(test), "eot": eot, "exact": exact}
    settings |= {"attack_precision": evaluator.attack_precision, "weights": weights_digest(evaluator.network)}
    place_for_flags = Path(folder) if folder else place.runs_root / _name(checkpoint, settings)
    print(f"flags: {place_for_flags}", flush=True)
    with progress_bar() as report:
        result = measure_attacks(evaluator, chosen, eps, folder=place_for_flags, report=report, seconds=seconds)
        looked = "not looked for" + " before AutoAttack is done" * bool(result.bounds)
        if masking and eps and not result.bounds:
            looked = verdict(checks_of(evaluator, eps))
    _tell(result, len(test), looked)
    earlier = _earlier(file := place_for_flags / "evaluation.json", settings)
    content: dict[str, Any] = {"settings": settings, "checkpoint": Path(checkpoint).name}
    content["accuracy"] = earlier.get("accuracy", {}) | result.summary()
    for name, words in {"attacks": chosen, "notes": result.notes, "warnings": result.warnings}.items():
        content[name] = list(dict.fromkeys([*earlier.get(name, ()), *words]))
    content["masking"] = earlier.get("masking", looked) if looked.startswith("not looked for") else looked
    content |= {"normalisation": loaded.normalisation, "data_source": dataset.source, "machine": machine(str(device))}
    content["bounds"] = {name: bound for name, bound in earlier.get("bounds", {}).items() if name not in chosen}
    content["bounds"] |= {  # of attacks not done yet: no accuracies
        name: {"at_most": accuracy_of(bound.flags), "share_done": bound.share, "seconds_left": bound.seconds_left}
        for name, bound in result.bounds.items()
    }
    write_json(file, content | {"judged_in": "IEEE float32"})


def _earlier(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the same file and settings gave before, with other attacks; empty where that is not known."""
    try:
        earlier = read_json(file) if file.exists() else {}
    except ValueError:
        return {}
    return earlier if isinstance(earlier, dict) and earlier.get("settings") == settings else {}


def _name(checkpoint: str, settings: dict[str, Any]) -> str:
    """Of a folder: the same file and settings find the same one."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:LENGTH]
    stem = re.sub(r"[^\w.-]+", "_", Path(checkpoint).stem)[:40]
    return f"evaluate-{stem}-{digest}"


def _tell(result: Evaluation, count: int, looked: str) -> None:
    print(f"judged in IEEE float32 on {count} test images, eps {result.eps:.5f}:")
    for name, accuracy in result.summary().items():
        print(f"{name:12} {accuracy:7.2%} ± {result.standard_error(name):.2%}")
    for bound in result.bounds.values():
        print(f"{bound}; the same command resumes")
    print(f"gradient masking: {looked}")
    for note in result.notes:
        print(f"note: {note}")
    for warning in result.warnings:
        print(f"autoattack says: {warning}")
