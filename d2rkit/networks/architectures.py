"""Networks for targets and guides: `build_model("wrn-34-10", num_classes=10, image_size=32)`.

All take pixels in [0, 1], x: (B, C, H, W), and return logits (B, num_classes). Parameter names of the
published architectures follow the field's released checkpoints, so that `load_released` can be strict.
ReLUs and sums write over outputs of convolutions, BatchNorms and sums, none of which needs its output for the
backward pass: that saves half the feature maps' memory and changes no number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.core.validation import check_count, nearest
from d2rkit.networks import zoo

NAMES = ("wrn-34-10", "preactresnet18", "resnet18-guide", "resnet18", "patch-resnet-64", "cnn-16", "mlp-64")
NAMES += zoo.NAMES
MODELS: dict[str, Callable[[int, int, int], nn.Module]] = {}  # (num_classes, image_size, channels), of register_model
MAX_DEPTH, MAX_WIDTH = 1_000, 4_096  # beyond them a name, mistyped or out of a file, would only fill the memory


def build_model(name: str, num_classes: int, image_size: int = 32, channels: int = 3) -> nn.Module:
    """A network with fresh weights, drawn from the global generator.

    name: `wrn-D-W` (WideResNet, D = 6n + 4 layers, widening factor W), `preactresnet18`,
    `resnet18-guide` (at up to 32x32 pixels its second stage keeps stride 1), `resnet18`, `patch-resnet-W` (three
    pre-activation blocks behind a strided stem, the first one W wide), `cnn-W` (three convolutions, first one W
    wide) or `mlp-W` (two hidden layers W wide; for flat data such as points in the plane, whose number of features
    is image_size with channels=1); or one of `zoo.py`.
    channels: 3 for RGB, 1 for grey images. Raises ValueError for an unknown name or impossible size.
    """
    check_count("num_classes", num_classes, 2)
    check_count("image_size", image_size, 1)
    check_count("channels", channels, 1)
    if not isinstance(name, str) or re.search(r"\d{7}", name):
        raise nearest(str(name)[:40], [*NAMES, *MODELS], "network")
    if name in MODELS:
        return MODELS[name](num_classes, image_size, channels)
    if (match := re.fullmatch(r"(cnn|mlp|patch-resnet)-(\d+)", name)) and not 1 <= int(match[2]) <= MAX_WIDTH:
        raise ValueError(f"{name} is impossible: its width must be 1 to {MAX_WIDTH}")
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return WideResNet(int(match[1]), int(match[2]), num_classes, image_size, channels)
    if match := re.fullmatch(r"cnn-(\d+)", name):
        return SmallCNN(int(match[1]), num_classes, channels)
    if match := re.fullmatch(r"patch-resnet-(\d+)", name):
        return PatchResNet(int(match[1]), num_classes, image_size, channels)
    if match := re.fullmatch(r"mlp-(\d+)", name):
        return MLP(int(match[1]), num_classes, image_size * channels)
    if name == "preactresnet18":
        return PreActResNet18(num_classes, image_size, channels)
    if name in ("resnet18", "resnet18-guide"):
        wide_second_stage = name == "resnet18-guide" and image_size <= 32
        return ResNet18(num_classes, channels, second_stride=1 if wide_second_stage else 2)
    if (network := zoo.build_zoo(name, num_classes, channels)) is not None:
        return network
    raise nearest(name, [*NAMES, *MODELS], "network") from None


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def conv1x1(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, stride, bias=False)


def pool(x: Tensor, cells: int) -> Tensor:
    """Average pooling to cells x cells and flattening: (B, C, H, W) to (B, C * cells**2)."""
    if cells == 1:
        return x.mean((2, 3))
    return F.adaptive_avg_pool2d(x, cells).flatten(1)


class WideBlock(nn.Module):
    """Pre-activation block of a WideResNet (Zagoruyko & Komodakis 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        self.convShortcut = conv1x1(inputs, outputs, stride) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(out)
        return self.conv2(torch.relu_(self.bn2(self.conv1(out)))).add_(shortcut)


class WideGroup(nn.Module):
    """The blocks of one resolution; `layer` is the name that released checkpoints use."""

    def __init__(self, count: int, inputs: int, outputs: int, stride: int):
        super().__init__()
        blocks = [WideBlock(inputs, outputs, stride)]
        blocks += [WideBlock(outputs, outputs, 1) for _ in range(count - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """WideResNet-`depth`-`widen`; 64x64 images get a head over 2x2 cells, as released."""

    def __init__(self, depth: int, widen: int, num_classes: int, image_size: int = 32, channels: int = 3):
        super().__init__()
        if not 10 <= depth <= MAX_DEPTH or (depth - 4) % 6 or not 1 <= widen <= MAX_WIDTH // 16:
            limits = f"6n + 4 from 10 to {MAX_DEPTH}, width 1 to {MAX_WIDTH // 16}"
            raise ValueError(f"wrn-{depth}-{widen} is impossible: depth must be {limits}")
        count = (depth - 4) // 6
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.cells = 2 if image_size == 64 else 1
        self.image_size = 64 if self.cells == 2 else None  # such a head runs on other sizes, but means nothing there
        self.conv1 = conv3x3(channels, widths[0])
        self.block1 = WideGroup(count, widths[0], widths[1], 1)
        self.block2 = WideGroup(count, widths[1], widths[2], 2)
        self.block3 = WideGroup(count, widths[2], widths[3], 2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3] * self.cells**2, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(pool(torch.relu_(self.bn1(x)), self.cells))


class PreActBlock(nn.Module):
    """Pre-activation block (He et al. 2016, "Identity mappings")."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv3x3(inputs, outputs, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), conv3x3(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        return self.conv2(torch.relu_(self.bn2(self.conv1(out)))).add_(shortcut)


class PatchResNet(nn.Module):
    """Three pre-activation blocks of widths W, 2W and 4W behind a stem of overlapping patches, for training on a CPU.

    The stem takes images of 32 and 64 pixels a side to 16x16 cells, where a few wide convolutions do the work: at
    W = 64 and 32x32 pixels 1.2 million parameters and 47 million multiply-adds."""

    def __init__(self, width: int, num_classes: int, image_size: int = 32, channels: int = 3):
        super().__init__()
        stride = max(1, image_size // 16)
        kernel = 2 * stride if stride > 1 else 3
        self.stem = nn.Conv2d(channels, width, kernel, stride, padding=(kernel - stride + 1) // 2, bias=False)
        self.block1 = PreActBlock(width, width, 1)
        self.block2 = PreActBlock(width, 2 * width, 2)
        self.block3 = PreActBlock(2 * width, 4 * width, 2)
        self.bn = nn.BatchNorm2d(4 * width)
        self.linear = nn.Linear(4 * width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        return self.linear(pool(torch.relu_(self.bn(x)), 1))


class BasicBlock(nn.Module):
    """Block of a ResNet-18 (He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride), nn.BatchNorm2d(outputs)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu_(out.add_(x if self.shortcut is None else self.shortcut(x)))


def stage(block: type[nn.Module], inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(block(inputs, outputs, stride), block(outputs, outputs, 1))


class PreActResNet18(nn.Module):
    """PreActResNet-18. At 64x64, as released for Tiny ImageNet: a head over 2x2 cells and no final BatchNorm."""

    def __init__(self, num_classes: int, image_size: int = 32, channels: int = 3):
        super().__init__()
        self.cells = 2 if image_size == 64 else 1
        self.image_size = 64 if self.cells == 2 else None  # such a head runs on other sizes, but means nothing there
        self.conv1 = conv3x3(channels, 64)
        self.layer1 = stage(PreActBlock, 64, 64, 1)
        self.layer2 = stage(PreActBlock, 64, 128, 2)
        self.layer3 = stage(PreActBlock, 128, 256, 2)
        self.layer4 = stage(PreActBlock, 256, 512, 2)
        self.bn = nn.BatchNorm2d(512) if image_size != 64 else None
        self.linear = nn.Linear(512 * self.cells**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            x = torch.relu_(self.bn(x))
        return self.linear(pool(x, self.cells))


class ResNet18(nn.Module):
    """ResNet-18 for small images; second_stride=1 gives the released CIFAR guide (1.76 GMAC)."""

    def __init__(self, num_classes: int, channels: int = 3, second_stride: int = 2):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels, 64), nn.BatchNorm2d(64)
        self.layer1 = stage(BasicBlock, 64, 64, 1)
        self.layer2 = stage(BasicBlock, 64, 128, second_stride)
        self.layer3 = stage(BasicBlock, 128, 256, 2)
        self.layer4 = stage(BasicBlock, 256, 512, 2)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.bn1(self.conv1(x)))
        return self.linear(pool(self.layer4(self.layer3(self.layer2(self.layer1(x)))), 1))


class SmallCNN(nn.Module):
    """Three convolutions and a global-average-pool head: a flatten-linear head makes D2R collapse on digits."""

    def __init__(self, width: int, num_classes: int, channels: int = 1):
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        self.convs = nn.ModuleList(conv3x3(widths[i], widths[i + 1], 2 if i else 1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths[1:])
        self.linear = nn.Linear(widths[3], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = torch.relu_(norm(conv(x)))
        return self.linear(pool(x, 1))


class MLP(nn.Sequential):
    """Two hidden layers with SiLU, for points in the plane: x: (B, features) or anything that flattens to it."""

    def __init__(self, width: int, num_classes: int, features: int = 2):
        hidden = [nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        super().__init__(nn.Flatten(), *hidden, nn.Linear(width, num_classes))


def initialise(model: nn.Module) -> None:
    """He initialisation by fan-out for convolutions, zero biases for linear layers."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there torch's way takes a second
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
