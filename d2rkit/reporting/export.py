"""One style for every figure, one writer for every file: PDF, SVG, PNG, CSV and JSON with one stem.

A figure is made by the object API (pyplot knows nothing of it) and carries its data as `figure.d2r_data`, so
that the CSV beside a picture holds what the picture shows. The same figure gives the same bytes every time.
"""

from __future__ import annotations

import platform
import subprocess
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from d2rkit.core.files import write_atomically, write_json
from d2rkit.core.paths import PROJECT
from d2rkit.core.validation import nearest
from d2rkit.methods.catalogue import METHODS
from d2rkit.reporting.style import BLACK, BLUE, GREEN, GREY, GRID, ORANGE, OWN_COLOURS, PURPLE, RED, SKY

# Inches: (one column, whole text). From the venues' LaTeX styles: neurips_2024.sty and iclr2024_conference.sty
# \textwidth 5.5in; icml2024.sty \textwidth 6.75in, \columnsep 0.25in; cvpr.sty \textwidth 6.875in, \columnsep
# 0.3125in; llncs.cls \textwidth 12.2cm. NeurIPS, ICLR and LNCS set text in one column: there "one column" is
# a figure that shares the line with another one, a quarter inch between them.
VENUES: dict[str, tuple[float, float]] = {
    "neurips": (2.625, 5.5),
    "icml": (3.25, 6.75),
    "iclr": (2.625, 5.5),
    "cvpr": (3.28125, 6.875),
    "lncs": (2.276, 4.803),
}

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that every machine draws the same
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "figure.dpi": 100,
    "pdf.fonttype": 42,  # TrueType: Type 3 fonts are refused by submission systems
    "ps.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "d2rkit",  # ids in the file follow from its content, not from chance
    "text.usetex": False,
    "savefig.dpi": 300,
}

OWN_MARKERS = ("*", "d", "X", "h", "p", "v", "P", "8")
DASHES = {"solid": "-", "dashed": (0, (4, 1.5)), "dotted": (0, (1, 1.2)), "dashdot": (0, (5, 1.5, 1, 1.5))}


@dataclass(frozen=True)
class Look:
    """How a method looks in every figure; hollow: a variant of the filled one, e.g. with AWP."""

    color: str
    marker: str
    dashes: str
    hollow: bool = False

    def line(self, **changes: Any) -> dict[str, Any]:
        """Keyword arguments of Axes.plot, some of them changed."""
        face, dashes = "white" if self.hollow else self.color, DASHES[self.dashes]
        return {"color": self.color, "marker": self.marker, "linestyle": dashes, "markerfacecolor": face, **changes}


LOOKS = {
    "natural": Look(GREY, "x", "dotted"),
    "pgd-at": Look(BLACK, "s", "dashed"),
    "trades": Look(ORANGE, "^", "dashed"),
    "mart": Look(PURPLE, "v", "dashdot"),
    "lbgat0": Look(SKY, "<", "dashed"),
    "lbgat6": Look(SKY, ">", "dotted"),
    "adagat": Look(GREEN, "p", "dotted"),
    "d2r": Look(GREEN, "P", "dashdot"),
    "d2r-cag": Look(BLUE, "o", "solid"),
    "d2r-cag-released": Look(RED, "D", "solid"),
    "d2r-cag-jeffreys": Look(PURPLE, "h", "solid"),
    "rslad": Look(ORANGE, "d", "solid"),
    "rslad-online": Look(ORANGE, "d", "dashdot"),
    "peeraid": Look(GREEN, "X", "dashed"),
    "adaad": Look(RED, "*", "dashed"),
    "iad": Look(RED, "H", "dotted"),
    "dgad": Look(RED, "8", "dashdot"),
    "adr": Look(BLACK, "s", "dotted"),
    "ikl": Look(SKY, "^", "dotted"),
    "ikl-guided": Look(SKY, "^", "solid"),
}


