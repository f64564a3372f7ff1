"""Run folders -> tidy DataFrame -> method x attack, mean ± std over seeds -> Markdown, CSV, LaTeX, HTML.

    runs = read_runs("runs");  table = pivot(tidy(runs));  to_markdown(table)
    write_table(get_preset("quick"), runs, "results/quick")

Nothing is typed by hand and nothing is made up: a cell that has not been run shows the command that fills it,
a run that failed is said to have failed, and published numbers stand beside ours only where data set, network
and eps agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from d2rkit.core.binomial import standard_error
from d2rkit.core.files import write_atomically
from d2rkit.experiments.experiment import Run, settings_of
from d2rkit.experiments.presets import Preset
from d2rkit.reporting.escaping import markdown_text
from d2rkit.reporting.frame import attack_title, attacks_in, eps_words, labels, one_table, tidy
from d2rkit.reporting.published import Comparison, attack_words, compare, published
from d2rkit.reporting.render import Cell, Table, html_document, signed, to_csv, to_html, to_latex, to_markdown
from d2rkit.reporting.significance import paired_table

__all__ = [
    "Cell",
    "Table",
    "compare",
    "comparison_table",
    "paired_as_table",
    "pivot",
    "published",
    "tidy",
    "to_csv",
    "to_html",
    "to_latex",
    "to_markdown",
    "write_table",
]

CHECKPOINTS = {"best": "weights chosen on validation images", "last": "weights of the last epoch"}


@dataclass(frozen=True)
class Row:
    """A row to be: what it is called, the seeds it should have, and the command that fills it."""

    method: str
    label: str
    settings: str
    seeds: tuple[int, ...]
    command: str = ""


def pivot(frame: pd.DataFrame, preset: Preset | None = None, checkpoint: str | None = None) -> Table:
    """method x attack in percent, mean ± sample standard deviation over seeds, from tidy()'s DataFrame.

    preset: the table as it should be: its rows in its order, whatever is missing shown as the command that
    fills it, other runs left out. checkpoint: "best" or "last" (default: the first there is). Bold: the best
    mean of a column and every method within the best's standard deviation, among rows without a failed
    seed. ValueError for runs that do not belong in one table, such as runs of different eps."""
    rows = _rows_of(preset) if preset else _rows_found(frame)
    frame = frame[frame["settings"].isin([row.settings for row in rows])]
    checkpoint = checkpoint or _checkpoints(frame, preset)[0]
    if not frame.empty:
        one_table(frame)
    frame = frame[frame["checkpoint"] == checkpoint]
    if checkpoint not in CHECKPOINTS or (frame.empty and preset is None):
        raise ValueError(f"no run was evaluated at checkpoint {checkpoint!r}; choose best or last, if it was")
    columns = attacks_in({*frame.columns[frame.notna().any()], *(preset.base.attacks if preset else ())})
    numbers = pd.DataFrame([_numbers(row, frame[frame["settings"] == row.settings], columns) for row in rows])
    bold = {attack: _best(numbers, attack) for attack in columns}
    notes: dict[str, str] = {}
    body = []
    for at, row in enumerate(rows):
        group = frame[frame["settings"] == row.settings]
        words = "; ".join(_remarks(group))
        mark = notes.setdefault(words, _letter(len(notes))) if words else ""
        cells = [Cell(row.label, mark=mark)]
        if group.empty:
            cells.append(Cell(row.command, code=True) if row.command else Cell("not run"))
        else:
            cells += [_cell(numbers.iloc[at], attack, bool(bold[attack].iloc[at])) for attack in columns]
            cells.append(Cell(_of(len(group), len(row.seeds))))
        body.append(tuple(cells))
    below = [("", preset.note)] if preset and preset.note else []
    return Table(
        name=f"{preset.name if preset else frame['data'].iloc[0]}-{checkpoint}",
        caption=_caption(frame, preset, checkpoint),
        header=("Method", *map(attack_title, columns), "Seeds"),
        rows=tuple(body),
        notes=(*((letter, words) for words, letter in notes.items()), *below, *_to_do(numbers, preset)),
        numbers=numbers.assign(checkpoint=checkpoint),
    )


def write_table(preset: Preset, runs: Sequence[Run], folder: str | Path) -> list[Path]:
    """table.md, .tex, .html and .csv of a preset, runs.csv, and paired.csv and published.csv where there is
    something to pair or to compare; the same bytes for the same runs. Returns the files.

    Only runs of the preset's rows are used, whatever else `runs` holds; with none of them the table is all
    commands. table.csv, runs.csv and paired.csv hold the numbers unrounded, in [0, 1]; published.csv percent."""
    folder = Path(folder)
    rows = {row.settings: row.label for row in _rows_of(preset)}
    chosen = [run for run in runs if settings_of(run.experiment) in rows]
    frame = tidy(chosen)
    frame["label"] = frame["settings"].map(rows)
    tables = [pivot(frame, preset, checkpoint) for checkpoint in _checkpoints(frame, preset)]
    numbers = pd.concat([table.numbers for table in tables], ignore_index=True)
    extra = {}
    if chosen:
        paired = _paired(preset, chosen, frame, rows)
        beside = comparison_table(compare(frame, preset.base.data, preset.base.target), preset)
        extra = {"paired.csv": paired, "published.csv": beside}
        tables += [paired, beside] if beside.rows or beside.notes else [paired]
    made_by = f"Made by `{preset.command}`{_origin(frame)}.{_masking(chosen)}"
    head = f"# {markdown_text(preset.title)}\n\n{markdown_text(made_by)}\n\n"
    return [
        _write(folder / "table.md", head + "\n".join(map(to_markdown, tables))),
        _write(folder / "table.csv", to_csv(replace(tables[0], numbers=numbers))),
        _write(folder / "table.tex", "\n".join(map(to_latex, tables))),
        _write(folder / "table.html", html_document(preset.title, *tables)),
        _write(folder / "runs.csv", frame.to_csv(index=False, lineterminator="\n")),
        *(_write(folder / name, to_csv(table)) for name, table in extra.items() if table.rows),
    ]


def _masking(runs: Sequence[Run]) -> str:
    """What the checks of gradient masking say of the runs whose numbers a table shows, in a sentence."""
    checked = [run.result["masking"] for run in runs if run.result.get("masking")]
    if not checked:
        return ""
    signs = sum(any(not check["passed"] for check in checks) for checks in checked)
    warned = sum(any(run.result.get("autoattack_warnings", {}).values()) for run in runs)
    of = f"{len(checked)} run{'s' * (len(checked) > 1)}"
    words = f"signs in {signs} of {of}" if signs else f"no sign in {of}"
    words += f", {'and' if signs else 'but'} AutoAttack warns of {warned}" * bool(warned)
    return f" Checks of gradient masking: {words}{'; see the notes' * bool(signs or warned)}."


def paired_as_table(frame: pd.DataFrame, name: str = "paired") -> Table:
    """paired_table()'s DataFrame to read: each method against the reference, on the same images."""
    first = frame.iloc[0]
    attack = attack_title(first["attack"])
    rows = [
        (
            Cell(row["label"]),
            Cell(signed(100 * row["difference"])),
            Cell(f"{signed(100 * row['low'])} to {signed(100 * row['high'])}"),
            Cell(f"{row['better']} : {row['worse']}"),
            Cell(_p(row["p"])),
            Cell(_p(row["p_holm"])),
            Cell(str(row["seeds"])),
        )
        for _, row in frame.iterrows()
    ]
    caption = (
        f"Difference in {attack} accuracy from {first['reference']}, in points, paired on the same {first['n']} test "
        f"images ({CHECKPOINTS[first['checkpoint']]}), with its 95 % bootstrap interval over images. Better : worse "
        f"counts the pairs of image and seed that only the method or only {first['reference']} gets right. p is exact "
        "and two-sided: McNemar's test, or for several seeds a sign-flip test over images; p (Holm) is adjusted for "
        "the number of rows. All of this concerns the trained networks at hand, not the variation between seeds."
    )
    header = ("Method", "Difference", "95 % interval", "Better : worse", "p", "p (Holm)", "Seeds")
    return Table(name, caption, header, tuple(rows), numbers=frame)


