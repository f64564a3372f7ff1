"""What every panel draws and writes with: colours, figures without pyplot, results in words, static figures."""

from __future__ import annotations

import base64
import html
import io
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d2rkit.core.validation import shown
from d2rkit.panels.stage import Stage
from d2rkit.reporting.html_table import LEFT, html_table
from d2rkit.reporting.style import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PURPLE, RED, SKY  # noqa: F401

log = logging.getLogger("d2rkit")
TARGET, GUIDE = BLUE, ORANGE  # the same in every picture of the kit
GHOST = {"color": "#8A8A8A", "lw": 1.4, "ls": (0, (3, 2)), "zorder": 1.5}  # the previous setting
SIGNED = "PuOr_r"  # diverging, colour-blind safe: purple below zero, orange above
ERROR_CLASS = "d2rkit-error"  # tests and the notebooks' checker look for it in the widgets' state
PAPER_STYLE = "background:#fff;padding:8px;border:1px solid #bdbdbd;border-radius:4px;max-width:calc(100% - 18px)"
SHARPER = "D2RKIT_SHARPER"  # how many times as sharp pictures are, for large screens; `d2rkit lab --present` sets it
PX = 96  # CSS pixels an inch: pictures keep their size in inches on the screen


def sharpness(text: str) -> float:
    """D2RKIT_SHARPER's number, 1 if there is none; ValueError, in one sentence, for what is none from 0.5 to 5."""
    try:
        value = float(text or 1)
    except ValueError:
        value = math.nan
    if not 0.5 <= value <= 5:
        raise ValueError(f"{SHARPER} must be a number from 0.5 to 5, e.g. 1.6, not {shown(text)}")
    return value


def _dpi() -> int:
    """Dots an inch. A bad D2RKIT_SHARPER is said in the log: no import, and no picture, fails of it."""
    try:
        return round(110 * sharpness(os.environ.get(SHARPER, "")))
    except ValueError as error:
        log.warning("d2rkit: %s: pictures are drawn as without it", error)
        return 110


DPI = _dpi()


# -- pictures ---------------------------------------------------------------------------------------------
def figure(width: float, height: float) -> Stage:
    """A Figure, in inches, that pyplot knows nothing of."""
    made = Stage(figsize=(width, height), dpi=DPI, facecolor=PAPER, layout=None)
    FigureCanvasAgg(made)
    return made


def to_png(made: Figure) -> tuple[bytes, int]:
    """PNG bytes, and the width in CSS pixels."""
    buffer = io.BytesIO()
    cast(FigureCanvasAgg, made.canvas).print_png(buffer, pil_kwargs={"compress_level": 1})
    return buffer.getvalue(), round(made.get_figwidth() * PX)


def tidy(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> Axes:
    """The kit's look: light frame, small type, title to the left."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GREY)
    ax.tick_params(labelsize=8, colors=INK, length=3)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))  # ticks are most of the time that drawing takes
    ax.set_title(title, fontsize=10, loc="left", color=INK, y=1.0)  # a fixed y saves a layout pass
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    return ax


def bare(ax: Axes, title: str = "") -> Axes:
    """Axes for an image: no ticks."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize=10, loc="left", color=INK, y=1.0)  # a fixed y saves a layout pass
    for spine in ax.spines.values():
        spine.set_color(GREY)
    return ax


def show_image(ax: Axes, image: Any, title: str = "") -> None:
    """image: (C, H, W) array in [0, 1], grey or RGB, drawn without smoothing."""
    channels = image.shape[0]
    if channels == 1:
        ax.imshow(image[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        ax.imshow(image.transpose(1, 2, 0), interpolation="nearest")
    bare(ax, title)


@dataclass(frozen=True)
class StaticFigure:
    """A PNG and its description, shown by any Jupyter front end and by GitHub. As HTML it has an alt text in
    JupyterLab, too, and the same white paper as the picture of a panel."""

    png: bytes
    width: int  # CSS pixels
    description: str  # HTML

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        plain, alt = plain_text(self.description), html.escape(first_sentence(self.description))
        source = f"data:image/png;base64,{base64.b64encode(self.png).decode()}"
        picture = f"<img src='{source}' alt='{alt}' style='width:{self.width}px;{PAPER_STYLE}'>"
        return (
            {"text/html": picture, "image/png": self.png, "text/plain": plain},
            {"image/png": {"width": self.width, "alt": plain}},
        )


def still(made: Figure, description: str) -> StaticFigure:
    """Any figure as a static image; description: what it shows, as HTML or plain words."""
    return StaticFigure(*to_png(made), description)


# -- words ------------------------------------------------------------------------------------------------
def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table as all panels show it."""
    return html_table(header, rows, caption=caption, attributes="style='line-height:1.4'", columns=LEFT)


def error_words(error: Exception, has_picture: bool) -> str:
    """An error as a sentence for the student."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    kept = " The picture below still shows the last settings that worked." if has_picture else ""
    return (
        f"<p role='alert' class='{ERROR_CLASS}' style='border-left:4px solid {RED};padding:0.3em 0.7em;margin:0.3em 0'>"
        f"<b>This did not work.</b> {html.escape((kind + str(error)).rstrip('.'))}.{kept}</p>"
    )


def sentence(text: str) -> str:
    return f"<p role='status' style='margin:0.2em 0;max-width:60em;line-height:1.4'>{html.escape(text)}</p>"


def side_by_side(*tables: str) -> str:
    style = "display:flex;flex-wrap:wrap;gap:2.5em;align-items:flex-start"
    return f"<div style='{style}'>{''.join(tables)}</div>"


def first_sentence(markup: str) -> str:
    """The summary that the words of a panel begin with, as plain text."""
    match = re.search(r"<p role='status'[^>]*>(.*?)</p>", markup, re.DOTALL)
    return plain_text(match[1] if match else markup)


def plain_text(markup: str) -> str:
    """The words of an HTML fragment, rows on lines of their own."""
    markup = re.sub(r"</(tr|p|caption)>", "\n", markup)
    markup = re.sub(r"</t[hd]>", " ", markup)
    return html.unescape(re.sub(r"<[^>]+>", "", markup)).strip()


@contextmanager
def progress(words: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar with the time left: gives the `report` callback that fit() and evaluate() take."""
    from tqdm.auto import tqdm

    with tqdm(total=100, desc=words, unit="%", bar_format="{desc}: {percentage:3.0f}% |{bar}| {remaining} left") as bar:

        def report(done: float, what: str) -> None:
            bar.update(round(100 * done) - bar.n)

        yield report
