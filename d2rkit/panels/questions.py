"""What a prediction and a quiz share: options to choose from, a question, and what is said about an answer."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import Any

import ipywidgets as widgets

from d2rkit.core.validation import shown
from d2rkit.exercises import answers
from d2rkit.panels import base

OPTION, OUTCOME = "d2rkit-option", "d2rkit-outcome"
# Long options wrap where a button would cut them; a wide table scrolls by itself and leaves sentences their width.
STYLE = (
    f"<style>button.{OPTION}{{white-space:normal;text-align:left;line-height:1.4;padding:.2em .7em}}"
    f".{OUTCOME} .widget-html-content{{min-width:0;overflow-x:auto}}</style>"
)


class Shown:
    """Something with a `.widget` that is shown as the last line of a cell; where there are no widgets, as its words."""

    widget: widgets.Widget

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict:
        bundle = self.widget._repr_mimebundle_(include=include, exclude=exclude) or {}
        return bundle | {"text/plain": repr(self)}


def lettered(options: Sequence[str] | Mapping[str, str], most: int = 5) -> dict[str, str]:
    """Options by key; those of a sequence are a, b, c. ValueError unless there are 2 to `most` of them."""
    by_letter = dict(options) if isinstance(options, Mapping) else dict(zip(ascii_lowercase, options, strict=False))
    if isinstance(options, str) or not 2 <= len(options) <= most or len(set(by_letter.values())) < len(by_letter):
        raise ValueError(f"a choice has 2 to {most} different options, not {shown(options)}")
    if not all(isinstance(text, str) and text for text in (*by_letter, *by_letter.values())):
        raise ValueError(f"keys and options of a choice are texts, not {shown(options)}")
    return by_letter


class Options:
    """One of several, as buttons; nothing is chosen at first, since a default would be a suggestion.

    Buttons, because the keyboard works in them: JupyterLab takes arrows and letters from menus, and ipywidgets makes
    radio buttons anew on every change, so that the focus is lost. What is chosen is said, not only coloured."""

    def __init__(self, options: Mapping[str, str], name: str, across: bool = False):
        self._value: str | None = None
        self._texts = dict(options)
        width = {"width": "auto", "max_width": "60em", "height": "auto"}
        self.buttons = {key: widgets.Button(tooltip=f"{name}: {text}", layout=width) for key, text in options.items()}
        for key, button in self.buttons.items():
            button.add_class(OPTION)
            button.on_click(lambda _, key=key: setattr(self, "value", key))
        flow = {"flex_flow": "row wrap"} if across else {"flex_flow": "column", "align_items": "flex-start"}
        self.widget = widgets.Box(tuple(self.buttons.values()), layout=widgets.Layout(display="flex", **flow))
        self.value = None

    @property
    def value(self) -> str | None:
        return self._value

    @value.setter
    def value(self, key: str | None) -> None:
        self._value = key
        for each, button in self.buttons.items():
            text = self._texts[each]
            button.description = f"● {text} (chosen)" if each == key else f"○ {text}"
            button.style.font_weight = "bold" if each == key else "normal"

    @property
    def disabled(self) -> bool:
        return all(button.disabled for button in self.buttons.values())

    @disabled.setter
    def disabled(self, value: bool) -> None:
        for button in self.buttons.values():
            button.disabled = value


def choosing(options: Mapping[str, str], name: str) -> Options:
    """Options with their letters."""
    return Options({key: f"{letter}) {options[key]}" for key, letter in answers.letters(options).items()}, name)


def heading(word: str, question: str) -> widgets.HTML:
    style = "margin:.2em 0;max-width:60em;line-height:1.4"
    return widgets.HTML(f"{STYLE}<p style='{style}'><b>{word}.</b> {html.escape(question)}</p>")


def row(*parts: widgets.Widget) -> widgets.Box:
    layout = widgets.Layout(display="flex", flex_flow="row wrap", align_items="center", grid_gap="0 .5em")
    return widgets.Box(parts, layout=layout)


def status(head: str, text: str, colour: str, more: str = "", role: str = "status") -> str:
    return (
        f"<div role='{role}' style='border-left:6px solid {colour};padding:.3em 1em;margin:.3em 0;line-height:1.4;"
        f"max-width:60em'><b>{html.escape(head)}</b>{more}<p style='margin:.2em 0'>{html.escape(text)}</p></div>"
    )


def problem(text: str) -> str:
    return status("Not yet", text, base.RED, role="alert")


def stored(name: str, **facts: Any) -> tuple[dict[str, Any], str]:
    """The entry as it is kept now, and "" or why it could not be kept: then it lives as long as the kernel."""
    try:
        return answers.store(name, **facts), ""
    except (ValueError, OSError) as error:
        return facts, f"This could not be stored, so it will not be in your hand-in: {error}"


def kept(name: str, message: widgets.HTML) -> dict[str, Any]:
    """What was answered earlier; empty if nothing was, or if that cannot be read, which `message` says."""
    try:
        return answers.load(name)
    except (ValueError, OSError) as error:
        message.value = problem(f"Your earlier answers could not be read: {error}.")
        return {}
