"""Panel of notebook 07: a table of robust accuracies, ours beside published, to look at and to copy."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from d2rkit.evaluation.evaluate import ATTACKS
from d2rkit.experiments.experiment import Run, settings_of
from d2rkit.experiments.presets import PRESETS, Preset
from d2rkit.panels import base
from d2rkit.panels.controls import Choice
from d2rkit.panels.panel import Panel
from d2rkit.panels.table_rows import ALL, TITLES, Browsed, Setting, compute, difference, menu_words, settings_for
from d2rkit.reporting.published import attack_words
from d2rkit.reporting.render import signed, to_html, to_latex, to_markdown


# -- picture ------------------------------------------------------------------------------------------------
def draw(data: Browsed) -> Figure:
    """A row a method, an axis an attack: ours filled with its spread, every published source an open diamond."""
    names = list(dict.fromkeys(entry.label for entry in data.entries))
    waiting = {entry.label for entry in data.entries if entry.command and not entry.seeds}
    shown = [textwrap.fill(f"{name} · not run" if name in waiting else name, 34) for name in names]
    lines = sum(name.count("\n") + 1 for name in shown)
    title = textwrap.fill(f"{data.title}: {data.setting.title}", 110)
    above = 0.42 + 0.2 * len(title.splitlines())
    made = base.figure(9.4, 0.78 + above + 0.2 * lines + 0.07 * max(len(names), 3))
    frame = made.subplots(1, len(data.attacks), sharey=True, squeeze=False)[0]
    high = made.get_figheight()
    made.subplots_adjust(left=0.27, right=0.985, top=1 - above / high, bottom=0.62 / high)
    made.text(0.01, 1 - 0.06 / high, title, fontsize=10, va="top", color=base.INK)
    for ax, attack in zip(frame, data.attacks, strict=True):
        base.tidy(ax, attack_words(attack), "accuracy (%)", "")
        for entry in data.entries:
            row = names.index(entry.label)
            if attack in entry.published:
                value, spread = entry.published[attack]
                ax.errorbar(value, row, xerr=spread, fmt="d", color=base.GREY, mfc="white", ms=7, zorder=2)
            if attack in entry.ours:
                value, spread = entry.ours[attack]
                ax.errorbar(value, row, xerr=spread, fmt="o", color=base.BLUE, ms=6, capsize=3, zorder=3)
        if not any(attack in {**entry.ours, **entry.published} for entry in data.entries):
            ax.text(0.5, 0.5, "no numbers yet", transform=ax.transAxes, ha="center", color=base.GREY, fontsize=9)
            ax.set_xticks([])
        ax.grid(axis="y", color="#E5E5E5", lw=0.8)
        ax.margins(x=0.12)
        ax.set_axisbelow(True)
    frame[0].set_yticks(range(len(names)), shown, fontsize=9)
    frame[0].set_ylim(len(names) - 0.5, -0.5)
    kinds = {"ours": ("o", base.BLUE, base.BLUE), "published by others": ("d", base.GREY, "white")}
    drawn = {"ours": any(entry.ours.keys() & set(data.attacks) for entry in data.entries)}
    drawn["published by others"] = any(entry.published.keys() & set(data.attacks) for entry in data.entries)
    keys = {
        words: Line2D([], [], marker=mark, color=c, markerfacecolor=face, linestyle="")
        for words, (mark, c, face) in kinds.items()
        if drawn[words]  # a legend of numbers that are not there would promise them
    }
    made.legend([*keys.values()], [*keys], loc="lower left", frameon=False, fontsize=8)
    return made


# -- words --------------------------------------------------------------------------------------------------
STYLE = """<style>
.d2rkit-browser table { border-collapse: collapse; line-height: 1.4; }
.d2rkit-browser caption { text-align: left; padding-bottom: .4em; max-width: 60em; }
.d2rkit-browser { overflow-x: auto; }
.d2rkit-browser th, .d2rkit-browser td { padding: .1em .9em .1em 0; text-align: left; vertical-align: top; }
.d2rkit-browser tbody th { font-weight: normal; max-width: 22em; }
.d2rkit-browser tbody td { white-space: nowrap; }
.d2rkit-browser tbody td:last-child { white-space: normal; }
.d2rkit-browser thead { border-bottom: 1px solid; }
.d2rkit-browser p { margin: .15em 0; max-width: 70em; line-height: 1.4; }
</style>"""


def words(data: Browsed) -> str:
    rows = {entry.label: entry for entry in data.entries if entry.seeds or entry.command}  # a row has several sources
    new = sum(not entry.seeds for entry in rows.values())
    short = sum(bool(entry.command and entry.seeds) for entry in rows.values())
    where = f"{data.title}, {data.setting.title}: {', '.join(map(attack_words, data.attacks))}"
    if data.runs == 0:
        summary = f"{where}. This machine has no runs: every number below is published by others, none is ours."
    elif data.n_test == 0:
        summary = f"{where}. None of the {data.runs} run(s) on this machine belongs here: no number below is ours."
    else:
        gaps = [(difference(e, a), e.label, a) for e in data.entries for a in data.attacks]
        gaps = [gap for gap in gaps if not math.isnan(gap[0])]
        summary = f"{where}. Ours on {data.n_test} test images"
        if gaps:
            gap, label, attack = max(gaps, key=lambda one: abs(one[0]))
            summary += f"; furthest from a published number: {label} under {attack_words(attack)}, {signed(gap)} points"
        summary += "."
    if new or short:
        told = " and ".join(f"{n} {what}" for n, what in ((new, "not run"), (short, "short of seeds")) if n)
        summary += f" Of {len(rows)} rows of ours, {told}; the notes name the command that fills each."
    return f"{base.sentence(summary)}<div class='d2rkit-browser'>{to_html(data.table)}</div>"


class TableBrowser(Panel):
    """Choose preset or data set, network with ε, and attack; read the table; copy it as Markdown or LaTeX."""

    def __init__(
        self,
        runs: Sequence[Run] = (),
        presets: Mapping[str, Preset] = PRESETS,
        what: str = "",
        attack: str = ALL,
        title: str = "Tables",
        setting: Setting | None = None,
    ):
        """runs: ours, e.g. find_runs().runs. what: a data set or "preset:NAME"; empty for the first that has runs.
        setting: where to begin; None for the first that there is."""
        self.runs, self.presets = tuple(runs), presets
        names = {f"preset {menu_words(p)}": f"preset:{p.name}" for p in presets.values()}
        ours = {run.experiment.data for run in self.runs}
        names |= {TITLES[d]: d for d in TITLES if d != "digits" or d in ours}
        begun = {settings_of(run.experiment) for run in self.runs}
        ready = [f"preset:{p.name}" for p in presets.values() if begun & {settings_of(e) for e in p.experiments()}]
        what = what or next((w for w in (*ready, *names.values()) if w in ready or w in ours), "cifar10")
        # Copying needs plain text that can be selected with the keyboard: text areas, not pictures.
        layout = widgets.Layout(width="99%", height="12em")
        self.markdown, self.latex = (
            widgets.Textarea(description=name, layout=layout, style={"description_width": "6em"})
            for name in ("Markdown", "LaTeX")
        )

        def find(what: str, setting: Setting, attack: str) -> Browsed:
            return compute(what, setting, attack, self.runs, self.presets)

        settings = settings_for(what, self.runs, presets)
        attacks = {"all attacks": ALL} | {attack_words(a): a for a in ATTACKS}
        controls = {
            "what": Choice("Table", what, names, "A preset, or a data set"),
            "setting": Choice(
                "Target and ε", setting or settings[0], {s.short: s for s in settings}, "Network and radius"
            ),
            "attack": Choice("Attack", attack, attacks),
        }
        super().__init__(title, controls, find, draw, words)
        # Beside the words, not in them: the static figure's description is words alone.
        self.box.children = (*self.box.children, widgets.HTML(STYLE), self.markdown, self.latex)

    def refresh(self, note: str = "") -> None:
        super().refresh(note)
        if not self.error:
            self.markdown.value, self.latex.value = to_markdown(self.data.table), to_latex(self.data.table)

    def _on_change(self, change: Any) -> None:
        """Another table has other targets: offer those, and compute once."""
        if change["owner"] is self.controls["what"].main:
            quiet, self._quiet = self._quiet, True
            try:
                offered = settings_for(change["new"], self.runs, self.presets)
                self.controls["setting"].main.options = [(s.short, s) for s in offered]
            finally:
                self._quiet = quiet
        super()._on_change(change)
