"""Networks of neighbouring kits: RobustBench's forms of well-known networks, and classifiers of timm and transformers.

timm and transformers are the extra `zoo`, imported only for a network that is asked for as `timm:NAME` or `hf:FOLDER`.
They build the network and nothing else: weights come from the user's file, and nothing is fetched. What follows here
imports nothing of the kit's other networks, so that `build_model` and `load_released` can use it.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2rkit.core.validation import nearest, printable
from d2rkit.networks.normalisation import Normalisation, checked, normalised, parse_normalisation
from d2rkit.networks.released import Network, convert, find_network, only_tensors

NAMES = ("wrn-28-10-silu", "preactresnet18-wong", "resnet50", "resnet50-cifar")
VARIANTS = ("-silu", "-wong", "-cifar")  # one name in the field, several functions: the file tells which
# How papers and RobustBench's JSON files write the names of networks.
PUBLISHED = (
    (r"wide-?resnet-?(\d+)-(\d+)", r"wrn-\1-\2"),
    (r"preact-?resnet-?18", "preactresnet18"),
    (r"resnet-?(18|50)", r"resnet\1"),
)


def kit_name(name: str | None) -> str | None:
    """A network's name in this kit: "WideResNet-28-10" → "wrn-28-10"; what is no such name is handed back."""
    for pattern, ours in PUBLISHED:
        if isinstance(name, str) and (match := re.fullmatch(pattern, name, re.I)):
            return match.expand(ours)
    return name


def is_foreign(name: str | None) -> TypeGuard[str]:
    """Whether another library builds this network."""
    return isinstance(name, str) and name.startswith(("timm:", "hf:"))


def build_zoo(name: str, num_classes: int, channels: int) -> nn.Module | None:
    """A network that build_model offers besides its own, with fresh weights; None for any other name."""
    if match := re.fullmatch(r"wrn-(\d+)-(\d+)-silu", name):
        return SiLUWideResNet(int(match[1]), int(match[2]), num_classes, channels)
    if name == "preactresnet18-wong":
        return SmallImageResNet(RawShortcutBlock, (2, 2, 2, 2), num_classes, channels)
    if name == "resnet50-cifar":
        return SmallImageResNet(Bottleneck, (3, 4, 6, 3), num_classes, channels)
    if name == "resnet50":
        from torchvision.models import resnet50

        if channels != 3:
            raise ValueError(f"resnet50 takes images of 3 channels, not of {channels}")
        return resnet50(weights=None, num_classes=num_classes)
    return None


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (He et al. 2015); the 3x3 convolution has the stride, as in torchvision."""

    expansion, stem_norm = 4, True

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu_(self.bn1(self.conv1(x)))
        out = torch.relu_(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu_(out.add_(x if self.shortcut is None else self.shortcut(x)))


class RawShortcutBlock(nn.Module):
    """Pre-activation block whose shortcut takes the block's input, not its activation (Wong et al. 2020)."""

    expansion, stem_norm = 1, False

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        changes = stride != 1 or inputs != width
        self.shortcut = nn.Sequential(conv(inputs, width, 1, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(torch.relu_(self.bn1(x)))
        return self.conv2(torch.relu_(self.bn2(out))).add_(x if self.shortcut is None else self.shortcut(x))


class SmallImageResNet(nn.Module):
    """A ResNet of RobustBench for CIFAR: a 3x3 stem of stride 1, no pooling behind it, and a head named `linear`."""

    def __init__(self, block: type[Any], counts: Sequence[int], num_classes: int, channels: int = 3):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, 64, 3), nn.BatchNorm2d(64) if block.stem_norm else None
        inputs = 64
        for stage, count in enumerate(counts):
            width, blocks = 64 * 2**stage, []
            for index in range(count):
                blocks.append(block(inputs, width, 2 if stage and not index else 1))
                inputs = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.bn1 is not None:
            x = torch.relu_(self.bn1(x))
        for stage in ("layer1", "layer2", "layer3", "layer4"):
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean((2, 3)))


class SiLUWideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.batchnorm_0, self.conv_0 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(outputs), conv(outputs, outputs, 3)
        self.shortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.padding = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)  # of JAX's "SAME", where these networks come from

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.batchnorm_0(x))
        shortcut = x if self.shortcut is None else self.shortcut(out)
        out = self.conv_0(F.pad(out, self.padding))
        return self.conv_1(F.silu(self.batchnorm_1(out))).add_(shortcut)


