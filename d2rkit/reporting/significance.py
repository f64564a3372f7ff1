"""Is the difference real? Error bars and paired tests from the flags that every evaluation keeps.

Two methods attacked on the same images are compared image by image: only images that one gets right and the
other does not say anything. The tests below speak of these trained networks on other images of the same kind;
what another seed would change is the ± of the tables, and with a few seeds no test can replace it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

from d2rkit.core import binomial
from d2rkit.core.validation import check_count, check_number, shown
from d2rkit.experiments.experiment import Run
from d2rkit.experiments.run_files import Flags, read_flags
from d2rkit.experiments.run_folders import evaluation_folder
from d2rkit.reporting.frame import one_table, tidy


class McNemar(NamedTuple):
    """Images that only a gets right, images that only b gets right, and the exact two-sided p."""

    a_only: int
    b_only: int
    p: float


class Difference(NamedTuple):
    """accuracy(a) - accuracy(b), and the interval of the bootstrap over images."""

    difference: float
    low: float
    high: float


def standard_error(flags: ArrayLike) -> float:
    """Binomial standard error of the accuracy of flags: (N,) bool."""
    flags = _flags(flags)
    if len(flags) > 1:
        raise ValueError(f"standard_error takes the flags of one run, (N,), not of {len(flags)}")
    return binomial.standard_error(float(flags.mean()), flags.size)


def mcnemar(flags_a: ArrayLike, flags_b: ArrayLike) -> McNemar:
    """McNemar's test in its exact form (McNemar 1947): under "no difference", each image that the two
    methods judge differently is a fair coin. flags: (N,) bool, the same images in the same order."""
    a, b = _pair(flags_a, flags_b)
    if len(a) > 1:
        raise ValueError("mcnemar compares one run with one run; for several seeds use sign_flip_p")
    return McNemar(int((a & ~b).sum()), int((b & ~a).sum()), sign_flip_p(a, b))


def sign_flip_p(flags_a: ArrayLike, flags_b: ArrayLike) -> float:
    """Exact two-sided p of "the two methods are exchangeable on every image". flags: (N,) or (seeds, N).

    An image's difference, summed over seeds, keeps its size and gets its sign from a fair coin, so that
    images count as independent and seeds do not. With one seed this is McNemar's exact test."""
    a, b = _pair(flags_a, flags_b)
    each = (a.astype(int) - b).sum(0)  # (N,), in -seeds..seeds
    observed = abs(int(each.sum()))
    # Distribution of the sum over all signs: a convolution of binomials, exact up to rounding. Sums are formed in a
    # fixed order, since np.convolve and np.sum round as the processor's units suit them and tables must not differ.
    chances = np.ones(1)
    for size in range(1, len(a) + 1):
        steps = _fair_binomial(int((abs(each) == size).sum()))
        wider = np.zeros(len(chances) + 2 * size * (len(steps) - 1))
        for heads, chance in enumerate(steps):
            wider[2 * size * heads :][: len(chances)] += chance * chances
        chances = wider
    sums = np.arange(len(chances)) - len(chances) // 2
    return min(1.0, math.fsum(chances[abs(sums) >= observed]))


