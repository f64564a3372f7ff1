"""What a loss weight trades: clean against robust accuracy, a line for each method, a point for each value."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from d2rkit.core.binomial import interval
from d2rkit.experiments.experiment import Experiment, Run, settings_of
from d2rkit.methods.catalogue import METHODS, get_method
from d2rkit.reporting.export import VENUES, KitFigure, legend_below, look, new_figure, spread_labels, style
from d2rkit.reporting.frame import attack_title, attacks_in, one_table, tidy
from d2rkit.reporting.significance import flags_of

SYMBOLS = {"beta": "β"}


def draw_frontier(runs: Sequence[Run], checkpoint: str = "best") -> KitFigure:
    """Clean accuracy against that of the images which withstand every attack of the evaluation, mean over seeds. Of
    each method whose runs differ in one numeric loss option, the points of its values are joined in their order and
    named by them; bars: 95 % Wilson intervals for one seed's number of images. A method with one setting is one point.
    ValueError if nothing was attacked or not at this checkpoint, or if runs of one method differ in more than that."""
    runs = [run for run in runs if not run.result["status"].startswith("failed")]
    shared = one_table(tidy(runs))
    if any(checkpoint not in run.result["accuracy"] for run in runs):
        raise ValueError(f"not all of these runs were evaluated at checkpoint {checkpoint!r}")
    attacks = [name for name in attacks_in(runs[0].result["accuracy"][checkpoint]) if name != "clean"]
    if not attacks:
        raise ValueError("these runs were evaluated on clean images only; a frontier needs an attack")
    options = varied_options([run.experiment for run in runs])
    rows = []
    for run in runs:
        method, option = run.experiment.method, options[run.experiment.method]
        value = get_method(method).option(option, run.experiment.loss) if option else np.nan
        standing = np.logical_and.reduce([flags_of(run, attack, checkpoint) for attack in attacks])
        clean = flags_of(run, "clean", checkpoint).mean()
        rows.append({"method": method, "option": option, "value": value, "clean": clean, "robust": standing.mean()})
    grouped = pd.DataFrame(rows).groupby(["method", "option", "value"], dropna=False)
    data = grouped.agg(clean=("clean", "mean"), robust=("robust", "mean"), seeds=("clean", "count")).reset_index()
    order = {name: number for number, name in enumerate(METHODS)}
    data = data.sort_values("method", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    for kind in ("clean", "robust"):
        ends = [interval(round(share * shared["n_test"]), shared["n_test"]) for share in data[kind]]
        data[f"{kind}_low"], data[f"{kind}_high"] = zip(*ends, strict=True)
    with style():
        figure, (axes,) = new_figure(VENUES["neurips"][1], 3.0)
        for method, part in data.groupby("method", sort=False):
            lengths = {
                kind: 100 * np.abs(part[[f"{kind}_low", f"{kind}_high"]].T.to_numpy() - part[kind].to_numpy())
                for kind in ("clean", "robust")
            }
            axes.errorbar(
                100 * part["clean"], 100 * part["robust"], lengths["robust"], lengths["clean"],
                label=_words(str(method), part), elinewidth=0.5, **look(str(method)).line(markersize=5),
            )  # fmt: skip
            for _, point in part.dropna(subset="value").iterrows():
                axes.annotate(
                    f"{point['value']:g}", (100 * point["clean"], 100 * point["robust"]), (5, 0),
                    textcoords="offset points", fontsize=6, color=look(str(method)).color,
                )  # fmt: skip
        axes.margins(0.08)
        words = " and ".join(map(attack_title, attacks)) if len(attacks) < 3 else f"all of {len(attacks)} attacks"
        axes.set(xlabel="clean accuracy (%)", ylabel=f"accuracy under {words} (%)")
        legend_below(figure)
        spread_labels(figure)
    figure.d2r_data = data.assign(attacks=" ".join(attacks), n_test=shared["n_test"])
    return figure


def varied_options(experiments: Sequence[Experiment]) -> dict[str, str]:
    """The one numeric loss option in which each method's experiments differ; "" if they do not."""
    options = {}
    for name in dict.fromkeys(experiment.method for experiment in experiments):
        of_method = [experiment for experiment in experiments if experiment.method == name]
        method, changed = get_method(name), sorted({option for e in of_method for option in e.loss})
        values = {option: {method.option(option, e.loss) for e in of_method} for option in changed}
        varied = [option for option, different in values.items() if len(different) > 1]
        if len(varied) > 1 or any(isinstance(value, str) for option in varied for value in values[option]):
            raise ValueError(f"runs of {method.title} differ in {', '.join(varied)}; a frontier is of one number")
        options[name] = varied[0] if varied else ""
        if len({settings_of(e) for e in of_method}) > (len(values[varied[0]]) if varied else 1):
            raise ValueError(f"runs of {method.title} differ in more than one loss option; choose one table first")
    return options


def _words(name: str, part: pd.DataFrame) -> str:
    title, option = get_method(name).title, part["option"].iloc[0]
    if not option:
        return title
    title = re.sub(rf" \({SYMBOLS.get(option, option)}=.*\)", "", title)  # LBGAT (β=6)
    return f"{title}: {SYMBOLS.get(option, option)} {part['value'].min():g} to {part['value'].max():g}"
