"""Networks, and released checkpoints in the field's naming."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from d2rkit.models import Normalize, SmallCNN, build_model, load_released


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
        (("cnn-0", 10), "cnn-0 is impossible"),
        (("mlp-0", 10), "mlp-0 is impossible"),
        (("cnn-4", 1), "num_classes must be a whole number of at least 2, not 1"),
        (("cnn-4", 10, 0), "image_size >= 1"),
        (("cnn-4", 10, 8, 0), "channels >= 1"),
    ],
)
def test_unknown_and_impossible_networks_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        build_model(*arguments)


def test_normalize_moves_statistics_into_the_model():
    model = nn.Sequential(Normalize((0.5, 0.2), (0.5, 0.1)), nn.Flatten())
    x = torch.tensor([1.0, 0.3]).view(1, 2, 1, 1)
    assert model(x).tolist() == [[1.0, pytest.approx(1.0)]]
    assert not model.state_dict()


# load_released -----------------------------------------------------------------------------------

NETWORKS = {  # name: (classes, image size)
    "wrn-10-1": (10, 32),
    "wrn-16-2": (200, 64),
    "preactresnet18": (10, 32),
    "resnet18-guide": (100, 32),
}


def network(name, classes, size):
    torch.manual_seed(0)
    model = build_model(name, classes, size)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    return model.eval()


def same_function(a, b, size):
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        return torch.equal(a.eval()(x), b.eval()(x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("form", ["plain.pt", "module.pt", "wrapped.pt", "module.safetensors"])
def test_released_files_load_strictly_by_their_tensors(tmp_path, name, form):
    classes, size = NETWORKS[name]
    model, file = network(name, classes, size), tmp_path / form
    prefix = "module." if "module" in form else ""
    state = {prefix + key: value for key, value in model.state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state, "epoch": 76} if "wrapped" in form else state, file)
    loaded, dropped = load_released(file)
    assert dropped == [] and same_function(loaded, model, size)


def test_64_pixel_preactresnet_is_recognised(tmp_path):
    model = network("preactresnet18", 200, 64)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    assert same_function(load_released(tmp_path / "tiny.pt").model, model, 64)


def test_a_given_name_and_size_override_what_the_tensors_tell(tmp_path):
    model = network("resnet18", 10, 32)
    torch.save(model.state_dict(), tmp_path / "r18.pt")
    as_guide = load_released(tmp_path / "r18.pt").model
    as_told = load_released(tmp_path / "r18.pt", name="resnet18").model
    assert same_function(as_told, model, 32) and not same_function(as_guide, model, 32)


def test_sub_block1_is_dropped_and_named(tmp_path):
    model = network("wrn-10-1", 10, 32)
    state = model.state_dict()
    unused = {"sub_" + key: value for key, value in state.items() if key.startswith("block1.")}
    torch.save({f"module.{key}": value for key, value in (state | unused).items()}, tmp_path / "trades.pt")
    loaded, dropped = load_released(tmp_path / "trades.pt")
    assert dropped == sorted(unused) and "sub_block1.layer.0.conv1.weight" in dropped
    assert same_function(loaded, model, 32)


def change(**changes):
    def apply(state):
        for key, value in changes.items():
            key = key.replace("__", ".")
            if value is None:
                del state[key]
            else:
                state[key] = value
        return state

    return apply


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (change(bn1__bias=None), r"does not fit wrn-10-1: 1 missing \(first: bn1\.bias\)"),
        (change(extra__weight=torch.ones(1)), r"1 unexpected \(first: extra\.weight\)"),
        (change(sub_block2__x=torch.ones(1)), r"1 unexpected \(first: sub_block2\.x\)"),
        (change(bn1__bias=torch.ones(3)), r"1 of another shape \(first: bn1\.bias\)"),
        (change(conv1__weight=None), "holds no network of this kit"),
        (change(fc__weight=None), "holds no network of this kit"),
        (change(fc__weight=torch.ones(3)), "holds no network of this kit"),
        (change(conv1__weight=torch.ones(())), "holds no network of this kit"),
        (lambda state: {f"model.0.{k}": v for k, v in state.items()}, "holds no network of this kit"),
        (lambda state: {}, "does not hold a network's named tensors"),
        (lambda state: {"epoch": 7}, "does not hold a network's named tensors"),
        (lambda state: [1, 2], "does not hold a network's named tensors"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(tmp_path, apply, words):
    file = tmp_path / "odd.pt"
    torch.save(apply(dict(network("wrn-10-1", 10, 32).state_dict())), file)
    with pytest.raises(ValueError, match=words) as error:
        load_released(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_another_network_than_the_named_one_is_refused(tmp_path):
    torch.save(network("wrn-10-1", 10, 32).state_dict(), tmp_path / "wrn.pt")
    with pytest.raises(ValueError, match=r"does not fit wrn-16-1: .*missing"):
        load_released(tmp_path / "wrn.pt", name="wrn-16-1")
    with pytest.raises(ValueError, match="unknown network"):
        load_released(tmp_path / "wrn.pt", name="wideresnet")


def test_missing_file():
    with pytest.raises(ValueError, match=r"checkpoint nowhere\.pt does not exist"):
        load_released("nowhere.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused_and_stay(tmp_path, suffix, share):
    file, state = tmp_path / f"cut{suffix}", network("wrn-10-1", 10, 32).state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    cut = file.read_bytes()[: int(share * file.stat().st_size)]
    file.write_bytes(cut)
    with pytest.raises(ValueError, match="cannot be read as a checkpoint") as error:
        load_released(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value) and file.read_bytes() == cut


class Bomb:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_released(tmp_path / "bomb.pt")
    assert capsys.readouterr().out == ""