class SiLUWideResNet(nn.Module):
    """WideResNet with SiLU (Swish) and asymmetric padding, of Gowal et al. 2020 and of those who build on them."""

    def __init__(self, depth: int, widen: int, num_classes: int, channels: int = 3):
        super().__init__()
        if not 10 <= depth <= 1000 or (depth - 4) % 6 or not 1 <= widen <= 256:
            raise ValueError(
                f"wrn-{depth}-{widen}-silu is impossible: depth must be 6n + 4, 10 to 1000, width 1 to 256"
            )
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.init_conv, self.layer = conv(channels, 16, 3), nn.Sequential()
        for group, (inputs, outputs) in enumerate(pairwise(widths)):
            blocks = [SiLUWideBlock(inputs, outputs, 2 if group else 1)]
            blocks += [SiLUWideBlock(outputs, outputs, 1) for _ in range((depth - 4) // 6 - 1)]
            self.layer.append(nn.Sequential(OrderedDict(block=nn.Sequential(*blocks))))  # `block`: as in their files
        self.batchnorm, self.logits = nn.BatchNorm2d(widths[-1]), nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(F.silu(self.batchnorm(self.layer(self.init_conv(x)))).mean((2, 3)))


def import_extra(library: str) -> ModuleType:
    """timm or transformers, told to stay offline; ValueError, in one sentence, if it is missing."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # read once, at the import
    try:
        return importlib.import_module(library)
    except ImportError as error:
        why = f"{library} is not installed" if library in str(error) else f"{library} cannot be imported ({error})"
        raise ValueError(f"{why}; its networks need the extra zoo: pip install 'd2rkit[zoo]'") from error
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def find_timm(
    path: str | Path, name: str, key: str | None, image_size: int | None
) -> tuple[Network, Callable[[], nn.Module], int]:
    """The tensors of timm's network `timm:NAME` in a file, what builds that network, and its channels.

    image_size: for networks that are made for one size, such as ViTs (default: the one of their pretrained weights)."""
    timm, word = import_extra("timm"), name.removeprefix("timm:")
    if "/" in word or ":" in word or not timm.is_model(word):
        unknown = nearest(word, timm.list_models(), "network of timm")
        raise ValueError(f"{str(unknown).partition('; allowed')[0]}; see timm.list_models()")
    with torch.device("meta"):
        sketch = timm.create_model(word, pretrained=False)
    config, weights = sketch.pretrained_cfg, [k for k in sketch.state_dict() if k.endswith(".weight")]
    ends = (f"{config.get('first_conv')}.weight", f"{config.get('classifier')}.weight")
    stem, head = (end if end in weights else weights[i] for end, i in zip(ends, (0, -1), strict=True))
    try:
        stored = find_network(path, key, (stem, head))
    except ValueError as error:
        raise ValueError(str(error).replace("no network of this kit", f"no {name}")) from error
    channels = stored.tensors[stem].shape[1] if stored.tensors[stem].ndim > 1 else 3
    options: dict[str, Any] = {"num_classes": len(stored.tensors[head]), "in_chans": channels}
    fixed = config.get("fixed_input_size")
    if fixed and image_size:
        options["img_size"] = image_size

    def build() -> nn.Module:
        network = timm.create_model(word, pretrained=False, **options)
        if fixed:
            network.image_size = image_size or config["input_size"][-1]
        return network

    return stored, build, channels


def default_normalisation(path: str | Path, name: str, channels: int) -> Normalisation | None:
    """The input normalisation that a file's surroundings tell, where neither the user nor its tensors do.

    None for networks of the kit; ValueError, with the values that the network is usually trained with, if it has such
    and nothing beside the file confirms them."""
    unsaid = f"{path} does not tell the input normalisation that this {name} was trained with:"
    if name.endswith("-silu"):
        usual = "mean 0.4914,0.4822,0.4465 and std 0.2471,0.2435,0.2616 (CIFAR-10)"
        raise ValueError(f"{unsaid} RobustBench's code has {usual}; {GIVE}")
    if not name.startswith("timm:"):
        return None
    word, beside = name.removeprefix("timm:"), Path(path).parent / "config.json"
    told = _json(beside)
    config = told.get("pretrained_cfg") if told.get("architecture") == word.partition(".")[0] else None
    if isinstance(config, dict):
        return _checked(config.get("mean"), config.get("std"), channels, beside)
    usual = import_extra("timm").get_pretrained_cfg(word)
    values = [",".join(f"{value:.4g}" for value in values) for values in (usual.mean, usual.std)] if usual else "??"
    raise ValueError(f"{unsaid} timm's own weights have mean {values[0]} and std {values[1]}; {GIVE}")


GIVE = "give --mean and --std (0 and 1 if it was trained on plain pixels)"


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if there is no file. ValueError if it holds anything else."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _checked(mean: Any, std: Any, channels: int, source: Path) -> Normalisation:
    try:
        mean, std = (tuple(map(float, value)) for value in (mean, std))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} holds no mean and std of numbers; {GIVE}") from error
    return checked(mean, std, channels, f"from {source.parent.name}/{source.name}")


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """Without its bar, and without its table of keys that did not fit, which advises to train them."""
    log = transformers.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()


class PixelClassifier(nn.Module):
    """A classifier of transformers as a function of pixels that returns logits."""

    def __init__(self, network: nn.Module, image_size: int | None):
        super().__init__()
        self.network, self.image_size = network, image_size

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).logits


def load_transformers(
    path: str | Path, name: str, key: str | None, mean: str | Sequence[float] | None, std: str | Sequence[float] | None
) -> tuple[nn.Module, list[str], list[str], str]:
    """As load_released, the classifier whose config.json lies in FOLDER of `hf:FOLDER`, with the weights in a file.

    transformers itself fits the tensors, since their names in files and in networks differ between its versions; every
    tensor must still find its place. No code out of the folder is run."""
    folder = Path(name.removeprefix("hf:")).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no config.json of a network; hf: takes a local folder, nothing is fetched")
    content = only_tensors(path, key)
    notes = convert(path, content)
    library = import_extra("transformers")
    try:
        config = library.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        kind = library.AutoModelForImageClassification._model_mapping[type(config)]
        kind = kind[0] if isinstance(kind, (tuple, list)) else kind
        with _quiet(library):
            network, told = kind.from_pretrained(
                None, config=config, state_dict=dict(content), output_loading_info=True, ignore_mismatched_sizes=True,
                local_files_only=True, dtype=torch.float32,
            )  # fmt: skip
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"transformers builds no image classifier from {folder / 'config.json'}: {reason}") from error
    kinds = ("missing", "unexpected", "mismatched")
    faults = {what: sorted(k if isinstance(k, str) else k[0] for k in told.get(f"{what}_keys", ())) for what in kinds}
    if any(faults.values()):
        problem = "; ".join(f"{len(k)} {what} (first: {printable(k[0])})" for what, k in faults.items() if k)
        raise ValueError(f"{path} does not fit {kind.__name__}: {problem}")
    left = sum(t.numel() for t in content.values()) - sum(t.numel() for t in network.state_dict().values())
    if left > 0:  # some classes of transformers leave out tensors without a word
        raise ValueError(f"{path} does not fit {kind.__name__}: {left} of its numbers find no place there")
    size, channels = getattr(config, "image_size", None), getattr(config, "num_channels", 3)
    normalisation = parse_normalisation(mean, std, channels) or processor_normalisation(name, channels)
    model = normalised(PixelClassifier(network, size if isinstance(size, int) else None), normalisation)
    return model, [], notes, str(normalisation or "none, says the image processor")


PROCESSORS = ("preprocessor_config.json", "processor_config.json")
PIXEL_SCALES = (1 / 255, 0.00392156862745098, 0.003921568859368563)  # 1/255, also in float32, as files write it


def processor_normalisation(name: str, channels: int) -> Normalisation | None:
    """The input normalisation that the image processor in FOLDER of `hf:FOLDER` does; None if it does none.

    ValueError, in one sentence, if no processor lies there, or one that scales pixels in another way."""
    folder = Path(name.removeprefix("hf:")).expanduser()
    sources = [file for file in map(folder.joinpath, PROCESSORS) if file.is_file()]
    if not sources:
        raise ValueError(f"{folder} holds no {PROCESSORS[0]} that tells the input normalisation; {GIVE}")
    source, told = sources[0], _json(sources[0])
    told = inner if isinstance(inner := told.get("image_processor"), dict) else told
    if not told.get("do_rescale", True) or told.get("rescale_factor", 1 / 255) not in PIXEL_SCALES:
        raise ValueError(f"{source} does not scale pixels to [0, 1]; {GIVE}, for pixels in [0, 1]")
    if not told.get("do_normalize", True):
        return None
    return _checked(told.get("image_mean"), told.get("image_std"), channels, source)