def comparison_table(comparison: Comparison, preset: Preset | None = None) -> Table:
    """compare()'s answer to read: ours, published, difference and source; without rows where nothing is comparable."""
    rows = [
        (
            Cell(row["label"]),
            Cell(attack_words(row["attack"])),
            Cell(row["eps"]),
            Cell(percent(row["ours"] / 100, row["ours_std"] / 100)),
            Cell(percent(row["published"] / 100, row["published_std"] / 100)),
            Cell(signed(row["difference"])),
            Cell("; ".join(filter(None, (row["source"], row["note"])))),
        )
        for _, row in comparison.frame.iterrows()
    ]
    caption = "Compared with published numbers"
    if rows:
        n = ", ".join(str(n) for n in sorted(comparison.frame["n_test"].unique()))
        caption += f": accuracy in percent, same data set, network and ε; ours on {n} test images"
    header = ("Method", "Attack", "ε", "Ours", "Published", "Difference", "Source")
    notes = tuple(("", note) for note in comparison.notes)
    return Table(
        f"{preset.name if preset else 'table'}-published", caption + ".", header, tuple(rows), notes, comparison.frame
    )


def _paired(preset: Preset, runs: Sequence[Run], frame: pd.DataFrame, rows: Mapping[str, str]) -> Table:
    """Paired tests against TRADES (if it is one row, else against the first row), or why there are none."""
    trades = frame.loc[frame["method"] == "trades", "label"].unique()
    there = set(frame["settings"])
    reference = trades[0] if len(trades) == 1 else next(label for key, label in rows.items() if key in there)
    attacks = attacks_in(preset.base.attacks) or attacks_in(frame.columns)
    try:
        if not attacks:
            raise ValueError("no run was attacked")
        tests = paired_table(runs, attacks[-1], reference, checkpoint=preset.base.checkpoints[0], named=rows)
        if tests.empty:
            raise ValueError("no two rows share a seed")
    except ValueError as error:
        return Table(f"{preset.name}-paired", f"No paired tests: {error}.", (), ())
    return paired_as_table(tests, f"{preset.name}-paired")


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _write(path: Path, text: str) -> Path:
    with write_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
    return path


