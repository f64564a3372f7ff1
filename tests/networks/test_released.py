"""Checkpoints of the field: found in every wrapping, loaded strictly, refused in words."""

import argparse
import collections
import pathlib
import re
import shutil
import time
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from d2rkit.networks.architectures import build_model
from d2rkit.networks.checkpoints import save_weights
from d2rkit.networks.loading import load_released
from d2rkit.networks.normalisation import NORMALISATIONS, Normalize, parse_normalisation

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


# Wrappings ---------------------------------------------------------------------------------------


def write(path, content):
    torch.save(content, path)
    return path


def below(prefix, state):
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture(scope="module")
def wrn():
    return network("wrn-10-1", 10, 32)


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
    found = load_released(file)
    assert same_function(found.model, wrn, 32) and found.notes[0].startswith(f"read from `state_dict.{prefix[:-1]}`")


@pytest.mark.parametrize("keys", [("ckpt",), ("a", "b"), ("run", "best", "weights", "f")])
def test_one_state_dict_under_any_key_at_any_shallow_depth(tmp_path, wrn, keys):
    state = wrn.state_dict()
    momentum = {0: {"momentum_buffer": torch.ones(3)}}
    content = {"optimizer": {"state": momentum, "param_groups": [{"lr": 0.1}]}, "best_acc": torch.tensor(0.5)}
    for key in reversed(keys):
        state = {key: state, "epoch": 3}
    found = load_released(write(tmp_path / "a.pt", content | state))
    assert same_function(found.model, wrn, 32) and f"`{'.'.join(keys)}`" in found.notes[0]


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
    found = load_released(file)
    assert same_function(found.model, other, 32)
    (note,) = [note for note in found.notes if "averaged" in note]
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
        found = load_released(write(tmp_path / "a.pt", state))
        assert "7 BatchNorm counters (num_batches_tracked) were filled in" in found.notes
        assert f"weights of type {word} were converted to float32" in found.notes
        assert all(p.dtype == torch.float32 for p in found.model.parameters())
        expected = {k: v.float() for k, v in state.items()}
        assert all(torch.equal(found.model.state_dict()[k], v) for k, v in expected.items())


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
    before = torch.serialization.get_safe_globals()
    assert same_function(load_released(file).model, wrn, 32)
    assert torch.serialization.get_safe_globals() == before


@pytest.mark.parametrize("thing", [Bomb(), nn.Conv2d(1, 1, 1)])
def test_what_needs_code_is_refused_without_advice_to_run_it(tmp_path, wrn, thing, capfd):
    with pytest.raises(
        ValueError, match=r"holds an object of [\w.]+, which needs code to be read; save a state_d"
    ) as e:
        load_released(write(tmp_path / "a.pt", {"state_dict": wrn.state_dict(), "thing": thing}))
    assert not re.search("weights_only|add_safe_globals|trust|\x1b|\n", str(e.value))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("prefix", ["target", "guide"])
@pytest.mark.parametrize("name", ["wrn-10-1", "cnn-4", "patch-resnet-8", "preactresnet18"])
def test_the_kits_own_files(tmp_path, name, prefix):
    """A run's best.safetensors: the target without a word from the user, the guide by its key."""
    torch.manual_seed(1)
    target, guide = (build_model(name, 7, 32).eval() for _ in range(2))
    save_weights(tmp_path / "best.safetensors", target, guide)
    found = load_released(tmp_path / "best.safetensors", key=None if prefix == "target" else "guide")
    assert same_function(found.model, target if prefix == "target" else guide, 32)
    if prefix == "target":
        assert "the target was taken, not the guide (that is at --key guide)" in found.notes
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
    found = load_released(write(tmp_path / "a.pt", model.state_dict())).model
    x = torch.rand(3, channels, size, 1 if name.startswith("mlp") else size)
    assert type(found) is type(model) and torch.equal(found.eval()(x), model.eval()(x))


