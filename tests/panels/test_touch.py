"""What can be dragged, scrubbed and taken apart, through traits; the pointer itself is in tests/browser."""

import numpy as np
import pytest

from d2rkit.panels import DivergenceExplorer, GuideAndTarget, base, touch
from d2rkit.panels import divergence_explorer as simplex
from d2rkit.panels import guide_and_target as plane
from d2rkit.panels.point_editor import MOST, PointEditor, Points
from d2rkit.panels.scrubber import Scrubber

anywidget = pytest.importorskip("anywidget")


def say(widget, **message):
    """As the page would say it."""
    widget._handle_custom_msg({"number": widget.answered + 1, **message}, [])


# -- the triangle -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("p", [(0.6, 0.3, 0.1), (0.02, 0.9, 0.08), (1 / 3, 1 / 3, 1 / 3)])
def test_a_place_in_the_picture_is_a_prediction_and_back(p):
    place = touch.to_picture(simplex.triangle_axes(), *(np.array(p) @ simplex.CORNERS))
    first, share = simplex.settings_at(*place)
    assert np.abs(simplex.point(first, share) - p).max() < 0.011  # fields have two decimals


def test_places_are_those_of_the_drawing():
    data = simplex.compute()
    ax = simplex.draw(data).axes[0]
    for p in (data.guide, data.path[0]):
        xy = p @ simplex.CORNERS
        assert np.allclose(touch.to_picture(ax, *xy), touch.to_picture(simplex.triangle_axes(), *xy))


def test_outside_the_triangle_is_its_edge():
    assert simplex.settings_at(0.0, 1.0) == (1.0, 0.0)  # beyond the corner of A
    assert simplex.settings_at(0.56, 1.0) == (0.0, 1.0)


def test_dragging_the_guide_moves_its_sliders_and_the_ghost_is_where_the_drag_began():
    panel = DivergenceExplorer()
    before, things = panel.data, {thing["name"]: thing for thing in panel.touch.things}
    assert set(things) == {"guide", "start"}
    x, y = touch.to_picture(simplex.triangle_axes(), *(simplex.point(0.2, 0.5) @ simplex.CORNERS))
    say(panel.touch, kind="move", name="guide", x=(x + things["guide"]["x"]) / 2, y=y, done=False)
    say(panel.touch, kind="move", name="guide", x=x, y=y, done=True)
    assert panel.settings["guide_a"] == 0.2 and panel.settings["guide_b"] == 0.5 and panel.settings["start_a"] == 0.1
    assert panel._before.data is before and panel.touch.answered == 2
    assert "Guide: P(A) 0.6 → 0.2" in panel.changed.value
    moved = {thing["name"]: thing for thing in panel.touch.things}
    assert moved["guide"]["x"] == pytest.approx(x, abs=0.01) and moved["start"] == things["start"]
    panel.set(guide_a=0.3)
    assert panel._before.data is not before, "the next move has its own ghost"


def test_without_anywidget_panels_have_all_but_the_pointer(monkeypatch):
    monkeypatch.setattr(touch, "anywidget", None)
    panel = DivergenceExplorer()
    panel.set(guide_a=0.3)
    assert panel.touch is None and panel.error == "" and "<img" in panel.picture.value
    assert all(child is not None for child in panel.widget.children)


# -- points in the plane ------------------------------------------------------------------------------------
@pytest.fixture
def quick(monkeypatch):
    """Short trainings: what is tested is who calls them."""
    monkeypatch.setattr(plane, "STEPS", 20)


