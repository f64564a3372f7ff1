"""Tiny ImageNet as tar, zip and folder: from real images where they are at hand, else from drawn ones."""

import hashlib
import io
import os
import re
import shutil
import tarfile
import urllib.error
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from d2rkit.data import tiny_imagenet
from d2rkit.data.arrays import say_once
from d2rkit.data.datasets import load_data

WNIDS = ("n03", "n01", "n02")  # not sorted: class numbers follow wnids.txt, not the alphabet


def jpeg(value, size=64, grey=False):
    file = io.BytesIO()
    pixels = np.full((size, size) if grey else (size, size, 3), value, np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=100)
    return file.getvalue()


def drawn_files():
    """A small set in the official layout; the grey value of an image says its class: 50, 100, 150."""
    files = {
        "wnids.txt": "\n".join(WNIDS).encode(),
        "words.txt": b"n01\tgoldfish, Carassius auratus\nn02\tbull frog\nn09\tunused\n",
        "val/val_annotations.txt": b"",
    }
    for number, wnid in enumerate(WNIDS):
        for i in range(10):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(50 * (number + 1), grey=i == 3)
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"ignored"
        for i in range(2):
            name = f"val_{number}{i}.JPEG"
            files[f"val/images/{name}"] = jpeg(50 * (number + 1))
            files["val/val_annotations.txt"] += f"{name}\t{wnid}\t0\t0\t62\t62\n".encode()
    return files


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{path.stem}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{path.stem}/{name}", content)


def write_folder(path, files):
    for name, content in files.items():
        file = path.with_suffix("") / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


FORMS = {"tar": write_tar, "zip": write_zip, "folder": write_folder}
PLACES = {"tar": "tiny-imagenet-200.tar", "zip": "tiny-imagenet-200.zip", "folder": "tiny-imagenet-200.folder"}


@pytest.mark.parametrize("form", FORMS)
def test_drawn_images_from_every_form(tmp_path, form):
    FORMS[form](tmp_path / PLACES[form], drawn_files())
    found = load_data("tiny-imagenet", tmp_path, download=False)
    assert found.class_names == ("n03", "goldfish", "bull frog")
    assert (len(found.train), len(found.val), len(found.test)) == (24, 6, 6)
    assert (found.channels, found.image_size) == (3, 64)
    for split in (found.train, found.val, found.test):
        brightness = split.images.float().mean((1, 2, 3))
        assert ((brightness - 50.0 * (split.labels + 1)).abs() < 3).all()
    assert torch.bincount(found.val.labels).tolist() == [2, 2, 2]


def test_the_cache_appears_and_serves_without_the_source(tmp_path):
    archive = tmp_path / "tiny-imagenet-200.tar"
    write_tar(archive, drawn_files())
    first = load_data("tiny-imagenet", tmp_path, download=False)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["tiny-imagenet-200.safetensors"]
    archive.rename(tmp_path / "moved away")
    second = load_data("tiny-imagenet", tmp_path, download=False)
    assert second.source == first.source == "tiny-imagenet-200, 3 classes of 10 training and 2 test images"
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(first, part).images, getattr(second, part).images)
        assert torch.equal(getattr(first, part).labels, getattr(second, part).labels)


def without(name):
    def change(files):
        del files[name]

    return change


def replacing(name, content):
    def change(files):
        files[name] = content

    return change


