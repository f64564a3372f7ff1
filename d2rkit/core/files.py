"""Files that appear whole or not at all, and readers that answer with a sentence for what is missing or damaged."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

SMALL = 2**24  # bytes: a text file of a run is a few kB, so that more is not what it says it is


@contextmanager
def write_atomically(path: Path, durable: bool = True) -> Iterator[Path]:
    """A draft beside `path` to write to; it takes the place of `path` when the block ends well.

    durable: the file and its name are on the disk when this returns, so that a power cut leaves the old file or the
    new one. It costs two writes to the disk; what is cheap to make anew and often written does without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{_this_host()}.{os.getpid()}.tmp")
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


def _this_host() -> str:
    """Tells hosts that share a file system apart, without a word of what they are called."""
    return sha256(platform.node().encode()).hexdigest()[:8]


def clear_drafts(folder: Path) -> int:
    """Remove drafts below `folder` whose process has ended on this host, and say how many; for the holder of the
    folder's lock. Of those of other hosts nobody here knows."""
    count = 0
    for draft in folder.rglob(".*.tmp"):
        match = re.fullmatch(rf"\..+\.{_this_host()}\.(\d+)\.tmp", draft.name)
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
        return path.read_text(encoding="utf-8-sig")  # Windows editors put a byte-order mark before UTF-8
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is not UTF-8 text, see byte {error.start}") from error
    except OSError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_json(path: Path) -> Any:
    """ValueError, in one sentence, if the file is missing or damaged."""
    text = read_small_text(path)
    if not text.strip():
        raise ValueError(f"{path} is damaged: it is empty")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is damaged: it is nested too deeply") from error
    except ValueError as error:  # also integers of more digits than Python reads
        raise ValueError(f"{path} is damaged: {error}") from error
