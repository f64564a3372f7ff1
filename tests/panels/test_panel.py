"""The panel machinery, without a browser: traits in, PNG bytes and words out."""

import base64
import csv
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from d2rkit.panels import base
from d2rkit.panels.axes import Frame, rounded
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.panel import Panel


@dataclass(frozen=True)
class Number:
    x: float


def compute(x: float, power: int) -> Number:
    if x > 8:
        raise ValueError("x is <too> large")
    return Number(x**power)


def draw(data: Number):
    made = base.figure(2, 1)
    made.add_axes((0.1, 0.1, 0.8, 0.8)).plot([0, data.x])
    return made


def words(data: Number) -> str:
    return base.sentence(f"The result is {data.x:g}.")


@pytest.fixture
def panel() -> Panel:
    controls = {"x": Slider("x", 2.0, 0.0, 10.0, 0.5), "power": Choice("power", 1, {"one": 1, "two": 2})}
    return Panel("Toy", controls, compute, draw, words)


def test_a_move_changes_picture_and_words(panel):
    before = panel.picture.value
    panel.controls["x"].main.value = 3.0
    assert panel.picture.value != before and panel._shown.sheet.png.startswith(b"\x89PNG")
    assert "The result is 3." in panel.text.value
    panel.controls["power"].main.value = 2
    assert "The result is 9." in panel.text.value


def test_slider_and_numeric_field_are_one(panel):
    control = panel.controls["x"]
    control.number.value = 4.5
    assert control.main.value == 4.5 and "4.5" in panel.text.value
    control.number.value = 99
    assert control.main.value == 10.0  # held at the end of the slider


def test_a_field_shows_no_rounding_of_the_browsers(panel):
    control = panel.controls["x"]
    control.main.value = 0.09000000000000001  # ten steps of 0.009, counted by a browser
    assert str(control.number.value) == "0.09"


def test_each_move_computes_once(panel):
    calls = []
    panel.compute = lambda **settings: calls.append(settings) or Number(1)
    panel.controls["x"].main.value = 5.0
    panel.controls["x"].number.value = 6.0
    panel.set(x=1.0, power=2)
    assert calls == [{"x": 5.0, "power": 1}, {"x": 6.0, "power": 1}, {"x": 1.0, "power": 2}]


def test_an_error_is_shown_in_words_and_nowhere_else(panel, capfd, caplog):
    good = panel.picture.value
    panel.controls["x"].main.value = 9.0
    assert base.ERROR_CLASS in panel.error and "role='alert'" in panel.error
    assert "x is &lt;too&gt; large." in panel.error and "Traceback" not in panel.error
    assert panel.picture.value == good and "last settings that worked" in panel.error
    captured = capfd.readouterr()
    assert captured.out == captured.err == "" and not caplog.records
    panel.controls["x"].main.value = 1.0
    assert panel.error == ""


@pytest.mark.parametrize("part", ["draw", "words"])
def test_errors_of_drawing_and_words_show_too(panel, part):
    def broken(data):
        raise ZeroDivisionError("no way")

    setattr(panel, part, broken)
    panel.refresh()
    assert "ZeroDivisionError: no way" in panel.error


def test_an_error_at_the_start_shows_too():
    panel = Panel(
        "Toy", {"x": Slider("x", 9.0, 0.0, 10.0, 0.5), "power": Choice("p", 1, {"one": 1})}, compute, draw, words
    )
    assert "large" in panel.error and panel.picture.value == "" and "picture" not in panel.error


def test_reset_brings_the_start_back(panel):
    start = panel.text.value
    panel.set(x=7.0, power=2)
    panel.reset.click()
    assert panel.text.value == start and panel.settings == {"x": 2.0, "power": 1}


def test_reset_goes_to_where_the_notebook_began(panel):
    """What an author sets before the panel is displayed is the start; what a student sets afterwards is not."""
    panel.set(x=4.0)
    assert panel.widget is panel.box
    panel.set(x=7.0, power=2)
    assert panel.widget is panel.box  # displayed a second time
    panel.reset.click()
    assert panel.settings == {"x": 4.0, "power": 1}


def test_the_picture_has_words_for_those_who_do_not_see_it(panel):
    panel.set(x=3.0)
    assert (
        "alt='Toy: The result is 3.'" in panel.picture.value
        and "width:192px;aspect-ratio:192/96" in panel.picture.value
    )


