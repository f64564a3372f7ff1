"""Networks of the field, written anew from the papers as functions of a state dict in the zoo's names."""

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


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


def normalised(network):
    return Reference(lambda _, x: network(x), {}, mean=column(MEAN), std=column(STD))
