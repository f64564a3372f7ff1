"""JupyterLab as `d2rkit lab` starts it, and a Chromium that looks at it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
import pytest

PROJECT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# What is not this kit's: JupyterLab's own remarks in a headless browser.
HARMLESS = ("favicon", "WebGL", "SharedArrayBuffer", "ResizeObserver", "language server", "lsp", "DevTools")


NEEDS_CHROMIUM = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)"),
    pytest.mark.skipif(find_spec("jupyterlab") is None, reason="JupyterLab is not installed"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="Playwright is not installed"),
    pytest.mark.timeout(900),
]


@contextmanager
def chromium_page(**context: Any) -> Iterator[Any]:
    """A page in a Chromium of its own. context: for Playwright's new_context."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser.new_context(**context).new_page()
        browser.close()


def up_to_the_first_panel(name: str) -> nbformat.NotebookNode:
    """The cells until a panel is shown, and its static figure where that stands in a cell by itself."""
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", 4)
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    last = next(i for i in code if notebook.cells[i].source.rstrip().endswith(".widget"))
    panel = notebook.cells[last].source.rstrip().rpartition("\n")[2].removesuffix(".widget")
    after = next((i for i in code if i > last and notebook.cells[i].source.startswith(f"{panel}.static(")), last)
    notebook.cells = notebook.cells[: last + 1] + ([notebook.cells[after]] if after > last else [])
    return notebook


