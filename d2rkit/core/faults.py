"""An error -> one sentence, and whose fault it is: the input's, the machine's, or the kit's own."""

from __future__ import annotations

import errno
import http.client
import os
import sys
import time
import traceback
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import gettempdir

import torch
from safetensors import SafetensorError

INPUT, MACHINE, UNEXPECTED = "input", "machine", "unexpected"
REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EMFILE: "too many files are open",
    errno.ENOMEM: "there is not enough memory",
}
# torch has no classes of its own for these; the words are those of its writer, its allocator and its readers.
WRITER = ("PytorchStreamWriter", "inline_container.cc", "unexpected pos")
MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
PACKAGES = ("d2rkit", "torch", "torchvision", "numpy", "safetensors", "tyro", "lightning-fabric")


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def fault(error: BaseException) -> tuple[str, str]:
    """Kind (INPUT, MACHINE or UNEXPECTED) and sentence of an error."""
    text = one_line(error)
    if isinstance(error, UnicodeError):
        return MACHINE, f"text could not be encoded or decoded ({text}); set PYTHONUTF8=1"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(w in text for w in MEMORY)):
        return MACHINE, "there is not enough memory; smaller batches or fewer workers need less"
    if isinstance(error, BrokenProcessPool):
        return MACHINE, "the worker process died (out of memory?); the state of its last save is kept"
    if isinstance(error, http.client.HTTPException):
        return MACHINE, f"the network connection broke off ({type(error).__name__}: {text})"
    if isinstance(error, OSError):
        return MACHINE, _of_system(error)
    if isinstance(error, RuntimeError) and any(word in text for word in WRITER):
        return MACHINE, "a file could not be written whole (is the disk full?); what was saved before is kept"
    if isinstance(error, SafetensorError):
        return (MACHINE if "os error" in text else INPUT), f"weights could not be read or written: {text}"
    if isinstance(error, RuntimeError) and "process of" in text and "died" in text:  # of processes.launch()
        return MACHINE, text
    if isinstance(error, ModuleNotFoundError):
        return MACHINE, f"the package {error.name} is missing here: run `d2rkit doctor`"
    if isinstance(error, ValueError):
        return INPUT, text
    return UNEXPECTED, f"{type(error).__name__}: {text}"


def _of_system(error: OSError) -> str:
    reason = REASONS.get(error.errno or 0) or error.strerror or one_line(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    kept = "; what was saved before is kept" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else ""
    return f"{where}{reason}{kept}"


def write_report(error: BaseException, words: Iterable[str]) -> Path | None:
    """Write what a bug report needs (traceback, versions, command line; nothing of the environment) to a file in the
    current folder, else in the one for temporary files; its path, or None if neither can be written."""
    lines = [f"command: {' '.join(words)}", f"python: {sys.version.split()[0]} on {sys.platform}"]
    for package in PACKAGES:
        try:
            lines.append(f"{package}: {version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package}: not installed")
    text = "\n".join([*lines, f"threads: {torch.get_num_threads()}", "", *traceback.format_exception(error)])
    name = f"d2rkit-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (Path.cwd, lambda: Path(gettempdir())):
        try:
            file = folder() / name
            with file.open("x", encoding="utf-8", errors="backslashreplace") as out:
                out.write(text)
            return file
        except OSError:
            continue
    return None