def test_points_are_dragged_added_and_removed(quick):
    panel = GuideAndTarget()
    editor, maps = panel.editor, plane.map_axes()
    count, other = len(editor.points.labels), panel.data
    x, y = touch.to_picture(maps[1], 0.9, 0.1)
    say(panel.touch, kind="move", name="1/7", x=x, y=y, done=True)
    assert np.allclose(panel.data.points[7], (0.9, 0.1), atol=1e-6) and "point 8 moved" in panel.changed.value
    assert panel._before.data is other and editor.x.value == 0.9 and editor.number.value == 8
    editor.pointer.value = "add 2"
    assert panel.touch.action == "add"
    x, y = touch.to_picture(maps[0], 0.2, 0.3)
    say(panel.touch, kind="add", x=x, y=y)
    assert panel.data.labels[-1] == 2 and len(panel.touch.things) == 2 * (count + 1) and editor.number.max == count + 1
    editor.pointer.value = "remove"
    say(panel.touch, kind="remove", name=f"0/{count}", x=x, y=y)
    assert len(panel.data.labels) == count
    editor.buttons["Original points"].click()
    assert np.array_equal(panel.data.points, other.points) and panel.error == ""
    assert np.array_equal(panel.data.target_map, other.target_map), "the same points give the same networks"


def test_points_go_by_numbers_too():
    done = []
    start = Points(np.array([[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]], np.float32), np.array([0, 1, 2]))
    editor = PointEditor(start, {"a": 0, "b": 1, "c": 2}, done.append)
    editor.number.value = 2
    assert editor.x.value == 0.5 and editor.label.value == 1
    editor.x.value = 0.25
    editor.buttons["Move"].click()
    editor.label.value = 0
    editor.buttons["Add"].click()
    assert done == ["point 2 moved to (0.25, 0.50)", "a added at (0.25, 0.50)"]
    assert editor.points.labels.tolist() == [0, 1, 2, 0] and editor.points.xy.dtype == np.float32
    editor.number.value = 3
    editor.buttons["Remove"].click()
    assert "last point of its class" in editor.message.value and len(editor.points.labels) == 4
    editor.points = Points(np.zeros((MOST, 2), np.float32), np.zeros(MOST, int))
    editor.buttons["Add"].click()
    assert str(MOST) in editor.message.value and len(editor.points.labels) == MOST
    assert start.xy[1, 0] == 0.5, "the points before are another object"


# -- going through a training -------------------------------------------------------------------------------
def test_a_scrubber_looks_at_what_is_chosen_and_at_nothing_else():
    seen = []
    scrub = Scrubber("Step", seen.append)
    scrub.over(range(0, 151, 10))
    scrub.over(range(1, 4))
    assert seen == [] and scrub.slider.value == scrub.field.value == scrub.play.value == 3
    scrub.play.value = 1
    scrub.field.value = 2
    assert seen == [1, 2] and scrub.slider.value == 2
    scrub.over(range(0), alive=False)
    assert scrub.play.disabled and scrub.slider.disabled and scrub.field.disabled


def test_the_training_in_the_plane_can_be_gone_through():
    panel = GuideAndTarget()
    trained, picture = panel.data, panel.picture.value
    panel.scrub.slider.value = 0
    assert panel.picture.value != picture and "After 0 of 150 steps" in panel.text.value
    first = plane.at_step(trained, 0)
    assert first.accuracy["target"] < 0.8 < trained.accuracy["target"]
    assert panel.data is trained, "nothing was trained"
    last = plane.at_step(trained, plane.STEPS)
    assert np.array_equal(last.target_map, trained.target_map) and np.array_equal(last.target_adv, trained.target_adv)
    panel.set(w_mse=0.5)
    assert panel.scrub.slider.value == plane.STEPS and "After" not in panel.text.value


# -- colours ------------------------------------------------------------------------------------------------
def luminance(colour: str) -> float:
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", ["BLUE", "ORANGE", "GREEN", "RED", "SKY", "PURPLE", "INK", "GREY", "TARGET", "GUIDE"])
def test_every_line_stands_out_from_the_paper(name):
    """WCAG 2.1, 1.4.11: 3:1 for what carries meaning; the ghost does as well."""
    for colour in (getattr(base, name), base.GHOST["color"]):
        assert (luminance(base.PAPER) + 0.05) / (luminance(colour) + 0.05) >= 3
