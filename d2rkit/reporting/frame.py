"""Run folders -> one tidy DataFrame: a row for each run and checkpoint, nothing averaged, nothing rounded.

Tables, figures and paired tests all start here, and share what is here: which runs belong to one row of a
table (equal in everything but the seed), what that row is called, and which runs may stand in one table at all.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from d2rkit.evaluation.evaluate import ATTACKS
from d2rkit.experiments.experiment import Experiment, Run, settings_of
from d2rkit.experiments.presets import PRESETS
from d2rkit.experiments.run_folders import history_of
from d2rkit.methods.catalogue import METHODS
from d2rkit.training.guides import guide_of
from d2rkit.training.history import best_epoch_of

TITLES = {"clean": "Clean", "fgsm": "FGSM", "autoattack": "AutoAttack"}
TABLE = ("data", "subset", "target", "eps", "n_test")
"""Numbers may stand in one table, and be averaged over seeds, only where all of these agree."""
NOT_IN_LABELS = {"data", "subset", "target", "test_images", "test_eps", "method", "seed"}


def tidy(runs: Sequence[Run]) -> pd.DataFrame:
    """One row for each run and checkpoint it was evaluated at, accuracies in [0, 1], in a fixed order.

    eps is the evaluation's, pixel scale; train_eps the training attack's. label: the row of a table that
    the run belongs to; settings: a hash of everything but the seed. A failed run has NaN accuracies. A run that is
    given twice counts once."""
    runs = list({run.experiment.run_name: run for run in reversed(runs)}.values())[::-1]
    named = labels([run.experiment for run in runs])
    rows = []
    for run, label in zip(runs, named, strict=True):
        experiment, result = run.experiment, run.result
        best_epoch = best_epoch_of(history_of(run), experiment.guide_warmup)
        for checkpoint in experiment.checkpoints:
            warnings = result.get("autoattack_warnings", {}).get(checkpoint, [])
            first = checkpoint == experiment.checkpoints[0]  # the masking checks look at the first one
            masked = [check for check in result.get("masking", []) if first and not check["passed"]]
            rows.append(
                {
                    "data": experiment.data,
                    "subset": experiment.subset,
                    "target": experiment.target,
                    "guide": guide_of(experiment),
                    "method": experiment.method,
                    "title": title_of(experiment.method),
                    "label": label,
                    "settings": settings_of(experiment),
                    "seed": experiment.seed,
                    "train_eps": experiment.eps,
                    "eps": experiment.radius,
                    "checkpoint": checkpoint,
                    "status": result["status"],
                    "n_test": result["n_test"],
                    **result.get("accuracy", {}).get(checkpoint, {}),
                    "guide_clean": result.get("guide_clean", math.nan) if first else math.nan,
                    "epochs": result.get("epochs", len(history_of(run))),
                    "best_epoch": best_epoch,
                    "train_seconds": result.get("train_seconds", math.nan),
                    "evaluation_seconds": result.get("evaluation_seconds", math.nan),
                    "masking": "; ".join(f"{check['name']} ({check['words']})" for check in masked),
                    "warnings": "; ".join(warnings),
                    "data_source": result.get("data_source", ""),
                    "hardware": result.get("machine", ""),
                    "folder": run.folder.name,
                }
            )
    frame = pd.DataFrame(rows)
    if frame.empty:
        return pd.DataFrame(columns=[*TABLE, "method", "title", "label", "settings", "seed", "checkpoint", "status"])
    columns = [c for c in frame.columns if not is_attack(c)]
    where = columns.index("n_test") + 1
    frame = frame[columns[:where] + attacks_in(frame) + columns[where:]]
    order = {name: number for number, name in enumerate(METHODS)}
    at, is_last = frame["method"].map(order).fillna(len(order)), frame["checkpoint"] == "last"
    frame = frame.assign(at=at, is_last=is_last).sort_values([*TABLE, "at", "label", "is_last", "seed"], kind="stable")
    return frame.drop(columns=["at", "is_last"]).reset_index(drop=True)


def is_attack(column: object) -> bool:
    return column in ATTACKS or bool(re.fullmatch(r"(pgd|cw)\d+", str(column)))


def attacks_in(names: Iterable[Any]) -> list[str]:
    """The attacks among `names`, from weak to strong: clean, FGSM, PGD and C&W by steps, AutoAttack."""

    def strength(name: str) -> tuple[int, int]:
        kind = name.rstrip(string.digits)
        return ["clean", "fgsm", "pgd", "cw", "autoattack"].index(kind), int(name.removeprefix(kind) or 0)

    return sorted((name for name in names if is_attack(name)), key=strength)


def attack_title(name: str) -> str:
    """pgd20 -> PGD-20, cw20 -> C&W-20."""
    return TITLES.get(name) or re.sub(r"(\d+)$", r"-\1", name.replace("pgd", "PGD").replace("cw", "C&W"))


def title_of(method: str) -> str:
    """What the method is called; one whose plugin is not loaded, by its name."""
    return METHODS[method].title if method in METHODS else method


def eps_words(eps: float) -> str:
    """eps in pixel scale as people write it: 8/255, 0.2, and 0.031 with the reminder that it is not 8/255."""
    eps = float(eps)
    if math.isclose(eps, 0.031):
        return "0.031 (a little below 8/255 = 0.0314)"
    whole = round(eps * 255)
    if len(repr(eps)) > 6 and whole and math.isclose(eps * 255, whole, rel_tol=1e-6):
        return f"{whole}/255"
    return f"{eps:.6g}"


def labels(experiments: Sequence[Experiment]) -> list[str]:
    """A name for each experiment's row: what a preset calls it, else the method's title, and, where one method stands
    in a table with several settings, the settings that tell them apart."""
    titles = _titles()
    given = [_given(titles, experiment) for experiment in experiments]
    rest = iter(_told_apart([e for e, title in zip(experiments, given, strict=True) if not title]))
    return [title or next(rest) for title in given]


def _given(titles: Mapping[str, str], experiment: Experiment) -> str:
    """A preset's title for the row; that of an earlier version of a plugin's part says which one it is."""
    now = replace(experiment, registered={}) if experiment.registered else experiment
    title = titles.get(settings_of(now), "")
    other = [digest[:6] for what, digest in experiment.registered.items() if now.registered.get(what) != digest]
    return f"{title}, version {' '.join(other)}" if title and other else title


def _titles() -> dict[str, str]:
    """The titles that presets give to rows, by the hash of the row's settings."""
    return {
        settings_of(preset.experiment(row, 0)): title
        for preset in PRESETS.values()
        for row, title in preset.titles.items()
    }


