"""The panel machinery, without a browser: traits in, PNG bytes and words out."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from d2rkit.panels import base
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
    assert panel.picture.value != before and bytes(panel.picture.value).startswith(b"\x89PNG")
    assert "The result is 3." in panel.text.value
    panel.controls["power"].main.value = 2
    assert "The result is 9." in panel.text.value


def test_slider_and_numeric_field_are_one(panel):
    control = panel.controls["x"]
    control.number.value = 4.5
    assert control.main.value == 4.5 and "4.5" in panel.text.value
    control.number.value = 99
    assert control.main.value == 10.0  # held at the end of the slider


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
    assert "large" in panel.error and panel.picture.value == b"" and "picture" not in panel.error


def test_reset_brings_the_start_back(panel):
    start = panel.text.value
    panel.set(x=7.0, power=2)
    panel.reset.click()
    assert panel.text.value == start and panel.settings == {"x": 2.0, "power": 1}


def test_set_refuses_unknown_controls(panel):
    with pytest.raises(ValueError, match=r"no control 'y'.*x, power"):
        panel.set(y=1)


def test_static_figure_leaves_the_panel_alone_and_raises(panel):
    still = panel.static(x=5.0)
    data, metadata = still._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and data["text/plain"] == "The result is 5."
    assert metadata["image/png"] == {"width": 192, "alt": "The result is 5."}
    assert panel.settings["x"] == 2.0
    with pytest.raises(ValueError):
        panel.static(x=9.0)


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
    "BoundedFloatText", "BoundedIntText", "Box", "Button", "Dropdown", "FloatProgress", "FloatSlider", "HBox", "HTML",
    "Image", "IntSlider", "Layout", "Text", "Textarea", "VBox",
}  # fmt: skip


def test_only_widgets_that_ipywidgets_7_and_8_both_have():
    folder = Path(base.__file__).parents[1]
    found = {name for file in folder.rglob("*.py") for name in re.findall(r"widgets\.([A-Z]\w+)", file.read_text())}
    assert found and found <= IN_BOTH
