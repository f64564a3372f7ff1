"""Networks of RobustBench and torchvision: the same function as where they come from, or refused."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.networks import zoo
from d2rkit.networks.architectures import build_model
from d2rkit.networks.loading import load_released
from tests.networks.reference_networks import (
    MEAN,
    STD,
    Reference,
    close,
    column,
    normalised,
    preact,
    saved,
    settled,
    silu_wide,
    wide,
)

pytestmark = pytest.mark.usefixtures("without_a_network")

# As published, or as counted in RobustBench's own code; WideResNets without sub_block1.
PARAMETERS = {
    "WideResNet-28-10": 36_479_194, "WideResNet-34-10": 46_160_474, "wrn-70-16-silu": 266_796_506,
    "preactresnet18-wong": 11_171_146, "resnet50-cifar": 23_520_842,
}  # fmt: skip


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
