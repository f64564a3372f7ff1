"""Notebook 05: several recipes, several seeds each, on the same images, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from d2rkit.data.datasets import ImageData
from d2rkit.experiments.experiment import Experiment
from d2rkit.panels import base
from d2rkit.panels.training_curves import TERMS
from d2rkit.panels.training_session import Curves, Session


def train_each(
    preset: Experiment, variants: Mapping[str, Mapping[str, Any]], data: ImageData, seeds: Sequence[int],
    report: Callable[[float, str], None],
) -> dict[str, list[Curves]]:  # fmt: skip
    """name -> one run a seed; variants: name -> what differs from the preset."""
    curves: dict[str, list[Curves]] = {}
    for name, changes in variants.items():
        for seed in seeds:
            curves.setdefault(name, []).append(Session(replace(preset, seed=seed, **changes), data).train())
            report(sum(map(len, curves.values())) / (len(variants) * len(seeds)), name)
    return curves


def words(runs: Mapping[str, Sequence[Curves]]) -> str:
    """The last epoch of every run, seeds side by side."""
    rows = []
    for name, each in runs.items():
        last = [curves.history[-1] for curves in each]
        shares = ("   ".join(f"{row[column]:.0%}" for row in last) for column in ("val_guide", "val_clean"))
        rows.append((name, *shares, ", ".join(f"{row['loss_mse']:.2g}" for row in last)))
    first = next(iter(runs.values()))[0]
    caption = f"Last epoch, a number a seed; {first.images[0]} training images; chance is {1 / first.classes:.0%}"
    return base.table(("", "guide, clean", "target, clean", TERMS["mse"]), rows, caption)


def agreed_on(runs: Mapping[str, Sequence[Curves]], name: str) -> dict[str, str]:
    """What a variant's first run agrees on, for `Prediction.reveal`: "nothing" where both are at chance."""
    run, others = runs[name][0], [each for other, several in runs.items() if other != name for each in several]
    last, chance = run.history[-1], 1 / run.classes
    stuck = max(last["val_clean"], last["val_guide"]) < 2 * chance
    closer = min(each.history[-1]["loss_mse"] for each in others) / last["loss_mse"]
    actual = "nothing" if stuck else "guide" if last["val_clean"] > 0.8 * last["val_guide"] else "neither"
    text = (
        f"“{name}”, seed {run.experiment.seed}: guide {last['val_guide']:.0%} and target {last['val_clean']:.0%} right "
        f"after {len(run.history)} epochs. Its MSE of logits is {last['loss_mse']:.2g}; the least of the controls "
        f"is {closer:.0f} times that."
    )
    return {"actual": actual, "words": base.sentence(text) + words(runs)}


def order_of_rising(run: Curves, share: float = 0.5) -> dict[str, str]:
    """Which curve gets above `share` first, for `Prediction.reveal`; in one epoch, the highest there."""
    columns = {"guide": "val_guide", "clean": "val_clean", "attacked": "val_pgd"}
    when = {}
    for name, column in columns.items():
        values = [row.get(column, 0.0) for row in run.history]
        above = next((i for i, value in enumerate(values) if value >= share), len(values))
        when[name] = (above, -(values[above] if above < len(values) else values[-1]))
    told = ", ".join(
        f"{name} in epoch {at + 1}" if at < len(run.history) else f"{name} never" for name, (at, _) in when.items()
    )
    return {"actual": min(when, key=lambda name: when[name]), "words": f"Above {share:.0%} first: {told}."}


def largest_term(run: Curves) -> dict[str, str]:
    """The largest weighted term of the loss in the last epoch, for `Prediction.reveal`."""
    first, last = run.history[0], run.history[-1]
    terms = {name.removeprefix("loss_"): value for name, value in last.items() if name.startswith("loss_")}
    rows = [(TERMS.get(name, name), f"{first[f'loss_{name}']:.3g}", f"{value:.3g}") for name, value in terms.items()]
    words = base.table(("weighted term", "first epoch", "last epoch"), rows, f"Of {len(run.history)} epochs")
    return {"actual": max(terms, key=lambda name: terms[name]), "words": words}


def turning(run: Curves, control: Curves) -> dict[str, Any]:
    """The best epoch of a run that overfits, for `Prediction.reveal`, beside its control."""
    told = []
    for name, curves in (("wrong labels", run), ("right labels", control)):
        best, last = curves.history[curves.best], curves.history[-1]
        told.append(
            f"{name}: best in epoch {best['epoch']:g} ({best['val_pgd']:.0%}), {last['val_pgd']:.0%} in the last"
        )
    return {"actual": float(run.history[run.best]["epoch"]), "close": 3, "words": "; ".join(told) + "."}
