"""Paths of small pairs: what is recorded, how it is shown, and that texts follow from the numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import trajectories as script
from d2rkit.experiments.experiment import build_pair
from d2rkit.methods import attacks
from d2rkit.panels import measured, path_seeds, training_paths
from d2rkit.panels import trajectories as panel_module
from d2rkit.panels.base import plain_text
from d2rkit.panels.trajectories import Trajectories
from d2rkit.reporting.significance import Difference
from d2rkit.training.loop import fit

TINY = replace(training_paths.RECIPE, target="cnn-4", guide="cnn-4", epochs=2, batch_size=40, warmup=0.5, steps=1)


def tiny(setting="all", data=None, seed=0):
    return training_paths.record(setting, seed, data, images=20, recipe=TINY)


@pytest.fixture(scope="module")
def paths(few_digits):
    return [tiny(setting, few_digits) for setting in ("all", "no-adv", "no-mse")]


# -- recording ----------------------------------------------------------------------------------------------
def test_watching_changes_no_training(few_digits, paths):
    """A fit() that nobody watches before its last step ends with the predictions of the path's last moment."""
    experiment = replace(TINY, seed=0)
    pair = build_pair(experiment, few_digits)
    x, y = training_paths.watched(few_digits, 20)
    said = []

    def look(done, words):  # inside fit(), as the path does: there weights are laid out otherwise, and round otherwise
        if done == 1:
            said.append(training_paths.predictions(pair, x, y, TINY.eps))

    assert fit(pair, few_digits, experiment, device="cpu", report=look).history
    np.testing.assert_array_equal(paths[0].log_p[-1], said[-1])


def test_a_path_is_the_pair_s_predictions(few_digits):
    pair = build_pair(TINY, few_digits)
    x, y = training_paths.watched(few_digits, 20)
    x_adv = attacks.pgd_ce(pair.target, x, y, eps=0.2, step_size=0.05, steps=10)
    pair.eval()
    predictions = torch.from_numpy(training_paths.predictions(pair, x, y, 0.2))
    for said, (network, images) in zip(
        predictions, ((pair.target, x), (pair.target, x_adv), (pair.guide, x)), strict=True
    ):
        assert torch.allclose(said.float(), network(images).log_softmax(1), atol=1e-5)


def test_runs_start_alike_and_part(paths):
    assert paths[0].moments[0] == 0 and paths[0].moments[-1] == TINY.epochs
    assert len(paths[0].moments) == len(paths[0].log_p) and (np.diff(paths[0].moments) > 0).all()
    for other in paths[1:]:
        np.testing.assert_array_equal(other.log_p[0], paths[0].log_p[0])
        assert np.abs(other.log_p[-1] - paths[0].log_p[-1]).max() > 1e-3


def test_moments_of_the_recipe():
    moments = training_paths.moments_of(72)
    assert len(moments) == 22 and moments[0] == 0 and moments[-1] == 72 and moments == sorted(set(moments))
    assert training_paths.moments_of(3) == [0, 1, 2, 3]


def test_bad_settings_in_words(few_digits):
    with pytest.raises(ValueError, match="did you mean 'no-adv'"):
        training_paths.record("no-advs", data=few_digits)


# -- the plane ----------------------------------------------------------------------------------------------
def test_gaps_are_distances(paths):
    plane = panel_module.plane(paths)
    guide = torch.from_numpy(paths[1].log_p[-1, 2])
    ce = F.nll_loss(guide, torch.from_numpy(paths[1].labels)).item()
    assert plane.gaps["no-adv"][-1, 2] == pytest.approx([0, ce / 2])
    root = np.exp(paths[1].log_p[-1] / 2)
    expected = -np.log((root[1] * root[2]).sum(-1)).mean()
    assert plane.gaps["no-adv"][-1, 1, 0] == pytest.approx(expected)


def test_a_plane_is_of_the_images_asked_for(paths):
    chosen = panel_module.pick(paths, "class 3")
    assert set(paths[0].labels[chosen]) == {3}
    plane = panel_module.plane(paths, chosen)
    alone = panel_module.plane([replace(p, log_p=p.log_p[:, :, chosen], labels=p.labels[chosen]) for p in paths])
    np.testing.assert_allclose(plane.curves["all"], alone.curves["all"])
    assert plane.images == len(chosen)


def test_the_hardest_image(paths):
    (hardest,) = panel_module.pick(paths, "hardest")
    losses = F.nll_loss(torch.from_numpy(paths[0].log_p[-1, 1]), torch.from_numpy(paths[0].labels), reduction="none")
    assert losses.argmax() == hardest


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda p: panel_module.pick(p, "class 12"), "choice of images"),
        (lambda p: panel_module.plane([p[0], replace(p[1], labels=p[1].labels[::-1])]), "the same images"),
        (lambda p: panel_module.view({"all": p[0]}, panel_module.plane(p), np.arange(20), "all", 99), "moment must be"),
        (lambda p: panel_module.view({"all": p[0]}, panel_module.plane(p), np.arange(20), "al", 0), "did you mean"),
    ],
)
def test_bad_views_in_words(ask, words, paths):
    with pytest.raises(ValueError, match=words):
        ask(paths)


