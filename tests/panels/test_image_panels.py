"""adversarial_image, logit_scatter and cag_compare on an untrained digits pair."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from d2rkit.panels import AdversarialImage, CagCompare, LogitScatter
from d2rkit.panels import adversarial_image as image_panel
from d2rkit.panels import cag_compare as compare
from d2rkit.panels import logit_scatter as scatter

EPS = 0.1


@pytest.mark.parametrize("attack", list(image_panel.IMAGE_ATTACKS))
def test_attacks_keep_to_the_box(sample, attack):
    data = image_panel.compute(sample, 3, attack, EPS, 5, 0.25)
    assert np.abs(data.delta).max() <= EPS + 1e-6
    assert data.adversarial.min() >= 0 and data.adversarial.max() <= 1
    np.testing.assert_allclose(data.target_clean.sum(), 1, rtol=1e-5)


def test_no_radius_no_change(sample):
    for attack in image_panel.IMAGE_ATTACKS:
        data = image_panel.compute(sample, 0, attack, 0.0, 5, 0.25)
        assert not data.delta.any() and np.array_equal(data.target_clean, data.target_adv)


def test_attacks_raise_the_loss_and_noise_does_less(sample):
    x, y = sample.images[:40], sample.labels[:40]

    def loss(attack):
        x_adv = image_panel.attack_batch(sample.pair.target, x, y, attack=attack, eps=EPS, steps=10, step_size=EPS / 4)
        return F.cross_entropy(sample.pair.target(x_adv), y).item()

    assert loss("pgd") > loss("noise") and loss("fgsm") > loss("noise")


def test_survival_falls_and_starts_at_clean_accuracy(sample):
    x, y = sample.images[:40], sample.labels[:40]
    curve = image_panel.survival(sample.pair.target, x, y, [0.2, 0.0, 0.05], attack="pgd", steps=3, step_share=0.5)
    radii, shares = zip(*curve, strict=True)
    assert radii == (0.0, 0.05, 0.2) and list(shares) == sorted(shares, reverse=True)
    with torch.no_grad():
        assert shares[0] == pytest.approx((sample.pair.target(x).argmax(1) == y).float().mean().item())


def test_image_panel(sample):
    panel = AdversarialImage(sample, max_eps=0.4, curve_images=20)
    png = panel.picture.value
    assert panel.error == "" and "ε = 0/255" in panel.text.value  # what a larger one does is for the student to see
    panel.controls["eps255"].main.value = 10
    assert "10/255 = 0.0392" in panel.text.value and panel.picture.value != png
    panel.controls["image"].main.value = 5
    panel.controls["attack"].main.value = "noise"
    assert panel.error == "" and "random signs" in panel.text.value


def test_the_curve_goes_no_further_than_the_slider(sample):
    curve = tuple((eps, 1 - 2 * eps) for eps in (0.0, 0.1, 0.2, 0.4))
    for eps, last in ((0.0, 0), (0.15, 38), (0.4, 102)):
        data = image_panel.compute(sample, 0, "pgd", eps, 2, 0.5, curve, 20)
        places = [x for line in image_panel.draw(data).axes[-1].get_lines() for x in line.get_xdata()]
        assert round(max(places)) == last


def test_long_names_stay_on_the_picture():
    curves = {f"{what}: D2R+CAG (symmetric) on CIFAR-10, ten epochs": ((0.0, 0.5), (0.1, 0.0)) for what in "abc"}
    made = image_panel.draw_comparison(curves, 20)
    made.canvas.draw()
    (ax,) = made.axes
    legend, sheet = ax.get_legend().get_window_extent(), made.bbox
    assert legend.x0 >= 0 and legend.x1 <= sheet.x1 and legend.y0 >= 0
    assert legend.y1 <= ax.xaxis.label.get_window_extent().y0


def test_comparison_words():
    curves = {"a": ((0.0, 1.0), (0.1, 0.6), (0.2, 0.4)), "b": ((0.0, 1.0), (0.1, 0.9), (0.2, 0.8))}
    words = image_panel.comparison_words(curves, 10, "caption")
    assert "25.5 to 51" in words and "beyond 51" in words and "60 %" in words


def test_image_panel_without_guide(lonely):
    panel = AdversarialImage(lonely, curve_images=10, curve_steps=2)
    assert panel.error == "" and "guide" not in panel.text.value


def test_curves_are_kept(sample):
    panel = AdversarialImage(sample, curve_images=10)
    first = panel.curve("pgd", 5, 0.25)
    assert panel.curve("pgd", 5, 0.25) is first
    fixed = AdversarialImage(sample, curve_images=10, curve_steps=2)
    assert fixed.curve("pgd", 5, 0.25) is fixed.curve("pgd", 9, 0.5)


def test_bad_input_in_words(sample, lonely):
    with pytest.raises(ValueError, match="pixel scale"):
        image_panel.compute(sample, 0, "pgd", 8, 5, 0.25)
    with pytest.raises(ValueError, match=r"image 999.*0\.\.396"):
        image_panel.compute(sample, 999, "pgd", EPS, 5, 0.25)
    with pytest.raises(ValueError, match="did you mean 'pgd'"):
        image_panel.compute(sample, 0, "pdg", EPS, 5, 0.25)
    for compute in (lambda: scatter.compute(lonely, EPS), lambda: compare.compute(lonely, 0, EPS)):
        with pytest.raises(ValueError, match="has no guide"):
            compute()
    with pytest.raises(ValueError, match="pixel scale"):
        scatter.compute(sample, 8)
    with pytest.raises(ValueError, match="pixel scale"):
        compare.compute(sample, 0, 8)


def test_scatter_facts(sample):
    data = scatter.compute(sample, EPS, count=30)
    facts = data.facts(False)
    with torch.no_grad():
        f, g = sample.pair.target(sample.images[:30]), sample.pair.guide(sample.images[:30])
    assert facts["MSE of logits"] == pytest.approx(F.mse_loss(f, g).item(), rel=1e-5)
    kl = F.kl_div(g.log_softmax(1), f.softmax(1), reduction="batchmean").item()
    assert facts["mean KL(target ‖ guide)"] == pytest.approx(kl, rel=1e-4)
    assert np.array_equal(scatter.compute(sample, 0.0, count=30).target_adv, data.target_clean)


def test_scatter_panel(sample):
    panel = LogitScatter(sample, count=20)
    text, png = panel.text.value, panel.picture.value
    panel.controls["eps255"].number.value = 20
    assert panel.error == "" and panel.text.value != text and panel.picture.value != png


def test_the_trace_is_the_attack(sample):
    x, y = sample.images[:1], sample.labels[:1]
    start = 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    budget = {"eps": EPS, "step_size": EPS / 4}
    for name in compare.COMPARED:
        way = compare.trace(name, sample.pair, x, y, steps=6, start=start, **budget)
        whole = compare.perturb(name, sample.pair, x, y, steps=6, start=start, **budget)
        assert way.shape == (7, *x.shape[1:])
        torch.testing.assert_close(way[-1:], whole, atol=1e-5, rtol=0)


def test_comparison_numbers(sample):
    data = compare.compute(sample, 2, EPS, steps=5, count=20)
    np.testing.assert_allclose(np.diag(data.cosines), 1, rtol=1e-5)
    np.testing.assert_allclose(data.cosines, data.cosines.T, atol=1e-6)
    a, b = (data.deltas[name].ravel() for name in ("ce", "cag"))
    assert data.cosines[0, 2] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    right = (data.transfer["ce"].target.n, data.transfer["ce"].guide.n)
    assert all((t.target.n, t.guide.n, t.raised.n) == (*right, 20) for t in data.transfer.values())
    starts = [path[0] for path in data.paths.values()]
    np.testing.assert_allclose(starts, [starts[0]] * 3)


def test_one_quantity_has_one_value(sample):
    """The panel's matrix is the notebook's, and its image walks as it walks among the many."""
    data = compare.compute(sample, 2, EPS, steps=5, count=20)
    x, y = sample.images[:20], sample.labels[:20]
    torch.rand(7)  # whatever else has been drawn
    matrix = compare.transfer_matrix(sample.pair, x, y, eps=EPS, step_size=EPS / 4, steps=5)
    for name, row in matrix.items():
        assert (row.target, row.guide, row.raised) == (
            data.transfer[name].target, data.transfer[name].guide, data.transfer[name].raised
        )  # fmt: skip
    with torch.no_grad():
        clean = -compare.attacks.margin(sample.pair.target(x[2:3]), y[2:3]).item()
    for name, path in data.paths.items():
        assert (path[-1][1] > clean) == matrix[name].climbs[2]


def test_the_image_that_climbs_is_chosen_by_its_rule(sample):
    image, words = compare.first_that_climbs(sample)
    budget = {"eps": sample.eps, "step_size": sample.eps / 4, "steps": 10}
    matrix = compare.transfer_matrix(sample.pair, sample.images[:20], sample.labels[:20], **budget)
    with torch.no_grad():
        right = (sample.pair.target(sample.images[:20]).argmax(1) == sample.labels[:20]).numpy()
    fits = [i for i in range(20) if right[i] and matrix["cag"].climbs[i] and not matrix["ce"].climbs[i]]
    assert image == (fits[0] if fits else sample.first_right()) and f"gets {len(fits)} right" in words


def test_the_same_attack_from_the_same_start_has_cosine_one(sample):
    x, y = sample.images[:10], sample.labels[:10]
    budget = {"eps": EPS, "step_size": EPS / 4, "steps": 4}
    assert compare.cosines(sample.pair, x, y, "cag", "cag", **budget).min() > 0.999


def test_compare_panel(sample):
    panel = CagCompare(sample, count=20)
    text, png = panel.text.value, panel.picture.value
    panel.set(guide_share=0.5, image=4)
    assert panel.error == "" and "share in CAG 0.5" in panel.text.value and panel.picture.value != png
    panel.set(eps255=0)
    assert panel.error == "" and panel.text.value != text


def test_colour_pictures_draw(sample):
    """Three channels and 32 pixels, as CIFAR has them."""
    from dataclasses import replace

    from d2rkit.methods.pair import GuidedPair
    from d2rkit.networks.architectures import build_model

    torch.manual_seed(0)
    pair = GuidedPair(build_model("cnn-4", 10, 32, 3), build_model("cnn-4", 10, 32, 3)).eval()
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    colour = replace(sample, pair=pair, images=images, labels=torch.arange(6), eps=8 / 255)
    for panel in (AdversarialImage(colour), LogitScatter(colour), CagCompare(colour)):
        assert panel.error == "" and panel.picture.value


def test_panels_open_on_an_image_that_the_target_gets_right(sample):
    with torch.no_grad():
        right = (sample.pair.target(sample.images[:20]).argmax(1) == sample.labels[:20]).tolist()
        labels = sample.pair.target(sample.images).argmax(1)
    assert sample.first_right() == (right.index(True) if True in right else 0)
    labels[:3] = (labels[:3] + 1) % 10
    late = dataclasses.replace(sample, labels=labels)
    assert late.first_right() == 3
    assert CagCompare(late, count=5).controls["image"].main.value == 3


def test_an_attack_opens_on_an_image_that_it_fools(sample):
    """Of those that the target gets right, the first that falls at the radius the pair was trained for."""
    x, radius = sample.images[:20], 0.02
    right = sample.pair.target(sample.images).argmax(1).detach()
    right[:3] = (right[:3] + 1) % 10
    late = dataclasses.replace(sample, labels=right, eps=radius)
    falls = [
        image_panel.compute(late, i, "pgd", radius, image_panel.STEPS, 0.25).target_adv.argmax() != right[i]
        for i in range(len(x))
    ]
    wanted = next(i for i in range(3, len(x)) if falls[i])
    assert any(not fell for fell in falls[3:wanted]), "else the first that is right would do"
    panel = AdversarialImage(late)
    assert panel.settings["image"] == wanted
    panel.set(eps255=255 * radius)
    assert "The target is fooled" in panel.text.value
    safe = dataclasses.replace(late, eps=0.0)
    assert AdversarialImage(safe).settings["image"] == safe.first_right() == 3, "where none is, one that is right"
