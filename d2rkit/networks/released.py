"""Checkpoint files of the field: named tensors out of whatever they are wrapped in, without running code in them."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from d2rkit.core.paths import check_path
from d2rkit.core.validation import nearest, printable
from d2rkit.networks.normalisation import BUFFERS

DEPTH = 6  # how deep a state dict may lie in dicts of dicts
# What wraps a network in training code: DataParallel, torch.compile, Lightning, Sequential(Normalize, network), ...
WRAPPERS = re.compile(r"(module|model|net|network|backbone|encoder|_orig_mod|target|\d+)$")
AVERAGED = re.compile(r"(^|[._])(\w*ema|ema\w*|swa|averaged|avg|shadow)([._]|$)", re.I)
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|rng|amp$", re.I)  # states of training, which hold tensors as well


def _stand_in(name: str) -> type:
    """A class that takes the place of another in a pickle and does nothing. So what often lies beside the weights
    (options, paths, NumPy scalars) can be skipped, and none of its code runs."""
    module, _, last = name.rpartition(".")
    methods = {"__init__": lambda self, *_, **__: None, "__new__": lambda cls, *_, **__: object.__new__(cls)}
    methods |= {"__setstate__": lambda self, state: None, "__module__": module, "__qualname__": last}
    return type(last, (), methods)


def _defaultdict(*_: Any) -> dict:
    return {}


_defaultdict.__module__, _defaultdict.__name__, _defaultdict.__qualname__ = "collections", *["defaultdict"] * 2
_NUMPY = [f"numpy.{core}.multiarray.{f}" for core in ("core", "_core") for f in ("scalar", "_reconstruct")]
_NUMPY += ["numpy.dtype", "numpy.ndarray", "numpy.bool_", "numpy.float64", "numpy.float32", "numpy.int64"]
_PATHS = [f"pathlib{m}.{p}Path" for m in ("", "._local") for p in ("", "Posix", "Windows", "PurePosix", "PureWindows")]
_PLAIN = ["builtins.list", "builtins.dict", "builtins.int", "builtins.float", "builtins.str", "builtins.bool"]
_OTHERS = ["argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta", "decimal.Decimal"]
SAFE = [_stand_in(name) for name in (*_NUMPY, *_PATHS, *_PLAIN, *_OTHERS)] + [_defaultdict]


def read_file(path: str | Path) -> Any:
    """What a .safetensors file or a torch file holds, told apart by content, without running code in it.
    ValueError, in one sentence, if it is missing, damaged, something else, or needs code to be read."""
    path = check_path(path)
    if path.is_dir():
        inside = " and ".join(name for name in ("best.safetensors", "last.safetensors") if (path / name).is_file())
        hint = f"; it is a run's, whose weights are {inside} in it" if inside else ""
        raise ValueError(f"checkpoint {path} is a folder, not a file{hint}")
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    with path.open("rb") as file:
        start = file.read(1024)
    if what := _something_else(path, start):
        raise ValueError(f"{path} cannot be read as a checkpoint: it is {what}")
    try:
        if start[8:9] == b"{":
            return load_safetensors(path.read_bytes())
        with path.open("rb") as file, torch.serialization.safe_globals(SAFE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols and old storages
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and tensor readers each have their own exceptions
        reason = "its content is damaged (truncated?)"
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):  # torch's own text advises to load it unsafely
            reason = f"it holds an object of {match[1]}, which needs code to be read; save a state_dict alone"
        raise ValueError(f"{path} cannot be read as a checkpoint: {reason}") from error


def _something_else(path: Path, start: bytes) -> str:
    """What a file is that no checkpoint is, by its first bytes; "" if it may be one."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "empty"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to; run `git lfs pull` where it came from"
    if re.match(rb"<(!doctype html|html|head|body|!--|\?xml)", text):
        return "a web page, not the file it links to; download the file itself"
    for magic, what in ((b"\x1f\x8b", "gzip"), (b"7z\xbc\xaf", "7z"), (b"Rar!", "RAR"), (b"\xfd7zXZ", "xz")):
        if start.startswith(magic):
            return f"a {what} archive; unpack it first"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, which other frameworks write"
    if start[:1] == b"\x08" and start[2:3] == b"\x12" and start[8:9] != b"{":  # ir_version, then producer_name
        return "an ONNX program, not a network's tensors; `d2rkit export RUN --to safetensors` writes those"
    if start.startswith(b"PK"):
        return _odd_zip(path)
    if not re.search(rb"^\x80|[\0-\x08\x0e-\x1f]", start):  # what every format of tensors begins with
        return "a text file"
    return ""


