import numpy as np
import pytest
import torch

from d2rkit.panels import DivergenceExplorer, base
from d2rkit.panels import divergence_explorer as simplex


def test_values_against_closed_forms():
    data = simplex.compute("kl", guide_a=0.5, guide_b=0.5, start_a=0.2, start_b=0.25)
    p, q = data.path[0], data.guide
    np.testing.assert_allclose(data.along[0], (p * np.log(p / q)).sum(), rtol=1e-10)
    np.testing.assert_allclose(data.at_start["reverse-kl"], (q * np.log(q / p)).sum(), rtol=1e-10)
    np.testing.assert_allclose(data.at_start["total-variation"], 0.5 * np.abs(p - q).sum(), rtol=1e-10)
    np.testing.assert_allclose(data.at_start["cross-entropy"], -(q * np.log(p)).sum(), rtol=1e-10)
    everywhere = simplex.grid()
    np.testing.assert_allclose(data.values, (everywhere * np.log(everywhere / q)).sum(1), atol=1e-12)


def test_gradient_of_reverse_kl_is_the_difference_of_probabilities():
    p, q = (torch.from_numpy(simplex.point(a, b)).log()[None] for a, b in ((0.2, 0.3), (0.6, 0.7)))
    step, _ = simplex.downhill(simplex.CHOICES["reverse-kl"][1], p, q)
    torch.testing.assert_close(step, q.exp() - p.exp())
    same, _ = simplex.downhill(simplex.CHOICES["cross-entropy"][1], p, q)
    torch.testing.assert_close(step, same)


def test_flow_is_the_softmax_jacobian():
    z, dz = torch.randn(4, 3, dtype=torch.double), torch.randn(4, 3, dtype=torch.double)
    numeric = ((z + 1e-6 * dz).softmax(1) - z.softmax(1)) / 1e-6
    np.testing.assert_allclose(simplex.flow(z, dz), numeric, atol=1e-5)


@pytest.mark.parametrize("name", ["kl", "reverse-kl", "symmetric-kl", "logit-mse", "cross-entropy"])
def test_true_divergences_arrive(name):
    assert simplex.compute(name).arrived


def test_the_released_gap_is_blind():
    data = simplex.compute("absolute-gap")
    assert not data.arrived and data.along[-1] < 0.05 and data.distance[-1] > 0.5


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_corners_stay_finite(corner):
    for name in simplex.CHOICES:
        data = simplex.compute(name, corner, corner, 1 - corner, 1 - corner)
        assert np.isfinite(data.values).all() and np.isfinite(data.path).all()


def test_guide_equal_to_start_draws():
    data = simplex.compute("kl", 0.3, 0.3, 0.3, 0.3)
    simplex.draw(data)
    assert data.arrived


def test_rounding_does_not_fill_an_axis():
    """Guide and start in one place: the distance is 1e-17 or so, which is 0 to the eye."""
    drawn = simplex.draw(simplex.compute("kl", guide_a=0.6, guide_b=0.75, start_a=0.6, start_b=0.75))
    (ax,) = (ax for ax in drawn.axes if ax.get_title("left") == "On the way")
    assert ax.get_ylim()[1] >= 0.05


def test_bad_input_in_words():
    with pytest.raises(ValueError, match=r"'k1'.*did you mean 'kl'"):
        simplex.compute("k1")
    with pytest.raises(ValueError, match=r"guide_a.*\[0, 1\].*1.5"):
        simplex.compute(guide_a=1.5)


def test_panel_moves_and_stays_silent():
    panel = DivergenceExplorer()
    text, png = panel.text.value, panel.picture.value
    assert panel.error == "" and "arrived at the guide" in text
    panel.controls["divergence"].main.value = "absolute-gap"
    assert "did NOT arrive" in panel.text.value and panel.picture.value != png
    panel.controls["guide_a"].number.value = 0.2
    assert panel.error == "" and panel.text.value != text


def test_own_divergence_appears_in_the_menu(monkeypatch):
    monkeypatch.setitem(simplex.CHOICES, "mine", ("mine", lambda p, q: (p - q).square().sum(1)))
    panel = DivergenceExplorer(divergence="mine")
    assert panel.error == "" and "mine" in panel.text.value


def test_a_picture_after_moves_is_the_one_drawn_afresh():
    """Figure and axes are kept from move to move: nothing is forgotten on them, and nothing left behind."""
    panel = DivergenceExplorer()
    kept = panel._made
    moves: list[dict] = [
        {"guide_a": 0.2}, {"divergence": "absolute-gap"}, {"guide_b": 0.1}, {"start_a": 0.0, "start_b": 1.0},
        {"divergence": "cross-entropy", "guide_a": 0.0}, {"start_b": 0.4}, {"guide_a": 0.61},
    ]  # fmt: skip
    for keep in (True, False):
        panel.keep.value = keep
        for move in moves:
            panel.set(**move)
            ghost = panel._before.data if keep else None
            fresh = simplex.draw(panel.data, ghost=ghost, frame=panel._frame)
            assert panel.error == "" and panel._shown.sheet.png == base.to_png(fresh)[0], move
    assert panel._made is kept and len(kept.axes) == 3
