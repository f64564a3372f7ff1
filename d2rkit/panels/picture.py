"""The picture of a panel, with its description where screen readers and HTML exports look for it."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets

from d2rkit.panels import base

STYLE = f"<style>{(Path(__file__).parent / 'panel.css').read_text(encoding='utf-8')}</style>"


def heading(title: str) -> widgets.HTML:
    """A panel's title, which brings the look of all that follows."""
    return widgets.HTML(f"{STYLE}<h3 style='margin:0'>{html.escape(title)}</h3>")


@dataclass(frozen=True)
class Sheet:
    """A picture as it travels. width, height: CSS pixels; alt: what it shows, in plain words."""

    png: bytes
    width: int
    height: int
    alt: str

    @classmethod
    def of(cls, made: base.Figure, alt: str) -> Sheet:
        png, width = base.to_png(made)
        return cls(png, width, round(made.get_figheight() * base.PX), alt)

    @property
    def address(self) -> str:
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


class Picture(widgets.HTML):
    """An <img> with an alt text. ipywidgets' own Image cannot have one."""

    def __init__(self) -> None:
        super().__init__(layout=widgets.Layout(max_width="100%", margin="0"))
        self.add_class("d2rkit-picture")

    def show(self, sheet: Sheet, before: Sheet | None = None, caption: str = "") -> None:
        """`sheet`, and beside or below it a smaller `before`."""
        markup = f"<div class='d2rkit-paper'>{_img(sheet, sheet.width)}</div>"
        if before is not None:
            small = f"{_img(before, round(0.55 * before.width))}<figcaption>{html.escape(caption)}</figcaption>"
            figure = f"<figure class='d2rkit-paper' style='margin:0'>{small}</figure>"
            markup = f"<div class='d2rkit-before'>{markup}{figure}</div>"
        self.value = markup

    def dim(self, waiting: bool) -> None:
        """Whether what is shown is about to be replaced."""
        (self.add_class if waiting else self.remove_class)("d2rkit-waiting")


def _img(sheet: Sheet, width: int) -> str:
    # Decoded before it is shown, and of known size: the page neither blinks nor jumps.
    shape = f"width:{width}px;aspect-ratio:{sheet.width}/{sheet.height}"
    return f"<img src='{sheet.address}' alt='{html.escape(sheet.alt)}' decoding='sync' style='{shape}'>"
