"""Checkpoints of the field: found in every wrapping, loaded strictly, refused in words."""

import argparse
import collections
import pathlib
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from d2rkit.networks.architectures import build_model
from d2rkit.networks.checkpoints import save_weights
from d2rkit.networks.loading import load_released
from tests.networks.checkpoint_files import below, network, same_function, write

NETWORKS = {  # name: (classes, image size)
    "wrn-10-1": (10, 32),
    "wrn-16-2": (200, 64),
    "preactresnet18": (10, 32),
    "resnet18-guide": (100, 32),
}


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
    loaded, dropped, _, normalisation = load_released(file)
    assert dropped == [] and normalisation == "none in the file" and same_function(loaded, model, size)


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
    loaded, dropped = load_released(tmp_path / "trades.pt")[:2]
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
        (lambda state: {f"student.{k}": v for k, v in state.items()}, "below `student.`, a wrapper .*--key student"),
        (change(bn1__weight=torch.full((64,), torch.nan)), "bn1.weight holds values that are not finite"),
        (change(bn1__weight=torch.ones(64, dtype=torch.int8)), r"bn1.weight holds torch.int8, not floating-point"),
        (change(conv1__weight=torch.ones(16, 3, 3, 3).to_sparse()), r"conv1\.weight is not a plain tensor"),
        (change(conv1__weight=torch.empty(16, 3, 3, 3, device="meta")), r"conv1\.weight is not a plain tensor"),
        (change(fc__weight=torch.ones(1).expand(10**9, 10**6)), r"another shape \(first: bn1\.bias\)|of another shape"),
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


@pytest.fixture(scope="module")
def other():
    model = network("wrn-10-1", 10, 32)
    model.fc.bias.data.fill_(1.0)
    return model


