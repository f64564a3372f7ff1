"""How `d2rkit lab` sets up JupyterLab's server, which reads this file and not the rest of the kit."""

import warnings

VIEW, STATE = "application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json"


def leave_words(model, **_):
    """A saved widget cannot be shown again ("model not found") unless its state is saved, too. What is left of its
    output is text that says so, and below it the static picture that follows every panel."""
    if model["type"] != "notebook" or STATE in model["content"]["metadata"].get("widgets", {}):
        return
    for cell in model["content"]["cells"]:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(VIEW, None)


# Jupyter's server and JupyterLab each read this file, and warn that the hook replaces itself.
warnings.filterwarnings("ignore", "Overriding existing pre_save_hook")
c.FileContentsManager.pre_save_hook = leave_words  # noqa: F821  # pyright: ignore[reportUndefinedVariable]  (Jupyter gives `c`)
