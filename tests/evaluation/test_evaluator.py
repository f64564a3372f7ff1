"""The Evaluator says only what is true: of strange networks, strange data, chance, and what attacks went through."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from d2rkit.data.datasets import load_data
from d2rkit.evaluation.adapters import as_images
from d2rkit.evaluation.autoattack import AutoAttackBudget
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.evaluation.evaluator import Budget, Evaluator
from d2rkit.methods.pair import eval_mode
from d2rkit.networks.architectures import build_model
from tests.acceleration.odd_networks import Wrapped

EPS = 0.15


@pytest.fixture(scope="module")
def sample(digits):
    return digits.test.pixels(slice(0, 40)), digits.test.labels[:40]


class Noisy(Wrapped):
    def forward(self, x):
        return self.network(x + 0.2 * torch.randn_like(x))


class DropsPixels(Wrapped):
    def forward(self, x):
        return self.network(nn.functional.dropout(x, 0.3, training=True))


class TrainModeNorm(Wrapped):
    def train(self, mode=True):
        return super().train(True)  # its BatchNorms never leave train mode


@pytest.mark.parametrize(
    ("kind", "says"),
    [(Noisy, "differently on equal calls"), (DropsPixels, "differently on equal calls"),
     (TrainModeNorm, "depends on the rest of the batch")],
)  # fmt: skip
def test_a_network_that_answers_by_chance_is_said_to_and_has_no_standard_autoattack(trained, sample, kind, says):
    network = kind(trained.target)
    evaluator = Evaluator(network, sample)
    assert says in evaluator.randomised
    result = evaluate(network, sample, ("clean", "pgd3"), EPS)
    assert any("not deterministic" in note and says in note for note in result.notes)
    with pytest.raises(ValueError, match="AutoAttack is for deterministic networks, and this one is not"):
        evaluate(network, sample, ("autoattack",), EPS)
    assert not Evaluator(trained.target, sample).randomised


class NoisyGradient(Wrapped):
    """Right answers, and gradients with noise of about their own size on top."""

    def forward(self, x):
        noise = ((x - x.detach()) * torch.randn_like(x)).sum((1, 2, 3))
        return self.network(x) + noise[:, None] * torch.randn(10)


def test_averaging_over_passes_makes_attacks_through_noise_stronger(trained, digits):
    data = digits.test.take(slice(0, 300))
    torch.manual_seed(0)
    noisy = NoisyGradient(trained.target)
    once, often = (evaluate(noisy, data, "pgd10", 0.1, eot=n).accuracy("pgd10") for n in (1, 32))
    assert often < once - 0.02  # 0.80 against 0.87, and 0.77 without noise; other seeds give 0.05 to 0.07 between them


def test_eot_of_one_network_asked_twice_is_the_same_attack(trained, sample):
    one, two = (Evaluator(trained, sample, eot=n).flags("pgd5", EPS) for n in (1, 2))
    assert torch.equal(one, two)


# -- networks and images that do not belong together -------------------------------------------------------
class Returning(Wrapped):
    def __init__(self, network, change):
        super().__init__(network)
        self.change = change

    def forward(self, x):
        return self.change(self.network(x))


def broken(logits):
    return torch.where(torch.arange(len(logits))[:, None] == 1, torch.nan, logits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z: (z, z), "returns a tuple, not a tensor of logits"),
        (lambda z: {"logits": z}, "returns a dict, not a tensor of logits"),
        (lambda z: z.argmax(1), r"torch.int64 of shape \(40,\)"),
        (lambda z: z[:, :, None], r"shape \(40, 10, 1\)"),
        (lambda z: z[:1], r"shape \(1, 10\)"),
        (broken, "not finite on 1 of 40 clean images"),
        (lambda z: z / 0, "not finite on 40 of 40"),
    ],
)
def test_what_is_no_logits_is_refused(trained, sample, change, words):
    with pytest.raises(ValueError, match=words) as error:
        evaluate(Returning(trained.target, change), sample, "clean", EPS)
    assert "\n" not in str(error.value)


def test_logits_that_break_later_or_under_attack_are_refused(trained, digits):
    class BreaksOn(Wrapped):
        """NaN for images that are like none of the training set: with pixels between 0.9 and 1."""

        def forward(self, x):
            odd = ((x > 0.95) & (x < 0.99)).flatten(1).any(1)
            return torch.where(odd[:, None], torch.nan, self.network(x))

    data = digits.test.take(slice(0, 120))
    pixels = data.pixels().clamp(max=0.9)
    network = BreaksOn(trained.target)
    assert evaluate(network, (pixels, data.labels), "clean", EPS)
    with pytest.raises(ValueError, match=r"logits are not finite on .* images"):
        evaluate(network, (pixels, data.labels), "pgd10", EPS)
    pixels[110, 0, 3, 3] = 0.97  # past the images that are looked at first
    with pytest.raises(ValueError, match="not finite on 1 of "):
        evaluate(network, (pixels, data.labels), "clean", EPS)


@pytest.mark.parametrize(
    ("network", "shape", "classes", "words"),
    [
        (lambda: build_model("cnn-4", 10, 32, 3), (4, 1, 8, 8), None, r"images of 1 x 8 x 8 pixels, .*3 channels"),
        (lambda: build_model("wrn-10-1", 200, 64), (4, 3, 32, 32), None, "built for images of 64 pixels .* have 32"),
        (lambda: build_model("preactresnet18", 10, 64), (2, 3, 32, 32), None, "built for images of 64 pixels a side"),
        (lambda: build_model("mlp-8", 10, 64, 1), (4, 1, 10, 10), None, "does not take images of 1 x 10 x 10 pixels"),
        (lambda: build_model("cnn-4", 100, 8, 1), (4, 1, 8, 8), 10, "has 100 outputs, the data 10 classes"),
    ],
)  # fmt: skip
def test_networks_for_other_images_are_refused_with_both_values(network, shape, classes, words):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=words) as error:
        evaluate(
            network(), (torch.rand(shape), torch.zeros(shape[0], dtype=torch.long)), "clean", 0.1, num_classes=classes
        )
    assert "\n" not in str(error.value)


def test_splits_know_their_classes(digits):
    with pytest.raises(ValueError, match="has 100 outputs, the data 10 classes"):
        evaluate(build_model("cnn-4", 100, 8, 1), load_data("digits").test, "clean", 0.1)
    with pytest.raises(ValueError, match="has 100 outputs, the data 10 classes"):
        evaluate(build_model("cnn-4", 100, 8, 1), digits.test.take(slice(0, 20)).to("cpu"), "clean", 0.1)


# -- what people have ---------------------------------------------------------------------------------------
def test_any_form_of_the_same_data_gives_the_same_flags(trained, sample):
    x, y = sample
    expected = evaluate(trained, (x, y), "pgd3", EPS).flags["pgd3"]
    data = TensorDataset(x, y)
    for form in (
        (x.numpy(), y.numpy()), (x.double(), y.int()), [x, y], data, DataLoader(data, 7),
        (np.asarray(x, np.float64), y.tolist()),
    ):  # fmt: skip
        assert torch.equal(evaluate(trained, form, ["pgd3"], EPS).flags["pgd3"], expected), type(form)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "not a int"),
        ((torch.rand(4, 1, 8, 8),), "not 1 things"),
        ((torch.rand(4, 1, 8, 8), "abcd"), "labels must be a tensor or an array, not a str"),
        ((torch.rand(4, 1, 8, 8), list("abcd")), "labels cannot be made a tensor"),
        (TensorDataset(torch.rand(4, 1, 8, 8)), r"must yield \(image tensor, label\)"),
        (DataLoader(TensorDataset(torch.rand(4, 1, 8, 8)), 2), r"must yield \(image tensor, label\)"),
        ((torch.rand(0, 1, 8, 8), torch.zeros(0, dtype=torch.long)), "no images"),
    ],
)
def test_data_in_no_known_form_is_refused(trained, data, words):
    with pytest.raises(ValueError, match=words) as error:
        evaluate(trained, data, "clean", EPS)
    assert "\n" not in str(error.value)


def test_a_whole_data_set_is_asked_for_a_part(trained, digits):
    with pytest.raises(ValueError, match=r"choose a part of it, e\.g\. data\.test"):
        evaluate(trained, digits, "clean", EPS)
    assert as_images(digits.test)[0].dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_networks_of_other_precisions_are_judged_as_float32(trained, sample, dtype):
    network = copy.deepcopy(trained.target).to(dtype)
    result = evaluate(network, sample, ("clean", "pgd3"), EPS)
    assert torch.equal(result.flags["pgd3"], evaluate(network.float(), sample, "pgd3", EPS).flags["pgd3"])
    assert any(str(dtype).removeprefix("torch.") in note for note in result.notes)
    assert next(copy.deepcopy(trained.target).to(dtype).parameters()).dtype == dtype


def test_functions_and_networks_without_parameters(trained, sample):
    with eval_mode(trained.target):
        expected = evaluate(trained, sample, ("clean", "fgsm"), EPS, exact=True)
        result = evaluate(lambda x: trained.target(x), sample, ("clean", "fgsm"), EPS)
    assert all(torch.equal(result.flags[name], expected.flags[name]) for name in result.flags)

    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3)) - 1], 1)

    assert evaluate(Mean(), (*sample[:1], torch.zeros(40, dtype=torch.long)), "clean", EPS).accuracy("clean") >= 0
    with pytest.raises(ValueError, match="a network or a function of images is needed, not a str"):
        evaluate("cnn-16", sample, "clean", EPS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attacks": ()}, "there is no attack to evaluate with"),
        ({"attacks": "pdg20"}, "unknown attack 'pdg20'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"batch_size": 2.5}, "not 2.5"),
        ({"eot": 0}, "eot must be"),
        ({"attack_precision": "fp8"}, "unknown attack precision 'fp8'"),
        ({"eps": float("nan")}, "not nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(trained, sample, settings, words):
    with pytest.raises(ValueError, match=words):
        evaluate(trained, sample, **{"attacks": "clean", "eps": EPS} | settings)


def test_an_attack_named_twice_is_made_once(trained, sample):
    assert list(evaluate(trained, sample, ("fgsm", "clean", "fgsm"), EPS).flags) == ["fgsm", "clean"]


# -- what is kept ---------------------------------------------------------------------------------------------
def test_flags_of_other_weights_are_refused(trained, sample, tmp_path):
    evaluate(trained, sample, "fgsm", EPS, folder=tmp_path)
    other = copy.deepcopy(trained)
    with torch.no_grad():
        other.target.linear.bias[0] += 1e-3
    with pytest.raises(ValueError, match="holds flags for other weights"):
        evaluate(other, sample, "fgsm", EPS, folder=tmp_path)
    assert evaluate(trained, sample, "fgsm", EPS, folder=tmp_path).flags


def test_kept_flags_say_over_how_many_passes_gradients_were_averaged(trained, sample, tmp_path):
    """In both directions, and clean flags, which have no gradients, are read again; a radius may be a whole number."""
    evaluate(trained, sample, ("clean", "fgsm"), 1, folder=tmp_path, eot=2)
    with pytest.raises(ValueError, match=r"fgsm\.npz holds flags for another eot than 1"):
        evaluate(trained, sample, ("clean", "fgsm"), 1, folder=tmp_path)
    again = evaluate(trained, sample, ("clean", "fgsm"), 1.0, folder=tmp_path, eot=2)
    assert set(again.flags) == {"clean", "fgsm"}


def test_flags_that_do_not_say_whose_they_are_are_not_taken(trained, sample, tmp_path):
    evaluate(trained, sample, "clean", EPS, folder=tmp_path)
    file = tmp_path / "evaluation" / "clean.npz"
    with np.load(file) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "fact_weights"}
    np.savez_compressed(file, **kept)
    with pytest.raises(ValueError, match="does not say which weights it was measured on"):
        evaluate(trained, sample, "clean", EPS, folder=tmp_path)


# -- precision of attacks ---------------------------------------------------------------------------------------
def test_attacks_in_bfloat16_run_the_network_alone_in_it_and_float32_judges(trained, digits, monkeypatch):
    seen, whole = set(), Evaluator.judge

    def judge(self, images, labels):
        seen.add((images.dtype, torch.is_autocast_enabled("cpu")))
        return whole(self, images, labels)

    monkeypatch.setattr(Evaluator, "judge", judge)
    data = digits.test.take(slice(0, 100))
    low, exact = (Evaluator(trained, data, attack_precision=p) for p in ("bf16", "32-true"))
    assert low.attacked(low.batch(slice(4))[0]).dtype == torch.float32  # the logits
    weights = {p.dtype for name, p in low.attacked.named_parameters() if "conv" in name}
    assert weights == {torch.bfloat16} and torch.equal(low.clean, exact.clean)
    apart = (low.flags("pgd20", 0.1) != exact.flags("pgd20", 0.1)).sum()
    assert apart <= 5 and (torch.bfloat16, False) not in seen and not any(autocast for _, autocast in seen)
    small = Evaluator(trained, data.take(slice(0, 12)), attack_precision="bf16")
    small.budget = Budget(autoattack=AutoAttackBudget(iterations=3, targets=2, queries=10))
    assert small.flags("autoattack", 0.1).shape == (12,)


# -- bounded in memory ----------------------------------------------------------------------------------------
def test_no_forward_sees_more_images_than_a_batch(trained, digits):
    seen = []

    def note(module, inputs, output):
        seen.append(len(inputs[0]))

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        evaluator = Evaluator(trained.target, digits.test.take(slice(0, 130)), batch_size=30, exact=True)
        evaluator.flags("pgd2", EPS)
        evaluator.flags("fgsm", EPS)
        evaluator.transferred(trained.guide, 2, EPS)
    finally:
        handle.remove()
    assert max(seen) <= 50 and sum(seen) > 130 * 6  # 50: the first look at a network
