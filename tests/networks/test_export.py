"""Exported networks answer in their new runtime as they do here, and a wrong or overwritten file cannot come about."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from d2rkit.cli.exporting import export_command
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import Experiment
from d2rkit.networks.architectures import build_model
from d2rkit.networks.checkpoints import save_weights
from d2rkit.networks.export import NOTES, SUFFIXES, export_network
from d2rkit.networks.loading import load_released
from d2rkit.networks.normalisation import NORMALISATIONS, Normalize
from tests.synthetic import make_run

SHIPPED = Path(__file__).parents[2] / "data" / "checkpoints" / "small-d2r-cag.safetensors"
NETWORKS = {"wrn-10-1": (3, 32), "preactresnet18": (3, 64), "cnn-8": (1, 8), "patch-resnet-4": (3, 32)}


def with_settled_batch_norms(name, classes=10, size=32, channels=3):
    """Running statistics away from their initial 0 and 1, so that a folded BatchNorm shows."""
    torch.manual_seed(0)
    network = build_model(name, classes, size, channels)
    with torch.no_grad():
        network.train()(torch.rand(16, channels, size, size))
    return network.eval()


def logits_of(file, to, images, name):
    """In the runtime of whoever gets the file; the kit's own reader only for safetensors, which holds no program."""
    if to == "onnx":
        import onnxruntime

        (logits,) = onnxruntime.InferenceSession(file).run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)
    network = torch.jit.load(file) if to == "torchscript" else load_released(file, name, images.shape[-1]).model
    with torch.no_grad():
        return network.eval()(images)


@pytest.mark.parametrize(
    ("name", "to"),
    [
        *((name, to) for name in NETWORKS for to in SUFFIXES if name != "preactresnet18"),
        pytest.param("preactresnet18", "onnx", marks=pytest.mark.thorough),
    ],
)
def test_logits_are_equal_in_the_other_runtime(tmp_path, name, to):
    channels, size = NETWORKS[name]
    network = with_settled_batch_norms(name, size=size, channels=channels)
    if channels == 3:
        network = nn.Sequential(Normalize(*NORMALISATIONS["cifar10"]), network).eval()
    file = tmp_path / f"network{SUFFIXES[to]}"
    done = export_network(network, file, to, (channels, size, size), {"classes": ["a"]}, name=name, images=8)
    assert done.path == file and done.images == 8 and done.difference <= 1e-5
    images = torch.rand(1000 if size == 8 else 20, channels, size, size)
    with torch.no_grad():
        assert torch.allclose(logits_of(file, to, images, name), network(images), atol=1e-5, rtol=1e-5)


def test_a_network_that_cannot_be_expressed_leaves_no_file(tmp_path):
    class Branching(nn.Module):  # a trace keeps the way that the first images took
        def forward(self, x):
            return x.flatten(1)[:, :3] * (2 if len(x) > 2 else 1)

    class Fixed(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] + torch.zeros(len(x), 3)

    for network, says in ((Branching(), "its logits there differ by up to"), (Fixed(), "must match the size")):
        with pytest.raises(ValueError, match=f"cannot be exported to torchscript: .*{says}"):
            export_network(network, tmp_path / "odd.pt", "torchscript", (1, 8, 8), {}, images=8)
        assert not list(tmp_path.iterdir())


def test_logits_that_are_no_numbers_are_not_exported(tmp_path):
    network = with_settled_batch_norms("cnn-8", size=8, channels=1)
    nn.init.constant_(network.linear.bias, torch.nan)
    with pytest.raises(ValueError, match="differ by up to nan"):
        export_network(network, tmp_path / "network.pt", "torchscript", (1, 8, 8), {})
    assert not list(tmp_path.iterdir())


def test_every_layer_keeps_its_mode(tmp_path):
    network = build_model("cnn-4", 10, 8, 1).train()
    network.norms[0].eval()
    before = [module.training for module in network.modules()]
    export_network(network, tmp_path / "network.pt", "torchscript", (1, 8, 8), {}, images=4)
    assert [module.training for module in network.modules()] == before


def test_no_file_is_overwritten(tmp_path):
    file = tmp_path / "mine.pt"
    file.write_text("precious")
    with pytest.raises(ValueError, match="is there already"):
        export_network(nn.Flatten(), file, "torchscript", (1, 8, 8), {})
    assert file.read_text() == "precious"