def _told_apart(experiments: Sequence[Experiment]) -> list[str]:
    families: dict[tuple, list[dict[str, Any]]] = {}
    flat = [_flat(experiment) for experiment in experiments]
    keys = [(e.data, e.subset, e.target, e.radius, e.test_images, e.method) for e in experiments]
    for key, settings in zip(keys, flat, strict=True):
        families.setdefault(key, []).append(settings)
    labels = []
    for key, settings in zip(keys, flat, strict=True):
        family = families[key]
        names = sorted({name for member in family for name in member})
        telling = [n for n in names if len({repr(member.get(n)) for member in family}) > 1]
        title = title_of(key[-1])
        words = [f"{name} {settings.get(name, 'as the method has it')}" for name in telling]
        labels.append(", ".join([title, *words]))
    return labels


def _flat(experiment: Experiment) -> dict[str, Any]:
    values = {k: v for k, v in experiment.to_dict().items() if k not in NOT_IN_LABELS}
    options = values.pop("loss")
    versions = {f"version of {what}": digest[:6] for what, digest in values.pop("registered", {}).items()}
    return values | options | versions


def one_table(frame: pd.DataFrame) -> dict[str, Any]:
    """What all rows share (TABLE); ValueError, in one sentence, if they do not: such numbers are never mixed."""
    if frame.empty:
        raise ValueError("there are no runs to show; `d2rkit reproduce quick` makes some")
    for column in TABLE:
        values = sorted(frame[column].unique())
        if len(values) > 1:
            shown = ", ".join(str(value) for value in values)
            raise ValueError(f"runs of different {column} ({shown}) do not belong in one table; choose one first")
    return {column: frame[column].iloc[0] for column in TABLE}
