"""Tiny ImageNet (200 classes, 64x64 pixels) or twenty classes of it, from its folder or archive to arrays.

Its validation split serves as the test set: the official test set has no labels. Class numbers
follow `wnids.txt`. Greyscale files (about 2 %) become RGB.
"""

from __future__ import annotations

import io
import re
import urllib.error
import urllib.request
import warnings
from collections.abc import Sequence
from hashlib import md5
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from d2rkit.core.files import clear_drafts, write_atomically
from d2rkit.core.validation import printable
from d2rkit.data.archives import SUFFIXES, Reader, fingerprint, open_files
from d2rkit.data.arrays import Split, cache_file, cached_source, keep, nchw, no_images, read_cache

NAME = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIZE = 64
PICTURES = (".jpeg", ".jpg", ".png")
# The classes of tiny-imagenet-20, in the order of their numbers: a tenth of the set, for a laptop.
TWENTY = (
    "n01742172", "n01944390", "n02094433", "n02132136", "n02281406", "n02481823", "n02791270", "n02841315",
    "n02963159", "n03126707", "n03404251", "n03662601", "n03838899", "n03983396", "n04146614", "n04328186",
    "n04486054", "n04597913", "n07734744", "n09246464",
)  # fmt: skip

Files = list[tuple[str, str]]  # a file's name, and the wnid of its class


def load_tiny_imagenet(
    root: Path, download: bool = True, test_only: bool = False, only: Sequence[str] = ()
) -> tuple[Split, Split, tuple[str, ...], str]:
    """Train and test splits, class names and a word on the source. Looks in `root` for a folder or an archive (.zip,
    .tar, .tar.gz, .tgz) whose name starts with `tiny-imagenet-200`, and for the cache made of it, which serves alone
    as well; else downloads the official archive. test_only: the training images need not be there, the train split
    is empty. only: these classes (WordNet numbers), in this order. ValueError, in one sentence, if there is none or it
    is damaged."""
    source, cached = _find(root), caches(root, only)
    if source is None and not cached:
        if not download:
            raise ValueError(_where_to_put(root))
        source = _download(root)
    stem = _prefix(only) + _stem(source) if source else cached[0].stem
    cache = cache_file(root, stem)
    mark = fingerprint(source) if source else ""
    if cache and cache.exists() and mark in ("", cached_source(cache)):
        train, test, class_names = read_cache(cache, test_only)
    elif source is None:
        raise ValueError(_where_to_put(root))
    else:
        with open_files(source) as (names, read):
            train, test, class_names = decode(source, names, read, test_only, only)
        if not test_only:
            keep(cache, train, test, class_names, mark)
    counts = " and ".join(_counts(p, len(class_names), w) for p, w in ((train, "training"), (test, "test")) if len(p))
    return train, test, class_names, f"{stem}, {len(class_names)} classes of {counts} images"


def caches(root: Path, only: Sequence[str] = ()) -> list[Path]:
    """What is kept of this set, or of these classes of it."""
    return sorted((root / "cache").glob(f"{_prefix(only)}{NAME}*.safetensors"))


def _prefix(only: Sequence[str]) -> str:
    return f"{len(only)}-of-" if only else ""


def _stem(source: Path) -> str:
    suffix = next((s for s in (".tar.gz", *SUFFIXES) if source.name.endswith(s)), "")
    return source.name.removesuffix(suffix)


def _find(root: Path) -> Path | None:
    """The folder or archive to read: the whole set before its parts, a folder before an archive."""
    candidates = [p for p in root.glob(f"{NAME}*") if p.is_dir() or (p.is_file() and p.name.endswith(SUFFIXES))]
    return min(candidates, key=lambda p: (_stem(p) != NAME, not p.is_dir(), p.name), default=None)


def _counts(split: Split, classes: int, what: str) -> str:
    each = torch.bincount(split.labels, minlength=classes)
    low, high = int(each.min()), int(each.max())
    return f"{low} {what}" if low == high else f"{low} to {high} {what}"


def decode(
    source: Path, names: Sequence[str], read: Reader, test_only: bool = False, only: Sequence[str] = ()
) -> tuple[Split, Split, tuple[str, ...]]:
    """Every image of a folder or archive as arrays, or those of the classes in `only`; its top folder is where
    `wnids.txt` lies. The validation images lie in `val/images`, named by `val_annotations.txt`, or in one folder a
    class."""
    tops = sorted((n.removesuffix("wnids.txt") for n in names if re.search(r"(^|/)wnids\.txt$", n)), key=len)
    if not tops:
        raise ValueError(f"{source} is not Tiny ImageNet: wnids.txt is missing")
    inside = [n.removeprefix(tops[0]) for n in names if n.startswith(tops[0])]

    def lines(name: str) -> list[str]:
        content = read(tops[0] + name)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        return [line.strip() for line in text.split("\n") if line.strip()]

    wnids = [wnid for line in lines("wnids.txt") for wnid in line.split()]
    words = (
        dict(line.split(maxsplit=1) for line in lines("words.txt") if len(line.split()) > 1)
        if ("words.txt" in inside)
        else {}
    )
    rows = lines("val/val_annotations.txt") if "val/val_annotations.txt" in inside else None
    pictures = [n for n in inside if n.lower().endswith(PICTURES)]
    train = [(n, n.split("/")[1]) for n in pictures if n.startswith("train/")]
    test = _validation(source, [n for n in pictures if n.startswith("val/")], rows, set(wnids))
    _check(source, wnids, [] if test_only else train, test, test_only)
    if lacking := [wnid for wnid in only if wnid not in wnids]:
        raise ValueError(f"{source} lacks {len(lacking)} of the {len(only)} classes, {lacking[0]} among them")
    wnids = list(only) or wnids
    number = {wnid: i for i, wnid in enumerate(wnids)}
    kept = ([file for file in part if file[1] in number] for part in ([] if test_only else train, test))
    parts = [[(tops[0] + n, number[wnid]) for n, wnid in part] for part in kept]
    with tqdm(total=sum(map(len, parts)), desc=f"decoding {source.name}", unit="image") as bar:
        made = [_split(source, part, read, bar) if part else no_images(3, SIZE) for part in parts]
    class_names = tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids)
    return made[0], made[1], class_names


