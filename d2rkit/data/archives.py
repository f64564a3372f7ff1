"""The files of a folder or an archive, read one by one within bounds, never extracted: others made what is in it."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from d2rkit.core.validation import printable

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MEMBERS = 500_000  # files in one source; Tiny ImageNet has 120,609
MEMBER = 8 << 20  # bytes of one file; its images have a few thousand
SWELL, SLACK = 100, 64 << 20  # an archive may hold so many times its own bytes, and so many more

Reader = Callable[[str], bytes]


def bound(path: Path) -> int:
    """The bytes that an archive of images may unpack to: photographs hardly shrink, bombs swell a thousandfold."""
    return SWELL * path.stat().st_size + SLACK


@contextmanager
def open_files(source: Path) -> Iterator[tuple[list[str], Reader]]:
    """Names of the plain files in a folder, .zip, .tar, .tar.gz or .tgz, and a function that reads one of them.

    Names are sorted, with `/` between folders and without `./`; hidden files (`.x`, `._x.JPEG`, `__MACOSX`) are left
    out. ValueError, in one sentence, for what is damaged, encrypted, a link, outside the tree, or swells beyond
    bounds. Reading a name that is not there is a KeyError."""
    with ExitStack() as stack:
        try:
            if source.is_dir():
                places = {name: partial(_from_disk, source / name) for name in listing(source)}
            elif source.suffix == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(source))
                places = {name: partial(archive.read, member) for name, member in _in_zip(source, archive).items()}
            else:
                plain = source.open("rb") if source.suffix == ".tar" else _unzipped(source)
                tar = stack.enter_context(tarfile.open(fileobj=stack.enter_context(plain), mode="r:"))
                places = {name: partial(_from_tar, tar, member) for name, member in _in_tar(source, tar).items()}
        except Refused:
            raise
        except Exception as error:  # zipfile, tarfile, zlib and the disk each have their own
            raise ValueError(f"{source} cannot be read as an archive (truncated?): {printable(error)}") from error

        def read(name: str) -> bytes:
            place = places[name]
            try:
                return place()
            except Exception as error:
                raise ValueError(f"{source}: {printable(name)} is missing or damaged ({printable(error)})") from error

        yield sorted(places), read


class Refused(ValueError):
    """What is wrong with a source, in one sentence."""


def listing(folder: Path) -> dict[str, os.stat_result]:
    """Name and state of every plain file below `folder`. Refused for links that lead out of it or nowhere."""
    top, states = folder.resolve(), {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*files, *folders):
            path = Path(place, name)
            state = path.lstat()
            if stat.S_ISLNK(state.st_mode):
                try:
                    inside = path.resolve(strict=True).is_relative_to(top)
                except (OSError, RuntimeError):  # Python 3.12 and older raise RuntimeError for a ring
                    raise Refused(f"{folder}: {printable(path.relative_to(folder))} is a link to nowhere") from None
                if not inside:
                    raise Refused(
                        f"{folder}: {printable(path.relative_to(folder))} is a link that leads out of the folder"
                    )
                state = path.stat()
            if stat.S_ISREG(state.st_mode) and (kept := _clean(folder, path.relative_to(folder).as_posix())):
                states[kept] = state
            if len(states) > MEMBERS:
                raise Refused(f"{folder} holds more than {MEMBERS:,} files; that is not an image set of this kit")
    return states


def fingerprint(source: Path) -> str:
    """A digest of the names, sizes and times of the files in a folder, or of an archive's own."""
    states = listing(source) if source.is_dir() else {source.name: source.stat()}
    lines = (f"{name!a} {state.st_size} {state.st_mtime_ns}\n" for name, state in sorted(states.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _clean(source: Path, name: str) -> str:
    """`name` without `./`; "" if it is hidden."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts:
        raise Refused(f"{source} holds {name[:80]!a}, which leads out of its folder")
    return "" if any(part.startswith(".") or part == "__MACOSX" for part in parts) else "/".join(parts)


def _bounded(source: Path, sizes: Iterable[tuple[str, int]]) -> None:
    total, limit = 0, bound(source)
    for count, (name, size) in enumerate(sizes):
        total += size
        if count >= MEMBERS or total > limit or size > MEMBER:
            what = f"{name[:80]!a} of {size:,} bytes" if size > MEMBER else f"{count + 1:,} files of {total:,} bytes"
            raise Refused(f"{source} would unpack to {what}, which no archive of small images does")


def _in_zip(source: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    readable = {}
    members = archive.infolist()
    for member in members:
        if not (name := _clean(source, member.filename)) or member.is_dir():
            continue
        if member.flag_bits & 1:
            raise Refused(f"{source} is encrypted ({name[:80]!a}); unpack it first")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused(f"{source}: {name[:80]!a} is a link; only plain files are read")
        readable[name] = member
    _bounded(source, ((name, member.file_size) for name, member in readable.items()))
    return readable


def _in_tar(source: Path, archive: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    readable = {}
    for count, member in enumerate(archive):
        if count > MEMBERS:
            raise Refused(f"{source} holds more than {MEMBERS:,} members; that is not an image set of this kit")
        if not (name := _clean(source, member.name)) or member.isdir():
            continue
        if not member.isreg():
            raise Refused(f"{source}: {name[:80]!a} is a link or a device; only plain files are read")
        readable[name] = member
    _bounded(source, ((name, member.size) for name, member in readable.items()))
    return readable


def _unzipped(source: Path) -> IO[bytes]:
    """A .tar.gz as a .tar, in a file without a name: reading member after member would unpack it anew each time."""
    plain, limit = tempfile.TemporaryFile(), bound(source)  # noqa: SIM115, the caller closes it
    with gzip.open(source) as packed:
        while chunk := packed.read(1 << 20):
            plain.write(chunk)
            if plain.tell() > limit:
                plain.close()
                raise Refused(f"{source} would unpack to more than {limit:,} bytes, which no archive of images does")
    plain.seek(0)
    return plain


def _from_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "_in_tar keeps plain files only"
    return file.read()


def _from_disk(path: Path) -> bytes:
    if path.stat().st_size > MEMBER:
        raise ValueError(f"of {path.stat().st_size:,} bytes")
    return path.read_bytes()