def look(method: str, variant: int = 0) -> Look:
    """The look of a method; variant: of its rows in an ablation, the how-manieth. A method that is not listed gets one
    that no listed method has, one with "-awp" that of its base with hollow markers."""
    base = method.removesuffix("-awp")
    basic = LOOKS[base] if base in LOOKS else _free_look(base)
    if not variant and base == method:
        return basic
    dashes = list(DASHES)[(list(DASHES).index(basic.dashes) + variant) % 4]
    marker = basic.marker if variant < 4 and basic.marker != "x" else "8"
    color = (basic.color, BLACK, GREY)[variant // 9 % 3]  # else the tenth row of an ablation would pass for the first
    return Look(color, "osD^vP8hX"[variant % 9] if variant else marker, dashes, hollow=True)


def _free_look(method: str) -> Look:
    """A colour, and a pair of marker and dashes, that no method of the kit has: of registered methods in the order of
    registration; where a method's plugin is not loaded, by its name."""
    own = [name for name in METHODS if name not in LOOKS and name.removesuffix("-awp") not in LOOKS]
    number = own.index(method) if method in own else zlib.crc32(method.encode())
    taken = {(each.marker, each.dashes) for each in LOOKS.values()}
    free = [(marker, dashes) for dashes, marker in product(DASHES, OWN_MARKERS) if (marker, dashes) not in taken]
    return Look(OWN_COLOURS[number % len(OWN_COLOURS)], *free[number % len(free)])


@contextmanager
def style() -> Iterator[None]:
    """The kit's look, for everything drawn or saved inside; nothing stays changed afterwards."""
    # Not the backend: rc_context would not set it back.
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    settings: dict[Any, Any] = {**defaults, **STYLE}
    with matplotlib.rc_context(settings):
        yield


class KitFigure(Figure):
    """A figure that carries what it shows."""

    d2r_data: pd.DataFrame | None = None
    d2r_ratio: float  # height over width, without the legend, which gets its own lines


def new_figure(width: float, height: float, panels: int = 1) -> tuple[KitFigure, list[Axes]]:
    """A figure that pyplot does not know, with panels side by side; set_width() stacks them where the width
    is too small. Call inside style()."""
    figure = KitFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.d2r_ratio = height / width
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


LEGEND_LINE = 0.155  # inches
OFFSETS = [(5, 0, "left"), (-5, 0, "right"), (0, 7, "center"), (0, -7, "center")]
OFFSETS += [(dx, dy, side) for dy in (8, -8, 14, -14, 20, -20) for dx, side in ((5, "left"), (-5, "right"))]
NARROW = 4.0  # inches; below, panels stand one above the other


def legend_below(figure: Figure) -> None:
    """One legend for all axes, below them, in as many columns as the width holds: it never covers data."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        for handle, name in zip(handles, names, strict=True):
            entries.setdefault(name, handle)
    for old in figure.legends[:]:
        old.remove()
    if not entries:
        return
    renderer = _renderer(figure)
    size = matplotlib.rcParams["legend.fontsize"]
    words = []
    for name in entries:
        text = figure.text(0, 0, name, fontsize=size)
        words.append(text.get_window_extent(renderer).width / figure.dpi)
        text.remove()
    width, height = figure.get_size_inches()
    columns = next((c for c in range(len(words), 1, -1) if _legend_width(words, c) < width - 0.1), 1)
    lines = -(-len(words) // columns)
    figure.set_size_inches(width, height + lines * LEGEND_LINE)
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, handlelength=2.6,
        columnspacing=1.2, labelspacing=0.25, borderpad=0.1,
    )  # fmt: skip


def spread_labels(figure: Figure) -> None:
    """Move the names of points (annotations in offset points) to whichever side of their point is free."""
    figure.draw_without_rendering()
    renderer = _renderer(figure)
    for axes in figure.axes:
        names = [text for text in axes.texts if isinstance(text, Annotation)]
        points = [line.get_transform().transform(line.get_xydata()) for line in axes.get_lines()]
        taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for line in points for x, y in line if np.isfinite([x, y]).all()]
        for name in names:
            costs = []
            for dx, dy, side in OFFSETS:
                name.set(position=(dx, dy), horizontalalignment=side, verticalalignment="center")
                box = name.get_window_extent(renderer)
                outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1)
                costs.append(sum(box.overlaps(other) for other in taken) + 10 * outside)
            dx, dy, side = OFFSETS[int(np.argmin(costs))]
            name.set(position=(dx, dy), horizontalalignment=side)
            taken.append(name.get_window_extent(renderer))


def _renderer(figure: Figure) -> RendererBase:
    """What measures texts: every figure of the kit has Agg's canvas."""
    return cast(FigureCanvasAgg, figure.canvas).get_renderer()


def _legend_width(words: Sequence[float], columns: int) -> float:
    """Inches of a legend whose texts are `words` inches wide; matplotlib fills it column by column."""
    lines, longer = divmod(len(words), columns)
    total, at = 0.0, 0
    for column in range(columns):
        count = lines + (column < longer)
        total += max(words[at : at + count]) + 0.48  # the line before the text, the gap behind it
        at += count
    return total


def set_width(figure: Figure, width: float) -> None:
    """Bring a figure to `width` inches: fonts keep their size, the legend gets as many lines as it needs."""
    ratio = getattr(figure, "d2r_ratio", None)
    if ratio is None:
        before = figure.get_size_inches()
        figure.set_size_inches(width, width * before[1] / before[0])
        return
    stacked = width < NARROW and len(figure.axes) > 1
    grid = figure.add_gridspec(len(figure.axes), 1) if stacked else figure.add_gridspec(1, len(figure.axes))
    for number, axes in enumerate(figure.axes):
        axes.set_subplotspec(grid[number])
    rows = len(figure.axes) if stacked else 1
    figure.set_size_inches(width, max(width * ratio, 1.75) * rows)
    if figure.legends:
        legend_below(figure)
    spread_labels(figure)


def export(
    figure: Figure,
    stem: str | Path,
    *,
    venue: str = "neurips",
    columns: int = 1,
    info: Mapping[str, Any] | None = None,
    data: pd.DataFrame | None = None,
) -> list[Path]:
    """Write stem.pdf, .svg, .png (300 dpi), .csv (the data shown) and .json (what made it); returns the files.

    venue, columns: the width it is set at (VENUES); columns=2 is the whole width of the text. info: what the
    JSON says besides versions and git revision: settings, seeds, data source. data: of a figure that does
    not carry its own; without either, what the lines and points of the picture hold."""
    if venue not in VENUES:
        raise nearest(venue, VENUES, "venue")
    if columns not in (1, 2):
        raise ValueError(f"columns must be 1 or 2, not {columns}")
    stem = Path(stem)
    frame = data if data is not None else getattr(figure, "d2r_data", None)
    frame = shown_data(figure) if frame is None else frame
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in ("pdf", "svg", "png", "csv", "json")]
    # No dates, no program names: the same figure is the same file.
    silent = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
    }
    size = figure.get_size_inches().copy()
    with style():
        set_width(figure, VENUES[venue][columns - 1])
        for file in files[:3]:
            kind = file.suffix[1:]
            with write_atomically(file) as draft:
                figure.savefig(draft, format=kind, metadata=silent[kind], dpi=300)
        inches = [round(float(value), 4) for value in figure.get_size_inches()]
        set_width(figure, size[0])
    with write_atomically(files[3]) as draft:
        draft.write_text(frame.to_csv(index=False, lineterminator="\n"), encoding="utf-8", newline="\n")
    facts = {"figure": stem.name, "venue": venue, "columns": columns, "size_in_inches": inches}
    write_json(files[4], facts | {"made_with": made_with()} | dict(info or {}))
    return files


