"""Your own tables: presets registered in Python, or read from a TOML file, which stands in the place of a name.

title = "Mine beside TRADES, on digits"
rows = ["trades", "mine", {name = "mine-1", method = "mine", loss = {weight = 1.0}}]
seeds = [0, 1, 2]
[experiment]
data = "digits"
eps = "8/255"
"""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from d2rkit.core.paths import check_path
from d2rkit.core.validation import nearest, number, shown
from d2rkit.experiments.experiment import Experiment, Run, settings_of
from d2rkit.experiments.plugin_checks import check_name
from d2rkit.experiments.plugins import REGISTERING, TABLES, command_words, enter
from d2rkit.experiments.presets import FAMILIES, MOST_SEEDS, PRESETS, Preset
from d2rkit.experiments.run_files import check_settings

TABLES["preset"] = PRESETS
REGISTERING.append(__file__)
KEYS = ("title", "rows", "seeds", "experiment")
UNKNOWN = "not known: no run has been finished yet"


def register_preset(
    name: str,
    base: Experiment | Callable[[], Experiment] | None = None,
    *,
    rows: Sequence[str],
    seeds: Sequence[int] = (0,),
    title: str = "",
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    titles: Mapping[str, str] | None = None,
    time: str = UNKNOWN,
    expect: str = UNKNOWN,
):
    """Register a table, to be named like any of PRESETS. Without `base`, returns a decorator.

    base: the experiment that all cells share. rows, seeds, changes, titles, time, expect: as in Preset. Returns base.
    ValueError for a name that is taken, rows or seeds that are none or named twice, or a cell that could not run."""
    if base is None:
        told = {"rows": rows, "seeds": seeds, "title": title, "changes": changes, "titles": titles}
        return lambda function: register_preset(name, function, **told, time=time, expect=expect)
    check_name("preset", name)
    experiment = base() if callable(base) else base
    if not isinstance(experiment, Experiment):
        raise ValueError(f"the base of preset {name!r} must be an Experiment, not {shown(experiment)}")
    command = shlex.join(["d2rkit", "reproduce", name, *command_words()])
    preset = Preset(
        name, title or name, command, time, expect, experiment, tuple(rows), tuple(seeds), changes or {}, titles or {}
    )
    _enter(preset, "")
    return base


def read_preset(path: str | Path) -> Preset:
    """The table of a TOML file, named after it and put into PRESETS.

    title: text. rows: names of methods, or tables with a name, a method (default: the name), a title and settings of
    their own. seeds: whole numbers (default: [0]). [experiment]: fields of Experiment; a number may be a fraction in
    quotes. ValueError, in one sentence with the file's name, for whatever is missing, unknown or impossible."""
    file = check_path(Path(path).expanduser())
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ValueError(f"the table {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as TOML: {error}") from error
    try:
        preset = _preset(file, content)
        _enter(preset, str(file))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return preset


def _preset(file: Path, content: Mapping[str, Any]) -> Preset:
    for key in content:
        if key not in KEYS:
            raise nearest(key, KEYS, "key of a table")
    for key, kind in (("title", str), ("rows", list), ("seeds", list), ("experiment", dict)):
        if not isinstance(content.get(key, kind()), kind):
            raise ValueError(f"{key} must be a {kind.__name__}, not {shown(content[key])}")
    rows, changes, titles = [], {}, {}
    for row in content.get("rows", []):
        words = {"name": row} if isinstance(row, str) else dict(row) if isinstance(row, dict) else {}
        name = words.pop("name", words.get("method"))
        check_name("row", name)
        if title := words.pop("title", ""):
            titles[name] = _line(title)
        rows.append(name)
        if settings := _settings(words):
            changes[name] = settings
    check_name("table's file", file.stem)
    base = Experiment.from_dict(_settings(content.get("experiment", {})))
    command = shlex.join(["d2rkit", "reproduce", str(file), *command_words()])
    title, seeds = _line(content.get("title", file.stem)), tuple(content.get("seeds", (0,)))
    return Preset(file.stem, title, command, UNKNOWN, UNKNOWN, base, tuple(rows), seeds, changes, titles)


def _line(text: Any) -> str:
    if not isinstance(text, str) or not text.strip() or not text.isprintable():
        raise ValueError(f"a title must be a line of text, not {shown(text)}")
    return text


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an Experiment, fractions in quotes as numbers."""
    defaults = {name: value for name, value in vars(Experiment()).items() if name != "registered"}
    settings = dict(given)
    for name, value in given.items():
        if isinstance(value, str) and isinstance(defaults.get(name), float):
            try:
                settings[name] = number(value)
            except ValueError as error:
                raise ValueError(f"{name} must be a number, e.g. 0.031 or '8/255', not {shown(value)}") from error
    check_settings(settings, defaults)
    return settings


def _enter(preset: Preset, file: str) -> None:
    """Into PRESETS, once it is known that every cell could run."""
    if not preset.rows or not preset.seeds:
        raise ValueError(f"the table {preset.name!r} needs at least one row and one seed")
    for what, values in (("row", preset.rows), ("seed", preset.seeds)):
        if twice := [value for value in values if values.count(value) > 1]:
            raise ValueError(f"the {what} {shown(twice[0])} is there twice")
    for seed in preset.seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
            raise ValueError(f"seeds must be whole numbers of at least 0, not {shown(seed)}")
    if len(preset.seeds) > MOST_SEEDS:
        raise ValueError(f"seeds must be at most {MOST_SEEDS}, not {len(preset.seeds)}")
    for row in {*preset.changes, *preset.titles} - {*preset.rows}:
        raise nearest(row, preset.rows, f"row of preset {preset.name}")
    for row in preset.rows:
        preset.experiment(row, preset.seeds[0]).check()
    if preset.name in FAMILIES:
        raise ValueError(f"the name {preset.name!r} is the kit's own; choose another one")
    enter("preset", preset.name, preset, "", file)


def with_versions(preset: Preset, runs: Sequence[Run]) -> Preset:
    """The same table with one more row for each earlier version of a plugin's part that there are runs of."""
    rows = {settings_of(preset.experiment(row, 0)): row for row in preset.rows}
    earlier: dict[str, Mapping[str, Any]] = {}
    for run in sorted(runs, key=lambda run: run.folder.name):
        cell = run.experiment
        row = rows.get(settings_of(replace(cell, registered={}))) if cell.registered else None
        if row and settings_of(cell) not in rows and cell.seed in preset.seeds:
            change = {"method": cell.method, **preset.changes.get(row, {}), "registered": cell.registered}
            earlier[f"{row}@{settings_of(cell)}"] = change
    ordered = sorted(earlier, key=lambda name: preset.rows.index(name.split("@")[0]))
    return replace(preset, rows=(*preset.rows, *ordered), changes={**preset.changes, **earlier}) if earlier else preset
