"""A figure kept from picture to picture."""

import io

import numpy as np
import pytest
from matplotlib.image import imread

from d2rkit.panels import base
from d2rkit.panels.controls import Slider
from d2rkit.panels.panel import Panel

PLACE = (0.2, 0.2, 0.7, 0.7)


def draw(x, top=1, made=None, furnished=None):
    def furnish(ax, top):
        if furnished is not None:
            furnished.append(top)
        base.tidy(ax, "title", "x")
        ax.set(xlim=(0, 1), ylim=(0, top))
        ax.text(0.1, 0.5 * top, "over the line", fontsize=20)

    made = made or base.figure(2, 1.5)
    # One function object for all pictures of a figure, as a panel's module has.
    made.furnish = getattr(made, "furnish", furnish)
    ax = made.axes_at(PLACE, made.furnish, top)
    ax.plot([0, 1], [x, 0.5], lw=6)
    ax.bar([0.5], [x], 0.2)
    return made


def test_what_stands_still_is_furnished_once_for_each_key():
    furnished: list[float] = []
    made = draw(0.2, furnished=furnished)
    base.to_png(made)
    for x, top in ((0.9, 1), (0.4, 1), (0.4, 2), (0.8, 2)):
        assert draw(x, top, made) is made
        assert base.to_png(made) == base.to_png(draw(x, top)), (x, top)
    assert furnished == [1, 2] and len(made.axes) == 1


def test_a_kept_figure_is_saved_whole():
    made = draw(0.2)
    base.to_png(made)
    pictures = []
    for each in (draw(0.9, made=made), draw(0.9)):
        each.savefig(file := io.BytesIO(), format="png", dpi=80)
        file.seek(0)
        pictures.append(imread(file))
    np.testing.assert_array_equal(*pictures)


def test_a_figure_is_not_kept_after_an_error_in_its_midst():
    def broken(x, made=None):
        made = draw(x, made=made)
        if x == 0.5:
            raise ValueError("no such picture")
        return made

    panel = Panel("Toy", {"x": Slider("x", 0.1, 0.0, 1.0, 0.1)}, lambda x: x, broken, lambda x: base.sentence(f"{x}"))
    first = panel._made
    panel.set(x=0.2)
    assert panel._made is first
    panel.set(x=0.5)
    assert "no such picture" in panel.error
    panel.set(x=0.7)
    assert panel.error == "" and panel._made is not first
    assert panel._shown.sheet.png == base.to_png(draw(0.7))[0]


@pytest.mark.parametrize("forgotten", ["xlim", "ylim"])
def test_limits_that_are_not_furnished_would_show(forgotten):
    """The check of the panels' tests is red for axes whose limits depend on what was drawn before."""
    limits = {"xlim": (0, 1), "ylim": (0, 1)}
    del limits[forgotten]

    def furnish(ax):
        ax.set(**limits)

    def picture(made, x):
        made.axes_at(PLACE, furnish).plot([0, x], [0, x])
        return base.to_png(made)

    made = base.figure(2, 1.5)
    picture(made, 5)
    assert picture(made, 1) != picture(base.figure(2, 1.5), 1)