# Normalisation -----------------------------------------------------------------------------------


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
    found = load_released(write(tmp_path / "a.pt", buffers | below(prefix, wrn.state_dict())))
    assert same_function(found.model, nn.Sequential(Normalize(MEAN, STD), wrn), 32) and found.dropped == []
    expected = f"mean 0.4, 0.5, 0.6 and std 0.2, 0.3, 0.25, from the buffers `{mean}`/`{std}` of the file"
    assert found.normalisation == expected
    again = load_released(write(tmp_path / "again.pt", found.model.state_dict()))  # what was loaded can be saved
    assert same_function(again.model, found.model, 32)


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
    found = load_released(write(tmp_path / "a.pt", wrn.state_dict()), mean=mean, std=std)
    expected = parse_normalisation(mean, std, 3)
    assert words in found.normalisation
    assert same_function(found.model, nn.Sequential(Normalize(expected.mean, expected.std), wrn), 32)


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


def test_numbers_beside_the_weights_are_not_used_in_silence(tmp_path, wrn):
    file = write(tmp_path / "a.pt", {"state_dict": wrn.state_dict(), "mean": [0.5] * 3, "std": [0.5] * 3})
    assert any("was not used" in note for note in load_released(file).notes)


# What is no checkpoint ----------------------------------------------------------------------------


def zipped(**members):
    def make(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name.replace("__", "/"), content)

    return make


def scripted(file):
    torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.ones(1, 1)), file)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\n <!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "it is a web page"),
        (b"<HTML>404", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "Git LFS pointer.*git lfs pull"),
        (b"\x1f\x8b\x08\x00", "gzip archive; unpack it first"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x80\x04\x95", "damaged"),
        (b"hello", "damaged"),
        (zipped(photo="x"), r"a zip archive of something else \(it holds 'photo'\)"),
        (zipped(a__data_pkl=b"\0" * 30_000_000), "something else"),
        (lambda file: zipped(**{"a/data.pkl": b"\0" * 30_000_000})(file), "swells"),
        (scripted, "TorchScript"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, words):
    file = tmp_path / "a.pt"
    content(file) if callable(content) else file.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot be read as a checkpoint.*{words}") as error:
        load_released(file)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_folder_is_named_as_such(tmp_path):
    with pytest.raises(ValueError, match="is a folder, not a file"):
        load_released(tmp_path)


def test_content_says_what_a_file_is_not_its_name(tmp_path, wrn):
    save_file(wrn.state_dict(), tmp_path / "a.pt")
    write(tmp_path / "b.safetensors", wrn.state_dict())
    for name in ("a.pt", "b.safetensors"):
        assert same_function(load_released(tmp_path / name).model, wrn, 32)


def test_names_that_are_not_utf8(tmp_path, wrn):
    odd = tmp_path / b"caf\xe9".decode(errors="surrogateescape")
    odd.mkdir()
    save_file(wrn.state_dict(), tmp_path / "a.safetensors")
    shutil.move(tmp_path / "a.safetensors", odd / "a.safetensors")
    shutil.move(write(tmp_path / "b.pt", wrn.state_dict()), odd / "b.pt")
    for name in ("a.safetensors", "b.pt"):
        assert same_function(load_released(odd / name).model, wrn, 32)


def test_crafted_files_end_soon(tmp_path, wrn):
    """10,000 blocks, tensors of 10^15 numbers without memory, content that holds itself: none hangs or fills memory."""
    many = {f"block1.layer.{i}.conv1.weight": torch.ones(1) for i in range(10_000)}
    wide = {"fc.weight": torch.ones(1).expand(10**6, 10**9), "conv1.weight": torch.ones(1).expand(10**6, 3, 3, 3)}
    wide |= {"block1.layer.0.conv1.weight": torch.ones(16, 1, 1, 1)}
    ring = {"epoch": 1}
    for _ in range(3):
        ring[f"a{len(ring)}"] = {f"k{i}": ring for i in range(1000)}
    for content, words in ((wrn.state_dict() | many, "is impossible"), (wide, "does not fit"), (ring, "does not hold")):
        file = write(tmp_path / "a.pt", content)
        start = time.perf_counter()
        with pytest.raises(ValueError, match=words):
            load_released(file)
        assert time.perf_counter() - start < 20


def test_ten_thousand_networks_are_not_all_listed(tmp_path):
    one = torch.ones(1)
    with pytest.raises(ValueError, match="holds 3000 networks") as error:
        load_released(
            write(tmp_path / "many.pt", {f"n{i}": {"conv1.weight": one, "fc.weight": one} for i in range(3000)})
        )
    assert len(str(error.value)) < 500