def test_computing_is_said_before_the_work_and_the_old_picture_is_dimmed(panel):
    seen = []

    def slow(**settings):
        seen.append((panel.busy.value, "d2rkit-waiting" in panel.picture._dom_classes))
        return compute(**settings)

    panel.compute = slow
    panel.set(x=3.0)
    panel.set(x=9.0)  # too large
    assert seen == [("computing…", True)] * 2
    assert panel.busy.value == "" and "d2rkit-waiting" not in panel.picture._dom_classes


# -- the previous setting -----------------------------------------------------------------------------------
def test_the_previous_setting_stays_as_a_small_picture_where_draw_knows_no_ghost(panel):
    assert not panel.keep.value and panel.changed.value == ""
    panel.set(x=3.0)
    assert panel.picture.value.count("<img") == 1
    panel.keep.value = True
    assert panel.picture.value.count("<img") == 2 and "the previous setting" in panel.picture.value
    assert "Changed: x 2 → 3. Before: The result is 2." in panel.changed.value
    panel.set(power=2)
    assert "Changed: power one → two. Before: The result is 3." in panel.changed.value
    panel.keep.value = False
    assert panel.picture.value.count("<img") == 1 and panel.changed.value == ""


def test_a_ghost_is_the_data_of_the_last_setting_that_worked():
    drawn, computed = [], []

    def haunted(data, ghost=None):
        drawn.append((data.x, ghost and ghost.x))
        return draw(data)

    def counted(**settings):
        computed.append(settings)
        return compute(**settings)

    panel = Panel("Toy", {"x": Slider("x", 2.0, 0.0, 10.0, 0.5)}, lambda x: counted(x=x, power=1), haunted, words)
    assert panel.keep.value
    for x in (3.0, 9.0, 4.0):  # 9 is an error
        panel.set(x=x)
    panel.refresh()  # the same setting again is no move
    assert drawn == [(2, None), (3, 2), (4, 3), (4, 3)]
    panel.keep.value = False
    assert drawn[-1] == (4, None) and len(computed) == 5, "the toggle draws, and computes nothing"
    panel.static(x=5.0)
    assert drawn[-1] == (5, None), "a static figure has no past"


# -- axes that hold still -----------------------------------------------------------------------------------
def test_axes_hold_still_while_a_slider_moves():
    frame = Frame()
    first = frame.hold("y", 0, 7.3)
    assert first == (0, 8) and frame.hold("y", 0, 5) == first and frame.hold("y", 1, 8) == first
    assert frame.hold("y", 0, 8.1) == (0, 10), "they grow where the data leave them"
    assert frame.hold("y", 0, 1) == (0, 1), "and shrink where hardly anything can be seen"
    assert frame.hold("another", -3, -2.2)[0] == -3


@pytest.mark.parametrize(("low", "high"), [(0, 1e-9), (-37, 1e6), (0.1, 0.3), (-2.5, -2.4)])
def test_round_limits_are_near(low, high):
    a, b = rounded(low, high)
    assert a <= low and high <= b and b - a <= 1.5 * (high - low)
    assert rounded(3, 3) == (2.5, 3.5)


def test_a_menu_begins_new_axes_and_a_slider_does_not():
    limits = []

    def framed(data, frame=None):
        limits.append((frame or Frame()).hold("y", 0, data.x))
        return draw(data)

    controls = {"x": Slider("x", 8.0, 0.0, 10.0, 0.5), "power": Choice("power", 1, {"one": 1, "two": 2})}
    panel = Panel("Toy", controls, compute, framed, words)
    panel.set(x=4.0)
    panel.set(power=2)
    panel.set(power=1)
    assert limits == [(0, 8), (0, 8), (0, 16), (0, 4)]


# -- controls that do nothing -------------------------------------------------------------------------------
def test_a_control_that_does_nothing_is_grey():
    controls = {
        "x": Slider("x", 2.0, 0.0, 10.0, 0.5, when=lambda at: at["power"] == 2),
        "power": Choice("power", 1, {"one": 1, "two": 2}),
    }
    panel = Panel("Toy", controls, compute, draw, words)
    x = panel.controls["x"]
    assert x.main.disabled and x.number.disabled and "d2rkit-off" in x.row._dom_classes
    panel.set(power=2)
    assert not x.main.disabled and not x.number.disabled and "d2rkit-off" not in x.row._dom_classes