def shown_data(figure: Figure) -> pd.DataFrame:
    """The points of all lines and scatter clouds, for figures that carry no data of their own."""
    rows = []
    for number, axes in enumerate(figure.axes):
        for line in axes.get_lines():
            points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
            rows += [(number, line.get_label(), x, y) for x, y in points]
        for cloud in axes.collections:
            rows += [(number, cloud.get_label(), x, y) for x, y in np.ma.filled(cloud.get_offsets(), np.nan)]
    return pd.DataFrame(rows, columns=["axes", "label", "x", "y"])


def made_with() -> dict[str, Any]:
    """Versions and git revision, so that a figure can be made again."""
    packages = {}
    for name in ("d2rkit", "matplotlib", "numpy", "pandas", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {"python": platform.python_version(), **packages, "git_revision": git_revision()}


def git_revision(folder: Path = PROJECT) -> str | None:
    """The commit that is checked out, or None outside a checkout."""
    if not (folder / "pyproject.toml").exists():  # installed, perhaps into somebody else's repository
        return None
    try:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return asked.stdout.strip() or None if asked.returncode == 0 else None


def info_of(runs: Sequence[Any]) -> dict[str, Any]:
    """What a figure's JSON says of the runs behind it: every setting, every seed, data, hardware, versions."""
    results = [run.result for run in runs]
    return {
        "seeds": sorted({run.experiment.seed for run in runs}),
        "data_source": sorted({r.get("data_source", "") for r in results}),
        "hardware": sorted({r.get("machine", "") for r in results}),
        "run_versions": [
            dict(pair) for pair in sorted({tuple(sorted(r.get("versions", {}).items())) for r in results})
        ],
        "runs": {run.folder.name: run.experiment.to_dict() for run in sorted(runs, key=lambda run: run.folder.name)},
    }
