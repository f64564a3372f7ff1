"""Figures carry their data, files repeat byte for byte, pyplot stays out of it."""

import json
import shutil
import subprocess
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from d2rkit.experiments.experiment import Experiment
from d2rkit.methods.catalogue import METHODS
from d2rkit.reporting.export import LOOKS, VENUES, export, info_of, look, made_with, set_width, style
from d2rkit.reporting.figures import (
    draw_clean_vs_robust,
    draw_eps_curve,
    draw_overfitting,
    draw_per_class,
    draw_steps_curve,
    draw_training_curves,
    write_figures,
)
from d2rkit.reporting.frame import tidy
from d2rkit.reporting.published import published
from tests.synthetic import make_run, preset, runs_of


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return runs_of(preset(), tmp_path_factory.mktemp("runs"))


def test_eps_curve_is_the_mean_of_the_runs(runs):
    figure = draw_eps_curve(runs)
    data = figure.d2r_data
    trades = [run.result["eps_curve"] for run in runs if run.experiment.method == "trades"]
    at = data[(data["method"] == "trades") & (data["eps"] == trades[0]["eps"][4])].iloc[0]
    values = [curve["pgd20"][4] for curve in trades]
    assert at["mean"] == pytest.approx(np.mean(values)) and at["std"] == pytest.approx(np.std(values, ddof=1))
    assert at["n"] == 2 and list(data["method"].unique()) == ["pgd-at", "trades", "d2r-cag"]
    (line,) = [line for line in figure.axes[0].get_lines() if line.get_label() == "TRADES"]
    assert line.get_ydata()[4] == pytest.approx(100 * at["mean"])


def test_training_curves_show_clean_and_pgd_by_epoch(runs):
    data = draw_training_curves(runs).d2r_data
    assert set(data["measure"]) == {"val_clean", "val_pgd"} and set(data["epoch"]) == {1, 2, 3, 4}
    clean = data[(data["measure"] == "val_clean") & (data["epoch"] == 2)]
    assert clean["mean"].tolist() == pytest.approx([0.7, 0.7, 0.7])


def test_overfitting_marks_the_best_epoch(runs):
    figure = draw_overfitting(runs)
    rings = [line for line in figure.axes[0].get_lines() if line.get_markersize() == 8]
    assert [ring.get_xdata()[0] for ring in rings] == [3, 3, 3]
    assert set(figure.d2r_data["measure"]) == {"train_adv", "val_pgd"}


def test_steps_curve_needs_several_attacks(runs, tmp_path):
    with pytest.raises(ValueError, match="several PGD attacks"):
        draw_steps_curve(runs)
    here = preset(attacks=("clean", "pgd100", "pgd5", "pgd20"))
    data = draw_steps_curve(runs_of(here, tmp_path)).d2r_data
    assert data[data["method"] == "trades"]["steps"].tolist() == [5, 20, 100]


