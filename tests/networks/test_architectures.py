"""Networks: shapes, names and their limits."""

import pytest
import torch
from torch import nn

from d2rkit.networks.architectures import SmallCNN, build_model
from d2rkit.networks.normalisation import Normalize


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("wrn-10-1", 32, 3), ("wrn-16-2", 64, 3), ("preactresnet18", 32, 3), ("preactresnet18", 64, 3),
        ("resnet18-guide", 32, 3), ("resnet18-guide", 64, 3), ("resnet18", 32, 1), ("cnn-4", 8, 1), ("cnn-16", 32, 3),
    ],
)  # fmt: skip
def test_shapes_of_logits(name, size, channels):
    model = build_model(name, 7, size, channels).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, size, size)).shape == (2, 7)


def test_the_mlp_takes_points_and_what_flattens_to_them():
    model = build_model("mlp-64", 3, 2, channels=1)
    points = torch.rand(5, 2)
    assert model(points).shape == (5, 3)
    assert torch.equal(model(points.view(5, 1, 1, 2)), model(points))


def stage_sizes(model, size):
    """Side of the feature map after each stage."""
    sizes = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda _, __, out: sizes.append(out.shape[-1]))
    model.eval()(torch.rand(1, 3, size, size))
    return sizes


def test_the_guides_second_stage_keeps_its_stride_on_cifar_only():
    assert stage_sizes(build_model("resnet18-guide", 10, 32), 32) == [32, 32, 16, 8]
    assert stage_sizes(build_model("resnet18-guide", 10, 64), 64) == [64, 32, 16, 8]
    assert stage_sizes(build_model("resnet18", 10, 32), 32) == [32, 16, 8, 4]


def test_classroom_networks_end_in_global_pooling():
    """A flatten-linear head makes D2R collapse; with global pooling any image size fits one network."""
    model = build_model("cnn-4", 10, 8, channels=1).eval()
    assert isinstance(model, SmallCNN) and model.linear.in_features == 16
    assert model(torch.rand(2, 1, 20, 20)).shape == (2, 10)


def test_weights_follow_the_global_generator():
    torch.manual_seed(3)
    first = build_model("cnn-4", 10, 8, 1).state_dict()
    torch.manual_seed(3)
    second = build_model("cnn-4", 10, 8, 1).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(build_model("cnn-4", 10, 8, 1).linear.weight, first["linear.weight"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("wrn-34", 10), r"unknown network 'wrn-34' \(did you mean 'wrn-34-10'\?\); allowed: wrn-34-10"),
        (("resnet19", 10), "unknown network 'resnet19' .*'resnet18'"),
        (("wrn-12-2", 10), r"wrn-12-2 is impossible: depth must be 6n \+ 4"),
        (("wrn-4-2", 10), "wrn-4-2 is impossible"),
        (("wrn-10-0", 10), "wrn-10-0 is impossible"),
        (("wrn-600004-1", 10), "wrn-600004-1 is impossible.*to 1000"),
        (("wrn-10-5000", 10), "wrn-10-5000 is impossible.*width 1 to 256"),
        (("cnn-0", 10), "cnn-0 is impossible"),
        (("cnn-99999", 10), "cnn-99999 is impossible: its width must be 1 to 4096"),
        (("patch-resnet-" + "9" * 5000, 10), "unknown network"),
        (("mlp-0", 10), "mlp-0 is impossible"),
        (("cnn-4", 1), "num_classes must be a whole number of at least 2, not 1"),
        (("cnn-4", 10, 0), "image_size must be a whole number of at least 1, not 0"),
        (("cnn-4", 10, 8, 0), "channels must be a whole number of at least 1, not 0"),
    ],
)
def test_unknown_and_impossible_networks_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_model(*arguments)


def test_normalize_moves_statistics_into_the_model():
    model = nn.Sequential(Normalize((0.5, 0.2), (0.5, 0.1)), nn.Flatten())
    x = torch.tensor([1.0, 0.3]).view(1, 2, 1, 1)
    assert model(x).tolist() == [[1.0, pytest.approx(1.0)]]
    assert sorted(model.state_dict()) == ["0.mean", "0.std"]  # so that they belong to the digest of the weights
