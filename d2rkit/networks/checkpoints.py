"""Checkpoints: weights as safetensors with their digests, training state that loads without running code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from d2rkit.core.digests import tensors_digest
from d2rkit.core.files import write_atomically
from d2rkit.methods.pair import GuidedPair


def _first_line(error: Exception) -> str:
    """What an error says, in one line; an EOFError says nothing, so its name stands for it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, each in memory of its own, as safetensors wants them: layers may share their weights."""
    kept: dict[int, Tensor] = {}
    result = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        first = kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        result[name] = tensor if first is tensor else tensor.clone()
    return result


def save_weights(path: Path, target: nn.Module, guide: nn.Module | None) -> None:
    """Both networks in one safetensors file, names prefixed `target.` and `guide.`, each one's digest in its header."""
    networks = {"target": target} | ({"guide": guide} if guide is not None else {})
    states = {name: network.state_dict() for name, network in networks.items()}
    tensors = unshared({f"{n}.{k}": v for n, state in states.items() for k, v in state.items()})
    digests = json.dumps({name: tensors_digest(state) for name, state in states.items()})
    with write_atomically(path) as draft:
        # One entry: several have no order, and then the same weights would not be the same bytes. Written by us:
        # save_file() leaves drafts of its own behind and refuses paths that are not UTF-8.
        draft.write_bytes(save(tensors, metadata={DIGESTS: digests}))


DIGESTS = "digests"  # of each network's tensors, as JSON, in the header of the file that holds them
DOS_FOLDER = 0x10  # in the attributes of a part of a zip file
ROUNDED = "rounded_from"  # digests of the networks that a file holds in float16, as they were before


def half_precision(path: Path) -> bytes:
    """The weights file with its float32 tensors in float16, half as large; its header also has the digests of the
    float32 tensors. load_weights gives float32 networks again, with the rounded values.

    ValueError if the file is missing or damaged or a value has no place in float16."""
    with _opened(path) as file:
        before = _digests(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    _check_digests(path, tensors, before)
    rounded = {name: t.half() if t.dtype == torch.float32 else t for name, t in tensors.items()}
    for name, tensor in rounded.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: {name} has values that float16 cannot hold")
    # One entry, see save_weights.
    facts = {**_by_network(rounded), ROUNDED: before or _by_network(tensors)}
    return save(rounded, metadata={DIGESTS: json.dumps(facts)})


def rounded_from(path: Path) -> dict[str, str]:
    """Of a file written by half_precision: the digests of the networks that were rounded; empty for other files.
    ValueError if the file is missing or damaged."""
    with _opened(path) as file:
        digests = _header(file).get(ROUNDED, {})
    return digests if isinstance(digests, dict) else {}


def _by_network(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The digest of each network whose tensors these are."""
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, _, rest = name.partition(".")
        networks.setdefault(network, {})[rest] = tensor
    return {name: tensors_digest(state) for name, state in networks.items()}


def load_weights(path: str | Path, pair: GuidedPair) -> GuidedPair:
    """Load a run's weights into `pair`, strictly; ValueError if the file is missing, damaged or does not fit.

    Tensors are held against the digests beside them; files of versions without digests are taken as they are."""
    path = Path(path)
    with _opened(path) as file:
        beside = _digests(file)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    _check_digests(path, tensors, beside)
    try:
        pair.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint {path} does not fit these networks: {reason}") from error
    return pair


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open; ValueError if it is missing or cannot be read, here or inside."""
    if not path.is_file():
        raise ValueError(f"checkpoint {path} {'is not a file' if path.exists() else 'does not exist'}")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} is damaged (truncated?): {error}") from error


def _check_digests(path: Path, tensors: Mapping[str, Tensor], beside: Mapping[str, str]) -> None:
    if not beside:  # an older version's, or a file that another program has written
        return
    if _by_network(tensors) != beside:
        raise ValueError(f"checkpoint {path} is damaged: its tensors are not those whose digest stands beside them")


def _header(file: Any) -> dict[str, Any]:
    """What save_weights and half_precision say of an open safetensors file; what makes no sense gives a digest that
    nothing has."""
    kept = (file.metadata() or {}).get(DIGESTS)
    try:
        header = json.loads(kept) if kept is not None else {}
    except (ValueError, RecursionError):
        header = kept
    return header if isinstance(header, dict) else {"": str(header)}


def _digests(file: Any) -> dict[str, str]:
    """Of each network in an open safetensors file."""
    digests = {name: digest for name, digest in _header(file).items() if name != ROUNDED}
    return digests if all(isinstance(v, str) for v in digests.values()) else {"": str(digests)}


def digests_beside(path: Path) -> dict[str, str]:
    """The digests in a weights file's header by network, none in a file of an older version; tensors are not read.
    ValueError if the file cannot be read."""
    with _opened(path) as file:
        return _digests(file)


def save_resume(path: Path, state: dict[str, Any]) -> None:
    with write_atomically(path) as draft:
        torch.save(state, draft)


def load_resume(path: Path, wanted: Iterable[str] = ()) -> dict[str, Any]:
    """The training state, loaded without running code in the file; ValueError if it is damaged or lacks what is
    wanted. torch.save writes a checksum of each part that torch.load does not look at, so it is looked at here."""
    try:
        with zipfile.ZipFile(path) as parts:
            if (broken := parts.testzip()) is not None:
                raise ValueError(f"the checksum of {broken} is wrong")
            if folders := [part.filename for part in parts.infolist() if part.external_attr & DOS_FOLDER]:
                raise ValueError(f"{folders[0]} is marked as a folder")  # torch.load would read nothing from it
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not state.keys() >= set(wanted):
            raise ValueError("it is not the state of a training")
    except Exception as error:  # zip, pickle and tensor readers each have their own exceptions
        reason = _first_line(error)
        raise ValueError(f"{path} is damaged ({reason}); move it away to train again") from error
    return state
