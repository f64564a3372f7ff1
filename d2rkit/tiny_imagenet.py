"""Tiny ImageNet (200 classes, 64x64 pixels), from its folder or archive to arrays.

Its validation split serves as the test set: the official test set has no labels. Class numbers
follow `wnids.txt`. Greyscale files (about 2 %) become RGB.
"""

from __future__ import annotations

import io
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import md5
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from d2rkit.arrays import Split, nchw, read_cache, write_cache

NAME = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIZE = 64

Reader = Callable[[str], bytes]
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError)


def load_tiny_imagenet(root: Path, download: bool = True) -> tuple[Split, Split, tuple[str, ...], str]:
    """Train and test splits, class names and a word on the source. Looks in `root` for a cache, a
    folder or a .zip/.tar archive whose name starts with `tiny-imagenet-200`; else downloads the
    official archive. ValueError, in one sentence, if there is none or it is damaged."""
    found = sorted(p for p in root.glob(f"{NAME}*") if p.is_dir() or p.suffix in (".zip", ".tar"))
    cached = sorted((root / "cache").glob(f"{NAME}*.safetensors"))
    stem = found[0].stem if found else cached[0].stem if cached else NAME
    cache = root / "cache" / f"{stem}.safetensors"
    if not cache.exists():
        source = found[0] if found else _download(root) if download else None
        if source is None:
            raise ValueError(_where_to_put(root))
        with open_files(source) as (names, read):
            train, test, class_names = decode(source, names, read)
        write_cache(cache, train, test, class_names)
    train, test, class_names = read_cache(cache)
    return train, test, class_names, f"{stem}, {len(class_names)} classes"


def decode(source: Path, names: list[str], read: Reader) -> tuple[Split, Split, tuple[str, ...]]:
    """Every image of the folder or archive as arrays; `names` are paths below the data set's top folder."""
    try:
        wnids = read("wnids.txt").decode().split()
        words = dict(line.split("\t", 1) for line in read("words.txt").decode().splitlines() if "\t" in line)
        annotations = [line.split("\t")[:2] for line in read("val/val_annotations.txt").decode().splitlines()]
    except KeyError as error:
        raise ValueError(f"{source} is not Tiny ImageNet: {error.args[0]} is missing") from error
    number = {wnid: i for i, wnid in enumerate(wnids)}
    train = [(n, n.split("/")[1]) for n in names if n.startswith("train/") and n.endswith(".JPEG")]
    test = [(f"val/images/{file}", wnid) for file, wnid in annotations]
    strays = sorted({wnid for _, wnid in train + test} - number.keys())
    if strays:
        raise ValueError(f"{source} holds images of class {strays[0]}, which is not in wnids.txt")
    if not train or not test:
        raise ValueError(f"{source} holds {len(train)} training and {len(test)} validation images; both are needed")
    class_names = tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids)
    with tqdm(total=len(train) + len(test), desc=f"decoding {source.name}", unit="image") as bar:
        splits = (_split(source, [(n, number[wnid]) for n, wnid in part], read, bar) for part in (train, test))
        return *splits, class_names


def _split(source: Path, files: list[tuple[str, int]], read: Reader, bar: tqdm) -> Split:
    images = np.empty((len(files), SIZE, SIZE, 3), np.uint8)
    for i, (name, _) in enumerate(files):
        try:
            picture = Image.open(io.BytesIO(read(name))).convert("RGB")
        except (KeyError, OSError, UnidentifiedImageError) as error:
            raise ValueError(f"{source}: {name} is missing or damaged ({error})") from error
        if picture.size != (SIZE, SIZE):
            raise ValueError(f"{source}: {name} is {picture.size[0]}x{picture.size[1]} pixels, not {SIZE}x{SIZE}")
        images[i] = np.asarray(picture)
        bar.update()
    labels: Tensor = torch.tensor([label for _, label in files])
    return Split(nchw(images), labels)


@contextmanager
def open_files(source: Path) -> Iterator[tuple[list[str], Reader]]:
    """File names below the top folder of `source`, and a function that reads one (KeyError if missing)."""
    with ExitStack() as stack:
        if source.is_dir():
            names = sorted(p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file())

            def raw(name: str) -> bytes:
                return (source / name).read_bytes()

            inside = dict(zip(names, names, strict=True))
        else:
            try:
                if source.suffix == ".zip":
                    archive = stack.enter_context(zipfile.ZipFile(source))
                    names, raw = archive.namelist(), archive.read
                else:
                    archive = stack.enter_context(tarfile.open(source))
                    names = archive.getnames()

                    def raw(name: str) -> bytes:
                        member = archive.extractfile(name)
                        return member.read() if member else b""

            except BROKEN as error:
                reason = str(error).splitlines()[0]
                raise ValueError(f"{source} cannot be read as an archive (truncated?): {reason}") from error
            inside = {n.split("/", 1)[1]: n for n in sorted(names) if "/" in n and not n.endswith("/")}

        def read(name: str) -> bytes:
            path = inside[name]
            try:
                return raw(path)
            except BROKEN as error:
                raise ValueError(f"{source}: {name} is missing or damaged ({error})") from error

        yield list(inside), read


def _where_to_put(root: Path) -> str:
    return (
        f"tiny-imagenet is not in {root}: run `d2rkit data tiny-imagenet` with a network, or put "
        f"{NAME}.zip or the unpacked folder {NAME} there; see data/README.md"
    )


def _download(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    draft, archive, digest = root / f"{NAME}.zip.part", root / f"{NAME}.zip", md5()
    try:
        with urllib.request.urlopen(URL, timeout=30) as answer, draft.open("wb") as file:
            total = int(answer.headers.get("Content-Length", 0)) or None
            with tqdm(total=total, unit="B", unit_scale=True, desc=f"downloading {archive.name}") as bar:
                while chunk := answer.read(1 << 20):
                    file.write(chunk)
                    digest.update(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(f"{_where_to_put(root)} (download failed: {error})") from error
    if digest.hexdigest() != MD5:
        raise ValueError(f"the download of {URL} is damaged (MD5 {digest.hexdigest()}, not {MD5}); it stays at {draft}")
    draft.replace(archive)
    return archive
