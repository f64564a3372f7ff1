"""`d2rkit lab --present` in a real JupyterLab and a real Chromium: one notebook, from its first slide on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.browser.driver import (
    HARMLESS,
    NEEDS_CHROMIUM,
    chromium_page,
    running_lab,
    serious,
    settle,
    wait_for_change,
    words,
)

NOTEBOOK, HEADING, SLIDER = "01_function_space", "Divergence explorer", "Target start: P(A)"

pytestmark = [*NEEDS_CHROMIUM, pytest.mark.thorough]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The notebook as the command opens it, run to the end."""
    root = tmp_path_factory.mktemp("talk")
    with (
        running_lab(root, [], "--present") as address,
        chromium_page(viewport={"width": 1280, "height": 800}) as page,
    ):
        page.set_default_timeout(120_000)
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
        page.goto(f"{address}/lab/tree/mine/{NOTEBOOK}.ipynb", wait_until="domcontentloaded")
        page.locator("body.d2rkit-slides").wait_for(state="attached")
        page.wait_for_function(
            "window.jupyterapp.shell.currentWidget.content.widgets.every(c => c.model.executionCount !== null)",
            polling=500,
        )  # cells of text have no count; nobody has pressed a key
        yield page


def place(page) -> str:
    return page.locator(".d2rkit-slides-bar span").first.inner_text()


def heading(page) -> str:
    """What can be seen of the notebook's headings."""
    return page.locator("h1:visible, h2:visible").first.inner_text()


def to_the_panel(page):
    """On the second slide."""
    page.get_by_role("button", name="Section before").focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("PageUp")
    for _ in range(20):
        if place(page).startswith("2 "):
            break
        page.keyboard.press("PageDown")
    return page.locator(".d2rkit-panel", has=page.locator("h3", has_text=HEADING)).first


def keep(page, stem: str) -> None:
    if folder := os.environ.get("D2RKIT_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"slides-{stem}.png")


def test_one_section_is_seen_without_code_and_keys_turn_pages(page):
    assert place(page).startswith("1 / ") and heading(page).startswith("01 · Function space")
    assert (
        page.locator("#jp-top-panel").evaluate("e => document.elementFromPoint(5, 5).closest('#jp-top-panel')") is None
    )
    keep(page, "title")
    page.keyboard.press("ArrowRight")
    assert place(page).startswith("2 / ") and heading(page).startswith("1 · One triangle")
    assert page.locator("h1:visible, h2:visible").count() == 1, "one section"
    assert page.locator(".jp-NotebookPanel .jp-CodeCell:visible").count() > 2, "with cells that have code"
    assert page.locator(".jp-NotebookPanel .cm-editor:visible").count() == 0, "which is folded"
    page.keyboard.press("ArrowLeft")
    assert place(page).startswith("1 / ")
    seen = [place(page)]
    for _ in range(60):  # page by page to the end, and no further
        page.keyboard.press("PageDown")
        seen.append(place(page))
    last = int(seen[0].split(" / ")[1])
    assert [int(one.split()[0]) for one in seen] == sorted(int(one.split()[0]) for one in seen)
    assert {int(one.split()[0]) for one in seen} == set(range(1, last + 1)), "no section is skipped"
    assert heading(page) == "References"
    assert not [c for c in page.complaints if not any(h.lower() in c.lower() for h in HARMLESS)]


@pytest.mark.parametrize("size", [(1280, 800), (1920, 1080)])
def test_a_panel_is_large_and_alive(page, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    panel = to_the_panel(page)
    picture = panel.locator(".d2rkit-picture img").first
    panel.evaluate("p => p.scrollIntoView()")
    box = picture.bounding_box()
    assert box["width"] > 0.65 * size[0] and box["y"] + box["height"] < size[1] - 30, "large, and wholly on the screen"
    assert picture.evaluate("i => i.naturalWidth / i.width") > 1.7, "sharp when it is enlarged"
    before, source = words(panel), picture.get_attribute("src")
    handle = panel.get_by_role("slider", name=SLIDER)
    handle.focus()
    page.keyboard.press("ArrowRight")
    wait_for_change(panel, before)
    settle(panel)
    assert picture.get_attribute("src") != source and place(page).startswith("2 "), "arrows are the slider's"
    ring, star = panel.locator(".d2rkit-ring").first.bounding_box(), picture.bounding_box()
    assert star["x"] < ring["x"] < star["x"] + 0.6 * star["width"], "what can be dragged is marked where it is"
    assert star["y"] < ring["y"] < star["y"] + star["height"]
    assert serious(panel) == [] and serious(page.locator(".d2rkit-slides-bar")) == []
    keep(page, f"panel-{size[0]}")
    page.keyboard.press("d")
    page.keyboard.press("d")  # deletes a cell of JupyterLab elsewhere
    assert page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length") > 25
    for _ in range(8):
        page.keyboard.press("PageDown")
        if not place(page).startswith("2 "):
            break
    assert place(page).startswith("3 "), "the keys of a remote control turn pages from within a slider, too"


def test_code_can_be_shown_and_the_slides_left(page):
    to_the_panel(page)
    page.get_by_role("button", name="Show or hide the code").click()
    assert page.locator(".jp-NotebookPanel .cm-editor:visible").count() > 1
    keep(page, "code")
    page.get_by_role("button", name="Show or hide the code").click()
    assert page.locator(".jp-NotebookPanel .cm-editor:visible").count() == 0
    page.get_by_role("button", name="Leave the slides").click()
    assert page.locator("#jp-top-panel").evaluate(
        "e => Boolean(document.elementFromPoint(5, 5).closest('#jp-top-panel'))"
    )
    assert page.locator("h2").count() > 5
    keep(page, "left")
    page.get_by_role("button", name="Back to the slides").click()
    assert place(page).startswith("2 ")
