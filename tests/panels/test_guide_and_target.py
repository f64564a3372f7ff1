import numpy as np
import pytest
import torch

from d2rkit.panels import GuideAndTarget
from d2rkit.panels import guide_and_target as plane


@pytest.fixture(scope="module")
def trained():
    return plane.compute()


def test_points_are_images_in_the_unit_square():
    x, y = plane.spirals()
    assert x.shape == (180, 2, 1, 1) and x.min() >= 0 and x.max() <= 1
    assert torch.bincount(y).tolist() == [60, 60, 60]


def test_both_networks_learn(trained):
    accuracy = trained.accuracy
    assert accuracy["guide"] > 0.9 and accuracy["target"] > 0.9
    assert accuracy["target, attacked"] < accuracy["target"]
    assert np.abs(trained.attacked - trained.points).max() <= trained.eps + 1e-6


def test_the_same_settings_give_the_same_pair(trained):
    again = plane.compute()
    np.testing.assert_array_equal(again.target_map, trained.target_map)
    np.testing.assert_array_equal(again.history["adv"], trained.history["adv"])


def test_labels_reach_the_target_through_the_guide_alone():
    data = plane.compute(w_ce=0.0)
    assert data.accuracy["target"] < 0.5 and "at chance" in plane.words(data)


def test_terms_are_the_library_s(trained):
    """The first step's terms are those of objectives.d2r on the initial pair."""
    from d2rkit.methods import attacks
    from d2rkit.methods.objectives import d2r

    x, y = plane.spirals()
    pair, generator = plane.build_mlp_pair(0), torch.Generator().manual_seed(0)
    start = attacks.uniform_start(x, 0.03, generator)
    x_adv = attacks.cag(
        pair.target, pair.guide, x, eps=0.03, step_size=0.0225, steps=plane.ATTACK_STEPS, start=start, y=y
    )
    parts = d2r(pair(x, x_adv), y).parts
    for name, values in trained.history.items():
        assert values[0] == pytest.approx(parts[name].item(), rel=1e-4, abs=1e-7)


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    plane.build_mlp_pair(3)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"w_adv": -1.0}, "w_adv must not be negative"),
        ({"eps": 8.0}, "units of the square"),
        ({"variant": "simetric"}, "did you mean 'symmetric'"),
        ({"attack": "cgg"}, "did you mean 'cag'"),
    ],
)
def test_bad_input_in_words(settings, words):
    with pytest.raises(ValueError, match=words):
        plane.compute(**settings)


def test_a_loss_that_is_not_finite_is_said(monkeypatch):
    def broken(logits, y, **options):
        loss = (
            plane.d2r.__wrapped__(logits, y, **options)
            if hasattr(plane.d2r, "__wrapped__")
            else real(logits, y, **options)
        )
        return loss._replace(total=loss.total * float("nan"))

    real = plane.d2r
    monkeypatch.setattr(plane, "d2r", broken)
    panel = GuideAndTarget()
    assert "no longer finite" in panel.error


def test_panel_retrains(monkeypatch):
    monkeypatch.setattr(plane, "STEPS", 30)
    panel = GuideAndTarget()
    text, png = panel.text.value, panel.picture.value
    panel.controls["w_mse"].main.value = 0.0
    assert panel.error == "" and panel.text.value != text and panel.picture.value != png
    panel.controls["detach_guide"].main.value = True
    assert panel.error == "" and "guide detached" in panel.text.value