def _odd_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # whatever a damaged directory brings about
        return "a zip archive whose directory is damaged (truncated?)"
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        return "a TorchScript program, which would run code; save the network's state_dict instead"
    if not any(name.endswith("/data.pkl") for name in names):
        first = f" (it holds {names[0][:60]!a})" if names else ""
        return f"a zip archive of something else{first}; unpack it first"
    if sum(member.file_size for member in members) > 2 * path.stat().st_size + (1 << 20):  # torch compresses nothing
        return "a zip archive that swells when it is unpacked, which no checkpoint does"
    return ""


class StateDict(NamedTuple):
    """A state dict within a file: where it lies ("" if the file is one), its tensors, and what else lies in it."""

    place: str
    tensors: dict[str, Tensor]
    others: list[str]


def state_dicts(content: Any) -> list[StateDict]:
    """Every dict of named tensors, at most DEPTH levels down, but those of optimisers and the like."""
    dicts, pending, seen = [], [("", content)], set()  # a pickle can hold itself
    for _ in range(DEPTH):
        below: list[tuple[str, Any]] = []
        for place, node in pending:
            if id(node) in seen:
                continue
            seen.add(id(node))
            named = {k: v for k, v in node.items() if isinstance(k, str)} if isinstance(node, Mapping) else {}
            tensors = {k: v for k, v in named.items() if isinstance(v, Tensor)}
            if tensors and (len(tensors) == len(named) or any(k.endswith(".weight") for k in tensors)):
                dicts.append(StateDict(place, tensors, sorted(named.keys() - tensors.keys())))
            else:
                inner = ((k, v) for k, v in named.items() if isinstance(v, Mapping) and not NOT_WEIGHTS.search(k))
                below += [(f"{place}.{k}" if place else k, v) for k, v in inner]
        pending = below
    layers = [f for f in dicts if any(k.rpartition(".")[2] == "weight" for k in f.tensors)]
    return layers or dicts


# Which tensors only one network of the kit has, besides the blocks that all of them have.
SIGNS = (
    ("conv1.weight", "fc.weight"),  # WideResNet, and ResNet-50 of torchvision
    ("conv1.weight", "linear.weight"),  # ResNet-18, PreActResNet-18, ResNet-50 for CIFAR
    ("init_conv.weight", "logits.weight"),  # WideResNet with SiLU
    ("stem.weight", "linear.weight"),  # PatchResNet
    ("convs.0.weight", "linear.weight"),  # SmallCNN
    ("1.weight", "3.weight", "5.weight", "5.bias"),  # MLP
)


def prefixes(state: Mapping[str, Tensor], own: Sequence[str] = ()) -> list[str]:
    """What stands before the names of each network of this kit in a state dict: "", "module.", "target.", ...; of the
    networks that have the tensors `own`, if there are any."""
    roots = []
    for signs in (tuple(own),) if own else SIGNS:
        last = signs[-1]
        for name in state:
            prefix = name.removesuffix(last)
            if name.endswith(last) and prefix[-1:] in ("", ".") and all(prefix + sign in state for sign in signs):
                roots.append(prefix)
    return sorted(set(roots))


class Network(NamedTuple):
    """One network's tensors, by its own names. place: where it lies in the file, as `key=` calls it; prefix: the part
    of place that stands before the tensors' names; beside: the tensors with it that are below no network's prefix.
    notes: sentences on how it was found."""

    place: str
    prefix: str
    tensors: dict[str, Tensor]
    beside: dict[str, Tensor]
    notes: list[str]


