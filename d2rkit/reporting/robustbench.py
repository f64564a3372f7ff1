"""RobustBench's model_info files, both ways: its entries as published rows, and a run as an entry.

RobustBench (Croce et al. 2021, arXiv 2010.09670) keeps one JSON file a network below model_info/DATASET/THREAT. The
files are read from a copy that the user has; nothing is fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from d2rkit.core.files import read_json
from d2rkit.core.paths import check_path
from d2rkit.core.validation import number, printable
from d2rkit.experiments.experiment import Run
from d2rkit.reporting.frame import eps_words, title_of

THREAT = "Linf"
OTHER_THREATS = ("L2", "corruptions", "corruptions_3d")  # folders of entries whose radius is another thing
COLUMNS = (
    "dataset",
    "target",
    "method",
    "eps",
    "clean",
    "autoattack",
    "external",
    "extra_data",
    "unreliable",
    "source",
)
RANKED = ("cifar10", "cifar100")  # of the kit's data sets
RANKED_EPS = 8 / 255
WHOLE_TEST = 10_000  # images of every test set that RobustBench ranks CIFAR entries on


class Leaderboard(NamedTuple):
    """frame: an entry a row, in percent (NaN where an entry has no number), best AutoAttack first. left_out: files that
    are no entries, each with the reason, in a sentence."""

    frame: pd.DataFrame
    left_out: tuple[str, ...]


def read_leaderboard(folder: str | Path) -> Leaderboard:
    """All Linf entries below `folder`: a copy of the repository, its model_info, or a folder of entries.

    Columns as in published.csv where it has them; `external` is the lower accuracy that somebody else's attack left,
    beside which AutoAttack's number must not stand alone. ValueError if there is none."""
    folder = check_path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = sorted(p for p in folder.rglob("*.json") if p.parent.name == THREAT or p.parent == folder)
    files = [file for file in files if file.resolve().parent.name not in OTHER_THREATS]
    rows, left_out = [], []
    for file in files:
        try:
            rows.append(entry(file.stem, read_json(file)))
        except ValueError as error:
            left_out.append(f"{file.name} was left out: {error}")
    if not rows:
        reason = f" ({left_out[0]})" if left_out else ""
        raise ValueError(f"there is no {THREAT} entry of RobustBench below {folder}{reason}")
    frame = pd.DataFrame(rows, columns=[*COLUMNS]).sort_values("autoattack", ascending=False, kind="stable")
    return Leaderboard(frame.reset_index(drop=True), tuple(left_out))


def entry(name: str, content: Any) -> dict[str, Any]:
    """One row of read_leaderboard() from a file's content; ValueError, in one sentence, if it is no entry."""
    if not isinstance(content, Mapping):
        raise ValueError("it holds no entry")
    if missing := [key for key in ("dataset", "architecture", "eps", "clean_acc") if not content.get(key)]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return {
        "dataset": str(content["dataset"]),
        "target": our_name(str(content["architecture"])),
        "method": printable(name),
        "eps": _eps(content["eps"]),
        "clean": _percent(content, "clean_acc"),
        "autoattack": _percent(content, "autoattack_acc"),
        "external": _percent(content, "external"),
        "extra_data": content.get("additional_data") is True,
        "unreliable": content.get("unreliable") is True,
        "source": printable(f"RobustBench model_info {name}; {content.get('name', '')}, {content.get('venue', '')}"),
    }


def _percent(content: Mapping[str, Any], key: str) -> float:
    """NaN where there is none: empty, null or a dash."""
    value = content.get(key)
    if value is None or str(value).strip() in ("", "-", "–"):
        return math.nan
    try:
        percent = float(str(value).strip().rstrip("%"))
    except ValueError:
        percent = math.nan
    if not 0 <= percent <= 100:
        raise ValueError(f"{key} is {str(value)[:40]!r}, not a percentage")
    return percent


def _eps(value: Any) -> str:
    try:
        known = 0 < number(str(value)) <= 1
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"eps is {str(value)[:40]!r}, not a radius in pixel scale")
    return str(value)


_SHORT = {"preactresnet-18": "preactresnet18", "resnet-18": "resnet18"}


def our_name(architecture: str) -> str:
    """The kit's name of an architecture, as published.csv has it; others stay as they are."""
    if match := re.fullmatch(r"WideResNet-(\d+)-(\d+)", architecture, re.IGNORECASE):
        return f"wrn-{match[1]}-{match[2]}"
    return _SHORT.get(architecture.lower(), printable(architecture))


def their_name(network: str) -> str:
    """RobustBench's name of a network of the kit; others stay as they are."""
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)", network):
        return f"WideResNet-{match[1]}-{match[2]}"
    return {"preactresnet18": "PreActResNet-18", "resnet18": "ResNet-18"}.get(network, network)


def claim(run: Run, *, checkpoint: str = "best", title: str = "", authors: str = "", venue: str = "", link: str = ""):
    """The JSON of a leaderboard entry for a finished run, its numbers as they were measured, in percent.

    Returns the content and sentences on what keeps RobustBench from taking it as it is. ValueError if the run has no
    standard AutoAttack accuracy at `checkpoint`."""
    accuracy = run.result["accuracy"].get(checkpoint, {})
    if missing := [name for name in ("clean", "autoattack") if name not in accuracy]:
        raise ValueError(f"{run.folder} has no accuracy of {' and '.join(missing)} at checkpoint {checkpoint!r}")
    cell, n = run.experiment, run.result["n_test"]
    robust = f"{100 * accuracy['autoattack']:.2f}"
    notes = [f"Measured with d2rkit on {n} test images, checkpoint {checkpoint}, seed {cell.seed}."]
    why_not = []
    if cell.data not in RANKED:
        why_not.append(f"RobustBench ranks {', '.join(RANKED)}, not {cell.data}")
    elif n != WHOLE_TEST:
        why_not.append(f"RobustBench ranks numbers on all {WHOLE_TEST} test images, and this one is of {n}")
    if cell.data in RANKED and not math.isclose(cell.radius, RANKED_EPS):
        why_not.append(f"RobustBench ranks numbers at eps 8/255, and this one is at {eps_words(cell.radius)}")
    if cell.subset:
        notes.append(f"Trained on {cell.subset} images.")
    flagged = [check["words"] for check in run.result.get("masking", []) if not check["passed"]]
    flagged += run.result.get("autoattack_warnings", {}).get(checkpoint, [])
    if flagged:
        notes.append(f"Signs of gradient masking: {'; '.join(flagged)}.")
        why_not.append("there are signs of gradient masking, so AutoAttack's number is an upper bound")
    if empty := [k for k, v in {"authors": authors, "venue": venue, "link": link}.items() if not v]:
        why_not.append(f"{', '.join(empty)} are for you to fill in (--{' --'.join(empty)})")
    content = {
        "link": link, "name": title or title_of(cell.method), "authors": authors, "additional_data": False,
        "number_forward_passes": 1, "dataset": cell.data, "venue": venue, "architecture": their_name(cell.target),
        "eps": eps_words(cell.radius).split(" ")[0], "clean_acc": f"{100 * accuracy['clean']:.2f}", "reported": robust,
        "autoattack_acc": robust, "footnote": " ".join(notes), "unreliable": bool(flagged),
    }  # fmt: skip
    return content, tuple(why_not)
