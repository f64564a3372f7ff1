"""Whole training steps and architectures against figures computed with the released implementations."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2rkit.methods import attacks, objectives
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model

GOLDEN = Path(__file__).parent / "golden"
STEPS = json.loads((GOLDEN / "golden_steps.json").read_text())["cases"]
ARCHITECTURES = json.loads((GOLDEN / "golden_architectures.json").read_text())["architectures"]


class TinyNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def tiny_net(initial, classes):
    net = TinyNet(classes).double()
    net.load_state_dict({k: tensor(v) for k, v in initial.items()}, strict=False)
    return net.train()


def attack(method, pair, x, y, **how):
    if method == "d2r-released":
        return attacks.cag(pair.target, pair.guide, x, **how)
    if method == "mart":
        return attacks.pgd_ce(pair.target, x, y, **how)
    return attacks.kl_self(pair.target, x, **how)


LOSSES = {
    "d2r-released": lambda logits, y: objectives.d2r(logits, y, variant="released"),
    "lbgat0": lambda logits, y: objectives.lbgat(logits, y, beta=0),
    "lbgat6": lambda logits, y: objectives.lbgat(logits, y, beta=6),
    "trades": lambda logits, y: objectives.trades(logits, y, beta=6),
    "mart": lambda logits, y: objectives.mart(logits, y, beta=6),
}


def close(got, expected):
    torch.testing.assert_close(got.double(), tensor(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", STEPS, ids=lambda c: f"{c['method']}-{c['num_classes']}")
def test_training_step_as_released(case):
    expected, method = case["expected"], case["method"]
    target = tiny_net(case["target_initial"], case["num_classes"])
    guided = "guide_grad" in expected
    guide = tiny_net(case["guide_initial"], case["num_classes"]) if guided else None
    pair = GuidedPair(target, guide)
    x, y = tensor(case["x"]), torch.tensor(case["y"])
    x_adv = attack(
        method, pair, x, y,
        eps=case["epsilon"], step_size=case["step_size"], steps=case["steps"],
        start=case["noise_scale"] * tensor(case["noise"]),
    )  # fmt: skip
    close(x_adv, expected["x_adv"])
    assert pair.training and target.bn.training

    logits = pair(x, x_adv, clean_first=method in ("mart", "trades"))
    loss = LOSSES[method](logits, y)
    assert abs(loss.total.item() - expected["loss"]) < 1e-9
    loss.total.backward()
    for name, parameter in target.named_parameters():
        close(parameter.grad, expected["target_grad"][name])
    for name, parameter in guide.named_parameters() if guided else ():
        close(parameter.grad, expected["guide_grad"][name])

    if method == "trades":
        # The released TRADES step forwards the clean images once more, in train mode, for its CE term;
        # ours reuses the logits. One more forward brings the statistics to the released ones.
        target(x)
    for net, part in ((target, "target_bn_after"), (guide, "guide_bn_after")):
        for name, values in expected.get(part, {}).items():
            close(getattr(net.bn, name), values)


OURS = {
    "wideresnet-34-10 (32x32, 10 classes)": ("wrn-34-10", 10, 32),
    "wideresnet-34-10 (64x64, 200 classes, 2x2 head)": ("wrn-34-10", 200, 64),
    "resnet18-guide (32x32, 10 classes, layer2 stride 1)": ("resnet18-guide", 10, 32),
    "resnet18 (64x64, 200 classes)": ("resnet18-guide", 200, 64),
    "preactresnet18 (64x64, 200 classes, 2x2 head, no final batchnorm)": ("preactresnet18", 200, 64),
    "preactresnet18 (32x32, 10 classes, final batchnorm)": ("preactresnet18", 10, 32),
}


def golden_fill(index, name, shape):
    """The fill rule that the golden file states."""
    numel = int(torch.tensor(shape).prod()) if shape else 1
    a = torch.sin(0.7 * torch.arange(numel, dtype=torch.float64) + index).reshape(shape)
    if "running_var" in name:
        return a.abs() + 0.5
    if len(shape) > 1:
        return 1.5 * a / (numel / shape[0]) ** 0.5
    if "running_mean" in name:
        return 0.1 * a
    return 1 + 0.1 * a if "weight" in name else 0.1 * a


@pytest.mark.parametrize("title", ARCHITECTURES, ids=lambda t: t.split(" (")[0] + t.split(" (")[1][:2])
def test_architecture_as_released(title):
    golden = ARCHITECTURES[title]
    name, classes, size = OURS[title]
    model = build_model(name, classes, size).double().eval()
    ours = model.state_dict()
    released = dict(golden["state_dict"])
    # sub_block1 is a second copy of the first group that the released forward never uses.
    unused = {n for n in released if n.startswith("sub_block1.")}
    assert [n for n in released if n not in unused] == list(ours)
    assert all(list(ours[n].shape) == released[n] for n in ours)
    unused_count = sum(
        int(torch.tensor(released[n]).prod()) for n in unused if "running" not in n and "num_batches" not in n
    )
    assert unused_count == (2_102_112 if "wide" in title else 0)
    assert sum(p.numel() for p in model.parameters()) + unused_count == golden["parameters"]
    state = {
        n: ours[n] if n.endswith("num_batches_tracked") else golden_fill(i, n, shape)
        for i, (n, shape) in enumerate(released.items())
        if n in ours
    }
    model.load_state_dict(state, strict=True)
    wave = torch.sin(0.013 * torch.arange(2 * 3 * size * size, dtype=torch.float64))
    x = (0.5 + 0.5 * wave).reshape(2, 3, size, size)
    with torch.no_grad():
        logits = model(x)[:, :10]
    expected = tensor(golden["logits"])
    assert ((logits - expected).abs() / expected.abs()).max() < 1e-6