def _validation(source: Path, pictures: list[str], rows: list[str] | None, wnids: set[str]) -> Files:
    """The validation images and their classes, in the order of the annotations, else in that of their numbers."""
    in_folders = [(n, n.split("/")[1]) for n in pictures if n.count("/") > 1 and not n.startswith("val/images/")]
    if rows is None and not in_folders:
        raise ValueError(f"{source} is not Tiny ImageNet: val/val_annotations.txt is missing")
    if not rows:
        return sorted(in_folders, key=lambda file: ([int(d) for d in re.findall(r"\d{1,9}", Path(file[0]).stem)], file))
    place: dict[str, str] = {}
    for name in pictures:
        if (other := place.setdefault(Path(name).stem, name)) != name:
            raise ValueError(f"{source} holds the validation image {printable(name)} twice, also as {printable(other)}")
    labelled = []
    for row in rows:
        file, *wnid = (row.split("\t") if "\t" in row else row.split())[:2]
        if not wnid:
            raise ValueError(f"{source}: val/val_annotations.txt names no class for {file[:80]!r}")
        if (name := place.pop(Path(file.strip()).stem, None)) is None:
            raise ValueError(f"{source}: val/images/{printable(file)} is missing or damaged (by val_annotations.txt)")
        labelled.append((name, wnid[0].strip()))
        folder = name.split("/")[1]
        if folder in wnids and folder != labelled[-1][1]:
            raise ValueError(f"{source}: {printable(name)} is of class {printable(wnid[0])} by val_annotations.txt")
    strays = {wnid for _, wnid in labelled} - wnids
    if place and not strays:
        raise ValueError(
            f"{source} holds {len(place)} validation images that val_annotations.txt does not name "
            f"(first: {printable(next(iter(place.values())))})"
        )
    return labelled


def _check(source: Path, wnids: list[str], train: Files, test: Files, test_only: bool) -> None:
    if len(set(wnids)) < max(2, len(wnids)):
        raise ValueError(f"{source}: wnids.txt must name at least two classes, each of them once")
    strays = sorted({wnid for _, wnid in train + test} - set(wnids))
    if strays:
        raise ValueError(f"{source} holds images of class {printable(strays[0])}, which is not in wnids.txt")
    if not (train or test_only) or not test:
        raise ValueError(f"{source} holds {len(train)} training and {len(test)} validation images; both are needed")
    for part, what in ((train, "training"), (test, "validation")):
        if part and (empty := sorted(set(wnids) - {wnid for _, wnid in part})):
            raise ValueError(f"{source} holds no {what} image of class {printable(empty[0])}")


def _split(source: Path, files: list[tuple[str, int]], read: Reader, bar: tqdm) -> Split:
    images = np.empty((len(files), SIZE, SIZE, 3), np.uint8)
    for i, (name, _) in enumerate(files):
        images[i] = _picture(source, name, read(name))
        bar.update()
    labels: Tensor = torch.tensor([label for _, label in files])
    return Split(nchw(images), labels)


def _picture(source: Path, name: str, content: bytes) -> np.ndarray:
    """(64, 64, 3) uint8. The size is read off the head of the file before anything is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
            size = picture.size
            pixels = np.asarray(picture.convert("RGB")) if size == (SIZE, SIZE) else None
    except Exception as error:  # each image format has its own ways of being broken
        raise ValueError(f"{source}: {printable(name)} is missing or damaged ({printable(error)})") from error
    if pixels is None:
        raise ValueError(f"{source}: {printable(name)} is {size[0]}x{size[1]} pixels, not {SIZE}x{SIZE}")
    return pixels


def _where_to_put(root: Path) -> str:
    return (
        f"tiny-imagenet is not in {root}: run `d2rkit data tiny-imagenet` with a network, or put "
        f"{NAME}.zip (or .tar, .tar.gz, .tgz) or the unpacked folder {NAME} there; see data/README.md"
    )


def _download(root: Path) -> Path:
    archive, digest = root / f"{NAME}.zip", md5()
    try:
        clear_drafts(root)  # of downloads that were killed: 240 MB each
        with write_atomically(archive) as draft:  # every process has its own
            with urllib.request.urlopen(URL, timeout=30) as answer, draft.open("wb") as file:
                total = int(answer.headers.get("Content-Length", 0)) or None
                with tqdm(total=total, unit="B", unit_scale=True, desc=f"downloading {archive.name}") as bar:
                    while chunk := answer.read(1 << 20):
                        file.write(chunk)
                        digest.update(chunk)
                        bar.update(len(chunk))
            if digest.hexdigest() != MD5:
                raise ValueError(f"the download of {URL} is damaged (MD5 {digest.hexdigest()}, not {MD5})")
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise ValueError(f"{_where_to_put(root)} (download failed: {error})") from error
    return archive
