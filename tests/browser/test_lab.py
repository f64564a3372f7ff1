"""The notebooks in a real JupyterLab and a real Chromium, by keyboard and by mouse, in light and in dark.

Skipped where there is no Chromium. D2RKIT_SCREENSHOTS names a folder to keep what was seen.
"""

from __future__ import annotations

import re

import pytest

from tests.browser.driver import (
    NEEDS_CHROMIUM,
    Lab,
    chromium_page,
    cut_or_wide,
    row_of,
    running_lab,
    serious,
    settle,
    wait_for_change,
    words,
)

# notebook -> (panel's heading, a slider or None, a menu or None, an option of it)
PANELS = {
    "00_start_here": ("Data and preset", None, "Method", "TRADES"),
    "01_function_space": ("Divergence explorer", "Guide: P(A)", "Divergence", "Jensen–Shannon"),
    "02_adversarial_examples": ("Adversarial image", "ε in 1/255", "Attack", "FGSM: one big step"),
    "03_guide_and_target": ("Guide and target in the plane", "Weight: MSE", None, ""),
    "04_collaborative_generation": ("Three attacks", "ε in 1/255", "Image", re.compile("^3:")),
    "05_training": ("Training, live", None, None, ""),
    "06_measuring_robustness": ("Measuring robustness", "ε in 1/255", "Attack", "FGSM"),
    "07_tables": ("Tables", None, "Attack", "AutoAttack"),
    "08_figures_for_papers": ("Figures for papers", "Font size (points)", "Columns", "1"),
    "09_your_own_loss": ("Divergence explorer", "Guide: P(A)", "Divergence", "total variation"),
    "10_trajectories": ("Trajectories in prediction space", "Moment", "Loss", "without the MSE"),
    "11_ambiguity": ("The ambiguity dial", "Overlap", "Train", "natural"),
    "12_certified_sandwich": ("The certified sandwich", "ε in 1/255", "Proof by", "interval bounds (IBP)"),
    "13_who_gets_the_gradient": ("Who gets the gradient", None, "Loss of", "D2R+CAG (symmetric)"),
}
QUESTIONS = {"01_function_space": ("way", "arrive")}
WIDE, NARROW, LARGE = (1280, 800), (900, 700), (1920, 1080)
ZOOMED = (640, 400)  # 1280 x 800 at 200 %

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One JupyterLab in one page of one Chromium for all tests of this file, since starting them costs the most."""
    root = tmp_path_factory.mktemp("lab")
    with (
        running_lab(root, list(PANELS), questions=QUESTIONS) as address,
        chromium_page(permissions=["clipboard-read", "clipboard-write"]) as page,
    ):
        yield Lab(page, address)


@pytest.fixture(autouse=True)
def clean(lab, request):
    """Every test has a wide light window, and closes its notebooks."""
    lab.page.set_viewport_size(dict(zip(("width", "height"), WIDE, strict=True)))
    yield
    lab.keep(f"end-{re.sub(r'[^a-z0-9]+', '-', request.node.name)[-60:]}")
    lab.theme(dark=False)
    lab.close_all()
    lab.complaints.clear()


def resize(lab, size: tuple[int, int], heading: str):
    lab.page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    lab.page.wait_for_timeout(300)
    return lab.panel(heading)


def by_keyboard(panel, slider: str) -> None:
    """One step of a slider, then a number typed into its field: the words follow, and say what was changed."""
    row, page = row_of(panel, slider), panel.page
    before, picture = words(panel), panel.locator("img").first.get_attribute("src")
    field = row.locator("input[type=number]")
    value = float(field.input_value())
    row.get_by_role("slider", name=slider).focus()
    page.keyboard.press("ArrowLeft" if value >= float(field.get_attribute("max")) else "ArrowRight")
    moved = wait_for_change(panel, before)
    settle(panel)
    assert panel.locator("img").first.get_attribute("src") != picture
    changed = panel.locator(".d2rkit-changed")
    if panel.get_by_role("checkbox", name="Keep the previous setting").is_checked():
        assert f"{slider} {value:g} → " in changed.inner_text()
    field = row.get_by_role("spinbutton", name=slider)
    field.fill(f"{value - float(field.get_attribute('step')) * 2:g}")
    page.keyboard.press("Enter")
    wait_for_change(panel, moved)
    settle(panel)


def by_mouse(panel, slider: str) -> None:
    """The handle of a slider is drawn to another place."""
    before, page = words(panel), panel.page
    handle = row_of(panel, slider).locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=3)
    page.mouse.up()
    wait_for_change(panel, before)
    settle(panel)


def choose(panel, menu: str, option: str | re.Pattern) -> None:
    select = panel.get_by_role("combobox", name=menu)
    labels = select.locator("option").all_inner_texts()
    label = option if isinstance(option, str) else next(text for text in labels if option.match(text))
    before = words(panel)
    select.select_option(label=label)
    wait_for_change(panel, before)
    settle(panel)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.thorough] if name > "03" else []) for name in PANELS]
)
def test_a_panel_answers_keyboard_and_mouse_in_light_and_dark_and_in_every_window(lab, name):
    heading, slider, menu, option = PANELS[name]
    lab.open_and_run(name)
    panel = lab.panel(heading)
    assert serious(panel) == []
    if slider:
        width = row_of(panel, slider).locator(".noUi-base").bounding_box()["width"]
        assert width >= 260, f"a slider of {width} pixels"
        by_keyboard(panel, slider)
        by_mouse(panel, slider)
    lab.keep(f"{name}-light")
    lab.theme(dark=True)
    if menu:
        choose(panel, menu, option)
    assert serious(panel) == []
    assert panel.locator("img").first.get_attribute("alt").startswith(heading)
    lab.keep(f"{name}-dark")
    for size in (ZOOMED, NARROW, WIDE, LARGE):
        panel = resize(lab, size, heading)
        lab.page.evaluate(f"window.jupyterapp.shell.{'collapse' if size == ZOOMED else 'expand'}Left()")
        lab.page.wait_for_timeout(300)
        assert cut_or_wide(panel) == [], size
        lab.keep(f"{name}-{size[0]}")
    assert panel.locator(".d2rkit-error").count() == 0
    assert lab.faults() == []


def test_guide_and_start_are_dragged_on_the_triangle(lab):
    lab.open_and_run("01_function_space")
    panel, page = lab.panel("Divergence explorer"), lab.page
    field, start = (row_of(panel, f"{who}: P(A)").locator("input[type=number]") for who in ("Guide", "Target start"))
    before, value = words(panel), field.input_value()
    start.fill("0.1")  # the notebook opens with both in one place, where the pointer would take the start
    page.keyboard.press("Enter")
    before = wait_for_change(panel, before)
    settle(panel)
    panel.locator("img").first.scroll_into_view_if_needed()
    box = panel.locator(".d2rkit-ring").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 50, y - 60, steps=5)
    wait_for_change(panel, before)  # while it is being dragged
    page.mouse.up()
    page.wait_for_function("([f, v]) => f.value !== v", arg=[field.element_handle(), value])
    settle(panel)
    assert f"Guide: P(A) {value} → {field.input_value()}" in panel.locator(".d2rkit-changed").inner_text()
    panel.get_by_role("button", name="Back to the start").click()
    page.wait_for_function("([f, v]) => f.value === v", arg=[field.element_handle(), value])
    assert lab.faults() == []


def test_points_are_dragged_and_added_and_the_training_is_played(lab):
    lab.open_and_run("03_guide_and_target")
    panel, page = lab.panel("Guide and target in the plane"), lab.page
    picture = panel.locator(".d2rkit-picture img").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    numbered = panel.get_by_role("spinbutton", name="Point", exact=True)
    count = int(numbered.get_attribute("max"))
    # The spiral's first point lies near the middle of the guide's map; the pointer looks for it.
    middle = box["x"] + 0.18 * box["width"], box["y"] + 0.32 * box["height"]
    for dx, dy in ((a, b) for a in range(-40, 60, 10) for b in range(-60, 60, 10)):
        page.mouse.move(middle[0] + dx, middle[1] + dy)
        if panel.locator(".d2rkit-ring").count():
            break
    before = words(panel)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    wait_for_change(panel, before)
    assert re.search(r"Changed: point \d+ moved to", panel.locator(".d2rkit-changed").inner_text())
    settle(panel)
    panel.get_by_role("combobox", name="In the maps, the pointer").select_option(label="adds ▲ class 2")
    before, box = words(panel), picture.bounding_box()
    place = box["x"] + 0.1 * box["width"], box["y"] + 0.15 * box["height"]
    for _ in range(100):
        page.mouse.move(*place)
        if panel.locator(".d2rkit-picture").evaluate("e => e.style.cursor") == "crosshair":
            break
        page.wait_for_timeout(100)
    page.mouse.click(*place)
    wait_for_change(panel, before)
    assert "▲ class 2 added" in panel.locator(".d2rkit-changed").inner_text()
    assert int(numbered.get_attribute("max")) == count + 1
    settle(panel)
    assert "After" not in words(panel)
    panel.get_by_role("button", name="Play or pause").click()
    page.wait_for_function(
        "p => /^After [1-9]0 of/.test(p.querySelector('p[role=status]').innerText)", arg=panel.element_handle(),
        polling=100,
    )  # fmt: skip
    panel.get_by_role("button", name="Play or pause").click()
    row_of(panel, "Step of training").get_by_role("slider", name="Step of training").focus()
    page.keyboard.press("Home")
    page.wait_for_function(
        "p => /^After 0 of/.test(p.querySelector('p[role=status]').innerText)", arg=panel.element_handle(),
        polling=100,
    )  # fmt: skip
    assert lab.faults() == []


def test_a_training_starts_grey_controls_are_dead_and_its_epochs_can_be_gone_through(lab):
    lab.open_and_run("05_training")
    panel, page = lab.panel("Training, live"), lab.page
    for label, value in (("Epochs", "2"), ("Training images", "40")):
        panel.get_by_role("spinbutton", name=label, exact=True).fill(value)
        page.keyboard.press("Enter")
    panel.get_by_text("Changed, for the next Start").wait_for()
    panel.get_by_role("combobox", name="Method").select_option(label="PGD-AT")
    page.wait_for_function(
        "field => field.disabled", arg=panel.get_by_role("spinbutton", name="Weight: clean").element_handle()
    )
    panel.get_by_role("button", name="Start", exact=True).click()
    panel.locator("p[role=status]", has_text="Done: 2 epochs").wait_for()
    panel.get_by_role("slider", name="Epoch", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    panel.locator("th", has_text="pointed at: epoch (1)").wait_for()
    assert serious(panel) == []
    assert lab.faults() == []


def test_tables_are_copied_and_saved_and_a_notebook_opened_again_has_no_errors(lab):
    lab.open_and_run("09_your_own_loss")
    panel, page = lab.panel("Divergence explorer"), lab.page
    panel.get_by_role("button", name="Copy “Probabilities”").click()
    page.wait_for_function("navigator.clipboard.readText().then(t => t.includes('class B'))")
    assert page.evaluate("navigator.clipboard.readText()").splitlines()[1].startswith("guide\t")
    with page.expect_download() as download:
        panel.get_by_role("link", name="Save “Probabilities” (CSV)").click()
    assert download.value.suggested_filename == "probabilities.csv"
    assert download.value.path().read_text("utf-8-sig").splitlines()[1].startswith("guide,")
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    lab.close_all()
    lab.command("docmanager:open", path="mine/09_your_own_loss.ipynb", factory="Notebook")
    words_left = page.get_by_text("is alive only while its notebook runs")
    page.mouse.move(800, 500)
    for _ in range(40):
        if words_left.count():
            break
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(150)
    assert words_left.count() == 1 and page.get_by_text("model not found").count() == 0
    assert page.get_by_text("official Jupyter news").count() == 0


def on_to(page, words: str) -> None:
    """Tab until something with these words has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if words in page.evaluate("document.activeElement.innerText || document.activeElement.value || ''"):
            return
    raise AssertionError(f"no way by Tab to {words!r}")


