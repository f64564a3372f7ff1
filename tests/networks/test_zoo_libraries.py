"""Networks of timm and transformers: the logits that those give, or refused in a sentence."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from d2rkit.cli.evaluate import evaluate_command
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.networks import zoo
from d2rkit.networks.architectures import build_model
from d2rkit.networks.loading import load_released
from tests.networks.reference_networks import MEAN, STD, Reference, close, normalised, saved, settled

pytestmark = pytest.mark.usefixtures("without_a_network")


@pytest.mark.parametrize("name", ["timm:resnet18", "hf:{folder}"])
def test_without_the_extra_one_sentence_says_what_to_install(tmp_path, monkeypatch, name):
    (tmp_path / "config.json").write_text("{}")
    file = saved(build_model("wrn-10-1", 10).state_dict(), tmp_path / "file.pt")
    for library in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=r"^(timm|transformers) is not installed.*pip install 'd2rkit\[zoo\]'$"):
        load_released(file, name.format(folder=tmp_path))


def test_neither_library_is_imported_for_other_networks():
    command = "import sys, d2rkit, d2rkit.cli.evaluate; sys.exit(bool({'timm', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


@pytest.fixture(scope="module")
def timm():
    return extra("timm")


@pytest.fixture(scope="module")
def transformers():
    return extra("transformers")


def extra(library):
    try:
        return zoo.import_extra(library)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("vit_tiny_patch16_224", 32), ("convnext_atto", 64)])
def test_timms_networks_give_timms_logits(tmp_path, timm, name, size):
    options = {"img_size": size} if "vit" in name else {}
    network = settled(timm.create_model(name, num_classes=7, **options))
    file = saved({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "timm.pt")
    with pytest.raises(ValueError, match=r"timm's own weights have mean 0\.\d.* give --mean and --std"):
        load_released(file, f"timm:{name}", size)
    loaded = load_released(file, f"timm:{name}", size, mean=MEAN, std=STD)
    assert close(loaded.model, normalised(network), size) and "as given" in loaded.normalisation
    config = {"architecture": name, "pretrained_cfg": {"mean": MEAN, "std": STD}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_released(file, f"timm:{name}", size)
    assert close(loaded.model, normalised(network), size) and loaded.normalisation.endswith("/config.json")
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "another"}))
    with pytest.raises(ValueError, match="does not tell"):
        load_released(file, f"timm:{name}", size)


def test_torchvisions_resnet50_is_timms(tmp_path, timm):
    network = settled(timm.create_model("resnet50", num_classes=10))
    file = saved(network.state_dict(), tmp_path / "r50.pt")
    assert close(load_released(file, "ResNet-50").model, network, 64)


def test_timms_networks_are_refused_where_they_do_not_fit(tmp_path, timm):
    network = timm.create_model("resnet18", num_classes=7)
    file = saved(network.state_dict(), tmp_path / "timm.pt")
    for name, message in {
        "timm:resnet34": r"does not fit timm:resnet34: \d+ missing",
        "timm:vit_tiny_patch16_224": "holds no timm:vit_tiny_patch16_224",
        "timm:resnett18": "unknown network of timm 'resnett18' .did you mean 'resnet18'",
        "timm:hf-hub:someone/something": "unknown network of timm",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_released(file, name, mean="0", std="1")


def classifier(transformers, folder, kind="vit", size=8, channels=1):
    """A small classifier as transformers saves it, with its image processor's file."""
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=size,
            patch_size=4, num_channels=channels, num_labels=10,
        )  # fmt: skip
    else:
        config = transformers.ResNetConfig(
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            layer_type="basic",
            num_channels=channels,
            num_labels=10,
        )
    torch.manual_seed(0)
    network = settled(transformers.AutoModelForImageClassification.from_config(config))
    for parameter in network.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    network.save_pretrained(folder)
    processor = {"rescale_factor": 1 / 255, "image_mean": [0.3] * channels, "image_std": [0.4] * channels}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return Reference(lambda _, x: network(x).logits, {}, mean=0.3, std=0.4)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_classifiers_of_transformers_give_their_logits(tmp_path, transformers, kind):
    reference = classifier(transformers, tmp_path, kind)
    loaded = load_released(tmp_path / "model.safetensors", f"hf:{tmp_path}")
    assert close(loaded.model, reference, 8, 1) and loaded.normalisation.endswith("/preprocessor_config.json")
    given = load_released(tmp_path / "model.safetensors", f"hf:{tmp_path}", mean="0.3", std="0.4")
    assert close(given.model, reference, 8, 1) and given.normalisation.endswith("as given")


