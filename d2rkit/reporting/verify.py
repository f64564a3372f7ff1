"""verify(): is a number that of its weights? Clean and PGD flags measured anew, image by image beside those kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from d2rkit.core.devices import resolve
from d2rkit.core.digests import weights_digest
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate, parse_attack
from d2rkit.experiments.experiment import Run, build_pair, chosen_test, settings_of
from d2rkit.experiments.plugins import check_registered
from d2rkit.experiments.presets import PRESETS
from d2rkit.experiments.run_files import read_flags
from d2rkit.experiments.run_folders import evaluation_folder
from d2rkit.methods.catalogue import METHODS
from d2rkit.networks.checkpoints import load_weights, rounded_from
from d2rkit.reporting.frame import attack_title, attacks_in

CLEAN, ATTACKED = 0.002, 0.01
"""Shares of the images whose flags may differ (at least one image). On the machine that measured them none does; other
kernels round differently, which turns the prediction of a clean image only where two logits all but agree, that of an
attacked one also where a sign of the gradient does, and a GPU draws other random starts than a CPU. Of two networks of
table small the flags under PGD-20 differ on 3 to 20 % of the images, of table quick on 2 % and more: another seed or
method does not pass for the one that was measured. What is closer than that, only digests tell apart."""


@dataclass(frozen=True)
class Verified:
    """One checkpoint of a run. differing: flags that came out otherwise, by attack; allowed: how many may. fault: why
    nothing could be compared, if so."""

    run: Run
    checkpoint: str
    count: int
    differing: dict[str, int]
    allowed: dict[str, int]
    fault: str = ""

    @property
    def confirmed(self) -> bool:
        within = all(self.differing[attack] <= self.allowed[attack] for attack in self.differing)
        return bool(self.differing) and within and not self.fault

    def __str__(self) -> str:
        head = f"{self.run.folder.name}, {self.checkpoint}"
        if self.fault:
            return f"{head}: NOT confirmed: {self.fault}"
        kept = self.run.result["accuracy"][self.checkpoint]
        parts = [
            f"{attack_title(a)} {kept[a]:.1%}: {n} of {self.count} flags differ ({self.allowed[a]} may)"
            for a, n in self.differing.items()
        ]
        rows = f"; it stands in {rows_of(self.run) or 'no table of a preset'}"
        return f"{head}: {'confirmed' if self.confirmed else 'NOT confirmed'}: {', '.join(parts)}{rows}"


def rows_of(run: Run) -> str:
    """The rows of presets' tables that a run is a seed of, in words; empty if there are none."""
    rows = []
    for preset in PRESETS.values():
        for row in preset.rows:
            cell = preset.experiment(row, preset.seeds[0])
            if run.experiment.seed in preset.seeds and settings_of(cell) == settings_of(run.experiment):
                label = preset.titles.get(row) or METHODS[cell.method].title
                rows.append(f"row {label!r} of table {preset.name}, seed {run.experiment.seed}")
    return " and ".join(rows)


def verify(
    run: Run,
    weights: str | Path | None = None,
    *,
    device: str = "auto",
    data_root: str | Path | None = None,
    report: Callable[[float, str], None] | None = None,
) -> list[Verified]:
    """Measure clean and PGD flags anew, with the run's radius, seed and batches; one answer a checkpoint.

    weights: the checkpoint's file where the run folder has none, as packed runs do; it is taken for the first one.
    ValueError if the data set or a plugin is not here, a file is missing or damaged, or the run has no flags to compare
    with."""
    experiment = run.experiment
    checkpoints = list(run.result["accuracy"])[:1] if weights else list(run.result["accuracy"])
    if not checkpoints:
        raise ValueError(f"{run.folder} has no evaluation to verify: its status is {run.result['status']!r}")
    check_registered(experiment.registered)
    data = load_data(experiment.data, data_root, experiment.subset or None, download=False)
    test, answers = chosen_test(experiment, data), []
    for checkpoint in checkpoints:
        kept = run.result["accuracy"][checkpoint]
        pgd = [attack for attack in attacks_in(kept) if parse_attack(attack)[0] == "pgd"]
        chosen = [a for a in ("clean", "pgd20" if "pgd20" in pgd else (pgd or [""])[-1]) if a in kept]
        file = Path(weights) if weights else run.folder / f"{checkpoint}.safetensors"
        if not chosen or not file.is_file():
            reason = "it has neither clean nor PGD flags" if not chosen else f"{file} is not here; name it by --weights"
            raise ValueError(f"{run.folder.name}, {checkpoint}, cannot be verified: {reason}")
        network = load_weights(file, build_pair(experiment, data)).target
        flags = {attack: read_flags(evaluation_folder(run.folder, checkpoint) / f"{attack}.npz") for attack in chosen}
        answer = Verified(
            run, checkpoint, len(test), {},
            {a: max(1, int((CLEAN if a == "clean" else ATTACKED) * len(test))) for a in chosen},
        )  # fmt: skip
        digest = weights_digest(network)
        own = {digest, rounded_from(file).get("target", digest)}  # stored in float16 they have another digest
        if other := {str(f.facts["weights"]) for f in flags.values() if "weights" in f.facts} - own:
            answers.append(replace(answer, fault=f"{file} holds weights {digest}, its flags are of {min(other)}"))
            continue
        again = evaluate(network.to(resolve(device)), test, chosen, experiment.radius, experiment.seed, report=report)
        differing = {a: int((again.flags[a].cpu() != torch.from_numpy(flags[a].flags)).sum()) for a in chosen}
        answers.append(replace(answer, differing=differing))
    return answers
