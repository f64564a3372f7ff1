"""Files that appear whole or not at all: weights as safetensors, training state loadable without code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from d2rkit.pair import GuidedPair


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A draft beside `path` to write to; it takes the place of `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    with write_atomically(path) as draft:
        draft.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """ValueError, in one sentence, if the file is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _first_line(error: Exception) -> str:
    """What an error says, in one line; an EOFError says nothing, so its name stands for it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def save_weights(path: Path, target: nn.Module, guide: nn.Module | None) -> None:
    """Both networks in one safetensors file, names prefixed `target.` and `guide.`."""
    networks = {"target": target} | ({"guide": guide} if guide is not None else {})
    tensors = {f"{n}.{k}": v.detach().contiguous() for n, net in networks.items() for k, v in net.state_dict().items()}
    with write_atomically(path) as draft:
        save_file(tensors, draft)


def load_weights(path: str | Path, pair: GuidedPair) -> GuidedPair:
    """Load a run's weights into `pair`, strictly; ValueError if the file is missing, damaged or does not fit."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path} does not exist")
    try:
        pair.load_state_dict(load_file(path), strict=True)
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} is damaged (truncated?): {error}") from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"checkpoint {path} does not fit these networks: {reason}") from error
    return pair


def save_resume(path: Path, state: dict[str, Any]) -> None:
    with write_atomically(path) as draft:
        torch.save(state, draft)


def load_resume(path: Path) -> dict[str, Any]:
    """The training state, loaded without running code in the file; ValueError if it is damaged."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and tensor readers each have their own exceptions
        reason = _first_line(error)
        raise ValueError(f"{path} is damaged ({reason}); move it away to train anew") from error
