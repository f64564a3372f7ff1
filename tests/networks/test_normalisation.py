"""The input normalisation of a checkpoint: read off its buffers, given by the user, refused where it is odd."""

import pytest
import torch
from torch import nn

from d2rkit.networks.loading import load_released
from d2rkit.networks.normalisation import NORMALISATIONS, Normalize, from_buffers, parse_normalisation, same
from tests.networks.checkpoint_files import below, network, same_function, write

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.mark.parametrize(
    ("mean", "std", "prefix"),
    [
        ("0.mean", "0.std", "1."), ("mu", "sigma", ""), ("normalize.mean", "normalize.std", "model."),
        ("module.0.mean", "module.0.std", "module.1."), ("mean", "std", "net."), ("norm.mean", "norm.std", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
def test_buffers_of_a_file_become_a_layer(tmp_path, wrn, mean, std, prefix, shape):
    buffers = {mean: torch.tensor(MEAN).view(shape), std: torch.tensor(STD).view(shape)}
    loaded = load_released(write(tmp_path / "a.pt", buffers | below(prefix, wrn.state_dict())))
    assert same_function(loaded.model, nn.Sequential(Normalize(MEAN, STD), wrn), 32) and loaded.dropped == []
    expected = f"mean 0.4, 0.5, 0.6 and std 0.2, 0.3, 0.25, from the buffers `{mean}`/`{std}` of the file"
    assert loaded.normalisation == expected
    again = load_released(write(tmp_path / "again.pt", loaded.model.state_dict()))  # what was loaded can be saved
    assert same_function(again.model, loaded.model, 32)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (
            "cifar10",
            None,
            "mean 0.4914, 0.4822, 0.4465 and std 0.247, 0.2435, 0.2616, the constants 'cifar10', as given",
        ),
        ("imagenet", "imagenet", "the constants 'imagenet'"),
        (MEAN, STD, "mean 0.4, 0.5, 0.6 and std 0.2, 0.3, 0.25, as given"),
        ("0.4,0.5, 0.6", "0.2 0.3 0.25", "mean 0.4, 0.5, 0.6 and std 0.2, 0.3, 0.25, as given"),
        ("127.5/255", "0.5", "mean 0.5, 0.5, 0.5 and std 0.5, 0.5, 0.5, as given"),
    ],
)
def test_a_given_normalisation_is_put_in_front(tmp_path, wrn, mean, std, words):
    loaded = load_released(write(tmp_path / "a.pt", wrn.state_dict()), mean=mean, std=std)
    expected = parse_normalisation(mean, std, 3)
    assert words in loaded.normalisation
    assert same_function(loaded.model, nn.Sequential(Normalize(expected.mean, expected.std), wrn), 32)


def test_the_image_size_of_a_head_is_known_behind_the_normalisation_too(tmp_path):
    file = write(tmp_path / "a.pt", network("wrn-10-1", 5, 64).state_dict())
    assert load_released(file).model.image_size == load_released(file, mean="imagenet").model.image_size == 64


def test_constants_are_those_of_the_training_sets():
    for mean, std in NORMALISATIONS.values():
        assert len(mean) == len(std) == 3 and max(mean) < 0.6 and 0.19 < min(std) < max(std) < 0.3
    assert NORMALISATIONS["imagenet"][0] == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        ("0.5", "0", "std 0 .* must be positive"),
        ("0.5,0.5", "0.5", "mean .as given. holds 2 numbers; the network needs one number for each of the 3 channels"),
        ("125.3 123 113.9", "63 62.1 66.7", "mean 125.3, 123, 113.9 .* is on the scale 0..255"),
        ("0.5", "nan", "not finite"),
        ("-0.5", "0.5", "must lie in 0..1"),
        ("0.5", None, "a mean was given without a std"),
        (None, STD, "a std was given without a mean"),
        ("cifar", None, r"unknown input normalisation 'cifar' \(did you mean 'cifar10'"),
        ("cifar10", "0.5", "'cifar10' names a mean and a std"),
        ("cifar10", "imagenet", "'cifar10' names a mean and a std"),
        ("0.5;a", "0.5", "mean '0.5;a' is no input normalisation; allowed: numbers"),
        ("1/0", "0.5", "'1/0' is no input normalisation"),
        ((0.5, None, 1), STD, "no input normalisation"),
    ],
)
def test_odd_normalisations_are_refused(tmp_path, wrn, mean, std, words):
    with pytest.raises(ValueError, match=words) as error:
        load_released(write(tmp_path / "a.pt", wrn.state_dict()), mean=mean, std=std)
    assert "\n" not in str(error.value)


def test_constants_are_for_three_channels():
    with pytest.raises(ValueError, match="is for 3 channels, not for 1"):
        parse_normalisation("cifar10", "", 1)
    assert parse_normalisation("", None, 3) is None


@pytest.mark.parametrize(
    ("buffers", "words"),
    [
        ({"mean": torch.ones(3), "std": torch.zeros(3)}, r"std 0, 0, 0 \(from the buffers .* must be positive"),
        ({"mean": torch.full((3,), 120.0), "std": torch.ones(3)}, "scale 0..255"),
        ({"mean": torch.ones(2), "std": torch.ones(3)}, "holds 2 numbers"),
        (
            {"mean": torch.ones(3), "std": torch.ones(3), "mu": torch.ones(3), "sigma": torch.ones(3)},
            "2 input normalis",
        ),
        ({"mean": torch.ones(3)}, r"1 unexpected \(first: mean\)"),
    ],
)
def test_odd_buffers_are_refused(tmp_path, wrn, buffers, words):
    with pytest.raises(ValueError, match=words):
        load_released(write(tmp_path / "a.pt", buffers | wrn.state_dict()))


def test_a_file_with_buffers_takes_no_other_normalisation(tmp_path, wrn):
    file = write(tmp_path / "a.pt", {"mu": torch.tensor(MEAN), "sigma": torch.tensor(STD)} | wrn.state_dict())
    with pytest.raises(ValueError, match="brings its own input normalisation"):
        load_released(file, mean="cifar10")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_file_with_buffers_takes_the_same_normalisation_again(name):
    given = parse_normalisation(name, None, 3)
    held = Normalize(given.mean, given.std).state_dict()
    assert same(given, from_buffers(held, 3)[0]) and not same(given, parse_normalisation("imagenet", None, 3))


def test_numbers_beside_the_weights_are_not_used_in_silence(tmp_path, wrn):
    file = write(tmp_path / "a.pt", {"state_dict": wrn.state_dict(), "mean": [0.5] * 3, "std": [0.5] * 3})
    assert any("was not used" in note for note in load_released(file).notes)