def _rows_of(preset: Preset) -> list[Row]:
    """The preset's rows, in its order."""
    cells = [preset.experiment(row, preset.seeds[0]) for row in preset.rows]
    return [
        Row(
            method=cell.method,
            label=preset.titles.get(row, label),
            settings=settings_of(cell),
            seeds=preset.seeds,
            command=f"{preset.command} --rows {row}",
        )
        for row, cell, label in zip(preset.rows, cells, labels(cells), strict=True)
    ]


def _rows_found(frame: pd.DataFrame) -> list[Row]:
    """The rows that the runs at hand make."""
    one_table(frame)
    return [
        Row(group["method"].iloc[0], group["label"].iloc[0], str(settings), tuple(sorted(set(group["seed"]))))
        for settings, group in frame.groupby("settings", sort=False)
    ]


def _checkpoints(frame: pd.DataFrame, preset: Preset | None) -> list[str]:
    checkpoints = [*(preset.base.checkpoints if preset else ()), *frame["checkpoint"]]
    return list(dict.fromkeys(checkpoints))


def _numbers(row: Row, group: pd.DataFrame, columns: Iterable[str]) -> dict[str, object]:
    failed = group["status"].str.startswith("failed")
    values: dict[str, object] = {
        "method": row.method,
        "label": row.label,
        "settings": row.settings,
        "seeds": " ".join(str(seed) for seed in group["seed"]),
        "n_seeds": len(group),
        "n_failed": int(failed.sum()),
        "n_missing": len(set(row.seeds) - set(group["seed"])),
    }
    for attack in columns:
        shares = group[attack].dropna() if attack in group else pd.Series(dtype=float)
        values |= {f"{attack}_mean": shares.mean(), f"{attack}_std": shares.std(), f"{attack}_n": len(shares)}
    return values