def test_a_file_is_exported_with_its_normalisation_and_evaluated_again(tmp_path, digits, capsys):
    network = with_settled_batch_norms("cnn-8", size=8, channels=1)
    save_weights(tmp_path / "trained.safetensors", network, None)
    new = tmp_path / "new.safetensors"
    options = {"to": "safetensors", "data": "digits", "key": "target", "mean": "0.3", "std": "0.4"}
    export_command(str(tmp_path / "trained.safetensors"), output=str(new), **options)
    assert f"d2rkit evaluate {new}" in capsys.readouterr().out
    with safe_open(new, "pt") as file:
        notes = json.loads(file.metadata()[NOTES])
    assert notes["classes"] == [str(digit) for digit in range(10)] and notes["normalisation"].startswith("mean 0.3")
    assert notes["input"] == "images: float32 (N, 1, 8, 8), pixels in [0, 1]"
    test = digits.test.take(slice(0, 50))
    before = nn.Sequential(Normalize([0.3], [0.4]), network).eval()
    flags = [evaluate(model, test, ("clean", "pgd3"), 0.1).flags for model in (before, load_released(new).model)]
    assert all(torch.equal(flags[0][attack], flags[1][attack]) for attack in flags[0])


def test_the_printed_command_attacks_at_the_runs_radius(tmp_path, capsys):
    run = make_run(tmp_path, Experiment(method="trades", target="cnn-8", eps=0.2, attacks=("clean",)), {"clean": 1.0})
    save_weights(run.folder / "best.safetensors", with_settled_batch_norms("cnn-8", size=8, channels=1), None)
    export_command(str(run.folder), "safetensors", str(tmp_path / "new.safetensors"))
    assert "--network cnn-8 --eps 0.2" in capsys.readouterr().out


def test_the_guide_of_a_kits_checkpoint_is_exported_when_asked_for(tmp_path, capsys):
    file = tmp_path / "guide.safetensors"
    export_command(str(SHIPPED), to="safetensors", output=str(file), key="guide")
    capsys.readouterr()
    x = torch.rand(4, 3, 32, 32)
    guide, target = (load_released(SHIPPED, key=key).model.eval() for key in ("guide", "target"))
    with torch.no_grad():
        logits = load_released(file).model.eval()(x)
        assert torch.equal(logits, guide(x)) and not torch.equal(logits, target(x))


def test_class_names_are_written_only_where_they_fit_the_network(tmp_path, capsys):
    save_weights(tmp_path / "seven.safetensors", with_settled_batch_norms("cnn-8", classes=7, size=8, channels=1), None)
    new = tmp_path / "new.safetensors"
    export_command(str(tmp_path / "seven.safetensors"), "safetensors", str(new), data="digits", key="target")
    assert "the network tells 7 classes apart, and digits here has 10" in capsys.readouterr().out
    with safe_open(new, "pt") as file:
        assert json.loads(file.metadata()[NOTES])["classes"] == []


def test_a_json_file_of_somebody_elses_beside_a_checkpoint_is_not_ours(tmp_path, capsys):
    save_weights(tmp_path / "mine.safetensors", with_settled_batch_norms("cnn-8", size=8, channels=1), None)
    (tmp_path / "mine.json").write_text('{"author": "me"}')
    file = tmp_path / "new.safetensors"
    export_command(str(tmp_path / "mine.safetensors"), "safetensors", str(file), data="digits", key="target")
    assert file.exists() and "written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("nothing", {}, "neither a run folder, nor a run below"),
        ("nothing", {"to": "tflite"}, "unknown format 'tflite'"),
        (str(SHIPPED), {"network": "cnn-8", "mean": "0.5"}, "says itself what --network and --mean would"),
        (str(SHIPPED), {"key": "gude"}, "did you mean 'guide'"),
        (str(SHIPPED.with_stem("small-trades")), {"key": "guide"}, "has no guide: trades trains the target alone"),
    ],
)
def test_what_cannot_be_exported_is_said(source, options, says):
    with pytest.raises(ValueError, match=says):
        export_command(source, **options)


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"needs the package onnxruntime: pip install 'd2rkit\[export\]'"):
        export_network(build_model("cnn-4", 10, 8, 1), tmp_path / "x.onnx", "onnx", (1, 8, 8), {})
    assert not list(tmp_path.iterdir())
