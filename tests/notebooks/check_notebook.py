"""Run a notebook as a user would and list everything that is wrong with it.

Errors in cells stop nbclient; errors inside a panel do not, so the widgets' state is read too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from d2rkit.panels.base import ERROR_CLASS
from tests.forked_kernel import ForkedKernels

WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
SIGNS = (ERROR_CLASS, "Traceback (most recent call last)", "NotImplementedError")


@dataclass
class Findings:
    """faults: sentences, empty if all is well; seconds: CPU time of the kernel, which a busy machine leaves alone."""

    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    widgets: int = 0


def run_notebook(
    notebook: nbformat.NotebookNode,
    folder: Path,
    timeout: int = 400,
    more: Sequence[str] = (),
    kernels: type[AsyncKernelManager] = ForkedKernels,
) -> Findings:
    """Execute in place, without network and GPU, in a kernel of its own; then, off the clock, `more` cells."""
    findings = Findings()
    clock = nbformat.v4.new_code_cell("import time as _t; print(_t.process_time())", id="the-clock")
    notebook.cells += [clock, *(nbformat.v4.new_code_cell(source) for source in more)]
    client = NotebookClient(
        notebook, timeout=timeout, kernel_manager_class=kernels, resources={"metadata": {"path": str(folder)}}
    )
    try:
        with _environment(HTTP_PROXY="http://127.0.0.1:9", HTTPS_PROXY="http://127.0.0.1:9", CUDA_VISIBLE_DEVICES=""):
            client.execute()
    except CellExecutionError as error:
        findings.faults.append(f"a cell raised {error.ename}: {error.evalue}")
    else:
        findings.seconds = float(clock.outputs[0].text)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                findings.faults.append(f"cell {cell.id} writes to stderr: {output.text.strip()[:200]}")
    findings.faults += widget_faults(notebook)
    findings.widgets = len(_state(notebook))
    return findings


def widget_faults(notebook: nbformat.NotebookNode) -> list[str]:
    """Errors that are only to be seen inside a widget."""
    faults = []
    for model, content in _state(notebook).items():
        words = json.dumps(content.get("state", {}), ensure_ascii=False)
        for sign in SIGNS:
            if sign in words:
                excerpt = words[words.index(sign) :][:300]
                faults.append(f"widget {content.get('model_name')} {model[:8]} shows an error: {excerpt}")
        if content.get("model_name") == "OutputModel":
            faults.append("an Output widget is used; it swallows errors")
    return faults


def _state(notebook: nbformat.NotebookNode) -> dict:
    return notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})


@contextmanager
def _environment(**values: str):
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
