"""The pictures that answer predictions: no text and no legend of them ends outside the sheet."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from d2rkit.panels import ambiguity_dial, path_seeds, sandwich_seeds, stop_seeds
from d2rkit.panels.certified_sandwich import load

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
    "sandwiches": lambda: sandwich_seeds.draw_seeds(load().facts),
}


def outside(figure):
    """What is written there, and legends, as far as they do not lie wholly on the sheet."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    written = list(figure.legends)
    for axes in figure.axes:
        written += [axes.get_legend(), axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    boxes = {each: each.get_window_extent(canvas.get_renderer()) for each in written if each and each.get_visible()}
    sheet = figure.bbox.padded(1)
    return [
        str(each) for each, box in boxes.items()
        if box.width and not (sheet.x0 <= box.x0 and box.x1 <= sheet.x1 and sheet.y0 <= box.y0 and box.y1 <= sheet.y1)
    ]  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_everything_lies_on_the_sheet(name):
    assert outside(PICTURES[name]()) == []
