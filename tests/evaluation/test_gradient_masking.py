"""Fake defences are found out, honest networks are not accused, and the verdict says which sign gave it away."""

import copy

import pytest
import torch
from torch import nn

from d2rkit.evaluation.evaluator import Evaluator
from d2rkit.evaluation.gradient_masking import MaskingCheck, checks_of, masking_checks, verdict
from d2rkit.panels.robustness import Rounded, Sharp
from d2rkit.training.loop import fit
from d2rkit.training.recipe import Recipe
from tests.acceleration.odd_networks import Masks, Wrapped
from tests.conftest import make_pair

EPS = 0.1


class Noisy(Wrapped):
    def forward(self, x):
        return self.network(x + 0.15 * torch.randn_like(x))


class DropsPixels(Wrapped):
    def forward(self, x):
        return self.network(nn.functional.dropout(x, 0.2, training=True))


class TrainModeNorm(Wrapped):
    def train(self, mode=True):
        return super().train(True)


class Softmax(Wrapped):
    def forward(self, x):
        return (20 * self.network(x)).softmax(1)


class Ripples(Wrapped):
    """A deterministic ripple on every pixel, too fine to move a prediction: its gradient drowns the network's."""

    def forward(self, x):
        return self.network(x + 0.002 * torch.sin(20_000 * x))


class Thermometer(Wrapped):
    """Pixels as sums of hard steps, as in thermometer encoding."""

    def forward(self, x):
        return self.network(sum((x > level / 8).float() for level in range(8)) / 8 + 0 * x)


FAKES = {
    "noise": (Noisy, "same answer"),
    "pixel dropout": (DropsPixels, "same answer"),
    "batch statistics": (TrainModeNorm, "same answer"),
    "saturated logits": (Sharp, "gradients"),
    "rounded pixels": (Rounded, "gradients"),
    "probabilities": (Softmax, "outputs"),
    "gradient cut off": (Masks, "gradients"),
    "gradient drowned": (Ripples, "AutoAttack"),
    "thermometer": (Thermometer, "gradients"),
}


@pytest.fixture(scope="module")
def undefended(digits):
    pair = make_pair(3, "cnn-8", guide=False)
    recipe = Recipe("natural", epochs=4, batch_size=64, lr=0.1, padding=0, flip=False, val_steps=1)
    assert fit(pair, digits, recipe, device="cpu").status == "done"
    return pair.target.eval()


@pytest.mark.parametrize(
    "fake", [pytest.param(fake, marks=pytest.mark.thorough) if fake == "gradient drowned" else fake for fake in FAKES]
)
def test_fake_defences_are_found_out(undefended, digits, fake):
    kind, sign = FAKES[fake]
    torch.manual_seed(0)
    data = digits.test.take(slice(0, 80))
    checks = masking_checks(kind(undefended), data, EPS, autoattack=sign == "AutoAttack")
    failed = {check.name for check in checks if not check.passed}
    assert sign in failed, checks
    assert f"{sign} (" in verdict(checks) and f"{len(failed)} of {len(checks)} checks" in verdict(checks)


@pytest.mark.parametrize("who", ["target", "guide", "undefended"])
def test_honest_networks_are_not_accused(trained, undefended, digits, who):
    network = undefended if who == "undefended" else getattr(trained, who)
    checks = masking_checks(network, digits.test, EPS)
    assert verdict(checks) == f"no sign of gradient masking in {len(checks)} checks", checks


def test_a_small_radius_is_no_sign(trained, digits):
    """Eight times 4/255 fools no digit; the network is not to blame for that."""
    checks = {check.name: check for check in masking_checks(trained, digits.test.take(slice(0, 50)), 4 / 255)}
    assert checks["large radius"].passed and "at eps 0.500" in checks["large radius"].words


def test_autoattack_beside_an_honest_network_is_no_sign(trained, digits):
    evaluator = Evaluator(trained, digits.test.take(slice(0, 100)))
    evaluator.flags("autoattack", 0.2)
    checks = {check.name: check for check in checks_of(evaluator, 0.2, trained.guide)}
    assert checks["AutoAttack"].passed and "AutoAttack" in checks["AutoAttack"].words and checks["transfer"].passed


def test_nothing_but_what_was_measured_is_said():
    quiet, loud = MaskingCheck("a", True, "fine"), MaskingCheck("b", False, "1 % and 2 %")
    assert verdict([quiet]) == "no sign of gradient masking in 1 checks"
    assert "b (1 % and 2 %)" in verdict([quiet, loud]) and "a (" not in verdict([quiet, loud])


@pytest.mark.parametrize("eps", [0, 1.5])
def test_a_radius_that_makes_no_sense_is_refused(trained, digits, eps):
    with pytest.raises(ValueError, match="radius above 0 and at most 1"):
        checks_of(Evaluator(copy.deepcopy(trained), digits.test.take(slice(0, 5))), eps)
