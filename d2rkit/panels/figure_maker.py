"""Panel of notebook 08: every figure of the kit at a venue's width, previewed at true size and written to files."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ipywidgets as widgets
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from d2rkit.core.validation import nearest
from d2rkit.data.datasets import load_data
from d2rkit.experiments.experiment import Run, settings_of
from d2rkit.experiments.presets import PRESETS
from d2rkit.panels import base
from d2rkit.panels.base import StaticFigure
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel
from d2rkit.panels.table_rows import TITLES, menu_words, setting_of
from d2rkit.reporting import figures
from d2rkit.reporting.export import STYLE, VENUES, KitFigure, export, info_of, set_width, style
from d2rkit.reporting.frame import attacks_in, tidy
from d2rkit.reporting.frontier import draw_frontier, varied_options
from d2rkit.reporting.published import published

VENUE_NAMES = {"neurips": "NeurIPS", "icml": "ICML", "iclr": "ICLR", "cvpr": "CVPR", "lncs": "LNCS (Springer)"}
SINGLE_COLUMN = ("neurips", "iclr", "lncs")  # text in one column: half the width is half a line
POINTS = 8  # the kit's font size
SHARP = 200  # dots an inch of the preview, so that small type can be read on any screen


def strongest(runs: Sequence[Run]) -> str:
    """The strongest attack that the runs were evaluated with; ValueError if they know only clean accuracy."""
    attack = attacks_in(tidy(runs).columns)[-1]
    if attack == "clean":
        raise ValueError("these runs were evaluated on clean images only; this figure needs an attack")
    return attack


def _clean_vs_robust(runs: Sequence[Run]) -> KitFigure:
    return figures.draw_clean_vs_robust(tidy(runs), published(), attack=strongest(runs))


def _per_class(runs: Sequence[Run]) -> KitFigure:
    data = load_data(runs[0].experiment.data, subset=runs[0].experiment.subset or None, download=False)
    return figures.draw_per_class(runs, data, attack=strongest(runs))


# stem of the files -> (what a menu calls it, how it is drawn from runs)
FIGURES: dict[str, tuple[str, Callable[[Sequence[Run]], KitFigure]]] = {
    "robustness-against-eps": ("accuracy against ε", figures.draw_eps_curve),
    "accuracy-against-steps": ("accuracy against PGD steps", figures.draw_steps_curve),
    "training-curves": ("training curves", figures.draw_training_curves),
    "robust-overfitting": ("robust overfitting", figures.draw_overfitting),
    "clean-against-robust": ("clean against robust accuracy", _clean_vs_robust),
    "frontier": ("what a loss weight trades", draw_frontier),
    "accuracy-per-class": ("accuracy of each class", _per_class),
}


@dataclass(frozen=True)
class Sheet:
    """What to draw, and at which size. columns: 1 or 2 (the whole width of the text); points: font size; close_up: the
    accuracy axis spans the data, and not 0 to 100 %."""

    name: str
    runs: tuple[Run, ...]
    venue: str = "neurips"
    columns: int = 1
    points: float = POINTS
    close_up: bool = False

    @property
    def width(self) -> float:
        """Inches."""
        return VENUES[self.venue][self.columns - 1]

    @property
    def stem(self) -> str:
        """Name of the files; another venue, width or font never overwrites this one."""
        size = "" if self.points == POINTS else f"-{self.points:g}pt"
        return f"{self.name}-{self.venue}-{self.columns}{size}{'-close-up' if self.close_up else ''}"


def compute(
    name: str, runs: Sequence[Run], venue: str = "neurips", columns: int = 1, points: float = POINTS,
    close_up: bool = False,
) -> Sheet:  # fmt: skip
    """ValueError if a name is unknown, there are no runs, or the size makes no sense."""
    if name not in FIGURES:
        raise nearest(name, FIGURES, "figure")
    if venue not in VENUES:
        raise nearest(venue, VENUES, "venue")
    if columns not in (1, 2):
        raise ValueError(f"columns must be 1 or 2, not {columns}")
    if not 4 <= points <= 12:
        raise ValueError(f"the font size must lie between 4 and 12 points, not {points}")
    if not runs:
        raise ValueError("there are no runs to draw; run `d2rkit reproduce quick`, or the tiny table of the notebook")
    return Sheet(name, tuple(runs), venue, columns, points, close_up)


def can_draw(name: str, runs: Sequence[Run]) -> bool:
    """Whether the runs were measured with what a figure shows; no menu offers a figure that no run can give."""
    if name == "robustness-against-eps":
        return any("eps_curve" in run.result for run in runs)
    attacks = attacks_in(tidy(runs).columns) if runs else []
    if name == "accuracy-against-steps":
        return sum(attack.startswith("pgd") for attack in attacks) > 1
    if name == "frontier":
        try:
            varied = any(varied_options([run.experiment for run in runs]).values())
        except ValueError:
            varied = False
        return varied and attacks[-1:] != ["clean"]
    return attacks[-1:] != ["clean"] if name in ("clean-against-robust", "accuracy-per-class") else True


# -- picture and files --------------------------------------------------------------------------------------
@contextmanager
def font_size(points: float) -> Iterator[None]:
    """The kit's style with all its type scaled to `points`; as it was afterwards.

    Legends are made anew whenever a figure changes its width, so the style itself has to know the size."""
    before = dict(STYLE)
    sizes = [key for key in before if key.endswith(("font.size", "titlesize", "labelsize", "fontsize"))]
    STYLE.update({key: round(before[key] * points / POINTS, 2) for key in sizes})
    try:
        yield
    finally:
        STYLE.update(before)


def _made(sheet: Sheet) -> KitFigure:
    made = FIGURES[sheet.name][1](sheet.runs)
    # Larger type needs more height, for itself and for the lines of the legend, or axis labels are cut off.
    made.d2r_ratio *= max(1.0, (sheet.points / POINTS) ** 1.5)
    if sheet.close_up:
        for axes in made.axes:
            axes.autoscale(axis="y")
    return made


def draw(sheet: Sheet) -> Figure:
    """The figure as export() will write it."""
    with font_size(sheet.points):
        made = _made(sheet)
        with style():
            set_width(made, sheet.width)
        made.set_dpi(SHARP)
    return made


def write(sheet: Sheet, folder: str | Path) -> list[Path]:
    """PDF, SVG, PNG, CSV and JSON with one stem in `folder`; returns the files. Nothing is overwritten: where files of
    this name hold another figure, this one gets a number."""
    info = {"font_size": sheet.points, **info_of(sheet.runs)}
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with font_size(sheet.points), TemporaryDirectory(dir=folder, prefix=".draft-") as draft:
        for number in count(1):
            stem = sheet.stem if number == 1 else f"{sheet.stem}-{number}"
            drafts = export(_made(sheet), Path(draft) / stem, venue=sheet.venue, columns=sheet.columns, info=info)
            files = [folder / file.name for file in drafts]
            pairs = list(zip(drafts, files, strict=True))
            if all(not file.exists() or file.read_bytes() == new.read_bytes() for new, file in pairs):
                for new, file in pairs:
                    new.replace(file)
                return files
    raise AssertionError("there is always another number")


# -- words --------------------------------------------------------------------------------------------------
def words(sheet: Sheet) -> str:
    first = sheet.runs[0].experiment
    each = sorted(Counter(settings_of(run.experiment) for run in sheet.runs).values())
    seeds = f"{each[0]} to {each[-1]} seeds each" if each[0] < each[-1] else f"{each[0]} seed(s) each"
    methods = len({run.experiment.method for run in sheet.runs})
    place = "the whole text" if sheet.columns == 2 else "one column"
    if sheet.columns == 1 and sheet.venue in SINGLE_COLUMN:
        place = "half a line: this venue sets text in one column, so two such figures share it"
    summary = (
        f"{FIGURES[sheet.name][0].capitalize()}, from {len(sheet.runs)} runs ({methods} methods, {seeds}) on "
        f"{TITLES.get(first.data, first.data)}. {VENUE_NAMES[sheet.venue]}: {sheet.width:g} inches wide ({place}), "
        f"type of {sheet.points:g} points, shown at true size."
        + (" The accuracy axis does not begin at 0." if sheet.close_up else "")
    )
    line = rf"\includegraphics{{{sheet.stem}.pdf}}  % no width=: scaling would scale the type too"
    return base.sentence(summary) + f"<p>In LaTeX: <code>{html.escape(line)}</code></p>"


def shrunk(narrow: Sheet, wide: Sheet) -> dict[str, Any]:
    """What is left of the wide figure's type when it is scaled to the narrow one's width; for `Prediction.reveal`."""
    left = wide.points * narrow.width / wide.width
    words = (
        f"Above: drawn at {narrow.width:g} inches, type of {narrow.points:g} points. Below, the control: drawn at "
        f"{wide.width:g} inches and scaled to {narrow.width:g}, type of {left:.1f} points."
    )
    return {"actual": round(left, 1), "close": 0.3, "words": words}


def side_by_side(narrow: Sheet, wide: Sheet) -> StaticFigure:
    """The narrow figure, and under it the wide one scaled to its width, at true size."""
    pictures = [pixels_of(draw(sheet)) for sheet in (narrow, wide)]
    heights = [narrow.width * image.shape[0] / image.shape[1] for image in pictures]
    made = base.figure(narrow.width, sum(heights) + 0.3)
    made.set_dpi(SHARP)
    top = 1.0
    for image, height in zip(pictures, heights, strict=True):
        share = height / made.get_figheight()
        ax = made.add_axes((0, top - share, 1, share))
        ax.imshow(image, interpolation="antialiased", aspect="auto")
        ax.axis("off")
        top -= share + 0.3 / made.get_figheight()
    return base.still(made, f"Above drawn at {narrow.width:g} inches, below drawn wider and shrunk to it.")


def pixels_of(made: Figure) -> np.ndarray:
    """A figure as pixels, (H, W, 4)."""
    canvas = FigureCanvasAgg(made)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()


def heights(narrow: Sheet, wide: Sheet) -> dict[str, Any]:
    """Which of two sheets is higher on paper; for `Prediction.reveal`."""
    small, large = (draw(sheet).get_figheight() for sheet in (narrow, wide))
    actual = "higher" if small > 1.02 * large else "lower" if small < 0.98 * large else "same"
    words = f"At {narrow.width:g} inches it is {small:.2f} inches high, at {wide.width:g} inches {large:.2f}."
    return {"actual": actual, "words": words}


def file_words(files: Sequence[Path]) -> str:
    """The files just written, with their sizes."""
    rows = [(file.name, f"{max(1, round(file.stat().st_size / 1000))} kB") for file in files]
    return base.sentence(f"Written to {files[0].parent}:") + base.table(("file", "size"), rows, "")


def tables_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the table they belong to: those of presets first, then the others by data, network and eps, the fullest
    first. A run may belong to two presets."""
    tables: dict[str, list[Run]] = {}
    placed: set[str] = set()
    for preset in PRESETS.values():
        rows = {settings_of(preset.experiment(row, preset.seeds[0])) for row in preset.rows}
        if chosen := [run for run in runs if settings_of(run.experiment) in rows]:
            tables[menu_words(preset)] = chosen
            placed |= {run.folder.name for run in chosen}
    rest: dict[str, list[Run]] = {}
    for run in runs:
        if run.folder.name not in placed:
            setting = setting_of(run.experiment)
            rest.setdefault(f"{TITLES.get(setting.data, setting.data)}, {setting.short}", []).append(run)
    return tables | dict(sorted(rest.items(), key=lambda item: -len(item[1])))


