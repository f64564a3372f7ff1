"""Published numbers beside ours: only for the same data set, network and eps, each with its source."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from d2rkit.reporting.frame import attack_title, eps_words

FILE = Path(__file__).with_name("published.csv")
PUBLISHED_AS = {
    "pgd-at": "PGD-AT",
    "trades": "TRADES",
    "mart": "MART",
    "lbgat0": "LBGAT0",
    "lbgat6": "LBGAT6",
    "pgd-at-awp": "AT-AWP",
    "trades-awp": "TRADES-AWP",
    "mart-awp": "MART-AWP",
    "d2r-cag": "D2R+CAG",
    "d2r-cag-released": "D2R+CAG",
}
"""Our methods by the name they have in published.csv."""
COLUMNS = {"clean": "clean", "fgsm": "fgsm", "pgd20": "pgd20", "cw20": "cw", "autoattack": "autoattack"}
"""Our attacks by their column in published.csv; papers' C&W is PGD on the margin loss, as ours is."""


class Comparison(NamedTuple):
    """frame: ours and published in percent, a row for each method, attack and source. notes: what could
    not be compared and why, in sentences."""

    frame: pd.DataFrame
    notes: tuple[str, ...]


def published() -> pd.DataFrame:
    """published.csv: accuracies in percent; eps as printed and, as a number, in `radius` (NaN where the source does not
    state it: such a row holds no numbers, only a note). ValueError if the file cannot be read."""
    try:
        frame = pd.read_csv(FILE)
        frame["radius"] = [math.nan if eps == "unstated" else float(Fraction(eps)) for eps in frame["eps"]]
    except (OSError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"{FILE} cannot be read as the table of published numbers: {error}") from error
    return frame


def same_setting(frame: pd.DataFrame, data: str, target: str, eps: float) -> pd.DataFrame:
    """The published rows with numbers for this data set, network and eps (0.031 is not 8/255)."""
    close = [math.isclose(radius, eps, rel_tol=1e-6) for radius in frame["radius"]]
    same_eps = pd.Series(close, frame.index, dtype=bool)
    return frame[(frame["dataset"] == data) & (frame["target"] == target) & same_eps]


def why_not(frame: pd.DataFrame) -> str:
    """Why runs of tidy()'s DataFrame cannot stand beside published numbers; empty if they can."""
    first = frame.iloc[0]
    if first["subset"]:
        return f"these runs saw {first['subset']} training images, published ones all of {first['data']}"
    known = published()
    if first["data"] not in set(known["dataset"]):
        return f"published.csv has no numbers on {first['data']}"
    if first["target"] not in set(known.loc[known["dataset"] == first["data"], "target"]):
        return f"published.csv has no numbers of a {first['target']} on {first['data']}"
    return ""


def compare(frame: pd.DataFrame, data: str, target: str, *, checkpoint: str | None = None) -> Comparison:
    """Ours (mean over seeds) and published side by side, with the difference and the source.

    frame: from tidy(). Every published row stands by itself, nothing is averaged over sources or over eps."""
    empty = pd.DataFrame(columns=["method", "label", "attack", "eps", "ours", "published", "difference", "source"])
    ours = frame[(frame["data"] == data) & (frame["target"] == target)]
    if ours.empty:
        return Comparison(empty, (f"There are no runs of {target} on {data}.",))
    ours = ours[ours["checkpoint"] == (checkpoint or ours["checkpoint"].iloc[0])]
    if reason := why_not(ours):
        return Comparison(empty, (f"Nothing published is comparable: {reason}.",))
    known = published()
    rows, notes = [], []
    for _, group in ours.groupby(["settings", "label", "method", "eps"], sort=False):
        label, method, eps = (group[name].iloc[0] for name in ("label", "method", "eps"))
        named = known[known["method"] == PUBLISHED_AS.get(method, "")]
        here = same_setting(named, data, target, eps)
        for _, entry in here.iterrows():
            for attack, column in COLUMNS.items():
                if attack not in group or group[attack].isna().all() or math.isnan(entry[column]):
                    continue
                mean, std = 100 * group[attack].mean(), 100 * group[attack].std()
                rows.append(
                    {
                        "method": method,
                        "label": label,
                        "attack": attack,
                        "eps": entry["eps"],
                        "ours": mean,
                        "ours_std": std,
                        "n_seeds": group[attack].count(),
                        "n_test": group["n_test"].iloc[0],
                        "published": entry[column],
                        "published_std": entry["autoattack_std"] if attack == "autoattack" else math.nan,
                        "difference": mean - entry[column],
                        "source": entry["source"],
                        "note": "" if pd.isna(entry["note"]) else entry["note"],
                    }
                )
        others = named[(named["dataset"] == data) & (named["target"] == target) & ~named.index.isin(here.index)]
        for _, entry in others.iterrows():
            if math.isnan(entry["radius"]):
                notes.append(f"{label}: no published number ({entry['note']}; {entry['source']}).")
            else:
                notes.append(
                    f"{label}: published at ε = {entry['eps']} ({entry['source']}), not compared with ours at "
                    f"ε = {eps_words(eps)}."
                )
        if named.empty or (here.empty and others.empty):
            notes.append(f"{label}: no published number for {target} on {data}.")
    compared = pd.DataFrame(rows) if rows else empty
    return Comparison(compared, tuple(dict.fromkeys(notes)))


def attack_words(attack: str) -> str:
    """Ours and theirs, where the names differ."""
    return "C&W" if attack == "cw20" else attack_title(attack)