STRAY = {"train/n77/images/n77_0.JPEG": jpeg(1)}
FAULTS = {
    "no wnids": (without("wnids.txt"), "is not Tiny ImageNet: wnids.txt is missing"),
    "no annotations": (without("val/val_annotations.txt"), "val/val_annotations.txt is missing"),
    "empty annotations": (replacing("val/val_annotations.txt", b""), "30 training and 0 validation images"),
    "missing image": (without("val/images/val_00.JPEG"), r"val/images/val_00\.JPEG is missing or damaged"),
    "cut image": (replacing("train/n01/images/n01_4.JPEG", jpeg(9)[:200]), r"n01_4\.JPEG is missing or damaged"),
    "not an image": (replacing("train/n01/images/n01_4.JPEG", b"text"), r"n01_4\.JPEG is missing or damaged"),
    "wrong size": (replacing("train/n01/images/n01_4.JPEG", jpeg(9, 32)), "is 32x32 pixels, not 64x64"),
    "stray class": (lambda files: files.update(STRAY), "n77.*not in wnids.txt"),
    "stray label": (replacing("val/val_annotations.txt", b"val_00.JPEG\tn77\n"), "n77.*not in wnids.txt"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named_in_one_sentence_and_nothing_is_cached(tmp_path, form, fault):
    change, words = FAULTS[fault]
    files = drawn_files()
    change(files)
    FORMS[form](tmp_path / PLACES[form], files)
    with pytest.raises(ValueError, match=words) as error:
        load_data("tiny-imagenet", tmp_path, download=False)
    assert "\n" not in str(error.value) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("form", ["tar", "zip"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_truncated_archives_are_refused_and_stay(tmp_path, form, share):
    archive = tmp_path / PLACES[form]
    # Text files last, as tar makes them from the official folder: a cut archive lacks them, or is cut in them.
    files = dict(sorted(drawn_files().items(), key=lambda item: item[0].endswith(".txt")))
    FORMS[form](archive, files)
    content = archive.read_bytes()
    cut = content[: int(share * len(content.rstrip(b"\0")))]
    archive.write_bytes(cut)
    with pytest.raises(ValueError, match=str(archive)) as error:
        load_data("tiny-imagenet", tmp_path, download=False)
    assert "\n" not in str(error.value)
    assert archive.read_bytes() == cut and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_a_tar_cut_within_an_image_and_a_zip_with_a_flipped_bit(tmp_path, form):
    archive = tmp_path / PLACES[form]
    last = "val/images/val_21.JPEG"
    files = drawn_files()
    files[last] = files.pop(last)
    FORMS[form](archive, files)
    content = bytearray(archive.read_bytes())
    at = content.rindex(files[last])
    if form == "tar":
        content = content[: at + len(files[last]) // 2]
    else:
        content[at + 300] ^= 1
    archive.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=str(archive)) as error:
        load_data("tiny-imagenet", tmp_path, download=False)
    assert "\n" not in str(error.value) and not (tmp_path / "cache").exists()


# The forms people have ---------------------------------------------------------------------------


def arrays_of(root, **options):
    found = load_data("tiny-imagenet", root, download=False, **options)
    return {f"{p}_{k}": getattr(getattr(found, p), k) for p in ("train", "val", "test") for k in ("images", "labels")}


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


def write_form(root, form, files, top="tiny-imagenet-200/"):
    """The files as a folder or an archive of a kind, below `top`."""
    path = root / f"tiny-imagenet-200{form}"
    if form == "":
        for name, content in files.items():
            file = root / "tiny-imagenet-200" / top.removeprefix("./").removeprefix("tiny-imagenet-200/") / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    elif form == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(top + name, content)
    else:
        with tarfile.open(path, "w" if form == ".tar" else "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(top + name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


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
    found = load_data("tiny-imagenet", tmp_path, download=False, test_only=True)
    assert torch.equal(found.test.images, arrays["test_images"]) and len(found.train) == len(found.val) == 0
    assert found.source == "tiny-imagenet-200, 3 classes of 2 test images" and not (tmp_path / "cache").exists()
    write_form(tmp_path, "", files)
    load_data("tiny-imagenet", tmp_path, download=False)
    again = load_data("tiny-imagenet", tmp_path, download=False, test_only=True)
    assert torch.equal(again.test.images, found.test.images) and again.train.images.shape == (0, 3, 64, 64)


def test_unequal_classes_are_said(tmp_path, official):
    _, files = official
    write_form(tmp_path, "", {n: c for n, c in files.items() if n != "train/n01/images/n01_4.JPEG"})
    found = load_data("tiny-imagenet", tmp_path, download=False)
    assert found.source == "tiny-imagenet-200, 3 classes of 9 to 10 training and 2 test images"


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


# Places ------------------------------------------------------------------------------------------


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


# Download ----------------------------------------------------------------------------------------


def serve(monkeypatch, content, md5=None):
    class Answer(io.BytesIO):
        headers = {"Content-Length": str(len(content))}  # noqa: RUF012

    monkeypatch.setattr(tiny_imagenet.urllib.request, "urlopen", lambda url, timeout: Answer(content))
    monkeypatch.setattr(tiny_imagenet, "MD5", md5 or hashlib.md5(content).hexdigest())


def official_zip(tmp_path):
    write_zip(tmp_path / "tiny-imagenet-200.zip", drawn_files())
    return (tmp_path / "tiny-imagenet-200.zip").read_bytes()


def test_download_is_checked_kept_and_decoded(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    serve(monkeypatch, official_zip(tmp_path / "far"))
    root = tmp_path / "new" / "data"
    assert len(load_data("tiny-imagenet", root).test) == 6
    assert sorted(p.name for p in root.iterdir()) == ["cache", "tiny-imagenet-200.zip"]


def test_a_damaged_download_is_refused_and_not_mistaken_for_the_archive(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    serve(monkeypatch, official_zip(tmp_path / "far"), md5="0" * 32)
    root = tmp_path / "data"
    with pytest.raises(ValueError, match=r"is damaged .*MD5"):
        load_data("tiny-imagenet", root)
    assert [p.name for p in root.iterdir()] == ["tiny-imagenet-200.zip.part"]
    with pytest.raises(ValueError, match="tiny-imagenet is not in"):
        load_data("tiny-imagenet", root, download=False)


def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    def fail(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(tiny_imagenet.urllib.request, "urlopen", fail)
    with pytest.raises(ValueError, match=r"tiny-imagenet is not in .* \(download failed: .*no route") as error:
        load_data("tiny-imagenet", tmp_path)
    assert "\n" not in str(error.value)


# Real images -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_tar(shared_data):
    return shared_data / "tiny-imagenet-200-sub20.tar"


@pytest.fixture(scope="module")
def real(real_tar, tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    (root / real_tar.name).symlink_to(real_tar)
    return root, load_data("tiny-imagenet", root, download=False)


def test_real_tiny_imagenet(real, real_tar):
    root, found = real
    assert (len(found.train), len(found.val), len(found.test), found.num_classes) == (1600, 400, 1000, 20)
    assert torch.bincount(found.test.labels).tolist() == [50] * 20
    again = load_data("tiny-imagenet", root, download=False)
    assert torch.equal(again.train.images, found.train.images) and torch.equal(again.test.labels, found.test.labels)
    with tarfile.open(real_tar) as archive:
        top = archive.getnames()[0]

        def read(name):
            return archive.extractfile(f"{top}/{name}").read()

        wnids = read("wnids.txt").decode().split()
        rows = [line.split("\t")[:2] for line in read("val/val_annotations.txt").decode().splitlines()]
        grey = 0
        for i in range(0, 1000, 7):
            name, wnid = rows[i]
            picture = Image.open(io.BytesIO(read(f"val/images/{name}")))
            grey += picture.mode == "L"
            assert found.test.labels[i] == wnids.index(wnid)
            expected = torch.from_numpy(np.array(picture.convert("RGB")))
            assert torch.equal(found.test.images[i].permute(1, 2, 0), expected)
        modes = [Image.open(io.BytesIO(read(f"val/images/{name}"))).mode for name, _ in rows]
    images = found.test.images
    equal_channels = (images[:, 0] == images[:, 1]).flatten(1).all(1) & (images[:, 0] == images[:, 2]).flatten(1).all(1)
    assert modes.count("L") > 0 and all(equal_channels[i] for i, mode in enumerate(modes) if mode == "L")


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_real_zip_and_folder_give_the_same_arrays(real, real_tar, tmp_path, form):
    _, found = real
    with tarfile.open(real_tar) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / real_tar.stem
    if form == "zip":
        with zipfile.ZipFile(tmp_path / f"{folder.name}.zip", "w") as out:
            for path in sorted(folder.rglob("*")):
                out.write(path, path.relative_to(tmp_path))
        folder.rename(tmp_path / "elsewhere")
    again = load_data("tiny-imagenet", tmp_path, download=False)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(again, part).images, getattr(found, part).images)
        assert torch.equal(getattr(again, part).labels, getattr(found, part).labels)
