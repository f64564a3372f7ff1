"""Tiny ImageNet: read, cached, refused where damaged, fetched; drawn images, and real ones where they are at hand."""

import hashlib
import io
import os
import tarfile
import urllib.error
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from d2rkit.data import tiny_imagenet
from d2rkit.data.datasets import TINY, load_data
from d2rkit.panels.start_here import data_item
from tests.data.tiny_imagenet_files import FORMS, PLACES, drawn_files, jpeg, write_tar, write_zip


@pytest.mark.parametrize("form", FORMS)
def test_drawn_images_from_every_form(tmp_path, form):
    FORMS[form](tmp_path / PLACES[form], drawn_files())
    data = load_data("tiny-imagenet", tmp_path, download=False)
    assert data.class_names == ("n03", "goldfish", "bull frog")
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, 6)
    assert (data.channels, data.image_size) == (3, 64)
    for split in (data.train, data.val, data.test):
        brightness = split.images.float().mean((1, 2, 3))
        assert ((brightness - 50.0 * (split.labels + 1)).abs() < 3).all()
    assert torch.bincount(data.val.labels).tolist() == [2, 2, 2]


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


def test_some_classes_of_it_are_numbered_by_themselves_and_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setitem(TINY, "tiny-imagenet-20", ("n02", "n03"))
    write_tar(tmp_path / "tiny-imagenet-200.tar", drawn_files())
    assert "tiny-imagenet-200.tar" in data_item("tiny-imagenet-20", tmp_path).found
    load_data("tiny-imagenet", tmp_path, download=False)
    assert "20-of" not in data_item("tiny-imagenet-20", tmp_path).found
    for _ in range(2):  # decoded, then from the cache, then from the cache alone
        part = load_data("tiny-imagenet-20", tmp_path, download=False)
        assert part.class_names == ("bull frog", "n03") and len(part.train) + len(part.val) == 20
        for split in (part.train, part.val, part.test):
            brightness = split.images.float().mean((1, 2, 3))
            assert ((brightness - 100.0 * (split.labels == 0) - 50).abs() < 3).all()
    assert load_data("tiny-imagenet", tmp_path, download=False).num_classes == 3
    (tmp_path / "tiny-imagenet-200.tar").unlink()
    assert torch.equal(load_data("tiny-imagenet-20", tmp_path, download=False).test.images, part.test.images)
    (tmp_path / "cache" / "2-of-tiny-imagenet-200.safetensors").unlink()
    with pytest.raises(ValueError, match="is not in"):  # the whole set's cache does not say which class is which
        load_data("tiny-imagenet-20", tmp_path, download=False)


def test_a_folder_that_lacks_the_classes_says_so(tmp_path):
    write_tar(tmp_path / "tiny-imagenet-200.tar", drawn_files())
    with pytest.raises(ValueError, match="lacks 20 of the 20 classes, n01742172 among them"):
        load_data("tiny-imagenet-20", tmp_path, download=False)


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


def test_two_processes_that_download_do_not_write_to_one_file(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    content = official_zip(tmp_path / "far")
    serve(monkeypatch, content)
    root, real, others = tmp_path / "data", tiny_imagenet.urllib.request.urlopen, []

    def interrupted(url, timeout):
        answer = real(url, timeout)
        read = answer.read

        def another_in_between(size):
            if not others:
                others.append(2**22 + 1)  # no process has this number
                with monkeypatch.context() as other:
                    other.setattr(os, "getpid", lambda: others[0])
                    assert tiny_imagenet._download(root).read_bytes() == content
                (root / "tiny-imagenet-200.zip").unlink()
            return read(size)

        answer.read = another_in_between
        return answer

    monkeypatch.setattr(tiny_imagenet.urllib.request, "urlopen", interrupted)
    assert tiny_imagenet._download(root).read_bytes() == content and others
    assert [p.name for p in root.iterdir()] == ["tiny-imagenet-200.zip"]


def test_what_a_killed_download_left_is_cleared_by_the_next(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    serve(monkeypatch, official_zip(tmp_path / "far"))
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(os, "getpid", lambda: 2**22 + 1)
        killed.setattr("pathlib.Path.unlink", lambda *_, **__: None)  # there is no time to tidy up
        with tiny_imagenet.write_atomically(tmp_path / "data" / "tiny-imagenet-200.zip") as draft:
            draft.write_bytes(b"half")
            raise KeyboardInterrupt
    assert len(list((tmp_path / "data").iterdir())) == 1
    tiny_imagenet._download(tmp_path / "data")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["tiny-imagenet-200.zip"]


def test_a_damaged_download_is_refused_and_not_mistaken_for_the_archive(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    serve(monkeypatch, official_zip(tmp_path / "far"), md5="0" * 32)
    root = tmp_path / "data"
    with pytest.raises(ValueError, match=r"is damaged .*MD5"):
        load_data("tiny-imagenet", root)
    assert list(root.iterdir()) == []
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
    root, data = real
    assert (len(data.train), len(data.val), len(data.test), data.num_classes) == (1600, 400, 1000, 20)
    assert torch.bincount(data.test.labels).tolist() == [50] * 20
    twenty = load_data("tiny-imagenet-20", root, download=False)
    names = [twenty.class_names.index(name) for name in data.class_names]
    assert torch.equal(twenty.test.labels, torch.tensor(names)[data.test.labels])
    assert torch.equal(twenty.test.images, data.test.images)
    again = load_data("tiny-imagenet", root, download=False)
    assert torch.equal(again.train.images, data.train.images) and torch.equal(again.test.labels, data.test.labels)
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
            assert data.test.labels[i] == wnids.index(wnid)
            expected = torch.from_numpy(np.array(picture.convert("RGB")))
            assert torch.equal(data.test.images[i].permute(1, 2, 0), expected)
        modes = [Image.open(io.BytesIO(read(f"val/images/{name}"))).mode for name, _ in rows]
    images = data.test.images
    equal_channels = (images[:, 0] == images[:, 1]).flatten(1).all(1) & (images[:, 0] == images[:, 2]).flatten(1).all(1)
    assert modes.count("L") > 0 and all(equal_channels[i] for i, mode in enumerate(modes) if mode == "L")


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_real_zip_and_folder_give_the_same_arrays(real, real_tar, tmp_path, form):
    _, data = real
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
        assert torch.equal(getattr(again, part).images, getattr(data, part).images)
        assert torch.equal(getattr(again, part).labels, getattr(data, part).labels)
