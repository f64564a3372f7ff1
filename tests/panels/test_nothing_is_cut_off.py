"""The pictures that answer predictions: no text and no legend of them ends outside the sheet."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from d2rkit.experiments.presets import PRESETS
from d2rkit.panels import ambiguity_dial, path_seeds, robustness, sandwich_seeds, stop_seeds
from d2rkit.panels.certified_sandwich import load
from d2rkit.panels.sample_runs import claims, find_runs, shipped_runs
from d2rkit.panels.table_browser import draw
from d2rkit.panels.table_rows import TITLES, compute, settings_for

PAIR = ("natural", "PGD-AT")


def prices():
    places = {"ambiguous": ambiguity_dial.AMBIGUOUS, "well separated": ambiguity_dial.SEPARATED}
    return ambiguity_dial.draw_prices({name: ambiguity_dial.compute(**at, others=PAIR) for name, at in places.items()})


PICTURES = {
    "the price of robustness": prices,
    "farther without a term": lambda: path_seeds.draw_farther(path_seeds.read()),
    "the guide's turn": lambda: path_seeds.draw_turn(path_seeds.read()),
    "the price of a gradient": lambda: stop_seeds.draw_price(stop_seeds.read()),
    "whither terms pull": lambda: stop_seeds.draw_pulls(stop_seeds.read()),
    "two attacks": lambda: robustness.draw_claims(
        claims(shipped_runs("medium"), "pgd20", "autoattack"), "PGD-20", "AutoAttack"
    ),
    "sandwiches": lambda: sandwich_seeds.draw_seeds(load().facts),
}


def outside(figure):
    """What is written there, and legends, as far as they do not lie wholly on the sheet."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    written = [*figure.legends, *figure.texts]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            written += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        written += [axes.get_legend(), axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    boxes = {each: each.get_window_extent(canvas.get_renderer()) for each in written if each and each.get_visible()}
    sheet = figure.bbox.padded(1)
    return [
        str(each) for each, box in boxes.items()
        if box.width and not (sheet.x0 <= box.x0 and box.x1 <= sheet.x1 and sheet.y0 <= box.y0 and box.y1 <= sheet.y1)
    ]  # fmt: skip


def tables():
    """Every preset, and a network of each data set, in the browser of notebook 07: titles and rows differ in length."""
    runs = find_runs().runs
    for what in (*(f"preset:{name}" for name in PRESETS), *TITLES):
        for setting in settings_for(what, runs)[:1]:
            yield what, draw(compute(what, setting, "autoattack", runs))


def test_no_table_is_cut():
    assert {what: cut for what, figure in tables() if (cut := outside(figure))} == {}


@pytest.mark.parametrize("name", PICTURES)
def test_everything_lies_on_the_sheet(name):
    assert outside(PICTURES[name]()) == []