def test_per_class_counts_the_flags_of_each_class(digits, tmp_path):
    here = preset(test_images=40)
    runs = [make_run(tmp_path, e, {"clean": 0.9, "autoattack": 0.5}, n=40) for e in here.experiments()]
    data = draw_per_class(runs, digits).d2r_data
    assert set(data["class"]) == set(range(10)) and data["images"].eq(4).all()
    assert data.groupby("method")["mean"].mean().tolist() == pytest.approx([0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="not of"):
        draw_per_class(runs, replace(digits, name="cifar10"))


def test_scatter_shows_published_points_only_where_they_belong(runs, tmp_path):
    assert set(draw_clean_vs_robust(tidy(runs), published()).d2r_data["source"]) == {"ours"}
    base = Experiment(data="cifar10", target="wrn-34-10", method="trades")
    big = make_run(tmp_path, base, {"clean": 0.85, "autoattack": 0.54}, n=10_000)
    figure = draw_clean_vs_robust(tidy([big]), published())
    theirs = figure.d2r_data[figure.d2r_data["source"] != "ours"]
    known = published()
    here = known[(known["dataset"] == "cifar10") & (known["target"] == "wrn-34-10") & (known["eps"] == "8/255")]
    assert len(theirs) == here["autoattack"].notna().sum() and "TRADES+S2O" not in set(theirs["label"])
    assert {line.get_marker() for line in figure.axes[0].get_lines()} >= {"^", "d"}
    for width in (None, 6.75, 3.4):
        if width:
            set_width(figure, width)
        figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert not any(one.overlaps(two) for i, one in enumerate(boxes) for two in boxes[:i]), "names cover each other"
    small = make_run(tmp_path, replace(base, subset="10k"), {"clean": 0.5, "autoattack": 0.2}, n=1_000)
    assert set(draw_clean_vs_robust(tidy([small]), published()).d2r_data["source"]) == {"ours"}


def test_a_failed_run_does_not_stop_the_figures(tmp_path):
    here = preset(rows=("trades", "pgd-at"))
    runs = [
        make_run(tmp_path, e, {"clean": 0.9, "autoattack": 0.5}, status="failed: x" if e.seed else "done")
        for e in here.experiments()
    ]
    files = write_figures(here, runs, tmp_path / "out")
    assert len(files) == 15 and pd.read_csv(tmp_path / "out" / "robustness-against-eps.csv")["n"].eq(1).all()
    assert write_figures(here, [], tmp_path / "nothing") == []


def test_runs_of_different_eps_share_no_curve(tmp_path):
    base = preset().base
    runs = [make_run(tmp_path, replace(base, test_eps=eps), {"clean": 0.9}) for eps in (0.1, 0.2)]
    for draw in (draw_eps_curve, draw_training_curves):
        with pytest.raises(ValueError, match="different eps"):
            draw(runs)


def test_files_repeat_byte_for_byte_whatever_the_users_settings(runs, tmp_path):
    first = export(draw_training_curves(runs), tmp_path / "a" / "f", info=info_of(runs))
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "yellow", "pdf.fonttype": 3}):
        second = export(draw_training_curves(runs[::-1]), tmp_path / "b" / "f", info=info_of(runs[::-1]))
    assert [f.name for f in first] == ["f.pdf", "f.svg", "f.png", "f.csv", "f.json"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_export_says_what_made_the_figure(runs, tmp_path):
    *_, csv, facts = export(draw_eps_curve(runs), tmp_path / "a", info={"preset": "tiny"} | info_of(runs))
    said = json.loads(facts.read_text())
    assert said["preset"] == "tiny" and said["seeds"] == [0, 1] and said["data_source"] == ["made up"]
    assert set(said["runs"]) == {run.folder.name for run in runs}
    assert said["runs"][runs[0].folder.name]["eps"] == 0.2 and said["made_with"] == made_with()
    assert {"python", "matplotlib", "git_revision"} <= said["made_with"].keys()
    pd.testing.assert_frame_equal(pd.read_csv(csv), draw_eps_curve(runs).d2r_data)


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("columns", [1, 2])
def test_width_is_the_venues_and_nothing_is_cut_off(runs, tmp_path, venue, columns):
    figure = draw_training_curves(runs)
    before = figure.get_size_inches().tolist()
    png = export(figure, tmp_path / "a", venue=venue, columns=columns)[2]
    picture = Image.open(png)
    assert picture.width == pytest.approx(300 * VENUES[venue][columns - 1], abs=1)
    edges = np.asarray(picture.convert("L"))
    for edge in (edges[0], edges[-1], edges[:, 0], edges[:, -1]):
        assert (edge == 255).all(), "ink at the edge: something is cut off"
    assert figure.get_size_inches().tolist() == pytest.approx(before)


def test_narrow_figures_stack_their_panels(runs, tmp_path):
    figure = draw_training_curves(runs)
    wide = json.loads(export(figure, tmp_path / "w", columns=2)[-1].read_text())["size_in_inches"]
    narrow = json.loads(export(figure, tmp_path / "n", columns=1)[-1].read_text())["size_in_inches"]
    assert narrow[0] < wide[0] and narrow[1] > wide[1]
    (left, right) = (axes.get_subplotspec() for axes in figure.axes)
    assert left.rowspan == right.rowspan, "side by side again"


def test_legend_covers_no_data(runs):
    for draw in (draw_eps_curve, draw_training_curves, draw_overfitting):
        figure = draw(runs)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        renderer = figure.canvas.get_renderer()
        box = legend.get_window_extent(renderer)
        width, height = figure.get_size_inches()
        assert height > width * figure.d2r_ratio + 0.1, "the legend takes room from the axes"
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
        assert not any(box.overlaps(axes.get_tightbbox(renderer)) for axes in figure.axes)


def test_the_name_of_the_tables_radius_covers_no_data(tmp_path):
    figure = draw_eps_curve([make_run(tmp_path, preset().experiments()[0], {"clean": 0.9, "autoattack": 0.8})])
    figure.draw_without_rendering()
    (axes,), renderer = figure.axes, figure.canvas.get_renderer()
    (words,) = [text for text in axes.texts if "ε of the table" in text.get_text()]
    box = words.get_window_extent(renderer)
    assert box.y0 >= axes.get_window_extent(renderer).y1 and box.y1 <= figure.bbox.height


def test_no_type_3_fonts(runs, tmp_path):
    pdf = export(draw_eps_curve(runs), tmp_path / "a", columns=2)[0]
    assert b"/Type3" not in pdf.read_bytes() and b"/CreationDate" not in pdf.read_bytes()
    if shutil.which("pdffonts") is None:
        pytest.skip("pdffonts is not installed: only the file was searched")
    said = subprocess.run(["pdffonts", pdf], capture_output=True, text=True, check=True).stdout
    assert "TrueType" in said and "Type 3" not in said


def test_svg_has_no_date(runs, tmp_path):
    assert "<dc:date>" not in export(draw_eps_curve(runs), tmp_path / "a")[1].read_text()


def test_pyplot_and_the_users_settings_are_left_alone(runs, tmp_path):
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    export(draw_eps_curve(runs), tmp_path / "a")
    assert pyplot.get_fignums() == [] and dict(matplotlib.rcParams) == before


def test_a_figure_of_somebody_else_is_exported_too(tmp_path):
    figure = Figure((4, 2))
    figure.add_subplot().plot([1, 2], [3, 4], label="mine")
    *_, csv, facts = export(figure, tmp_path / "v1.2", venue="icml", info={"seed": 3})
    assert csv.name == "v1.2.csv" and pd.read_csv(csv).to_dict("list") == {
        "axes": [0, 0], "label": ["mine", "mine"], "x": [1, 2], "y": [3, 4],
    }  # fmt: skip
    said = json.loads(facts.read_text())
    assert said["seed"] == 3 and said["size_in_inches"] == [3.25, 1.625]


def test_bad_venue_and_columns(runs, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'neurips'"):
        export(Figure(), tmp_path / "a", venue="neuripps")
    with pytest.raises(ValueError, match="columns must be 1 or 2, not 3"):
        export(Figure(), tmp_path / "a", columns=3)
    assert list(tmp_path.iterdir()) == []


def test_every_method_looks_different_without_colour():
    assert METHODS.keys() <= LOOKS.keys() | {name for name in METHODS if name.endswith("-awp")}
    shapes = [(each.marker, each.dashes, each.hollow) for each in map(look, METHODS)]
    assert len(set(shapes)) == len(shapes)
    variants = [(each.marker, each.dashes, each.hollow) for each in (look("d2r-cag", k) for k in range(6))]
    assert len(set(variants)) == 6
    many = [look("d2r-cag", k) for k in range(27)]  # as many rows as an ablation may have
    assert len({(each.color, each.marker, each.hollow) for each in many}) == 27
    assert look("trades-awp") != look("trades") and look("trades-awp").color == look("trades").color


def test_style_ends_where_it_should(monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    size = matplotlib.rcParams["font.size"]
    with style():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert matplotlib.rcParams["font.size"] == size and matplotlib.rcParams["backend"] == "svg"


def test_a_dollar_in_a_rows_name_is_a_dollar(tmp_path):
    here = replace(preset(), titles={})
    runs = runs_of(replace(here, rows=("trades",)), tmp_path)
    frame = tidy(runs).assign(label="costs $5, not $\\frac")  # a formula that would not parse
    figure = draw_clean_vs_robust(frame)
    figure.draw_without_rendering()
    assert figure.d2r_data["label"].iloc[0] == "costs $5, not $\\frac"