def find_network(path: str | Path, key: str | None = None, own: Sequence[str] = ()) -> Network:
    """The network of this kit in a checkpoint: the only one, the one at `key`, the target of a pair of the kit, or the
    averaged weights beside plain ones. own: the tensors of a registered network, to find instead. ValueError, in one
    sentence, if there is none or no telling."""
    content = read_file(path)
    dicts = state_dicts(content)
    if not dicts:
        raise ValueError(f"{path} does not hold a network's named tensors")
    networks = [network for state_dict in dicts for network in _networks(state_dict, own)]
    if not networks:
        names = ", ".join(sorted(dicts[0].tensors)[:3])
        raise ValueError(
            f"{path} holds no network of this kit (its tensors: {printable(names)}, ...); "
            "one of your own: --network NAME --plugin FILE, see docs/your_own.md"
        )
    chosen = _chosen(path, networks, key)
    strange = [word for word in chosen.prefix.split(".") if word and not WRAPPERS.match(word)]
    if len(networks) == 1 and strange and not key:
        prefix, place = printable(chosen.prefix), printable(chosen.place)
        hint = f"a wrapper the kit does not know; if it only hands on, --key {place} takes it"
        raise ValueError(f"{path} holds a network below `{prefix}`, {hint}")
    if chosen.place:
        chosen.notes.insert(0, f"read from `{printable(chosen.place)}` of the file")
    if isinstance(content, Mapping) and any(k in content for words in BUFFERS for k in words) and dicts[0].place:
        chosen.notes.append("a mean or std lies beside the weights in the file and was not used: give it yourself")
    return chosen


def _networks(state_dict: StateDict, own: Sequence[str]) -> Iterator[Network]:
    roots = prefixes(state_dict.tensors, own)
    beside = {k: v for k, v in state_dict.tensors.items() if not k.startswith(tuple(roots))}
    for root in roots:
        longer = tuple(other for other in roots if other != root and other.startswith(root))
        kept = {k: v for k, v in state_dict.tensors.items() if k.startswith(root) and not k.startswith(longer)}
        place = ".".join(filter(None, (state_dict.place, root.removesuffix("."))))
        notes = [f"no tensors and left out: {printable(', '.join(state_dict.others))}"] if state_dict.others else []
        yield Network(place, root, {k.removeprefix(root): v for k, v in kept.items()}, beside, notes)


def _chosen(path: str | Path, networks: list[Network], key: str | None) -> Network:
    places = [network.place or "(the file itself)" for network in networks]
    listed = printable(", ".join(places))
    if key:
        fitting = [n for n in networks if f".{key.strip('.')}." in f".{n.place}."]
        exact = [n for n in fitting if n.place == key.strip(".")]
        if not fitting:
            raise nearest(key, places, f"key of {path}")
        if len(exact or fitting) > 1:
            raise ValueError(f"--key {key} fits several networks of {path}; choose one of {listed}")
        return (exact or fitting)[0]
    if len(networks) == 2 and _same(*(network.tensors for network in networks)):
        networks = [_without_copy(*sorted(networks, key=lambda network: len(network.place)))]
    if len(networks) == 1:
        return networks[0]
    words = {n.place.rpartition(".")[2]: n for n in networks}
    averaged = [n for n in networks if AVERAGED.search(n.place)]
    if len(networks) == 2 and words.keys() == {"target", "guide"}:
        chosen, why = words["target"], "the target was taken, not the guide"
    elif len(networks) == 2 and len(averaged) == 1:
        chosen, why = averaged[0], "the averaged weights were taken, not the plain ones"
    else:
        raise ValueError(f"{path} holds {len(networks)} networks; choose one with --key: {listed}")
    other = next(n.place for n in networks if n is not chosen)
    chosen.notes.append(f"{why}{f' (that is at --key {printable(other)})' if other else ''}")
    return chosen


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _without_copy(network: Network, copy: Network) -> Network:
    """`network`, without what lies beside it for its copy, such as the normaliser of an attack's wrapper, if that is a
    copy as well."""
    around = copy.prefix.removesuffix(".").rpartition(".")[0] + "."
    inside = {k: v for k, v in network.beside.items() if k.startswith(around) and around not in (".", network.prefix)}
    outside = {k: v for k, v in network.beside.items() if k not in inside}
    copied = all(any(torch.equal(tensor, other) for other in outside.values()) for tensor in inside.values())
    note = f"the file holds it twice; the copy at `{printable(copy.place)}` was left out"
    return network._replace(beside=outside if copied else network.beside, notes=[*network.notes, note])