def test_classifiers_of_transformers_are_refused_where_they_do_not_fit(tmp_path, transformers, monkeypatch):
    classifier(transformers, tmp_path)
    state, name = load_file(tmp_path / "model.safetensors"), f"hf:{tmp_path}"
    head = "classifier.weight"
    for change, message in (
        ({"more.weight": torch.ones(2)}, r"1 unexpected \(first: more.weight\)"),
        ({head: state[head][:-1].contiguous()}, rf"1 mismatched \(first: {head}\)"),
        ({head: None}, rf"1 missing \(first: {head}\)"),
        ({head: state[head] / 0}, "not finite"),
    ):
        content = {k: v for k, v in (state | change).items() if v is not None}
        save_file(content, tmp_path / "changed.safetensors")
        with pytest.raises(ValueError, match=message):
            load_released(tmp_path / "changed.safetensors", name)
    silent = transformers.ViTForImageClassification
    monkeypatch.setattr(silent, "_keys_to_ignore_on_load_unexpected", ["more"], raising=False)
    save_file(state | {"more.weight": torch.ones(2)}, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match="2 of its numbers find no place"):
        load_released(tmp_path / "changed.safetensors", name)
    processor = tmp_path / "preprocessor_config.json"
    for content, message in (
        ('{"rescale_factor": 1}', r"does not scale pixels to \[0, 1\]"),
        ('{"image_mean": [0.5]}', "holds no mean and std of numbers"),
        ("[", "holds no JSON"),
    ):
        processor.write_text(content)
        with pytest.raises(ValueError, match=message):
            load_released(tmp_path / "model.safetensors", name)
    processor.write_text('{"do_normalize": false}')
    assert load_released(tmp_path / "model.safetensors", name).normalisation == "none, says the image processor"
    processor.unlink()
    with pytest.raises(ValueError, match=r"no preprocessor_config.json .* give --mean and --std"):
        load_released(tmp_path / "model.safetensors", name)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="transformers builds no image classifier"):
        load_released(tmp_path / "model.safetensors", name)
    with pytest.raises(ValueError, match="nothing is fetched"):
        load_released(tmp_path / "model.safetensors", "hf:google/vit-base-patch16-224")


def test_the_command_evaluates_a_classifier_of_transformers_and_says_its_normalisation(tmp_path, transformers, capsys):
    classifier(transformers, tmp_path)
    file, name = str(tmp_path / "model.safetensors"), f"hf:{tmp_path}"
    evaluate_command(
        file, data="digits", network=name, attacks=("clean", "fgsm"), eps=0.1, test_images=40, masking=False,
        folder=str(tmp_path / "flags"),
    )  # fmt: skip
    source = f"{tmp_path.name}/preprocessor_config.json"
    assert f"input normalisation: mean 0.3 and std 0.4, from {source}" in capsys.readouterr().out
    kept = json.loads((tmp_path / "flags" / "evaluation.json").read_text())
    assert len(kept["settings"]["weights"]) >= 8 and set(kept["accuracy"]) == {"clean", "fgsm"}
    larger = torch.rand(2, 1, 32, 32), torch.zeros(2).long()
    with pytest.raises(ValueError, match="built for images of 8 pixels a side, these have 32"):
        evaluate(load_released(file, name).model, larger, ("clean",), 0.1)