def _best(numbers: pd.DataFrame, attack: str) -> pd.Series:
    """Which rows are best, or within the best's standard deviation of it; one seed has none, so ties only."""
    means = numbers[f"{attack}_mean"].where(numbers["n_failed"] == 0)
    if means.isna().all():
        return pd.Series(False, numbers.index)
    at = means.argmax()
    spread = numbers[f"{attack}_std"].iloc[at]
    return means >= means.iloc[at] - (0.0 if math.isnan(spread) else spread)


def _cell(values: pd.Series, attack: str, bold: bool) -> Cell:
    mean, std, n = (values[f"{attack}_{name}"] for name in ("mean", "std", "n"))
    if not n:
        return Cell("failed" if values["n_failed"] else "–")
    return Cell(percent(mean, std), bold)


def percent(mean: float, std: float = math.nan) -> str:
    """0.4823, 0.013 -> "48.2 ± 1.3"; without a spread just "48.2"."""
    return f"{100 * mean:.1f}" if math.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _of(have: int, wanted: int) -> str:
    return str(have) if have >= wanted else f"{have} of {wanted}"


def _letter(number: int) -> str:
    """a … z, then aa …"""
    return (chr(ord("a") + number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


def _remarks(group: pd.DataFrame) -> list[str]:
    """What a reader of the row's numbers must know: failed and stuck seeds, signs of gradient masking."""
    remarks = []
    for _, run in group.iterrows():
        if run["status"].startswith("failed"):
            remarks.append(f"seed {run['seed']} {run['status']}; it is not part of the mean")
        elif run["status"] != "done":
            remarks.append(f"seed {run['seed']} is {run['status']}; it is part of the mean")
        if run["masking"]:
            remarks.append(f"seed {run['seed']} shows a sign of gradient masking: {run['masking']}")
        if run["warnings"]:
            remarks.append(f"AutoAttack says of seed {run['seed']}: {run['warnings']}")
    return remarks


def _to_do(numbers: pd.DataFrame, preset: Preset | None) -> list[tuple[str, str]]:
    """A remark on rows that have some of their seeds, but not all."""
    begun = (numbers["n_seeds"] > 0) & (numbers["n_missing"] > 0)
    if preset is None or not begun.any():
        return []
    return [("", f"Seeds still to be run, in {begun.sum()} row(s) above: `{preset.command}`.")]


def _caption(frame: pd.DataFrame, preset: Preset | None, checkpoint: str) -> str:
    """What is measured on what, and how to read it; no hardware, since no accuracy depends on it."""
    title = preset.title if preset else f"{frame['data'].iloc[0]}, {frame['target'].iloc[0]}"
    # Of what was measured: rows of a preset may have another radius than its base.
    eps = preset.experiment(preset.rows[0], 0).radius if preset and frame.empty else frame["eps"].iloc[0]
    words = f"{title}: accuracy in percent under L∞ attacks of ε = {eps_words(eps)} (pixel scale)"
    if frame.empty:
        return f"{words}; nothing has been run yet. {CHECKPOINTS[checkpoint].capitalize()}."
    n = int(frame["n_test"].iloc[0])
    seeds = int(frame.groupby("settings")["seed"].nunique().max())
    words += f" on {n} test images, {CHECKPOINTS[checkpoint]}"
    if seeds > 1:
        words += f"; mean ± sample standard deviation over n = {seeds} seeds"
        rule = "Bold: the best in its column and all within the best's standard deviation"
    else:
        words += "; one seed, so that no spread is known"
        rule = "Bold: the best in its column"
    error = 100 * standard_error(0.5, n)
    return f"{words}. {rule}. With so many test images, each accuracy has a standard error of up to {error:.1f} points."


def _origin(frame: pd.DataFrame) -> str:
    """Data and hardware of the runs, for the head of the page."""
    facts = [" and ".join(sorted({v for v in frame.get(c, ()) if v})) for c in ("data_source", "hardware")]
    return "".join(f"{words} {fact}" for words, fact in zip((" from", "; runs on"), facts, strict=True) if fact)