def only_tensors(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """The one state dict in a file, or the one at `key`, of whatever network; ValueError, in one sentence, if there is
    none or no telling."""
    dicts = state_dicts(read_file(path))
    places = [state_dict.place or "(the file itself)" for state_dict in dicts]
    fitting = [state_dict for state_dict in dicts if not key or state_dict.place == key.strip(".")]
    if not dicts:
        raise ValueError(f"{path} does not hold a network's named tensors")
    if not fitting:
        raise nearest(key, places, f"key of {path}")
    if len(fitting) > 1:
        raise ValueError(f"{path} holds {len(dicts)} networks; choose one with --key: {printable(', '.join(places))}")
    tensors = fitting[0].tensors
    for wrapper in ("module.", "_orig_mod."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def complete(tensors: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """With BatchNorm's batch counters, which old files lack and no evaluation needs; and a word on that."""
    lacking = [k for k in wanted if k.endswith(".num_batches_tracked") and k not in tensors]
    filled = tensors | {k: torch.zeros((), dtype=torch.long) for k in lacking}
    return filled, [f"{len(lacking)} BatchNorm counters (num_batches_tracked) were filled in"] if lacking else []


def convert(path: str | Path, state: dict[str, Tensor]) -> list[str]:
    """Turn `state` into float32 and counters; what was converted. ValueError for what holds no plain numbers."""
    seen = set()
    for name, tensor in state.items():
        counter = name.endswith(".num_batches_tracked")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f"{path}: {name} is not a plain tensor of numbers")
        if not counter and not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} holds {tensor.dtype}, not floating-point weights")
        if not counter and not tensor.float().isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite")
        if not counter and tensor.dtype != torch.float32:
            seen.add(str(tensor.dtype).removeprefix("torch."))
        state[name] = tensor.detach().to(torch.long if counter else torch.float32)
    return [f"weights of type {', '.join(sorted(seen))} were converted to float32"] if seen else []


def architecture(path: str | Path, state: dict[str, Tensor]) -> tuple[str, int, int, int]:
    """Name, classes, image size and channels of the network whose tensors these are; ValueError if they are odd."""
    head = next(name for name in ("fc.weight", "linear.weight", "5.weight", "logits.weight") if name in state)
    stems = ("conv1.weight", "stem.weight", "convs.0.weight", "1.weight", "init_conv.weight")
    stem = next(name for name in stems if name in state)
    flat = stem == "1.weight"
    for name, dimensions in ((head, 2), (stem, 2 if flat else 4)):
        shape = tuple(state[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise ValueError(f"{path} holds no network of this kit (odd shapes: {name} is {shape})")
    classes, features = state[head].shape
    width, channels = state[stem].shape[:2]
    if flat:
        return f"mlp-{width}", classes, channels, 1
    if stem == "convs.0.weight":
        return f"cnn-{width}", classes, 32, channels
    if stem == "stem.weight":  # a kernel of twice the stride, and at least 3
        return f"patch-resnet-{width}", classes, 16 * max(1, state[stem].shape[2] // 2), channels
    if "layer1.0.conv3.weight" in state:
        return "resnet50" if head == "fc.weight" else "resnet50-cifar", classes, 32, channels
    if head in ("fc.weight", "logits.weight"):
        silu = head == "logits.weight"
        block, name = ("layer.0.block", "conv_0.weight") if silu else ("block1.layer", "conv1.weight")
        depth = 6 * sum(re.fullmatch(rf"{block}\.\d+\.{name}", k) is not None for k in state) + 4
        first = state.get(f"{block}.0.{name}", state[stem])
        widen = first.shape[0] // 16 if first.ndim else 0
        size = 64 if features == 256 * widen and not silu else 32
        return f"wrn-{depth}-{widen}{'-silu' if silu else ''}", classes, size, channels
    if "bn1.weight" in state:
        return "resnet18-guide", classes, 32, channels
    if "bn.weight" not in state and features == 512:
        return "preactresnet18-wong", classes, 32, channels
    return "preactresnet18", classes, 64 if features == 2048 else 32, channels
