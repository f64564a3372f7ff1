"""Files that appear whole or not at all: weights as safetensors, training state loadable without code."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from d2rkit.digests import tensors_digest
from d2rkit.pair import GuidedPair

SMALL = 2**24  # bytes: a text file of a run is a few kB, so that more is not what it says it is


@contextmanager
def write_atomically(path: Path, durable: bool = True) -> Iterator[Path]:
    """A draft beside `path` to write to; it takes the place of `path` when the block ends well.

    durable: the file and its name are on the disk when this returns, so that a power cut leaves the old file or the
    new one. It costs two writes to the disk; what is cheap to make anew and often written does without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        if durable:
            _to_disk(draft)
        os.replace(draft, path)
        if durable:
            with suppress(OSError):  # some network file systems know no such call for folders
                _to_disk(path.parent)
    finally:
        with suppress(OSError):  # on a file system that has become read-only this must not hide why
            draft.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def clear_drafts(folder: Path) -> int:
    """Remove drafts below `folder` whose process has ended, and say how many; for the holder of the folder's lock."""
    count = 0
    for draft in folder.rglob(".*.tmp"):
        match = re.fullmatch(r"\..+\.(\d+)\.tmp", draft.name)
        # One of our own number is that of an earlier process: we hold the lock and have written nothing yet.
        if match and draft.is_file() and (int(match[1]) == os.getpid() or not _alive(int(match[1]))):
            draft.unlink(missing_ok=True)
            count += 1
    return count


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_json(path: Path, content: Any) -> None:
    with write_atomically(path) as draft:
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        draft.write_text(text + "\n", encoding="utf-8")


def read_small_text(path: Path) -> str:
    """A text file of at most 16 MiB; ValueError, in one sentence, if it is missing, damaged or no such file."""
    if not path.is_file():  # a folder, a pipe that never ends, a link to itself
        raise ValueError(f"{path} is not a file" if os.path.lexists(path) else f"{path} does not exist")
    try:
        if path.stat().st_size > SMALL:
            raise ValueError(f"{path} is damaged: {path.stat().st_size} bytes, of which {SMALL} are allowed")
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """ValueError, in one sentence, if the file is missing or damaged."""
    text = read_small_text(path)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is damaged: it is nested too deeply") from error
    except ValueError as error:  # also integers of more digits than Python reads
        raise ValueError(f"{path} is damaged: {error}") from error


def _first_line(error: Exception) -> str:
    """What an error says, in one line; an EOFError says nothing, so its name stands for it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def save_weights(path: Path, target: nn.Module, guide: nn.Module | None) -> None:
    """Both networks in one safetensors file, names prefixed `target.` and `guide.`, each one's digest in its header."""
    networks = {"target": target} | ({"guide": guide} if guide is not None else {})
    states = {name: network.state_dict() for name, network in networks.items()}
    tensors = {f"{n}.{k}": v.detach().contiguous() for n, state in states.items() for k, v in state.items()}
    digests = json.dumps({name: tensors_digest(state) for name, state in states.items()})
    with write_atomically(path) as draft:
        # One entry: several have no order, and then the same weights would not be the same bytes. Written by us:
        # save_file() leaves drafts of its own behind and refuses paths that are not UTF-8.
        draft.write_bytes(save(tensors, metadata={DIGESTS: digests}))


DIGESTS = "digests"  # of each network's tensors, as JSON, in the header of the file that holds them


def load_weights(path: str | Path, pair: GuidedPair) -> GuidedPair:
    """Load a run's weights into `pair`, strictly; ValueError if the file is missing, damaged or does not fit.

    Tensors are held against the digests beside them; files of versions without digests are taken as they are."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    try:
        with safe_open(path, "pt") as file:
            beside = _digests(file)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} is damaged (truncated?): {error}") from error
    _check_digests(path, tensors, beside)
    try:
        pair.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint {path} does not fit these networks: {reason}") from error
    return pair


def _check_digests(path: Path, tensors: Mapping[str, Tensor], beside: Mapping[str, str]) -> None:
    if not beside:  # an older version's, or a file that another program has written
        return
    networks: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        network, _, rest = name.partition(".")
        networks.setdefault(network, {})[rest] = tensor
    if {name: tensors_digest(state) for name, state in networks.items()} != beside:
        raise ValueError(f"checkpoint {path} is damaged: its tensors are not those whose digest stands beside them")


def _digests(file: Any) -> dict[str, str]:
    """Of an open safetensors file; a header that makes no sense gives a digest that nothing has."""
    kept = (file.metadata() or {}).get(DIGESTS)
    try:
        found = json.loads(kept) if kept is not None else {}
    except (ValueError, RecursionError):
        found = kept
    return found if isinstance(found, dict) and all(isinstance(v, str) for v in found.values()) else {"": str(found)}


def digests_beside(path: Path) -> dict[str, str]:
    """The digests in a weights file's header by network, none in a file of an older version; tensors are not read.
    ValueError if the file cannot be read."""
    if not path.is_file():
        raise ValueError(f"checkpoint {path} is not a file")
    try:
        with safe_open(path, "pt") as file:
            return _digests(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} is damaged (truncated?): {error}") from error


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
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not state.keys() >= set(wanted):
            raise ValueError("it is not the state of a training")
    except Exception as error:  # zip, pickle and tensor readers each have their own exceptions
        reason = _first_line(error)
        raise ValueError(f"{path} is damaged ({reason}); move it away to train anew") from error
    return state
