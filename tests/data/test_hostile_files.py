"""Files made to harm, and damaged ones: loaders answer with data or with one sentence, and write nothing outside."""

import io
import os
import random
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from d2rkit.data import archives
from d2rkit.data.archives import open_files
from d2rkit.data.arrays import read_cache, read_npz, write_cache
from d2rkit.data.datasets import load_data
from d2rkit.networks.architectures import build_model
from d2rkit.networks.loading import load_released
from tests.data.test_arrays import split
from tests.data.tiny_imagenet_files import drawn_files, write_form

# Archives ----------------------------------------------------------------------------------------


def tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, change in members:
            member = tarfile.TarInfo(name)
            content = change if isinstance(change, bytes) else b""
            member.size = len(content)
            if isinstance(change, dict):
                for key, value in change.items():
                    setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return path


def link(target, kind=tarfile.SYMTYPE):
    return {"type": kind, "linkname": target}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("/etc/x", b"1")], "'/etc/x', which leads out of its folder"),
        ([("a/../../x", b"1")], r"'a/\.\./\.\./x', which leads out"),
        ([("a", link("/etc/passwd"))], "'a' is a link or a device"),
        ([("a", link("b")), ("b", link("a"))], "'a' is a link or a device"),
        ([("a", link("a", tarfile.LNKTYPE))], "'a' is a link or a device"),
        ([("a", {"type": tarfile.FIFOTYPE})], "'a' is a link or a device"),
        ([("a", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})], "'a' is a link or a device"),
        ([("a", b"\0" * (9 << 20))], "'a' of 9,437,184 bytes, which no archive of small images does"),
    ],
)
def test_tars_that_lead_elsewhere(tmp_path, members, words):
    with pytest.raises(ValueError, match=words) as error, open_files(tar(tmp_path / "a.tar", *members)):
        pass
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["a.tar"]


def zipped(path, members, compression=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content)
    return path


def zip_link(name, target):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


def encrypted(path):
    zipped(path, [("a.txt", b"secret")], zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(sign) + place] |= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: zipped(p, [("/etc/x", b"1")]), "'/etc/x', which leads out"),
        (lambda p: zipped(p, [("../x", b"1")]), r"'\.\./x', which leads out"),
        (lambda p: zipped(p, [zip_link("a", "/etc/passwd")]), "'a' is a link"),
        (lambda p: zipped(p, [(f"{i}.JPEG", b"\0" * (8 << 20)) for i in range(40)]), "would unpack to .* files of"),
        (lambda p: zipped(p, [("a", b"\0" * (9 << 20))]), "'a' of 9,437,184 bytes"),
        (encrypted, r"is encrypted \('a.txt'\); unpack it first"),
    ],
)
def test_zips_that_lead_elsewhere_or_swell(tmp_path, make, words):
    with pytest.raises(ValueError, match=words) as error, open_files(make(tmp_path / "a.zip")):
        pass
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_zip_that_lies_about_its_sizes_is_not_unpacked_beyond_them(tmp_path):
    path = zipped(tmp_path / "a.zip", [("a", b"\0" * (9 << 20))])
    content = bytearray(path.read_bytes())
    for sign, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(sign) + place
        content[at : at + 4] = struct.pack("<I", 100)
    path.write_bytes(content)
    with open_files(path) as (names, read), pytest.raises(ValueError, match="a is missing or damaged"):
        assert names == ["a"] and read("a")


def test_a_gzip_bomb_is_left_at_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SLACK", 1 << 20)
    path = tar(tmp_path / "a.tgz", *((f"{i}", b"\0" * (8 << 20)) for i in range(8)), mode="w:gz")
    with pytest.raises(ValueError, match="would unpack to more than"), open_files(path):
        pass


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", 20)
    members = [(f"{i}", b"") for i in range(30)]
    for path in (tar(tmp_path / "a.tar", *members), zipped(tmp_path / "a.zip", members)):
        with pytest.raises(ValueError, match=r"holds more than 20 members|would unpack to"), open_files(path):
            pass
    for name, _ in members:
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds more than 20 files"), open_files(tmp_path):
        pass


def test_links_in_a_folder(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "wnids.txt").write_text("n01")
    (folder / "again.txt").symlink_to("wnids.txt")
    (folder / "ring").symlink_to(folder)  # inside: not followed, and no harm
    with open_files(folder) as (names, read):
        assert names == ["again.txt", "wnids.txt"] and read("again.txt") == b"n01"
    (tmp_path / "secret").write_text("x")
    for target, words in (("../secret", "leads out of the folder"), ("loop", "link to nowhere"), ("no", "to nowhere")):
        (folder / "loop").symlink_to(target)
        with pytest.raises(ValueError, match=f"loop is a .*{words}"), open_files(folder):
            pass
        (folder / "loop").unlink()
    os.mkfifo(folder / "pipe")  # reading it would wait for ever
    with open_files(folder) as (names, _):
        assert "pipe" not in names