class FigureMaker(Panel):
    """Choose a figure, a venue, columns and font size; write the files."""

    def __init__(self, runs: Sequence[Run], folder: str | Path = "figures", name: str = "robustness-against-eps"):
        """runs: of any tables; those of one table are drawn at a time. folder: where files go, to begin with."""
        tables = tables_of(runs)
        # Indices, since a menu's values are compared with ==, and runs hold whole results.
        groups = list(tables.values()) or [[]]
        counts = {title: f"{len(group)} run{'s' * (len(group) != 1)}" for title, group in tables.items()}
        titles = {f"{title} ({count})": i for i, (title, count) in enumerate(counts.items())}

        def make(name: str, table: int, venue: str, columns: int, points: float, close_up: bool) -> Sheet:
            return compute(name, groups[table], venue, columns, points, close_up)

        offered = {title: key for key, (title, _) in FIGURES.items() if any(can_draw(key, group) for group in groups)}

        self.folder = widgets.Text(
            value=str(folder), description="Folder", style={"description_width": "9.5em"}, continuous_update=False,
            layout=widgets.Layout(width="27em", max_width="99%"),
        )  # fmt: skip
        self.button = widgets.Button(description="Write the files", tooltip="PDF, SVG, PNG, CSV and JSON")
        self.button.on_click(self._on_write)
        self.files: list[Path] = []
        self.written = widgets.HTML()
        controls = {
            "name": Choice("Figure", name if name in offered.values() else next(iter(offered.values())), offered),
            "table": Choice("Runs", 0, titles or {"no runs": 0}, "Runs of one table"),
            "venue": Choice("Venue", "neurips", {title: key for key, title in VENUE_NAMES.items()}),
            "columns": Choice("Columns", 2, {"1": 1, "2: the whole width of the text": 2}),
            "points": Slider("Font size (points)", float(POINTS), 5.0, 11.0, 0.5, "Size of axis labels, in points"),
            "close_up": Choice(
                "Accuracy axis", False, {"0 to 100 %, where it fits": False, "as far as the data": True}
            ),
        }
        super().__init__("Figures for papers", controls, make, draw, words)
        self.box.children = (*self.box.children, self.folder, self.button, self.written)

    def write(self, folder: str | Path | None = None) -> list[Path]:
        """Write the figure that is shown; returns the files."""
        if self.data is None or self.error:
            raise ValueError("there is no figure to write; choose settings that give one")
        self.files = write(self.data, folder or self.folder.value or ".")
        self.written.value = file_words(self.files)
        return self.files

    def _on_write(self, button: Any) -> None:
        try:
            self.write()
        except Exception as error:  # shown here, and nowhere else
            self.written.value = base.error_words(error, False)
