"""Networks of RobustBench, torchvision, timm and transformers: the same function as where they come from, or refused.

The reference networks are written anew here from the papers, as functions of a state dict in the zoo's names."""

import json
import socket
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from d2rkit.cli.evaluate import evaluate_command
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.networks import zoo
from d2rkit.networks.architectures import build_model
from d2rkit.networks.loading import load_released

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
# As published, or as counted in RobustBench's own code; WideResNets without sub_block1.
PARAMETERS = {
    "WideResNet-28-10": 36_479_194, "WideResNet-34-10": 46_160_474, "wrn-70-16-silu": 266_796_506,
    "preactresnet18-wong": 11_171_146, "resnet50-cifar": 23_520_842,
}  # fmt: skip


def norm(state, name, x):
    weights = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, *weights)


def wide(state, x, depth):
    """Zagoruyko & Komodakis 2016, as in TRADES."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for group in (1, 2, 3):
        for index in range((depth - 4) // 6):
            at, stride = f"block{group}.layer.{index}", 2 if group > 1 and index == 0 else 1
            active = norm(state, f"{at}.bn1", x).relu()
            out = F.conv2d(active, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(norm(state, f"{at}.bn2", out).relu(), state[f"{at}.conv2.weight"], padding=1)
            short = state.get(f"{at}.convShortcut.weight")
            x = out + (x if short is None else F.conv2d(active, short, stride=stride))
    return F.linear(norm(state, "bn1", x).relu().mean((2, 3)), state["fc.weight"], state["fc.bias"])


def silu_wide(state, x, depth):
    """Gowal et al. 2020: SiLU, and padding to the right and below where the stride is 2."""
    x = F.conv2d(x, state["init_conv.weight"], padding=1)
    for group in range(3):
        for index in range((depth - 4) // 6):
            at, stride = f"layer.{group}.block.{index}", 2 if group and index == 0 else 1
            active = F.silu(norm(state, f"{at}.batchnorm_0", x))
            padded = F.pad(active, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
            out = F.conv2d(padded, state[f"{at}.conv_0.weight"], stride=stride)
            out = F.conv2d(F.silu(norm(state, f"{at}.batchnorm_1", out)), state[f"{at}.conv_1.weight"], padding=1)
            short = state.get(f"{at}.shortcut.weight")
            x = out + (x if short is None else F.conv2d(active, short, stride=stride))
    return F.linear(F.silu(norm(state, "batchnorm", x)).mean((2, 3)), state["logits.weight"], state["logits.bias"])


def preact(state, x, raw):
    """PreActResNet-18 of Wong et al. 2020 (raw: shortcuts of the input itself, no last BatchNorm) or Rice et al."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for layer in (1, 2, 3, 4):
        for index in (0, 1):
            at, stride = f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1
            active = norm(state, f"{at}.bn1", x).relu()
            out = F.conv2d(active, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(norm(state, f"{at}.bn2", out).relu(), state[f"{at}.conv2.weight"], padding=1)
            short = state.get(f"{at}.shortcut.0.weight")
            x = out + (x if short is None else F.conv2d(x if raw else active, short, stride=stride))
    x = x if raw else norm(state, "bn", x).relu()
    return F.linear(x.mean((2, 3)), state["linear.weight"], state["linear.bias"])


class Reference(nn.Module):
    """A reference as a network: normalised pixels into a function of a state dict."""

    def __init__(self, function, state, *options, mean=0.0, std=1.0):
        super().__init__()
        self.call = lambda x: function(state, (x - mean) / std, *options)

    def forward(self, x):
        return self.call(x)


def settled(network):
    """Statistics and affine parts of BatchNorms away from 0 and 1, so that none can be left out or swapped."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()


def close(one, other, size=32, channels=3, count=2):
    x = torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = one.eval()(x), other.eval()(x)
    assert a.shape == b.shape and a.std() > 1e-3
    return (a - b).abs().max() <= 1e-5 * max(1, float(b.abs().max()))


def column(values):
    return torch.tensor(values).view(1, -1, 1, 1)


def saved(state, path):
    torch.save(state, path)
    return path


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        network = build_model(zoo.kit_name(name), 10)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("built", "asked", "function", "option"),
    [
        ("wrn-16-2", "WideResNet-16-2", wide, 16),
        ("wrn-16-2-silu", "WideResNet-16-2", silu_wide, 16),
        ("preactresnet18", "PreActResNet-18", preact, False),
        ("preactresnet18-wong", "PreActResNet-18", preact, True),
    ],
)
def test_robustbench_files_give_the_logits_of_an_independent_build(tmp_path, built, asked, function, option):
    state = settled(build_model(built, 10)).state_dict()
    file = saved({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "zoo.pt")
    reference = Reference(function, state, option, mean=column(MEAN), std=column(STD))
    for name in (None, asked, built):
        loaded = load_released(file, name, mean=MEAN, std=STD)
        assert close(loaded.model, reference) and loaded.dropped == []
        told = name == asked and built.endswith(zoo.VARIANTS)
        assert any("variant" in note for note in loaded.notes) == told


def torchvision_for_cifar():
    """torchvision's ResNet-50 with a 3x3 stem and no pooling behind it, and its state dict in RobustBench's names."""
    network = torchvision.models.resnet50(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    settled(network)
    state = network.state_dict().items()
    return network, {k.replace("downsample", "shortcut").replace("fc.", "linear."): v for k, v in state}


def robustness(state):
    """As the library `robustness` saves a network: twice, once below the attacker, each with its normaliser."""
    constants = {"new_mean": column(MEAN)[0], "new_std": column(STD)[0]}
    content = {f"module.normalizer.{k}": v for k, v in constants.items()}
    content |= {f"module.model.{k}": v for k, v in state.items()}
    content |= {f"module.attacker.normalize.{k}": v for k, v in constants.items()}
    content |= {f"module.attacker.model.{k}": v for k, v in state.items()}
    return {"model": content, "optimizer": {"state": {}}, "epoch": 150}


def normalised(network):
    return Reference(lambda _, x: network(x), {}, mean=column(MEAN), std=column(STD))


def test_engstroms_resnet50_comes_out_of_its_attackers_wrapper(tmp_path):
    network, state = torchvision_for_cifar()
    file = saved(robustness(state), tmp_path / "engstrom.pt")
    for name in (None, "ResNet-50"):
        loaded = load_released(file, name)
        assert close(loaded.model, normalised(network))
        assert "module.normalizer.new_mean" in loaded.normalisation
        assert any("the copy at `model.module.attacker.model` was left out" in note for note in loaded.notes)
    other = robustness({k: v + 1 if k == "linear.bias" else v for k, v in state.items()})["model"]
    mixed = robustness(state)["model"] | {k: v for k, v in other.items() if "attacker" in k}
    with pytest.raises(ValueError, match=r"holds 2 networks; choose one with --key"):
        load_released(saved(mixed, tmp_path / "two.pt"))
    mixed = robustness(state)["model"] | {"module.attacker.normalize.new_std": torch.ones(3, 1, 1)}
    with pytest.raises(ValueError, match=r"holds 2 input normalisations"):
        load_released(saved(mixed, tmp_path / "odd.pt"))


def test_torchvisions_resnet50_behind_a_normaliser(tmp_path):
    network = settled(torchvision.models.resnet50(num_classes=20))
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    state |= {"normalize.mean": column(MEAN), "normalize.std": column(STD)}
    loaded = load_released(saved(state, tmp_path / "r50.pt"))
    assert close(loaded.model, normalised(network), 64)
    assert "normalize.mean" in loaded.normalisation


@pytest.fixture(scope="module")
def digits():
    data = load_data("digits", test_only=True)
    return data.test.pixels()[:60], data.test.labels[:60].long()


@pytest.fixture(scope="module")
def trained(digits):
    """A WideResNet-10-1 that has learnt some of the digits it is judged on, on normalised pixels."""
    torch.manual_seed(0)
    network = build_model("wrn-10-1", 10, 8, 1)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(8):
        loss = F.cross_entropy(network((digits[0] - 0.3) / 0.4), digits[1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().state_dict()


def prefixed(state, prefix, only=""):
    return {prefix + name: tensor for name, tensor in state.items() if name.startswith(only)}


def inside(a, b, prefix=""):
    return {f"{prefix}{a}": torch.full((1, 1, 1, 1), 0.3), f"{prefix}{b}": torch.full((1, 1, 1, 1), 0.4)}


CONVENTIONS = {
    "trades": lambda s: prefixed(s, "module.") | prefixed(prefixed(s, "sub_", "block1."), "module."),
    "carmon": lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 200},
    "rice": lambda s: s | inside("mu", "sigma"),
    "chen": lambda s: {"state_dict": {f"module.model.{k}": v for k, v in s.items()} | inside("mean", "std", "module.")},
    "imagenet": lambda s: {f"model.{k}": v for k, v in s.items()} | inside("mean", "std", "normalize."),
    "kireev": lambda s: {"last": s, "best": s | {"fc.bias": s["fc.bias"] + 1}},
    "half": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_trained_network_gives_the_same_flags_in_every_convention(tmp_path, digits, trained, convention):
    file = saved(CONVENTIONS[convention](trained), tmp_path / "file.pt")
    has_own = convention in ("rice", "chen", "imagenet")
    given = {} if has_own else {"mean": "0.3", "std": "0.4"}
    if convention == "kireev":
        with pytest.raises(ValueError, match=r"2 networks; choose one with --key: last, best"):
            load_released(file, **given)
        given["key"] = "last"
    loaded = load_released(file, "WideResNet-10-1", **given)
    assert ("buffers" in loaded.normalisation) == has_own
    reference = Reference(wide, trained, 10, mean=0.3, std=0.4)
    here, there = (evaluate(n, digits, ("clean", "pgd3"), 0.1, exact=True) for n in (loaded.model.eval(), reference))
    for attack in ("clean", "pgd3"):
        assert torch.equal(torch.as_tensor(here.flags[attack]), torch.as_tensor(there.flags[attack]))
    assert 0 < here.accuracy("pgd3") < here.accuracy("clean") < 1


def test_what_does_not_fit_is_refused_in_a_sentence(tmp_path):
    state = build_model("wrn-10-1-silu", 10).state_dict()
    file = saved(state, tmp_path / "silu.pt")
    with pytest.raises(
        ValueError, match=r"does not tell the input normalisation .* mean 0.4914.* give --mean and --std"
    ):
        load_released(file)
    with pytest.raises(ValueError, match=r"does not fit wrn-16-1"):
        load_released(file, "wrn-16-1", mean="0", std="1")
    extra = saved(state | {"layer.0.block.0.scale": torch.ones(1)}, tmp_path / "extra.pt")
    with pytest.raises(ValueError, match=r"1 unexpected \(first: layer.0.block.0.scale\)"):
        load_released(extra, mean="0", std="1")
    with pytest.raises(ValueError, match=r"wrn-11-1-silu is impossible"):
        build_model("wrn-11-1-silu", 10)
    with pytest.raises(ValueError, match=r"3 channels"):
        build_model("resnet50", 10, 32, 1)


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


@pytest.fixture(autouse=True)
def without_a_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


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
