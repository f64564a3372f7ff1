"""Rows of notebook 07's tables: ours beside published, and what is still missing.

Ours are run folders; published numbers are published.csv. The two are never mixed: they stand in columns of
their own, a difference is taken only at the same data set, network and ε, and each source keeps a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from d2rkit.core.validation import nearest
from d2rkit.evaluation.evaluate import ATTACKS
from d2rkit.experiments.experiment import Experiment, Run, settings_of
from d2rkit.experiments.presets import PRESETS, Preset
from d2rkit.methods.catalogue import METHODS
from d2rkit.reporting.frame import attacks_in, eps_words, labels, tidy
from d2rkit.reporting.published import COLUMNS, PUBLISHED_AS, attack_words, published, same_setting
from d2rkit.reporting.render import Cell, Table, signed
from d2rkit.reporting.tables import percent
from d2rkit.training.guides import by_method

TITLES = {
    "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny-imagenet": "Tiny ImageNet",
    "tiny-imagenet-20": "Tiny ImageNet, 20 classes", "digits": "Digits",
}  # fmt: skip
OWN = ("d2r-cag", "d2r-cag-released")  # asked for in every table, though nobody has published comparable numbers
GUIDE = "resnet18-guide"  # beside every CIFAR-size target
ALL = "all"
NOTHING = (math.nan, math.nan)


@dataclass(frozen=True)
class Setting:
    """What all numbers of one table share. eps: pixel scale; test_images: 0 for all."""

    data: str
    target: str
    eps: float
    subset: str = ""
    test_images: int = 0

    @property
    def title(self) -> str:
        words = f"{self.target}, ε = {eps_words(self.eps)}"
        words += f", {self.subset} training images" if self.subset else ""
        return words + (f", {self.test_images} test images" if self.test_images else "")

    @property
    def short(self) -> str:
        """The same for a menu, which is narrow."""
        words = f"{self.target}, ε = {eps_words(self.eps)}" + (f", {self.subset} train" if self.subset else "")
        return words + (f", {self.test_images} test" if self.test_images else "")


def menu_words(preset: Preset) -> str:
    """A preset as a menu has it: its title is longer than a menu is wide."""
    data = preset.base.data
    return preset.name if data in preset.name else f"{preset.name}: {TITLES.get(data, data)}"


@dataclass(frozen=True)
class Entry:
    """One row: accuracies in percent, attack -> (mean, std). ours and published are empty where there is none.

    seeds: of ours that have finished, failed ones among them; wanted: how many a preset asks for. command fills
    what is missing of `ours`, cost is what a preset says of it; both are empty if nothing is missing, or if
    the kit lacks the method."""

    label: str
    ours: Mapping[str, tuple[float, float]]
    published: Mapping[str, tuple[float, float]]
    seeds: int = 0
    wanted: int = 0
    source: str = ""
    command: str = ""
    cost: str = ""


@dataclass(frozen=True)
class Browsed:
    """A table to show: entries at one setting, the attacks chosen, remarks in sentences."""

    title: str
    setting: Setting
    attacks: tuple[str, ...]
    entries: tuple[Entry, ...]
    remarks: tuple[str, ...]
    n_test: int  # of our runs here; 0 if there are none
    runs: int  # of ours on this machine, at any setting
    table: Table


# -- what there is to choose from ---------------------------------------------------------------------------
def setting_of(experiment: Experiment) -> Setting:
    e = experiment
    return Setting(e.data, e.target, e.radius, e.subset, e.test_images)


def settings_for(what: str, runs: Sequence[Run], presets: Mapping[str, Preset] = PRESETS) -> list[Setting]:
    """The tables that a data set, or "preset:NAME", has: first those with runs of ours, then published ones."""
    if what.startswith("preset:"):
        name = what.removeprefix("preset:")
        if name not in presets:
            raise nearest(name, presets, "preset")
        return [setting_of(presets[name].base)]
    ours = sorted({setting_of(run.experiment) for run in runs if run.experiment.data == what}, key=lambda s: s.title)
    known = published()
    known = known[(known["dataset"] == what) & known["radius"].notna()]
    pairs = known[["target", "radius"]].drop_duplicates().itertuples(index=False)
    theirs = [Setting(what, target, eps) for target, eps in pairs]
    # A published table that stands beside runs of ours already needs no second entry.
    beside = [(s.target, round(s.eps, 6)) for s in ours if not s.subset]
    return ours + [s for s in theirs if (s.target, round(s.eps, 6)) not in beside]


def command_for(method: str, setting: Setting, presets: Mapping[str, Preset] = PRESETS) -> tuple[str, str]:
    """The command that fills a cell, and what a preset says that it costs."""
    for preset in presets.values():
        if method in preset.rows and setting_of(preset.base) == setting:
            row = f" --rows {method}" if preset.command.startswith("d2rkit") else ""  # else it is a line of Python
            return preset.command + row, f"preset {preset.name} says: {preset.time}"
    words = f"d2rkit train --method {method} --data {setting.data} --target {setting.target}"
    if METHODS[method].guide == "frozen":
        words += f" --guide-warmup {by_method(Experiment(), method).guide_warmup}"
    if METHODS[method].needs_guide and METHODS[method].guide != "average":
        words += f" --guide {setting.target if setting.data == 'digits' else GUIDE}"
    words += f" --subset {setting.subset}" if setting.subset else ""
    words += f" --test-images {setting.test_images}" if setting.test_images else ""
    if not math.isclose(setting.eps, Experiment.eps, rel_tol=1e-6):
        words += f" --eps {setting.eps:g}"
    return words, "no preset covers them, so it is not known"


# -- the table ----------------------------------------------------------------------------------------------
def compute(
    what: str,
    setting: Setting,
    attack: str,
    runs: Sequence[Run] = (),
    presets: Mapping[str, Preset] = PRESETS,
) -> Browsed:
    """The table of `what` (a data set or "preset:NAME") at one of its settings, for one attack or ALL.
    ValueError if the setting is not one of them, or the attack is unknown."""
    if attack not in (*ATTACKS, ALL):
        raise nearest(attack, (*ATTACKS, ALL), "attack")
    if setting not in settings_for(what, runs, presets):
        raise ValueError(f"{what} has no table for {setting.title}; choose a target again")
    here = [run for run in runs if setting_of(run.experiment) == setting]
    preset = presets.get(what.removeprefix("preset:")) if what.startswith("preset:") else None
    if preset:
        wanted = {settings_of(experiment) for experiment in preset.experiments()}
        here = [run for run in here if settings_of(run.experiment) in wanted]
    frame = tidy(here)
    if here:
        frame = frame[frame["checkpoint"] == frame["checkpoint"].iloc[0]]
    known = published()
    theirs = same_setting(known, setting.data, setting.target, setting.eps)
    theirs = theirs.iloc[:0] if setting.subset else theirs
    entries = _entries(setting, frame, theirs, preset, presets)
    shown = attacks_in({*ATTACKS, *(a for e in entries for a in e.ours)}) if attack == ALL else [attack]
    known_of = {a for e in entries for a in (*e.ours, *e.published)}
    attacks = tuple(a for a in shown if a in known_of) if attack == ALL and known_of else tuple(shown)
    title = preset.title if preset else TITLES.get(setting.data, setting.data)
    n_test = int(frame["n_test"].iloc[0]) if here else 0
    blank = Table("", "", (), ())
    data = Browsed(
        title,
        setting,
        attacks,
        tuple(entries),
        (*_remarks(setting, known), *_warnings(frame)),
        n_test,
        len(runs),
        blank,
    )
    return replace(data, table=as_table(data))


def _entries(
    setting: Setting, frame: pd.DataFrame, theirs: pd.DataFrame, preset: Preset | None, presets: Mapping[str, Preset]
) -> list[Entry]:
    """Rows in the order of METHODS, then published methods that the kit does not have."""
    groups = dict(iter(frame.groupby("settings", sort=False)))
    if preset:
        first = preset.experiments(seeds=1)
        rows = [(e.method, label, settings_of(e)) for e, label in zip(first, labels(first), strict=True)]
    else:
        rows = [(group["method"].iloc[0], group["label"].iloc[0], key) for key, group in groups.items()]
        names, there = set(theirs["method"]), {method for method, _, _ in rows}
        asked = OWN if setting.data in set(published()["dataset"]) else ()
        lacking = [m for m in METHODS if (m in asked or PUBLISHED_AS.get(m) in names) and m not in there]
        rows += [(m, METHODS[m].title, "") for m in lacking]
        rows.sort(key=lambda row: [*METHODS, row[0]].index(row[0]))
    entries = []
    for method, label, key in rows:
        group = groups.get(key)
        seeds, wanted = 0 if group is None else len(group), len(preset.seeds) if preset else 1
        command, cost = "", ""
        if seeds < wanted:
            command, cost = command_for(method, setting, {preset.name: preset} if preset else presets)
        ours = {} if group is None else _ours(group)
        reported = theirs[theirs["method"] == PUBLISHED_AS.get(method, "")]
        for numbers, source in _published(reported) or [({}, "")]:
            entries.append(Entry(label, ours, numbers, seeds, wanted, source, command, cost))
    if preset is None:
        in_kit = {PUBLISHED_AS[method] for method in METHODS if method in PUBLISHED_AS}
        for method, reported in theirs[~theirs["method"].isin(in_kit)].groupby("method", sort=False):
            entries += [Entry(str(method), {}, numbers, source=source) for numbers, source in _published(reported)]
    return entries


def _ours(group: pd.DataFrame) -> dict[str, tuple[float, float]]:
    names = [a for a in attacks_in(group.columns) if group[a].notna().any()]
    return {a: (100 * group[a].mean(), 100 * group[a].std()) for a in names}


def _published(reported: pd.DataFrame) -> list[tuple[dict[str, tuple[float, float]], str]]:
    """Numbers and source of each published row."""
    rows = []
    for _, entry in reported.iterrows():
        spread = {"autoattack": entry["autoattack_std"]}
        numbers = {a: (entry[c], spread.get(a, math.nan)) for a, c in COLUMNS.items() if not math.isnan(entry[c])}
        rows.append((numbers, "; ".join(text for text in (entry["source"], entry["note"]) if isinstance(text, str))))
    return rows


def _remarks(setting: Setting, known: pd.DataFrame) -> tuple[str, ...]:
    """What a reader must know of published numbers that are not in the table."""
    near = known[(known["dataset"] == setting.data) & (known["target"] == setting.target)]
    if setting.subset:
        return (f"No published number stands beside runs on {setting.subset} training images: published runs saw all.",)
    if near.empty:
        return (f"Nothing is published for {setting.target} on {setting.data}, as far as published.csv knows.",)
    remarks = [
        f"{entry['method']}: no comparable number is published ({entry['source']}: {entry['note']})."
        for _, entry in near[near["radius"].isna()].iterrows()
    ]
    others = near.loc[near["radius"].notna(), "radius"].unique()
    others = [eps_words(eps) for eps in others if not math.isclose(eps, setting.eps, rel_tol=1e-6)]
    if others:
        remarks.append(f"Also published at ε = {' and '.join(others)}: another table, never mixed with this one.")
    return tuple(remarks)


def _warnings(frame: pd.DataFrame) -> list[str]:
    """Of our runs: what failed, and what looks masked, or that nothing does."""
    warnings = []
    for _, run in frame.iterrows():
        if run["status"] != "done":
            counts = "not part of the mean" if run["status"].startswith("failed") else "part of the mean"
            warnings.append(f"{run['label']}, seed {run['seed']}: {run['status']}; {counts}.")
        warnings += [f"{run['label']}, seed {run['seed']}: a sign of gradient masking, {run['masking']}."] * bool(
            run["masking"]
        )
        if run["warnings"]:
            warnings.append(f"{run['label']}, seed {run['seed']}: AutoAttack says: {run['warnings']}.")
    if len(frame) and not frame[["masking", "warnings"]].any(axis=None):
        count = frame["folder"].nunique()
        warnings.append(f"Checks of gradient masking: no sign in {count} run{'s' * (count > 1)}.")
    return warnings


def as_table(data: Browsed) -> Table:
    """Text in cells: for one attack ours, published and difference side by side; for several, a row for each."""
    letters: dict[str, str] = {}

    def mark(entry: Entry) -> str:
        return letters.setdefault(entry.command, chr(ord("a") + len(letters))) if entry.command else ""

    def own(entry: Entry, attack: str) -> Cell:
        if attack in entry.ours:
            return Cell(percent(*(v / 100 for v in entry.ours[attack])), mark=mark(entry))
        if entry.seeds:
            return Cell("–" if entry.ours else "failed", mark=mark(entry))
        return Cell("not run", mark=mark(entry)) if entry.command else Cell("not in the kit")

    def their(entry: Entry, attack: str) -> Cell:
        return Cell(percent(*(v / 100 for v in entry.published[attack])) if attack in entry.published else "–")

    rows: list[tuple[Cell, ...]] = []
    if len(data.attacks) == 1:
        (attack,) = data.attacks
        header = ("Method", "Ours", "Published", "Difference", "Source of the published number")
        for entry in data.entries:
            gap = difference(entry, attack)
            cells = (own(entry, attack), their(entry, attack), Cell("–" if math.isnan(gap) else signed(gap)))
            rows.append((Cell(entry.label), *cells, Cell(entry.source if attack in entry.published else "")))
    else:
        header = ("Method", "Whose", *map(attack_words, data.attacks), "Seeds or source")
        seen = set()
        for entry in data.entries:
            if (entry.seeds or entry.command) and entry.label not in seen:  # ours once, however many sources
                seen.add(entry.label)
                cells = [replace(own(entry, a), mark="") if entry.seeds else Cell("–") for a in data.attacks]
                done = f"{entry.seeds} of {entry.wanted} seeds" if entry.command else f"{entry.seeds} seed(s)"
                done = Cell(done if entry.seeds else "not run", mark=mark(entry))
                rows.append((Cell(entry.label), Cell("ours"), *cells, done))
            if entry.published:
                cells = [their(entry, a) for a in data.attacks]
                rows.append((Cell(entry.label), Cell("published"), *cells, Cell(entry.source)))
    costs = {entry.command: entry.cost for entry in data.entries if entry.command}
    notes = [(letter, f"`{command}`") for command, letter in letters.items()]
    notes += [("", f"Cost of these commands: {cost}.") for cost in dict.fromkeys(costs.values())]
    name = f"{data.setting.data}-{data.setting.target}-{data.attacks[0] if len(data.attacks) == 1 else ALL}"
    return Table(name, _caption(data), header, tuple(rows), (*notes, *(("", r) for r in data.remarks)), numbers(data))


def _caption(data: Browsed) -> str:
    what = f"{attack_words(data.attacks[0])} accuracy" if len(data.attacks) == 1 else "accuracy"
    ours = f"mean ± sample standard deviation over seeds, on {data.n_test} test images"
    ours = ours if data.n_test else "not run yet"
    words = f"{data.title}, {data.setting.title} (L∞, pixel scale): {what} in percent"
    theirs = ", published: by others, at the same ε, each with its source"
    return f"{words}. Ours: {ours}{theirs if any(e.published for e in data.entries) else ''}."


def numbers(data: Browsed) -> pd.DataFrame:
    """The same, unrounded, one row for each entry and attack, in percent."""
    rows = []
    for entry in data.entries:
        for attack in data.attacks:
            (ours, ours_std), (theirs, theirs_std) = (d.get(attack, NOTHING) for d in (entry.ours, entry.published))
            rows.append(
                {
                    "label": entry.label, "attack": attack, "eps": data.setting.eps, "ours": ours, "ours_std": ours_std,
                    "seeds": entry.seeds, "published": theirs, "published_std": theirs_std,
                    "difference": difference(entry, attack), "source": entry.source, "command": entry.command,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def difference(entry: Entry, attack: str) -> float:
    """Ours less published, in points; NaN where one of them is missing."""
    return entry.ours.get(attack, NOTHING)[0] - entry.published.get(attack, NOTHING)[0]