# -- what can be taken away ---------------------------------------------------------------------------------
def test_pictures_and_tables_can_be_saved(panel):
    panel.words = lambda data: words(data) + base.table(("", "a, b"), [("<row>", "1"), ("ä", "2")], "My “numbers”")
    panel.refresh()
    files = dict(re.findall(r"download='([^']+)' href='data:[^,]+,([^']+)'", panel.take.value))
    assert list(files) == ["toy.png", "my-numbers.csv"] and "Save the table (CSV)" in panel.take.value
    assert base64.b64decode(files["toy.png"]) == panel._shown.sheet.png
    text = base64.b64decode(files["my-numbers.csv"]).decode("utf-8-sig")
    assert list(csv.reader(text.splitlines())) == [["", "a, b"], ["<row>", "1"], ["ä", "2"]]
    panel.words = lambda data: (
        base.table(("a",), [("1",)], "Numbers") + base.table(("a",), [("1",)], "A long name " * 9)
    )
    panel.refresh()
    assert "Copy “Numbers”" in panel.take.value and "Copy “A long name A long name A long name A …”" in panel.take.value


def test_without_widgets_a_sentence_is_left(panel):
    bundle = panel.widget._repr_mimebundle_()
    assert "run this cell" in bundle["text/plain"] and "application/vnd.jupyter.widget-view+json" in bundle


def test_set_refuses_unknown_controls(panel):
    with pytest.raises(ValueError, match=r"no control 'y'.*x, power"):
        panel.set(y=1)


def test_static_figure_leaves_the_panel_alone_and_raises(panel):
    still = panel.static(x=5.0)
    data, metadata = still._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and data["text/plain"] == "The result is 5."
    assert metadata["image/png"] == {"width": 192, "alt": "The result is 5."}
    assert (
        "alt='The result is 5.'" in data["text/html"]
        and base64.b64encode(data["image/png"]).decode() in data["text/html"]
    )
    assert panel.settings["x"] == 2.0
    with pytest.raises(ValueError):
        panel.static(x=9.0)


def test_what_a_reveal_shows_does_not_depend_on_where_the_sliders_were_left(panel):
    panel.set(x=3.0)
    assert panel.opening == panel.settings, "not displayed yet"
    assert panel.widget and panel.opening["x"] == 3.0
    panel.set(x=4.0, power=2)
    assert panel.opening["x"] == 3.0 and panel.opening["power"] == 1
    assert panel.static(x=5.0).description == panel.words(panel.compute(**panel.opening | {"x": 5.0}))
    assert panel.static().description == panel.words(panel.data), "with no change it is what is on the page"


def test_controls_follow_the_rules(panel):
    for control in panel.controls.values():
        names = control.main.trait_names()
        assert getattr(control.main, "tooltip" if "tooltip" in names else "description_tooltip")
    slider = panel.controls["x"].main
    assert slider.continuous_update is False and slider.readout is False


def test_integers_stay_integers():
    panel = Panel("Toy", {"x": Slider("x", 2, 0, 5, 1), "power": Choice("p", 1, {"one": 1})}, compute, draw, words)
    assert isinstance(panel.settings["x"], int)


def test_pyplot_knows_no_figure(panel):
    from matplotlib import pyplot

    for i in range(50):
        panel.controls["x"].main.value = i % 8
    assert pyplot.get_fignums() == []


def test_table_and_plain_text():
    markup = base.table(("", "a"), [("<row>", "1"), ("other", "2")], "Numbers")
    assert "scope='col'" in markup and "scope='row'" in markup and "&lt;row&gt;" in markup
    assert base.plain_text(markup).splitlines()[0] == "Numbers"


IN_BOTH = {
    "BoundedFloatText", "BoundedIntText", "Box", "Button", "Checkbox", "Dropdown", "FloatProgress", "FloatSlider",
    "HBox", "HTML", "IntSlider", "Layout", "Play", "Text", "Textarea", "VBox", "Widget",
}  # fmt: skip


def test_only_widgets_that_ipywidgets_7_and_8_both_have():
    folder = Path(base.__file__).parents[1]
    widgets_used = {
        name for file in folder.rglob("*.py") for name in re.findall(r"widgets\.([A-Z]\w+)", file.read_text())
    }
    assert widgets_used and widgets_used <= IN_BOTH


@pytest.mark.parametrize("words", ["large", "nan", "inf", "0", "-1", "1e9"])
def test_a_bad_sharpness_is_said_in_a_line_and_stops_no_import(monkeypatch, caplog, words):
    monkeypatch.setenv("D2RKIT_SHARPER", words)
    assert base._dpi() == 110
    (said,) = caplog.messages
    assert f"D2RKIT_SHARPER must be a number from 0.5 to 5, e.g. 1.6, not {words!r}" in said


def test_a_good_sharpness_is_taken(monkeypatch, caplog):
    monkeypatch.setenv("D2RKIT_SHARPER", "1.6")
    assert base._dpi() == 176
    monkeypatch.setenv("D2RKIT_SHARPER", "")
    assert base._dpi() == 110 and not caplog.messages