def with_its_questions(name: str, asked: Sequence[str]) -> nbformat.NotebookNode:
    """The cells before the first question, those from the first of `asked` to the last's outcome, and the quiz."""
    notebook = nbformat.read(PROJECT / "notebooks" / f"{name}.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def at(words: str) -> int:
        return next(i for i, cell in enumerate(code) if words in cell.source)

    kept = code[at(f"{asked[0]} = Prediction(") : at(f"{asked[-1]}.reveal(") + 1]
    notebook.cells = [*code[: at("Prediction(\n")], *kept, code[at('quiz("')]]
    return notebook


def command_of_lab(folder: Path, port: int, *options: str) -> tuple[list[str], dict[str, str]]:
    """What `d2rkit lab` would start, after it has put its copies into `folder`."""
    from d2rkit.cli import main

    words = ["d2rkit", "lab", "--no-browser", "--port", str(port), "--folder", str(folder), *options]
    call = mock.patch("subprocess.call", return_value=0)
    with call as called, mock.patch.object(sys, "argv", words), suppress(SystemExit):
        main()
    return called.call_args.args[0], called.call_args.kwargs["env"]


@contextmanager
def running_lab(
    root: Path, names: list[str], *options: str, questions: Mapping[str, Sequence[str]] | None = None
) -> Iterator[str]:
    """A JupyterLab on copies of these notebooks, cut after their first panel, and on questions-NAME, which has only
    these predictions of a notebook and its quiz; gives its address. options: of `d2rkit lab`; with --present nothing is
    written, so that it makes its copies itself."""
    (root / "config").mkdir()
    (root / "mine").mkdir()
    for name in names if "--present" not in options else []:
        nbformat.write(up_to_the_first_panel(name), root / "mine" / f"{name}.ipynb")
    for name, asked in (questions or {}).items():
        nbformat.write(with_its_questions(name, asked), root / "mine" / f"questions-{name}.ipynb")
    settings = {
        "jupyter_server": {"IdentityProvider": {"token": ""}},
        "jupyter_lab": {"LabApp": {"expose_app_in_browser": True}},
    }
    for app, option in settings.items():
        (root / "config" / f"{app}_config.json").write_text(json.dumps(option))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words, environment = command_of_lab(root / "mine", port, *options)
    environment |= {
        "JUPYTER_CONFIG_DIR": str(root / "config"), "JUPYTER_DATA_DIR": str(root / "data"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(root / "workspaces"),
        "D2RKIT_ANSWERS": str(root / "answers"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, cwd=root, env=environment, start_new_session=True)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=2)
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                raise AssertionError("JupyterLab did not start: " + (root / "server.log").read_text()[-500:])
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


class Lab:
    """One page with JupyterLab, in which notebook after notebook is opened. They share a kernel, which has to import
    PyTorch but once."""

    def __init__(self, page, address: str):
        self.page, self.kernel = page, None
        self.complaints: list[str] = []
        page.set_default_timeout(120_000)
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", lambda r: self.complaints.append(f"{r.status} {r.url}") if r.status >= 500 else None)
        page.goto(f"{address}/lab?reset", wait_until="domcontentloaded")
        page.wait_for_function("window.jupyterapp?.shell")
        page.evaluate("window.jupyterapp.restored")

    def command(self, name: str, **arguments: object) -> None:
        self.page.evaluate("([name, a]) => void window.jupyterapp.commands.execute(name, a)", [name, arguments])

    def theme(self, dark: bool) -> None:
        name = "JupyterLab Dark" if dark else "JupyterLab Light"
        self.page.evaluate("n => window.jupyterapp.commands.execute('apputils:change-theme', {theme: n})", name)
        self.page.locator(f"body[data-jp-theme-light={'false' if dark else 'true'}]").wait_for(state="attached")

    def open_and_run(self, name: str) -> None:
        """Open the notebook and run all its cells; returns when they have run."""
        self.kernel = self.page.evaluate(
            """async ([path, id]) => {
                 const kernel = id ? {id} : undefined;
                 const panel = await window.jupyterapp.commands.execute(
                   'docmanager:open', {path, factory: 'Notebook', kernel});
                 await panel.context.ready; await panel.sessionContext.ready;
                 await panel.sessionContext.session.kernel.info;
                 await window.jupyterapp.commands.execute('notebook:run-all-cells');
                 return panel.sessionContext.session.kernel.id;
               }""",
            [f"mine/{name}.ipynb", self.kernel],
        )
        assert self.page.locator(".jp-OutputArea-output[data-mime-type*='stderr']").count() == 0

    def close_all(self) -> None:
        self.command("application:close-all")
        discard = self.page.locator(".jp-Dialog button", has_text=re.compile("Discard"))
        for _ in range(20):
            if discard.count():
                discard.first.click()
            if not self.page.locator(".jp-NotebookPanel").count():
                return
            self.page.wait_for_timeout(100)

    def panel(self, heading: str):
        """The first panel with this heading, scrolled into view."""
        page = self.page
        return self.scrolled_to(page.locator(".d2rkit-panel", has=page.locator("h3", has_text=heading)).first)

    def scrolled_to(self, locator):
        """Something of the notebook, once it has been drawn and is in view."""
        page = self.page
        size = page.viewport_size
        page.mouse.move(size["width"] * 0.6, size["height"] * 0.6)
        page.mouse.wheel(0, -100_000)
        page.wait_for_timeout(300)
        for _ in range(80):  # the notebook is drawn as one scrolls
            if locator.count():
                break
            page.mouse.wheel(0, 400)
            page.wait_for_timeout(100)
        locator.scroll_into_view_if_needed()
        return locator

    def faults(self) -> list[str]:
        """Errors on the console and of the server since the last time; not JupyterLab's own."""
        complaints = [c for c in self.complaints if not any(h.lower() in c.lower() for h in HARMLESS)]
        self.complaints.clear()
        return complaints

    def keep(self, stem: str) -> None:
        """A screenshot, if $D2RKIT_SCREENSHOTS names a folder."""
        folder = os.environ.get("D2RKIT_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.wait_for_timeout(300)
            self.page.screenshot(path=Path(folder) / f"{stem}.png")


def words(panel) -> str:
    return panel.locator(".d2rkit-words").inner_text()


def wait_for_change(panel, before: str) -> str:
    """Until the words are others than `before`; returns them."""
    panel.page.wait_for_function(
        "([panel, before]) => panel.querySelector('.d2rkit-words').innerText !== before",
        arg=[panel.element_handle(), before], polling=100,
    )  # fmt: skip
    return words(panel)


def settle(panel) -> None:
    """Until nothing is being computed."""
    panel.page.wait_for_function("p => !p.querySelector('.d2rkit-waiting')", arg=panel.element_handle(), polling=100)


def row_of(panel, label: str):
    """The slider and the field of a control."""
    return panel.locator(".widget-hbox", has=panel.page.locator(".widget-label", has_text=label)).last


def serious(panel) -> list[str]:
    """What axe-core finds in a panel that keeps someone from using it."""
    page = panel.page
    if not page.evaluate("Boolean(window.axe)"):
        place = Path(find_spec("axe_playwright_python").origin).parent / "axe.min.js"
        page.evaluate(place.read_text(encoding="utf-8"))
    violations = page.evaluate(
        """async panel => {
             const result = await axe.run(panel, {resultTypes: ['violations']});
             return result.violations.flatMap(v => v.nodes.map(n => [v.impact, v.id, n.html.slice(0, 120)]));
           }""",
        panel.element_handle(),
    )
    return [f"{rule}: {markup}" for impact, rule, markup in violations if impact in ("serious", "critical")]


def cut_or_wide(panel) -> list[str]:
    """Labels, buttons and numbers that are cut off, menus narrower than an entry, parts that stick out of the panel."""
    return panel.evaluate(
        """panel => {
             const faults = [], ink = document.createElement('canvas').getContext('2d');
             const room = part => {
               const style = getComputedStyle(part);
               ink.font = style.font;
               return part.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
             };
             const shown = selector => [...panel.querySelectorAll(selector)].filter(part => part.offsetParent);
             for (const menu of shown('select')) {
               const wide = room(menu);
               for (const entry of menu.options)
                 if (ink.measureText(entry.text).width > wide + 1)
                   faults.push(`cut in a menu of ${wide} pixels: ${entry.text}`);
             }
             for (const part of shown('button, .widget-html-content:not(.d2rkit-words *)'))
               if (part.scrollWidth > part.clientWidth + 1 && part.clientWidth)
                 faults.push('cut: ' + part.textContent.trim().slice(0, 60));
             for (const field of shown('input[type=number]'))
               if (ink.measureText(field.value).width > room(field) + 1) faults.push('cut: ' + field.value);
             const right = panel.getBoundingClientRect().right + 1;
             for (const label of panel.querySelectorAll('.widget-label')) {
               const hidden = label.closest('.d2rkit-field') || !label.offsetParent;
               const inside = document.createRange();
               inside.selectNodeContents(label);
               if (!hidden && inside.getBoundingClientRect().width > label.getBoundingClientRect().width + 1)
                 faults.push('cut: ' + label.textContent);
             }
             for (const part of panel.querySelectorAll('img, input, select, button, p, .noUi-target'))
               if (part.offsetParent && part.getBoundingClientRect().right > right)
                 faults.push('sticks out: ' + part.outerHTML.slice(0, 80));
             return faults;
           }"""
    )
