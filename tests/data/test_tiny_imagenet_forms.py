"""The forms of Tiny ImageNet that people have, and the places where they keep it: all give the same arrays."""

import io
import os
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from d2rkit.data.arrays import say_once
from d2rkit.data.datasets import load_data
from tests.data.tiny_imagenet_files import PLACES, drawn_files, jpeg, write_folder, write_form


def arrays_of(root, **options):
    data = load_data("tiny-imagenet", root, download=False, **options)
    return {f"{p}_{k}": getattr(getattr(data, p), k) for p in ("train", "val", "test") for k in ("images", "labels")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """Every image another, so that none can stand for another; the arrays of the official form, and its files."""
    files, rng = drawn_files(), np.random.default_rng(0)
    for name in files:
        if name.endswith(".JPEG"):
            file = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
            files[name] = file.getvalue()
    root = tmp_path_factory.mktemp("official")
    write_folder(root / PLACES["folder"], files)
    return arrays_of(root), files


def renamed(files, change):
    return {change(name): content for name, content in files.items()}


def in_class_folders(files, keep_annotations, inner):
    rows = dict(line.split("\t")[:2] for line in files["val/val_annotations.txt"].decode().splitlines())

    def change(name):
        wnid = rows.get(name.rpartition("/")[2])
        return f"val/{wnid}/{inner}{name.rpartition('/')[2]}" if wnid else name

    out = renamed(files, change)
    return out if keep_annotations else {k: v for k, v in out.items() if k != "val/val_annotations.txt"}


def litter(files):
    return files | {
        "._wnids.txt": b"x", "train/n01/images/._n01_0.JPEG": b"x", "val/images/._val_00.JPEG": b"x", ".DS_Store": b"x",
        "__MACOSX/train/n01/images/a.JPEG": b"x", "test/images/test_0.JPEG": b"no labels", "train/.ipynb/a.jpg": b"x",
    }  # fmt: skip


def untidy_texts(files):
    rows = files["val/val_annotations.txt"].replace(b"\n", b"  \r\n\n")
    wnids = b"\xef\xbb\xbf" + files["wnids.txt"].replace(b"\n", b" \r\n \n")
    return files | {
        "wnids.txt": wnids,
        "words.txt": b"n01\tcaf\xe9, bar \r\n\nn02\tbull frog\n",
        "val/val_annotations.txt": rows,
    }


LAYOUTS = {
    "official": lambda files: files,
    "class folders": lambda files: in_class_folders(files, False, ""),
    "class folders with images below": lambda files: in_class_folders(files, False, "images/"),
    "class folders and the annotations": lambda files: in_class_folders(files, True, ""),
    "renamed to .jpg": lambda files: renamed(files, lambda n: n.replace(".JPEG", ".jpg")),
    "half of them .jpeg": lambda files: renamed(files, lambda n: n.replace("0.JPEG", "0.jpeg")),
    "without images folders": lambda files: renamed(files, lambda n: n.replace("images/n0", "n0")),
    "with litter": litter,
    "untidy texts": untidy_texts,
}
TOPS = {
    "one": "tiny-imagenet-200/",
    "doubled": "tiny-imagenet-200/tiny-imagenet-200/",
    "flat": "",
    "dot": "./tiny-imagenet-200/",
}


@pytest.mark.parametrize("form", ["", ".tar", ".zip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_arrays(tmp_path, official, form, layout):
    arrays, files = official
    write_form(tmp_path, form, LAYOUTS[layout](files))
    assert same(arrays_of(tmp_path), arrays)
    if layout == "untidy texts":
        assert load_data("tiny-imagenet", tmp_path).class_names == ("n03", "café", "bull frog")


@pytest.mark.parametrize("form", ["", ".tar", ".tar.gz", ".tgz", ".zip"])
@pytest.mark.parametrize("top", TOPS)
def test_every_packing_gives_the_same_arrays(tmp_path, official, form, top):
    arrays, files = official
    write_form(tmp_path, form, files, TOPS[top])
    assert same(arrays_of(tmp_path), arrays)
    assert same(arrays_of(tmp_path), arrays)  # from the cache
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["tiny-imagenet-200.safetensors"]


def test_images_as_png(tmp_path, official):
    arrays, files = official

    def png(content):
        out = io.BytesIO()
        Image.open(io.BytesIO(content)).save(out, "PNG")
        return out.getvalue()

    files = {n.replace(".JPEG", ".png"): png(c) if n.endswith(".JPEG") else c for n, c in files.items()}
    write_form(tmp_path, "", files)
    assert same(arrays_of(tmp_path), arrays)


@pytest.mark.parametrize("form", ["", ".tar", ".tar.gz", ".zip"])
def test_a_source_that_changes_is_decoded_anew(tmp_path, official, form):
    _, files = official
    path = write_form(tmp_path, form, files)
    before = arrays_of(tmp_path)
    name = "train/n01/images/n01_4.JPEG"
    swapped = files | {name: files["train/n01/images/n01_5.JPEG"]}
    shutil.rmtree(path) if form == "" else path.unlink()
    write_form(tmp_path, form, swapped)
    assert not same(arrays_of(tmp_path), before)
    if form == "":  # the same size, other bytes
        file = path / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        middle = arrays_of(tmp_path)
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
        assert not same(arrays_of(tmp_path), middle)


def test_the_whole_set_comes_before_a_part_and_a_folder_before_an_archive(tmp_path, official):
    arrays, files = official
    write_form(tmp_path, ".tar", files)
    write_folder(tmp_path / "tiny-imagenet-200-sub.folder", {"wnids.txt": b"broken"})
    assert same(arrays_of(tmp_path), arrays)


def test_an_evaluation_needs_the_validation_images_only(tmp_path, official):
    arrays, files = official
    write_form(tmp_path, "", {n: c for n, c in files.items() if not n.startswith("train/")})
    with pytest.raises(ValueError, match="0 training and 6 validation images"):
        load_data("tiny-imagenet", tmp_path, download=False)
    data = load_data("tiny-imagenet", tmp_path, download=False, test_only=True)
    assert torch.equal(data.test.images, arrays["test_images"]) and len(data.train) == len(data.val) == 0
    assert data.source == "tiny-imagenet-200, 3 classes of 2 test images" and not (tmp_path / "cache").exists()
    write_form(tmp_path, "", files)
    load_data("tiny-imagenet", tmp_path, download=False)
    again = load_data("tiny-imagenet", tmp_path, download=False, test_only=True)
    assert torch.equal(again.test.images, data.test.images) and again.train.images.shape == (0, 3, 64, 64)


def test_unequal_classes_are_said(tmp_path, official):
    _, files = official
    write_form(tmp_path, "", {n: c for n, c in files.items() if n != "train/n01/images/n01_4.JPEG"})
    data = load_data("tiny-imagenet", tmp_path, download=False)
    assert data.source == "tiny-imagenet-200, 3 classes of 9 to 10 training and 2 test images"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wnids.txt": b"n03\nn01\nn02\nn01\n"}, "at least two classes, each of them once"),
        ({"wnids.txt": b""}, "at least two classes"),
        ({"wnids.txt": b"n03\nn01\nn02\nn04\n"}, "holds no training image of class n04"),
        (
            {"val/images/more.JPEG": jpeg(9)},
            r"1 validation images that val_annotations.txt does not name \(first: val/i",
        ),
        ({"val/images/val_00.png": jpeg(9)}, "holds the validation image val/images/val_00.png twice"),
        ({"val/val_annotations.txt": b"val_00.JPEG\n"}, "names no class for 'val_00.JPEG'"),
        (
            {"val/n01/val_00.JPEG": jpeg(9), "val/images/val_00.JPEG": None},
            "val/n01/val_00.JPEG is of class n03 by val",
        ),
    ],
)
def test_what_does_not_add_up_is_named(tmp_path, official, change, words):
    _, files = official
    write_form(tmp_path, "", {k: v for k, v in (files | change).items() if v is not None})
    with pytest.raises(ValueError, match=words) as error:
        load_data("tiny-imagenet", tmp_path, download=False)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_does_without_a_cache_and_says_so_once(tmp_path, official, caplog):
    arrays, files = official
    write_form(tmp_path, ".tar", files)
    (tmp_path / "cache").write_text("a file where the cache should be")  # root ignores permissions, not this
    say_once.cache_clear()
    assert same(arrays_of(tmp_path), arrays) and same(arrays_of(tmp_path), arrays)
    (said,) = [r.getMessage() for r in caplog.records]
    assert re.fullmatch(
        r"no cache can be kept in .*/cache \([\w ]+\): tiny-imagenet-200 is decoded anew each time", said
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder(tmp_path, official):
    arrays, files = official
    write_form(tmp_path, ".tar", files)
    tmp_path.chmod(0o500)
    try:
        assert same(arrays_of(tmp_path), arrays)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("form", ["", ".tar.gz", ".zip"])
def test_a_path_that_is_not_utf8(tmp_path, official, form, caplog):
    arrays, files = official
    root = tmp_path / b"caf\xe9".decode(errors="surrogateescape")
    root.mkdir()
    write_form(root, form, files)
    say_once.cache_clear()
    assert same(arrays_of(root), arrays) and same(arrays_of(root), arrays)
    assert len(caplog.records) == 1 and "is no UTF-8 path" in caplog.text and not (root / "cache").exists()


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("x")
    with pytest.raises(ValueError, match="tiny-imagenet is not in"):
        load_data("tiny-imagenet", tmp_path / "data", download=False)