PREFIXES = (
    "module.",
    "model.",
    "net.",
    "backbone.",
    "_orig_mod.",
    "module.model.",
    "_orig_mod.module.net.",
    "module." * 4,
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_combination_of_wrappers_is_taken_off(tmp_path, wrn, prefix):
    file = write(tmp_path / "a.pt", {"state_dict": below(prefix, wrn.state_dict())})
    loaded = load_released(file)
    assert same_function(loaded.model, wrn, 32) and loaded.notes[0].startswith(f"read from `state_dict.{prefix[:-1]}`")


@pytest.mark.parametrize("keys", [("ckpt",), ("a", "b"), ("run", "best", "weights", "f")])
def test_one_state_dict_under_any_key_at_any_shallow_depth(tmp_path, wrn, keys):
    state = wrn.state_dict()
    momentum = {0: {"momentum_buffer": torch.ones(3)}}
    content = {"optimizer": {"state": momentum, "param_groups": [{"lr": 0.1}]}, "best_acc": torch.tensor(0.5)}
    for key in reversed(keys):
        state = {key: state, "epoch": 3}
    loaded = load_released(write(tmp_path / "a.pt", content | state))
    assert same_function(loaded.model, wrn, 32) and f"`{'.'.join(keys)}`" in loaded.notes[0]


def test_several_are_listed_and_key_chooses(tmp_path, wrn, other):
    states = {"natural": wrn.state_dict(), "robust": other.state_dict(), "third": {"net": other.state_dict()}}
    file = write(tmp_path / "a.pt", states)
    with pytest.raises(ValueError, match=r"holds 3 networks; choose one with --key: natural, robust, third\.net$"):
        load_released(file)
    assert same_function(load_released(file, key="natural").model, wrn, 32)
    assert same_function(load_released(file, key="third").model, other, 32)
    with pytest.raises(ValueError, match=r"unknown key of .* 'robst' \(did you mean 'robust'\?\)"):
        load_released(file, key="robst")


@pytest.mark.parametrize(
    ("content", "plain"),
    [
        (lambda a, b: {"state_dict": a, "state_dict_ema": b}, "state_dict"),
        (lambda a, b: {"model": a, "model_ema": below("module.", b)}, "model"),
        (lambda a, b: {"state_dict": below("model.", a) | below("ema.module.", b)}, "state_dict.model"),
        (lambda a, b: a | below("swa.", b), ""),
    ],
)
def test_averaged_weights_beside_plain_ones_are_taken_and_said(tmp_path, wrn, other, content, plain):
    file = write(tmp_path / "a.pt", content(wrn.state_dict(), other.state_dict()))
    loaded = load_released(file)
    assert same_function(loaded.model, other, 32)
    (note,) = [note for note in loaded.notes if "averaged" in note]
    assert note.startswith("the averaged weights were taken, not the plain ones") and plain in note
    if plain:
        assert same_function(load_released(file, key=plain).model, wrn, 32)


@pytest.mark.parametrize("word", ["schema", "semantic", "thematic"])
def test_not_every_word_with_ema_in_it_is_an_average(tmp_path, wrn, other, word):
    with pytest.raises(ValueError, match="holds 2 networks"):
        load_released(write(tmp_path / "a.pt", {"plain": wrn.state_dict(), f"{word}tic": other.state_dict()}))


def test_what_old_files_lack_is_filled_in_and_other_types_are_converted(tmp_path, wrn):
    for dtype, word in ((torch.float16, "float16"), (torch.bfloat16, "bfloat16"), (torch.float64, "float64")):
        state = {k: v.to(dtype) for k, v in wrn.state_dict().items() if not k.endswith("num_batches_tracked")}
        loaded = load_released(write(tmp_path / "a.pt", state))
        assert "7 BatchNorm counters (num_batches_tracked) were filled in" in loaded.notes
        assert f"weights of type {word} were converted to float32" in loaded.notes
        assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
        expected = {k: v.float() for k, v in state.items()}
        assert all(torch.equal(loaded.model.state_dict()[k], v) for k, v in expected.items())


class Weird(argparse.Namespace):
    pass


Weird.__module__, Weird.__qualname__ = "builtins", "getattr"  # as an attack would call it


@pytest.mark.parametrize("old_numpy", [False, True])
def test_harmless_things_beside_the_weights_do_no_harm(tmp_path, wrn, old_numpy, monkeypatch):
    content = {
        "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs/a")), "acc": np.float64(0.5), "n": np.int64(3),
        "history": np.arange(4.0), "counts": collections.defaultdict(list, {"a": [1]}), "size": torch.Size([3, 2]),
        "order": collections.OrderedDict(a=1), "device": torch.device("cpu"), "dtype": np.dtype("float32"),
        "windows": pathlib.PureWindowsPath("C:/runs"), "flag": np.bool_(True), "counter": collections.Counter("aab"),
        "state_dict": wrn.state_dict(),
    }  # fmt: skip
    file = write(tmp_path / "a.pt", content)
    if old_numpy:  # as NumPy 1 names its parts
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data.replace(b"numpy._core", b"numpy.core"))
    before = set(torch.serialization.get_safe_globals())
    assert same_function(load_released(file).model, wrn, 32)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("prefix", ["target", "guide"])
@pytest.mark.parametrize("name", ["wrn-10-1", "cnn-4", "patch-resnet-8", "preactresnet18"])
def test_the_kits_own_files(tmp_path, name, prefix):
    """A run's best.safetensors: the target without a word from the user, the guide by its key."""
    torch.manual_seed(1)
    target, guide = (build_model(name, 7, 32).eval() for _ in range(2))
    save_weights(tmp_path / "best.safetensors", target, guide)
    loaded = load_released(tmp_path / "best.safetensors", key=None if prefix == "target" else "guide")
    assert same_function(loaded.model, target if prefix == "target" else guide, 32)
    if prefix == "target":
        assert "the target was taken, not the guide (that is at --key guide)" in loaded.notes
    save_weights(tmp_path / "alone.safetensors", target, None)
    assert same_function(load_released(tmp_path / "alone.safetensors").model, target, 32)


@pytest.mark.parametrize(
    ("name", "classes", "size", "channels"),
    [
        ("mlp-16", 3, 2, 1),
        ("mlp-8", 10, 64, 1),
        ("cnn-4", 10, 8, 1),
        ("patch-resnet-8", 20, 64, 3),
        ("patch-resnet-4", 5, 16, 1),
    ],
)
def test_small_networks_are_read_off_their_tensors(tmp_path, name, classes, size, channels):
    model = build_model(name, classes, size, channels)
    network = load_released(write(tmp_path / "a.pt", model.state_dict())).model
    x = torch.rand(3, channels, size, 1 if name.startswith("mlp") else size)
    assert type(network) is type(model) and torch.equal(network.eval()(x), model.eval()(x))
