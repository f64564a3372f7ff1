"""The notebooks in a real JupyterLab and a real Chromium, driven by keyboard.

Skipped where there is no Chromium. D2RKIT_SCREENSHOTS names a folder to keep what was seen.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

PROJECT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SIZES = {"1280x800": (1280, 800), "1920x1080": (1920, 1080)}

# notebook -> (panel's heading, a slider or None, a dropdown, an option of it)
PANELS = {
    "01_function_space": ("Divergence explorer", "Guide: P(A)", "Divergence", "Jensen–Shannon"),
    "02_adversarial_examples": ("Adversarial image", "ε in 1/255", "Attack", "FGSM: one big step"),
    "03_guide_and_target": ("Guide and target in the plane", "Weight: MSE", "Training attack", "cross-entropy"),
    "04_collaborative_generation": ("Three attacks", "ε in 1/255", "Image", re.compile("^3:")),
    "07_tables": ("Tables", None, "Attack", "AutoAttack"),
}
# What is not this kit's: JupyterLab's own remarks in a headless browser.
HARMLESS = ("favicon", "WebGL", "SharedArrayBuffer", "ResizeObserver", "language server", "lsp", "DevTools")

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on copies of the notebooks: its address."""
    pytest.importorskip("jupyterlab")
    root = tmp_path_factory.mktemp("lab")
    for name in PANELS:
        shutil.copy(PROJECT / "notebooks" / f"{name}.ipynb", root)
    quiet = root / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [
        "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=",
        f"--ServerApp.root_dir={root}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(root / "config"), "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
    }  # fmt: skip
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *settings], stdout=log, stderr=log, cwd=root, env=environment
        )
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}/api/status", timeout=2)
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail("JupyterLab did not start: " + (root / "server.log").read_text()[-500:])
            yield address
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


def open_and_run(page, lab: str, name: str) -> None:
    """Open the notebook and run all its cells; returns when the kernel is idle."""
    page.goto(f"{lab}/lab/tree/{name}.ipynb?reset", wait_until="domcontentloaded")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=120_000)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=120_000)
    choose = page.locator(".jp-Dialog button", has_text="Select")
    for _ in range(20):  # JupyterLab may ask for a kernel while it is starting one
        if choose.count():
            choose.first.click()
        page.wait_for_timeout(200)
    page.get_by_text("Python 3 (ipykernel) | Idle").first.wait_for(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    page.get_by_text("Python 3 (ipykernel) | Busy").first.wait_for(timeout=20_000)
    numbered = sum(c.cell_type == "code" for c in nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", 4).cells)
    # JupyterLab draws only the cells in view; the kernel's last number says that all have run
    page.wait_for_function(
        """count => [...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes(`[${count}]`))
              || document.querySelector('.jp-OutputArea-output[data-mime-type*="stderr"]')""",
        arg=numbered,
        timeout=240_000,
    )


def find_panel(page, heading: str):
    """The first panel with this heading, scrolled into view."""
    panel = page.locator(".jp-OutputArea-output .widget-vbox", has=page.locator("h3", has_text=heading)).first
    page.mouse.wheel(0, -100_000)
    page.wait_for_timeout(500)
    for _ in range(60):  # the notebook is drawn as one scrolls
        if panel.count():
            break
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(150)
    panel.scroll_into_view_if_needed()
    return panel


def words(panel) -> str:
    return panel.locator("p[role=status]").first.inner_text()


def wait_for_change(page, panel, before: str) -> str:
    for _ in range(300):
        now = words(panel)
        if now != before:
            return now
        page.wait_for_timeout(100)
    raise AssertionError(f"the words did not change from: {before}")


def _move_and_type(page, panel, slider: str, stem: str) -> str:
    """Move a slider by keyboard, then type in its numeric field; returns the words after both."""
    row = panel.locator(".widget-hbox", has=page.locator(".widget-label", has_text=slider)).first

    before = words(panel)
    image = panel.locator("img").first
    picture = image.get_attribute("src")
    handle = row.locator("[role=slider]").first
    handle.focus()
    page.keyboard.press("ArrowRight")
    moved = wait_for_change(page, panel, before)
    page.wait_for_function("([image, src]) => image.src !== src", arg=[image.element_handle(), picture])
    _keep(page, panel, stem)

    number = row.locator("input[type=number]").first
    number.focus()
    value = float(number.input_value())
    number.fill(f"{value - float(number.get_attribute('step')) * 2:g}")
    page.keyboard.press("Enter")
    return wait_for_change(page, panel, moved)


def _choose(page, panel, dropdown: str, option: str | re.Pattern) -> str:
    """Choose in a menu and wait until the words follow; returns what was chosen before."""
    menu = (
        panel.locator(".widget-dropdown", has=page.locator(".widget-label", has_text=dropdown)).locator("select").first
    )
    labels = menu.locator("option").all_inner_texts()
    label = option if isinstance(option, str) else next(text for text in labels if option.match(text))
    chosen = menu.locator("option:checked").inner_text()
    typed = words(panel)
    menu.select_option(label=label)
    wait_for_change(page, panel, typed)
    return chosen


@pytest.mark.parametrize("name", list(PANELS))
def test_a_panel_answers_the_keyboard_in_a_small_and_in_a_large_window(lab, browser, name):
    heading, slider, dropdown, option = PANELS[name]
    page = browser.new_page()
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda r: complaints.append(f"{r.status} {r.url}") if r.status >= 500 else None)
    try:
        for number, (size, (width, height)) in enumerate(SIZES.items()):
            stem = f"{name}-{size}"
            page.set_viewport_size({"width": width, "height": height})
            page.mouse.move(width * 0.6, height * 0.6)
            if number == 0:
                open_and_run(page, lab, name)
                assert page.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0
            panel = find_panel(page, heading)
            if slider:
                _move_and_type(page, panel, slider, stem)
            else:
                _keep(page, panel, stem)
            option = _choose(page, panel, dropdown, option)  # in the next window it goes back

            assert panel.locator(".d2rkit-error").count() == 0
            box, frame = panel.locator("img").first.bounding_box(), panel.bounding_box()
            assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1, "the picture is wider than the panel"
            assert [c for c in complaints if not any(h.lower() in c.lower() for h in HARMLESS)] == []
    finally:
        _keep(page, None, f"{name}-end")
        page.close()


def _keep(page, panel, stem: str) -> None:
    folder = os.environ.get("D2RKIT_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if panel is not None:
            panel.scroll_into_view_if_needed()
            page.wait_for_timeout(300)
        page.screenshot(path=Path(folder) / f"{stem}.png")