def test_a_prediction_is_committed_by_mouse_and_by_keyboard_and_answered(lab):
    lab.open_and_run("questions-01_function_space")
    page = lab.page

    def box(words):
        return lab.scrolled_to(page.locator(".widget-vbox", has=page.locator("p", has_text=words)).first)

    def came_out(words):
        """The outcome with these words, once it is drawn."""
        box = lab.scrolled_to(page.locator(".widget-vbox", has=page.locator("th", has_text=words)).first)
        box.locator("th", has_text=words).first.wait_for()
        return box

    hidden = lab.scrolled_to(page.locator(".widget-vbox", has=page.get_by_role("button", name="Show anyway")).first)
    hidden.get_by_role("button", name="Show anyway").wait_for()
    assert "Commit your prediction first" in hidden.inner_text() and hidden.locator("img, table").count() == 0
    lab.keep("questions-hidden")
    asked = box("Which direction penalises it more?")
    asked.get_by_role("button", name="Commit").click()
    asked.get_by_text("choose one of the options").wait_for()
    asked.get_by_role("button", name="KL(target ‖ guide)").click()
    asked.get_by_role("button", name="certain").click()
    assert serious(asked) == []
    asked.get_by_role("button", name="Commit").click()
    asked.get_by_text("You predicted: a) KL(target ‖ guide) (certain)").wait_for()
    lab.keep("questions-committed-light")
    answer = came_out("You predicted")
    answer.get_by_text("Not as you predicted").first.wait_for()
    answer.get_by_text("KL(guide ‖ target)").first.wait_for()
    assert answer.locator("img").get_attribute("alt") and serious(answer) == []
    lab.keep("questions-answered-light")

    lab.theme(dark=True)
    asked = box("what percentage arrives")
    asked.get_by_role("textbox").focus()
    page.keyboard.type("many")
    on_to(page, "guess")
    page.keyboard.press("Space")
    asked.get_by_role("button", name="guess (chosen)").wait_for()
    on_to(page, "Commit")
    page.keyboard.press("Space")
    asked.get_by_text("write a number from 0 to 100").wait_for()
    asked.get_by_role("textbox").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("35 %")
    on_to(page, "Commit")
    page.keyboard.press("Enter")
    asked.get_by_text("You predicted: 35 % (guess)").wait_for()
    assert serious(asked) == []
    lab.keep("questions-committed-dark")
    answer = came_out("You were")
    answer.locator("img").wait_for()  # of which there is one
    assert serious(answer) == []
    lab.keep("questions-answered-dark")

    asked = page.locator(".widget-vbox", has=page.locator("p", has_text="The released gap is 0")).last  # of the quiz
    asked.get_by_role("button", name="target and guide agree").focus()
    page.keyboard.press("Space")
    on_to(page, "Answer")
    page.keyboard.press("Space")
    asked.get_by_text("Choose again").wait_for()
    asked.get_by_role("button", name="both directions of KL have the same value").click()
    asked.get_by_role("button", name="Answer").click()
    asked.get_by_text("is right (try 2)").wait_for()
    assert serious(asked) == []
    lab.keep("questions-quiz-dark")
    assert lab.faults() == []
