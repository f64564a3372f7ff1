"""The measuring panel, and that its masked models are what they claim: rated high by PGD, broken by AutoAttack."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2rkit.evaluation.evaluate import evaluate
from d2rkit.evaluation.gradient_masking import masking_checks
from d2rkit.panels import robustness
from d2rkit.panels.robustness import Measuring, masked
from d2rkit.panels.sample_pairs import digits_pair
from d2rkit.panels.shares import Share

EPS = 0.2


@pytest.fixture(scope="session")
def undefended():
    return digits_pair("natural")


@pytest.fixture(scope="session")
def panel(undefended):
    models = {"plain": undefended, "sharp": masked(undefended, "sharp"), "rounded": masked(undefended, "rounded")}
    return Measuring(models, other="plain", count=30)


@pytest.mark.parametrize("kind", ["sharp", "rounded"])
def test_masked_models_fool_pgd_and_not_autoattack(undefended, kind):
    sample = masked(undefended, kind)
    test = (sample.images[:25], sample.labels[:25])
    result = evaluate(sample.pair, test, ("clean", "pgd20", "autoattack"), EPS)
    assert result.accuracy("clean") >= 0.9 and result.accuracy("pgd20") >= 0.8
    assert result.accuracy("autoattack") <= result.accuracy("pgd20") - 0.5
    checks = masking_checks(sample.pair.target, test, EPS, guide=undefended.pair.target)
    assert not all(check.passed for check in checks)


def test_the_plain_model_is_honest(undefended):
    test = (undefended.images[:25], undefended.labels[:25])
    assert evaluate(undefended.pair, test, ("pgd20",), EPS).accuracy("pgd20") <= 0.1
    assert all(check.passed for check in masking_checks(undefended.pair.target, test, EPS))


def test_masks_change_few_decisions(undefended):
    x = undefended.images[:100]
    with torch.no_grad():
        plain = undefended.pair.target(x).argmax(1)
        assert torch.equal(masked(undefended, "sharp").pair.target(x).argmax(1), plain)
        assert (masked(undefended, "rounded").pair.target(x).argmax(1) == plain).float().mean() > 0.95


def test_panel_follows_its_controls_and_keeps_what_was_tried(panel):
    panel.set(model="sharp", attack="pgd", eps255=51, steps=20)
    assert panel.error == "" and "under pgd20 at ε = 51/255" in panel.text.value
    picture, high = panel.picture.value, panel.data.accuracy("pgd20").value
    panel.controls["attack"].main.value = "cw"
    assert panel.picture.value != picture and "cw20" in panel.text.value
    assert panel.data.accuracy("cw20").value < high and list(panel.data.flags) == ["clean", "pgd20", "cw20"]
    assert panel.data.accuracy("all").value <= panel.data.accuracy("cw20").value
    panel.controls["steps"].number.value = 3
    assert "cw3" in panel.data.flags and "pgd20" in panel.data.flags
    panel.controls["eps255"].main.value = 0
    assert list(panel.data.flags) == ["clean", "cw3"] and np.array_equal(*panel.data.flags.values())
    panel.reset.click()
    assert panel.data.attack == "pgd20"


def test_all_quick_attacks_run(panel):
    for attack in set(robustness.MODEL_ATTACKS) - {"autoattack"}:
        panel.set(model="plain", attack=attack, eps255=51, steps=5)
        assert panel.error == "" and panel.data.attack.startswith(attack)
        assert not (panel.data.flags[panel.data.attack] & ~panel.data.flags["clean"]).any()


def test_errors_in_words(undefended):
    panel = Measuring({"plain": undefended}, count=5, attack="clean")
    panel.set(attack="transfer")
    assert "needs another network" in panel.error and "last settings" in panel.error
    with pytest.raises(ValueError, match="did you mean 'plain'"):
        Measuring({"plain": undefended}, other="plane")
    with pytest.raises(ValueError, match="sharp"):
        masked(undefended, "sharpp")
    with pytest.raises(ValueError, match="pixel scale"):
        robustness.measure(undefended.pair.target, undefended.images[:2], undefended.labels[:2], "pgd", 8.0, 5)
    with pytest.raises(ValueError, match="unknown attack"):
        robustness.attack_name("pdg", 5)


def test_error_bar_and_worst_case():
    flags = {"clean": np.ones(4, bool), "a": np.array([1, 0, 1, 1], bool), "b": np.array([1, 1, 0, 1], bool)}
    data = robustness.Measured(np.zeros((4, 1, 8, 8)), flags, "a", EPS, "toy")
    assert data.accuracy("a") == Share(3, 4)
    assert data.accuracy("all").value == 0.5
    assert "3 of 4" in robustness.words(data) and "4 of 4" in robustness.words(replace(data, attack="clean"))


def test_pictures_of_flags_and_claims_and_colour_images():
    flags = {"pgd20": np.arange(10) < 8, "autoattack": np.arange(10) < 1}
    assert robustness.draw_flags(flags).axes and robustness.draw_claims({"m": tuple(flags.values())}, "a", "b").axes
    rgb = robustness.Measured(np.random.default_rng(0).random((10, 3, 32, 32)), flags, "pgd20", EPS, "rgb")
    assert robustness.draw(rgb).axes