def bootstrap_difference(
    flags_a: ArrayLike, flags_b: ArrayLike, seed: int = 0, *, level: float = 0.95, draws: int = 10_000
) -> Difference:
    """Percentile interval of accuracy(a) - accuracy(b) over resampled images. flags: (N,) or (seeds, N).

    An image is drawn with all its seeds at once, since the same image is hard for every seed."""
    check_number("level", level, high=1)
    if level in (0, 1):
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    check_count("draws", draws, 1, 10**8)
    check_count("seed", seed)
    a, b = _pair(flags_a, flags_b)
    each = (a.astype(int) - b).sum(0)  # (N,), in -seeds..seeds: whole numbers, whose sums no processor rounds
    # Drawing N images is drawing how often each of the few different values occurs.
    values, counts = np.unique(each, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(each.size, counts / each.size, size=draws)
    low, high = np.quantile(drawn @ values / a.size, [(1 - level) / 2, (1 + level) / 2])
    return Difference(int(each.sum()) / a.size, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values made fit for asking several questions at once (Holm 1979)."""
    values = _numbers(p_values)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p values must be numbers in [0, 1], one a question, not {shown(values.tolist())}")
    order = np.argsort(values, kind="stable")
    corrected, worst = [0.0] * len(values), 0.0
    for rank, at in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - rank) * float(values[at])))
        corrected[at] = worst
    return corrected


def flags_of(run: Run, attack: str, checkpoint: str = "best") -> np.ndarray:
    """(N,) bool: which test images the run's target still gets right under `attack`; ValueError if not kept."""
    return _kept(run, attack, checkpoint).flags


def _kept(run: Run, attack: str, checkpoint: str) -> Flags:
    file = evaluation_folder(run.folder, checkpoint) / f"{attack}.npz"
    if not file.exists():
        raise ValueError(f"{file} does not exist: evaluate {checkpoint!r} with {attack!r} first")
    kept = read_flags(file)
    if kept.flags.shape != (run.result["n_test"],):
        raise ValueError(f"{file} holds {kept.flags.size} flags, not one for each of {run.result['n_test']} images")
    return kept


def paired_table(
    runs: Sequence[Run],
    attack: str = "autoattack",
    reference: str = "trades",
    *,
    checkpoint: str = "best",
    seed: int = 0,
    named: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Every method against `reference` (a method's name, or a row's label), on the seeds that both have.
    named: labels of rows by their settings' hash, where a table has its own.

    One row a method: seeds (how many pairs), n (images), accuracy, reference_accuracy, difference with its
    95 % bootstrap interval low..high, better and worse (how many pairs of image and seed only one gets right),
    p (sign_flip_p, McNemar's where there is one seed) and p_holm, corrected for the number of rows. ValueError if the
    runs do not belong in one table, lack flags, or were attacked on other images or in another order."""
    runs = [run for run in runs if not run.result["status"].startswith("failed")]
    frame = tidy(runs)
    one_table(frame)
    by_folder = {run.folder.name: run for run in runs}
    groups: dict[str, dict[int, Run]] = {}  # in the order of the tables
    names: dict[str, tuple[str, str]] = {}
    for _, row in frame.drop_duplicates("folder").iterrows():
        groups.setdefault(row["settings"], {})[row["seed"]] = by_folder[row["folder"]]
        names[row["settings"]] = (row["method"], (named or {}).get(row["settings"], str(row["label"])))
    chosen = [key for key, name in names.items() if reference in name]
    if len(chosen) != 1:
        shown = ", ".join(f"{method} ({label})" for method, label in names.values())
        raise ValueError(f"reference {reference!r} is not exactly one row; there are: {shown}")
    base = groups[chosen[0]]
    rows: list[dict[str, Any]] = []
    for key, group in groups.items():
        seeds = sorted(group.keys() & base.keys())
        if key == chosen[0] or not seeds:
            continue
        kept = [[_kept(which[s], attack, checkpoint) for s in seeds] for which in (group, base)]
        images = {each.facts["images"] for which in kept for each in which if "images" in each.facts}
        if len(images) > 1:  # as many of the same data set, but from another copy, which has another order
            raise ValueError(f"{names[key][1]} and {names[chosen[0]][1]} were not attacked on the same images")
        a, b = (np.stack([each.flags for each in which]) for which in kept)
        difference = bootstrap_difference(a, b, seed)
        rows.append(
            {
                "method": names[key][0],
                "label": names[key][1],
                "reference": names[chosen[0]][1],
                "attack": attack,
                "checkpoint": checkpoint,
                "seeds": len(seeds),
                "n": a.shape[1],
                "accuracy": float(a.mean()),
                "reference_accuracy": float(b.mean()),
                **difference._asdict(),
                "better": int((a & ~b).sum()),
                "worse": int((b & ~a).sum()),
                "p": sign_flip_p(a, b),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.assign(p_holm=holm(list(frame["p"]))) if rows else frame


def _array(values: ArrayLike) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # numpy lacks torch's shortest types
    return np.asarray(values)


def _numbers(values: ArrayLike) -> np.ndarray:
    array = _array(values)
    if array.dtype.kind not in "buif":
        raise ValueError(f"numbers are needed, not {shown(values)}")
    return array.astype(float)


def _flags(flags: ArrayLike) -> np.ndarray:
    """(seeds, N) bool."""
    array = np.atleast_2d(_array(flags))
    if array.dtype != bool or array.ndim != 2 or array.size == 0:
        raise ValueError(f"flags must be bool of shape (N,) or (seeds, N), not {array.dtype} {np.shape(flags)}")
    return array


def _pair(flags_a: ArrayLike, flags_b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    a, b = _flags(flags_a), _flags(flags_b)
    if a.shape != b.shape:
        raise ValueError(f"flags of the same images and seeds are needed, not {a.shape} and {b.shape}")
    return a, b


def _fair_binomial(count: int) -> list[float]:
    """Chances of 0..count heads of `count` fair coins, each the nearest float."""
    ways, chances = 1, []
    for heads in range(count + 1):
        chances.append(ways / 2**count)
        ways = ways * (count - heads) // (heads + 1)
    return chances
