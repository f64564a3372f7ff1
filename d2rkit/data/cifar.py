"""CIFAR-10 and CIFAR-100: the user's arrays, the cache or torchvision's files, and whether the images are official."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from d2rkit.core.validation import printable
from d2rkit.data.arrays import Split, cache_file, keep, nchw, no_images, read_cache, read_npz, say_once

CLASSES = {"cifar10": 10, "cifar100": 100}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
COARSE = 20  # superclasses of CIFAR-100

# SHA-1 of the arrays in the layout of CIFAR-10's binary version (label byte, then 3,072 bytes CHW).
# JPEG copies of CIFAR-10 circulate; their mean error is as large as the attack.
CIFAR10_SHA1 = {
    "train": (
        "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "26e2849e66a845b7f1e4614ae70f4889ae604628",
    ),
    "test": ("67eb016db431130d61cd03c7ad570b013799c88c",),
    "train10k": ("c5196f47b7b6aef37280bb1078ab150ad7bd17a5",),  # the first 1,000 training images of each class
}

# Of CIFAR-100: the sum of all pixels per channel, and a digest of all images with their fine labels, both whatever
# order the images come in (copies that are sorted by class or by name circulate).
CIFAR100 = {
    "train": ((6620373279, 6352382090, 5756623363), "6d2a03c47c105e4c34d3a2ff16c2803e"),
    "test": ((1328569193, 1272680636, 1153999502), "381b7d98ce1e9b98232a8df0db0a2299"),
}


def load_cifar(
    name: str, root: Path, wanted: int | None, *, download: bool, verify: bool, test_only: bool
) -> tuple[Split, Split, tuple[str, ...], str]:
    """Train and test splits, class names and a word on the source: the user's own arrays come first, then the cache,
    then torchvision's download. wanted: training images; up to 10,000 the part `train10k` serves."""
    train_file, test_file = root / f"{name}_train.npz", root / f"{name}_test.npz"
    part_file = root / f"{name}_train10k.npz"
    if not train_file.exists() and part_file.exists() and wanted is not None and wanted <= 10_000:
        train_file = part_file
    cache = cache_file(root, name)
    if test_file.exists() and (test_only or train_file.exists()):
        return _own(name, test_file, None if test_only else train_file, verify)
    if cache and cache.exists():
        return *read_cache(cache, test_only), f"{name}, official files"
    if not download:
        raise ValueError(_where_to_put(name, root))
    train, test, names = _torchvision_cifar(name, root)
    keep(cache, train, test, names)
    return train, test, names, f"{name}, official files"


def _own(
    name: str, test_file: Path, train_file: Path | None, verify: bool
) -> tuple[Split, Split, tuple[str, ...], str]:
    test, names = read_npz(test_file)
    parts = [(test_file, test, "test")]
    if train_file:
        train, train_names = read_npz(train_file)
        if train_names != names:
            first = next((f"{a!r} and {b!r}" for a, b in zip(train_names, names, strict=False) if a != b), "")
            first = f"first differ {first}" if first else f"{len(train_names)} and {len(names)} names"
            raise ValueError(f"{train_file} and {test_file.name} do not have the same class names ({first})")
        parts.insert(0, (train_file, train, "train10k" if "train10k" in train_file.name else "train"))
    for file, split, _ in parts:
        _fits(name, file, split, names)
    verdicts = [f" ({_verdict(name, *one)})" if verify else "" for one in parts]
    source = " and ".join(file.name + verdict for (file, *_), verdict in zip(parts, verdicts, strict=True))
    return parts[0][1] if train_file else no_images(3, 32), test, names, source


def _fits(name: str, file: Path, split: Split, names: tuple[str, ...]) -> None:
    """ValueError, in one sentence, if these cannot be images of that data set."""
    if len(names) != CLASSES[name]:
        raise ValueError(f"{file} has {len(names)} class names; {TITLES[name]} has {CLASSES[name]} classes")
    if split.images.shape[1:] != (3, 32, 32):
        height, width = split.images.shape[2:]
        raise ValueError(f"{file} holds images of {height}x{width} pixels; {TITLES[name]} has 32x32")
    distinct = len(split.labels.unique())
    if name == "cifar100" and distinct <= COARSE and len(split) >= 10 * COARSE:
        kinds = f"{distinct} different labels in {len(split):,} images"
        raise ValueError(f"{file} has {kinds}: coarse labels, where CIFAR-100 needs the fine ones (0..99)")


def _verdict(name: str, file: Path, split: Split, part: str) -> str:
    """In words, whether these are the official images with their labels. ValueError for altered CIFAR-10, and for
    CIFAR-100 under other labels; other images in place of CIFAR-100's are named as such, once."""
    if name == "cifar10":
        if cifar_sha1(split) != CIFAR10_SHA1[part]:
            raise ValueError(f"{file} does not hold the official CIFAR-10 images (SHA-1 differs; JPEG copies do)")
        return "official images"
    if part not in CIFAR100:
        return "not compared with the official images"
    sums, digest = CIFAR100[part]
    if pixel_sums(split) != sums:
        say_once(
            f"{file} does not hold the official CIFAR-100 images (its pixel sums differ, as those of JPEG copies do): "
            "accuracies on it compare with no published ones"
        )
        return "not the official images"
    if content_digest(split) != digest:
        raise ValueError(f"{file} holds CIFAR-100 images that are altered or under other labels than the official ones")
    return "official images"


def pixel_sums(split: Split) -> tuple[int, ...]:
    """The sum of all pixels per channel, whatever order the images come in."""
    return tuple(sum(int(part[:, c].sum()) for part in split.images.split(1_000)) for c in range(split.images.shape[1]))


def content_digest(split: Split) -> str:
    """Of all images with their labels, in whatever order: SHA-256 over the sorted SHA-256s of label byte and CHW."""
    rows = torch.cat([split.labels[:, None].to(torch.uint8), split.images.flatten(1)], dim=1).numpy()
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(row).digest() for row in rows))).hexdigest()[:32]


def _where_to_put(name: str, root: Path) -> str:
    return (
        f"{name} is not in {root}: run `d2rkit data {name}` with a network, or put {name}_train.npz and "
        f"{name}_test.npz there ({name}_train10k.npz serves --subset 10k); see data/README.md"
    )


def _torchvision_cifar(name: str, root: Path) -> tuple[Split, Split, tuple[str, ...]]:
    import torchvision

    cls = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    try:
        parts = [cls(root, train=train, download=True) for train in (True, False)]
    except Exception as error:  # no network, a checksum that does not match, files that are none of CIFAR's
        raise ValueError(f"{_where_to_put(name, root)} (download failed: {printable(error)})") from error
    train, test = (Split(nchw(part.data), torch.tensor(part.targets)) for part in parts)
    return train, test, tuple(parts[0].classes)


def cifar_sha1(split: Split, part: int = 10_000) -> tuple[str, ...]:
    """SHA-1 of each `part` images in the layout of the binary version of CIFAR-10."""
    rows = torch.cat([split.labels[:, None].to(torch.uint8), split.images.flatten(1)], dim=1).numpy()
    return tuple(hashlib.sha1(rows[i : i + part].tobytes()).hexdigest() for i in range(0, len(rows), part))
