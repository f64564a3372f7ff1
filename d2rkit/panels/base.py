"""What every panel shares: controls, pictures without pyplot, results in words, and errors that show.

A panel is three pure functions and a list of controls:

    compute(**settings) -> frozen dataclass      draw(data) -> matplotlib Figure      words(data) -> HTML

`Panel` ties them together with ipywidgets that exist in versions 7.7 and 8. Pictures travel through
`widgets.Image.value` and text through `widgets.HTML.value`: no Output widget, no figure known to pyplot,
so nothing is duplicated, nothing piles up in memory, and an error appears in the panel, in words.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from d2rkit.reporting.style import BLUE, GREEN, GREY, INK, ORANGE, PAPER, PURPLE, RED, SKY  # noqa: F401

TARGET, GUIDE = BLUE, ORANGE  # the same in every picture of the kit
SIGNED = "PuOr_r"  # diverging, colour-blind safe: purple below zero, orange above
ERROR_CLASS = "d2rkit-error"  # tests and the notebooks' checker look for it in the widgets' state
DPI = 110
PX = 96  # CSS pixels an inch: pictures keep their size in inches on the screen


# -- controls ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Slider:
    """A number. `help` is the tooltip; integers if `step` and `value` are."""

    label: str
    value: float
    low: float
    high: float
    step: float
    help: str = ""


@dataclass(frozen=True)
class Choice:
    """One of `options`: what is shown -> what `compute` receives."""

    label: str
    value: Any
    options: Mapping[str, Any]
    help: str = ""


class Control:
    """A control's widgets: `main` holds the value; a slider has a numeric field of the same value beside it."""

    def __init__(self, spec: Slider | Choice):
        self.spec = spec
        style = {"description_width": "9.5em"}
        if isinstance(spec, Choice):
            options = list(spec.options.items())
            layout = widgets.Layout(width="27em", max_width="99%")
            self.main = widgets.Dropdown(
                options=options, value=spec.value, description=spec.label, style=style, layout=layout
            )
            self.number, self.row = None, self.main
        else:
            whole = all(isinstance(v, int) for v in (spec.value, spec.low, spec.high, spec.step))
            slider, field = (
                (widgets.IntSlider, widgets.BoundedIntText)
                if whole
                else (widgets.FloatSlider, widgets.BoundedFloatText)
            )
            limits = {"value": spec.value, "min": spec.low, "max": spec.high, "step": spec.step}
            self.main = slider(
                **limits, description=spec.label, continuous_update=False, readout=False, style=style,
                layout=widgets.Layout(width="21em"),
            )  # fmt: skip
            self.number = field(**limits, layout=widgets.Layout(width="5.2em"))
            widgets.link((self.main, "value"), (self.number, "value"))
            self.row = widgets.HBox([self.main, self.number])
        for widget in filter(None, (self.main, self.number)):
            # ipywidgets 7 and 8 have different names for the tooltip, which is also the field's accessible name
            name = "tooltip" if "tooltip" in widget.trait_names() else "description_tooltip"
            setattr(widget, name, spec.help or spec.label)


