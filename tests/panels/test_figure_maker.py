"""figure_maker: every figure at every width, type that keeps its size, files with one stem."""

import json
from dataclasses import replace

import pytest

from d2rkit.experiments.presets import get_preset
from d2rkit.panels import figure_maker as maker
from d2rkit.panels.figure_maker import FIGURES, FigureMaker
from d2rkit.reporting.export import STYLE, VENUES
from d2rkit.reporting.frame import labels
from tests.synthetic import make_run, preset, runs_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    here = preset(attacks=("clean", "pgd1", "pgd5", "autoattack"), test_images=100)
    return runs_of(here, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def panel(runs):
    return FigureMaker(runs)


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_has_the_width_asked_for(runs, name):
    for venue, columns in (("neurips", 1), ("cvpr", 2)):
        made = maker.draw(maker.compute(name, runs, venue, columns))
        assert made.get_figwidth() == VENUES[venue][columns - 1]


def test_menus_change_picture_and_words(panel):
    seen = {(panel.picture.value, panel.text.value)}
    for name, value in (("name", "training-curves"), ("venue", "cvpr"), ("columns", 1), ("points", 6.5)):
        panel.controls[name].main.value = value
        assert panel.error == ""
        seen.add((panel.picture.value, panel.text.value))
    assert len({part for both in seen for part in both}) == 10
    assert "3.28125 inches" in panel.text.value and "6.5 points" in panel.text.value
    assert f"width:{round(3.28125 * 96)}px" in panel.picture.value, "shown at true size"


def test_type_keeps_its_size_at_every_width_and_follows_the_slider(runs):
    def sizes(columns, points):
        made = maker.draw(maker.compute("robustness-against-eps", runs, "icml", columns, points))
        made.draw_without_rendering()
        axes = made.axes[0]
        label = axes.yaxis.label.get_window_extent()
        assert label.y0 >= 0 and label.y1 <= made.bbox.y1, "the label is cut off"
        return axes.xaxis.label.get_fontsize(), made.legends[0].get_texts()[0].get_fontsize()

    before = dict(STYLE)
    assert sizes(1, 8) == sizes(2, 8) == (8, 7)
    assert sizes(1, 12) == (12, 10.5)
    assert before == STYLE, "the style is as it was"


def test_files_share_a_stem_and_repeat_to_the_byte(panel, tmp_path):
    panel.set(name="clean-against-robust", venue="lncs", columns=2, points=8.0)
    panel.folder.value = str(tmp_path / "one")
    panel.button.click()
    assert panel.error == "" and "clean-against-robust-lncs-2.pdf" in panel.written.value
    names = {file.name for file in (tmp_path / "one").iterdir()}
    assert names == {f"clean-against-robust-lncs-2.{kind}" for kind in ("pdf", "svg", "png", "csv", "json")}
    again = panel.write(tmp_path / "two")
    assert all(file.read_bytes() == (tmp_path / "one" / file.name).read_bytes() for file in again)
    assert b"/Type3" not in again[0].read_bytes()
    facts = json.loads(again[4].read_text())
    assert facts["size_in_inches"][0] == pytest.approx(4.803) and facts["seeds"] == [0, 1] and facts["font_size"] == 8


def test_nothing_is_overwritten(runs, tmp_path):
    sheet = maker.compute("training-curves", runs)
    first = maker.write(sheet, tmp_path)
    before = {file: file.read_bytes() for file in first}
    assert maker.write(sheet, tmp_path) == first, "the same figure is the same file"
    other = maker.write(maker.compute("training-curves", runs[:2]), tmp_path)
    assert {file.stem for file in other} == {f"{sheet.stem}-2"}
    assert {file: file.read_bytes() for file in first} == before
    assert len(list(tmp_path.iterdir())) == 10, "no draft is left"


def test_no_figure_is_offered_that_no_run_can_give(runs, tmp_path):
    assert set(dict(FigureMaker(runs).controls["name"].main.options).values()) == set(FIGURES) - {"frontier"}
    traded = [
        make_run(tmp_path, replace(runs[0].experiment, method="trades", loss=loss), {"clean": 0.9, "pgd1": 0.6})
        for loss in ({}, {"beta": 1.0})
    ]
    assert "frontier" in dict(FigureMaker(traded).controls["name"].main.options).values()
    few = runs_of(preset(attacks=("clean", "pgd20"), test_images=100), tmp_path)
    offered = set(dict(FigureMaker(few).controls["name"].main.options).values())
    assert "accuracy-against-steps" not in offered and "training-curves" in offered
    for name in offered:
        assert maker.draw(maker.compute(name, few))


def test_a_close_up_spans_the_data_and_is_another_file(runs):
    far, near = (maker.compute("robustness-against-eps", runs, close_up=close) for close in (False, True))
    low, high = maker.draw(near).axes[0].get_ylim()
    assert maker.draw(far).axes[0].get_ylim() == (-2, 102) and high - low < 104 and far.stem != near.stem
    assert "does not begin at 0" in maker.words(near) and "does not begin at 0" not in maker.words(far)


def test_the_words_tell_how_many_seeds_each_method_has(runs):
    methods = len({run.experiment.method for run in runs})
    assert f"from {len(runs)} runs ({methods} methods, 2 seed(s) each) on" in maker.words(
        maker.compute("training-curves", runs)
    )
    assert f"({methods} methods, 1 to 2 seeds each) on" in maker.words(maker.compute("training-curves", runs[1:]))


def test_scaled_type_and_heights(runs):
    narrow, wide = (maker.compute("training-curves", runs, "neurips", columns) for columns in (1, 2))
    assert maker.shrunk(narrow, wide)["actual"] == round(8 * narrow.width / wide.width, 1)
    assert maker.heights(narrow, wide)["actual"] in ("lower", "same", "higher")
    assert maker.side_by_side(narrow, wide).width == round(96 * narrow.width)


def test_another_size_is_another_file(runs):
    stems = {maker.compute("training-curves", runs, *size).stem for size in (("icml", 1), ("icml", 2), ("icml", 2, 9))}
    assert len(stems) == 3


def test_errors_are_shown_in_words(runs, tmp_path):
    nothing = FigureMaker(())
    assert "there are no runs to draw" in nothing.error
    nothing.button.click()
    assert "there is no figure to write" in nothing.written.value
    few = FigureMaker(list(runs), tmp_path)
    (tmp_path / "file").write_text("")
    few.folder.value = str(tmp_path / "file" / "under")
    few.button.click()
    assert "This did not work" in few.written.value
    with pytest.raises(ValueError, match="did you mean 'training-curves'"):
        maker.compute("training-curve", runs)
    with pytest.raises(ValueError, match="unknown venue 'nips'"):
        maker.compute("training-curves", runs, "nips")
    with pytest.raises(ValueError, match="font size must lie between"):
        maker.compute("training-curves", runs, "icml", 1, 80)


def test_runs_of_different_tables_are_drawn_apart(runs, tmp_path):
    others = runs_of(preset(target="cnn-8", attacks=("clean", "pgd1", "pgd5", "autoattack")), tmp_path)
    both = FigureMaker([*runs, *others])
    assert both.error == "" and len(both.controls["table"].spec.options) == 2
    before = both.picture.value
    both.controls["table"].main.value = 1
    assert both.error == "" and both.data.runs[0].experiment.target == "cnn-8" and both.picture.value
    assert before


def test_runs_of_a_preset_are_a_table_of_their_own(tmp_path):
    quick, ablation = map(get_preset, ("quick", "ablation"))
    cells = [quick.experiment("trades", 0), quick.experiment("d2r-cag", 0), ablation.experiment("no-mse", 0)]
    tables = maker.tables_of([make_run(tmp_path, cell, {"clean": 0.9, "autoattack": 0.5}) for cell in cells])
    names = {title: sorted(run.experiment.method for run in runs) for title, runs in tables.items()}
    assert names == {
        "quick: Digits": ["d2r-cag", "trades"], "ablation: Digits": ["d2r-cag", "d2r-cag"],
        "family: Digits": ["d2r-cag"],
    }  # fmt: skip
    (row,) = (run for run in tables["ablation: Digits"] if run.experiment.loss)
    assert labels([row.experiment]) == ["D2R+CAG: without MSE"]