# Images ------------------------------------------------------------------------------------------


def huge_png(side):
    """A head that says side x side pixels over no pixels at all."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [65, 3_000, 12_000, 60_000, 2**31 - 1])
def test_the_size_of_an_image_is_read_before_it_is_decoded(tmp_path, side):
    name = "train/n01/images/n01_4.JPEG"
    write_form(tmp_path, "", drawn_files() | {name: huge_png(side)})
    with pytest.raises(ValueError, match=r"n01_4.JPEG is (\d+x\d+ pixels, not 64x64|missing or damaged)") as error:
        load_data("tiny-imagenet", tmp_path, download=False)
    assert "\n" not in str(error.value)


def test_other_formats_are_not_even_tried(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "TIFF")
    write_form(tmp_path, "", drawn_files() | {"train/n01/images/n01_4.JPEG": file.getvalue()})
    with pytest.raises(ValueError, match=r"n01_4.JPEG is missing or damaged \(cannot identify"):
        load_data("tiny-imagenet", tmp_path, download=False)


# Damaged at random --------------------------------------------------------------------------------


def damaged(content, rng):
    """Cut, flipped, overwritten, grown or shuffled: one of each kind of accident."""
    data, kind = bytearray(content), rng.randrange(6)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 1:
        for _ in range(rng.choice((1, 1, 4, 64))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:  # where formats keep their counts and offsets
        at = rng.randrange(min(len(data), 4096))
        data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
    elif kind == 3:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.randrange(1, 200))
    elif kind == 4:
        a, b = sorted(rng.randrange(len(data)) for _ in range(2))
        data[a:b] = b""
    else:  # the end, where zip keeps its directory
        at = len(data) - rng.randrange(1, min(len(data), 2000))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def checkpoint(path):
    torch.manual_seed(0)
    state = build_model("cnn-2", 10, 8, 1).state_dict()
    save_file(state, path) if path.suffix == ".safetensors" else torch.save({"state_dict": state, "epoch": 3}, path)


def legacy(path):
    torch.save(build_model("cnn-2", 10, 8, 1).state_dict(), path, _use_new_zipfile_serialization=False)


def arrays(path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    np.savez_compressed(path, images=images, labels=np.arange(30) % 10, class_names=np.arange(10).astype(str))


def tiny(path):
    write_form(path.parent, path.name.removeprefix("tiny-imagenet-200"), drawn_files())


def load_tiny(path):
    return load_data("tiny-imagenet", path.parent, download=False)


LOADERS = {
    "a.pt": (checkpoint, load_released, 150), "a.safetensors": (checkpoint, load_released, 100),
    "old.pth": (legacy, load_released, 100), "a.npz": (arrays, read_npz, 150),
    "c.safetensors": (lambda path: write_cache(path, split(6), split(6), ["a", "b"]), read_cache, 100),
    "tiny-imagenet-200.zip": (tiny, load_tiny, 60), "tiny-imagenet-200.tar": (tiny, load_tiny, 40),
    "tiny-imagenet-200.tar.gz": (tiny, load_tiny, 40),
}  # fmt: skip


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files_are_data_or_one_sentence(tmp_path, name, capfd):
    make, load, trials = LOADERS[name]
    folder = tmp_path / "inside"
    folder.mkdir()
    make(folder / name)
    whole, rng, refused = (folder / name).read_bytes(), random.Random(name), 0
    for trial in range(trials):
        content = damaged(whole, rng)
        (folder / name).write_bytes(content)
        try:
            load(folder / name)
        except ValueError as error:
            refused += 1
            sentence = str(error)
            assert sentence.isprintable() and name in sentence and len(sentence) < 900, (trial, sentence)
            assert "weights_only" not in sentence and "allow_pickle" not in sentence, (trial, sentence)
        assert (folder / name).read_bytes() == content
    assert refused > trials / 4
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]
    assert {p.name for p in folder.iterdir()} <= {name, "cache"}


TEXTS = ("wnids.txt", "words.txt", "val/val_annotations.txt")


def test_damaged_texts_and_images_of_a_folder(tmp_path):
    rng, files = random.Random(0), drawn_files()
    write_form(tmp_path, "", files)
    some = [*TEXTS, "train/n01/images/n01_4.JPEG", "val/images/val_11.JPEG"]
    for trial in range(60):
        name = rng.choice(some)
        file = tmp_path / "tiny-imagenet-200" / name
        file.write_bytes(rng.randbytes(rng.randrange(300)) if trial % 4 == 0 else damaged(files[name], rng))
        try:
            load_data("tiny-imagenet", tmp_path, download=False)
        except ValueError as error:
            assert "\n" not in str(error), trial
        file.write_bytes(files[name])