# -- the panel --------------------------------------------------------------------------------------------
class Panel:
    """Controls over a picture and its numbers in words; display `.widget`.

    controls: setting -> Slider or Choice. compute: settings as keywords -> data; draw: data -> Figure;
    words: data -> HTML. Everything runs once on construction and after each change of a control.
    An exception in any of the three is shown in the panel, and nowhere else; the last good picture stays."""

    def __init__(
        self,
        title: str,
        controls: Mapping[str, Slider | Choice],
        compute: Callable[..., Any],
        draw: Callable[[Any], Figure],
        words: Callable[[Any], str],
    ):
        self.title, self.compute, self.draw, self.words = title, compute, draw, words
        self.controls = {name: Control(spec) for name, spec in controls.items()}
        self.data: Any = None
        fitting = widgets.Layout(max_width="100%", margin="0", object_fit="contain")
        self.picture = widgets.Image(format="png", layout=fitting)
        self.text, self.message = widgets.HTML(), widgets.HTML()
        self.reset = widgets.Button(description="Back to the start", tooltip="All controls as they were")
        self.reset.on_click(self._on_reset)
        rows = [control.row for control in self.controls.values()]
        columns = "repeat(auto-fill, minmax(28em, 1fr))"  # one, two or three, as the page is wide
        grid = widgets.Box(rows, layout=widgets.Layout(display="grid", grid_template_columns=columns))
        heading = widgets.HTML(f"<h3 style='margin:0'>{html.escape(title)}</h3>")
        self.widget = widgets.VBox([heading, grid, self.reset, self.message, self.picture, self.text])
        self._quiet = False
        for control in self.controls.values():
            control.main.observe(self._on_change, names="value")
        self.refresh()

    @property
    def settings(self) -> dict[str, Any]:
        return {name: control.main.value for name, control in self.controls.items()}

    @property
    def error(self) -> str:
        """The error that the panel shows; empty if there is none."""
        return self.message.value

    def set(self, **values: Any) -> None:
        """Move several controls, and compute once."""
        self._quiet = True
        try:
            for name, value in values.items():
                if name not in self.controls:
                    raise ValueError(f"{self.title} has no control {name!r}; it has {', '.join(self.controls)}")
                self.controls[name].main.value = value
        finally:
            self._quiet = False
        self.refresh()

    def refresh(self) -> None:
        try:
            self.data = self.compute(**self.settings)
            self.picture.value, width = to_png(self.draw(self.data))
            self.picture.layout.width = f"{width}px"
            self.text.value = self.words(self.data)
            self.message.value = ""
        except Exception as error:  # the one place where every error of a panel ends, in words
            self.message.value = error_words(error, self.data is not None)

    def static(self, **changes: Any) -> StaticFigure:
        """The picture at the current settings, or at others, as an ordinary image with its words as text:
        it outlives the kernel and needs no widgets. Leaves the panel as it is; errors are raised here."""
        data = self.compute(**{**self.settings, **changes}) if changes or self.data is None else self.data
        return StaticFigure(*to_png(self.draw(data)), self.words(data))

    def _on_change(self, change: Any) -> None:
        if not self._quiet:
            self.refresh()

    def _on_reset(self, button: Any) -> None:
        self.set(**{name: control.spec.value for name, control in self.controls.items()})


def error_words(error: Exception, has_picture: bool) -> str:
    """An error as a sentence for the student."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    kept = " The picture below still shows the last settings that worked." if has_picture else ""
    return (
        f"<p role='alert' class='{ERROR_CLASS}' style='border-left:4px solid {RED};padding:0.3em 0.7em;margin:0.3em 0'>"
        f"<b>This did not work.</b> {html.escape((kind + str(error)).rstrip('.'))}.{kept}</p>"
    )


@dataclass(frozen=True)
class StaticFigure:
    """A PNG and its description, shown by any Jupyter front end and by GitHub."""

    png: bytes
    width: int  # CSS pixels
    description: str  # HTML

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        plain = plain_text(self.description)
        return {"image/png": self.png, "text/plain": plain}, {"image/png": {"width": self.width, "alt": plain}}


def still(made: Figure, description: str) -> StaticFigure:
    """Any figure as a static image; description: what it shows, as HTML or plain words."""
    return StaticFigure(*to_png(made), description)


# -- pictures ---------------------------------------------------------------------------------------------
def figure(width: float, height: float) -> Figure:
    """A Figure, in inches, that pyplot knows nothing of."""
    made = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER, layout=None)
    FigureCanvasAgg(made)
    return made


def to_png(made: Figure) -> tuple[bytes, int]:
    """PNG bytes, and the width in CSS pixels."""
    buffer = io.BytesIO()
    made.canvas.print_png(buffer, pil_kwargs={"compress_level": 1})
    return buffer.getvalue(), round(made.get_figwidth() * PX)


def tidy(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "") -> Axes:
    """The kit's look: light frame, small type, title to the left."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(GREY)
    ax.tick_params(labelsize=8, colors=INK, length=3)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(3))  # ticks are most of the time that drawing takes
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


# -- words ------------------------------------------------------------------------------------------------
def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """An HTML table that a screen reader can walk through: first column and first row are headers."""
    cell = "style='padding:0.1em 0.9em 0.1em 0;text-align:left'"
    head = "".join(f"<th scope='col' {cell}>{html.escape(h)}</th>" for h in header)
    body = "".join(
        f"<tr><th scope='row' {cell}>{html.escape(row[0])}</th>"
        + "".join(f"<td {cell}>{html.escape(str(value))}</td>" for value in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f"<table style='line-height:1.4'><caption style='text-align:left'>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def sentence(text: str) -> str:
    return f"<p role='status' style='margin:0.2em 0;max-width:60em;line-height:1.4'>{html.escape(text)}</p>"


def side_by_side(*tables: str) -> str:
    style = "display:flex;flex-wrap:wrap;gap:2.5em;align-items:flex-start"
    return f"<div style='{style}'>{''.join(tables)}</div>"


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