# -- the panel ----------------------------------------------------------------------------------------------
def test_the_panel_scrubs_and_switches(paths):
    panel = Trajectories(paths)
    assert panel.error == "" and "after 0.0 of 2 epochs" in panel.text.value
    before = panel.picture.value
    panel.controls["moment"].main.value = len(paths[0].moments) - 1
    assert panel.error == "" and "after 2.0 of 2 epochs" in panel.text.value and panel.picture.value != before
    panel.controls["setting"].main.value = "no-adv"
    assert "without the adversarial KL" in panel.text.value and "with all terms it is" in panel.text.value
    panel.set(images="hardest")
    assert panel.error == "" and "on 1 image," in panel.text.value


def test_play_moves_the_slider(paths):
    panel = Trajectories(paths, moment=2)
    assert panel.play.value == 2 and panel.controls["moment"].main.value == 2
    panel.play.value = 4
    assert panel.settings["moment"] == 4 and panel.play in panel.more.children


def test_the_future_is_not_drawn(paths):
    """What comes after the moment is to be predicted: another future gives the same lines."""

    def lines(path):
        data = Trajectories([path, *paths[1:]], moment=3).data
        axes = panel_module.draw(data).axes
        return [len(line.get_xdata()) for ax in axes for line in ax.get_lines()]

    assert max(lines(paths[0])) == 4


def test_axes_hold_still(paths):
    panel = Trajectories(paths)
    limits = []
    for setting, moment in (("all", 0), ("no-mse", 5)):
        panel.set(setting=setting, moment=moment)
        limits.append([(*ax.get_xlim(), *ax.get_ylim()) for ax in panel_module.draw(panel.data).axes])
    np.testing.assert_allclose(limits[0], limits[1])


# -- five seeds ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def measurement(few_digits):
    settings = ("all", "no-adv", "no-mse", "no-clean", "detached")
    made = script.measure((0, 1), settings, data=few_digits, images=20, recipe=TINY, show=lambda words: None)
    assert list(made["runs"]) == list(settings)
    return made


def test_the_script_measures_what_the_paths_say(measurement, paths, few_digits, tmp_path):
    measured.write(tmp_path / "m.json", measurement)
    data = path_seeds.read(tmp_path / "m.json")
    gaps = panel_module.plane(paths).gaps["no-adv"]
    np.testing.assert_allclose(data.from_guide["no-adv"][0], gaps[:, 1, 0], atol=6e-5)
    np.testing.assert_allclose(data.from_truth["no-adv"][0], gaps[:, :, 1], atol=6e-5)
    np.testing.assert_allclose(data.accuracy["no-adv"][0], paths[1].accuracy()[-1])
    again = tiny("no-mse", few_digits, seed=1)
    assert measurement["runs"]["no-mse"][1] == path_seeds.summary(again)


def shifted(data, setting, by):
    return replace(data, from_guide={**data.from_guide, setting: data.from_guide["all"] + np.asarray(by)[:, None]})


def test_verdicts_follow_from_the_numbers():
    data = path_seeds.read()
    near, far = [0.02, -0.02, 0.01, -0.01, 0.0], [0.05, 0.051, 0.05, 0.049, 0.05]
    text = plain_text(path_seeds.words_farther(shifted(shifted(data, "no-adv", near), "no-clean", far)))
    assert "Without the adversarial KL: no significant difference, +0.000" in text
    assert "Without the clean KL: f(x′) ends farther from g(x), +0.050" in text
    assert path_seeds.farthest(shifted(data, "no-clean", far)) == "no-adv"
    assert path_seeds.farthest(shifted(data, "no-clean", [1.0] * 5)) == "no-clean"


def test_the_shipped_measurement_is_five_seeds_of_the_recipe():
    shipped = measured.read(path_seeds.NAME)
    assert shipped["seeds"] == [0, 1, 2, 3, 4] and list(shipped["runs"]) == list(training_paths.SETTINGS)
    steps = -(-1200 // training_paths.RECIPE.batch_size) * training_paths.RECIPE.epochs
    assert len(shipped["moments"]) == len(training_paths.moments_of(steps))
    used = training_paths.RECIPE.to_dict()
    assert {name: used[name] for name in shipped["recipe"]} == shipped["recipe"]
    data = path_seeds.read()
    assert all(values.shape == (5, len(data.moments)) for values in data.from_guide.values())
    for words in (path_seeds.words_farther(data), path_seeds.words_turn(data)):
        assert data.source in plain_text(words)
    for made in (path_seeds.draw_farther(data), path_seeds.draw_turn(data)):
        made.canvas.draw()


def test_a_damaged_measurement_in_words(tmp_path):
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no measurement"):
        path_seeds.read(tmp_path / "m.json")


def test_a_difference_of_nothing_has_no_sign_of_its_own():
    assert path_seeds.as_distance(Difference(-0.0001, -0.003, 0.003)) == "+0.000 (-0.003 to +0.003)"
