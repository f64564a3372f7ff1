"""CIFAR-10 and CIFAR-100 as arrays, as a cache and as a download. Real images where they are at hand."""

import logging

import numpy as np
import pytest
import torch
import torchvision

from d2rkit.data.arrays import Split, say_once
from d2rkit.data.cifar import CIFAR10_SHA1, CIFAR100, cifar_sha1, content_digest, pixel_sums
from d2rkit.data.datasets import load_data


@pytest.fixture(autouse=True)
def say_anew():
    say_once.cache_clear()


def counts(labels, classes=10):
    return torch.bincount(labels, minlength=classes).tolist()


def write_cifar(root, name="cifar10", train=40, test=20, classes=10, part="train"):
    rng = np.random.default_rng(0)
    for split, n in ((part, train), ("test", test)):
        images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        names = np.array([f"class {i}" for i in range(classes)])
        np.savez(root / f"{name}_{split}.npz", images=images, labels=np.arange(n) % classes, class_names=names)


def test_own_arrays_come_first(tmp_path):
    write_cifar(tmp_path, "cifar100", train=400, classes=100, test=100)
    data = load_data("cifar100", tmp_path, download=False)
    assert (len(data.train), len(data.val), len(data.test), data.num_classes) == (320, 80, 100, 100)
    assert data.source == (
        "cifar100_train.npz (not the official images) and cifar100_test.npz (not the official images)"
    )
    assert not (tmp_path / "cache").exists()


def test_data_folder_from_the_environment(tmp_path, monkeypatch):
    write_cifar(tmp_path)
    monkeypatch.setenv("D2RKIT_DATA", str(tmp_path))
    assert len(load_data("cifar10", download=False, verify=False).test) == 20


def test_altered_arrays_are_refused_by_sha1(tmp_path):
    write_cifar(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"cifar10_train\.npz does not hold the official CIFAR-10 images"):
        load_data("cifar10", tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_labels_beyond_the_class_names_are_refused(tmp_path):
    write_cifar(tmp_path)
    with np.load(tmp_path / "cifar10_test.npz") as arrays:
        content = dict(arrays)
    content["labels"][0] = 10
    np.savez(tmp_path / "cifar10_test.npz", **content)
    with pytest.raises(ValueError, match=r"cifar10_test\.npz: labels must lie in 0\.\.9"):
        load_data("cifar10", tmp_path, verify=False)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet"])
def test_a_missing_set_says_where_to_put_it(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} is not in {tmp_path}: run `d2rkit data {name}`") as error:
        load_data(name, tmp_path, download=False)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


class FakeCifar:
    """Stands for torchvision's class: no network in tests."""

    calls = 0

    def __init__(self, root, train, download):
        assert download
        type(self).calls += 1
        n = 60 if train else 20
        self.data = np.random.default_rng(train).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        self.targets = [i % 10 for i in range(n)]
        self.classes = [f"class {i}" for i in range(10)]


@pytest.mark.parametrize(("name", "attribute"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_download_is_decoded_once_and_cached(tmp_path, monkeypatch, name, attribute):
    monkeypatch.setattr(torchvision.datasets, attribute, FakeCifar)
    monkeypatch.setattr(FakeCifar, "calls", 0)
    first = load_data(name, tmp_path)
    cache = (tmp_path / "cache" / f"{name}.safetensors").read_bytes()
    second = load_data(name, tmp_path, download=False)
    assert (tmp_path / "cache" / f"{name}.safetensors").read_bytes() == cache  # what is moved in memory stays there
    assert FakeCifar.calls == 2  # train and test, once each
    assert (len(first.train), len(first.val), len(first.test)) == (48, 12, 20)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(first, part).images, getattr(second, part).images)
        assert torch.equal(getattr(first, part).labels, getattr(second, part).labels)
    official = torch.from_numpy(FakeCifar(None, False, True).data)
    assert torch.equal(first.test.images.permute(0, 2, 3, 1), official)


@pytest.mark.parametrize("failure", [OSError("no route"), RuntimeError("File not found or corrupted.")])
def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(ValueError, match=f"put cifar10_train.npz.*download failed: {failure}"):
        load_data("cifar10", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def cifar_root(shared_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    for name in ("cifar10_test.npz", "cifar10_train10k.npz"):
        (root / name).symlink_to(shared_data / name)
    return root


def test_real_cifar10_loads_verified(cifar_root):
    data = load_data("cifar10", cifar_root, subset="10k", download=False)
    assert (len(data.train), len(data.val), len(data.test)) == (9000, 1000, 10000)
    assert counts(data.train.labels) == [900] * 10 and counts(data.val.labels) == [100] * 10
    assert data.class_names[:3] == ("airplane", "automobile", "bird") and (data.channels, data.image_size) == (3, 32)
    assert cifar_sha1(data.test) == CIFAR10_SHA1["test"]
    smaller = load_data("cifar10", cifar_root, subset=500, download=False)
    assert (len(smaller.train), len(smaller.val)) == (400, 100)


def test_the_10k_subset_does_not_pass_for_the_whole_training_set(cifar_root):
    with pytest.raises(ValueError, match="cifar10 is not in"):
        load_data("cifar10", cifar_root, download=False)


@pytest.mark.parametrize("altered", ["cifar10_test.npz", "cifar10_train10k.npz"])
def test_one_altered_pixel_of_real_cifar10_is_refused(cifar_root, shared_data, tmp_path, altered):
    for name in ("cifar10_test.npz", "cifar10_train10k.npz"):
        (tmp_path / name).symlink_to(shared_data / name)
    with np.load(shared_data / altered) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    content["images"][1234, 5, 6, 1] ^= 1
    (tmp_path / altered).unlink()
    np.savez(tmp_path / altered, **content)
    with pytest.raises(ValueError, match=f"{altered} does not hold the official CIFAR-10 images"):
        load_data("cifar10", tmp_path, subset="10k", download=False)


def test_truncated_real_cifar10_is_refused(cifar_root, shared_data, tmp_path):
    (tmp_path / "cifar10_train10k.npz").symlink_to(shared_data / "cifar10_train10k.npz")
    cut = (shared_data / "cifar10_test.npz").read_bytes()[:1_000_000]
    (tmp_path / "cifar10_test.npz").write_bytes(cut)
    with pytest.raises(ValueError, match=r"cifar10_test\.npz cannot be read"):
        load_data("cifar10", tmp_path, subset="10k", download=False)
    assert (tmp_path / "cifar10_test.npz").read_bytes() == cut


def rewrite(file, **changes):
    with np.load(file) as arrays:
        content = dict(arrays)
    np.savez(file, **content | {k: v(content[k]) for k, v in changes.items()})


def swapped(names):
    return names[[1, 0, *range(2, len(names))]]


@pytest.mark.parametrize(
    ("name", "part", "changes", "words"),
    [
        ("cifar10", "test", {"class_names": swapped}, r"same class names \(first differ 'class 0' and 'class 1'\)"),
        ("cifar100", "train", {"class_names": lambda n: np.append(n, "more")}, r"same class names \(101 and 100 names"),
        ("cifar10", "test", {"images": lambda x: x[:, :16]}, r"cifar10_test.npz holds images of 16x32 .* has 32x32"),
        ("cifar100", "train", {"labels": lambda y: y % 20}, "has 20 different labels in 400 images: coarse labels"),
        ("cifar100", "test", {"labels": lambda y: y / 2}, r"cifar100_test.npz: labels must be whole numbers 0..99"),
        ("cifar10", "test", {"images": lambda x: x[:3], "labels": lambda y: y[:3]}, "holds 3 images; at least 5"),
    ],
)  # fmt: skip
def test_train_and_test_and_the_named_set_fit_together(tmp_path, name, part, changes, words):
    classes = {"cifar10": 10, "cifar100": 100}[name]
    write_cifar(tmp_path, name, train=400, test=200, classes=classes)
    rewrite(tmp_path / f"{name}_{part}.npz", **changes)
    with pytest.raises(ValueError, match=words) as error:
        load_data(name, tmp_path, download=False, verify=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "classes", "has"), [("cifar10", 11, 10), ("cifar100", 20, 100)])
def test_the_number_of_classes_is_that_of_the_set(tmp_path, name, classes, has):
    write_cifar(tmp_path, name, classes=classes)
    with pytest.raises(ValueError, match=f"has {classes} class names; CIFAR-{has} has {has} classes"):
        load_data(name, tmp_path, download=False, verify=False)


def test_an_evaluation_needs_the_test_images_only(tmp_path):
    write_cifar(tmp_path, "cifar100", train=400, classes=100, test=100)
    whole = load_data("cifar100", tmp_path, download=False)
    (tmp_path / "cifar100_train.npz").unlink()
    with pytest.raises(ValueError, match="cifar100 is not in"):
        load_data("cifar100", tmp_path, download=False)
    data = load_data("cifar100", tmp_path, download=False, test_only=True)
    assert (len(data.train), len(data.val), len(data.test)) == (0, 0, 100)
    assert torch.equal(data.test.images, whole.test.images) and data.class_names == whole.class_names
    assert data.source == "cifar100_test.npz (not the official images)" and data.train.images.shape == (0, 3, 32, 32)


def test_other_images_in_place_of_cifar100_are_named_once(tmp_path, caplog):
    write_cifar(tmp_path, "cifar100", train=400, classes=100, test=100)
    for _ in range(2):
        load_data("cifar100", tmp_path, download=False)
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2  # train and test, once each
    assert "cifar100_train.npz does not hold the official CIFAR-100 images" in caplog.text
    say_once.cache_clear()
    caplog.clear()
    load_data("cifar100", tmp_path, download=False, verify=False)
    assert not caplog.records


def test_sums_and_digest_do_not_depend_on_the_order_and_on_nothing_less():
    generator = torch.Generator().manual_seed(0)
    part = Split(torch.randint(0, 256, (50, 3, 4, 4), generator=generator, dtype=torch.uint8), torch.arange(50) % 7)
    mixed = part.take(torch.randperm(50, generator=generator))
    assert pixel_sums(mixed) == pixel_sums(part) and content_digest(mixed) == content_digest(part)
    assert pixel_sums(part) == tuple(part.images.long().sum((0, 2, 3)).tolist())
    relabelled = Split(part.images, part.labels.roll(1))
    assert pixel_sums(relabelled) == pixel_sums(part) and content_digest(relabelled) != content_digest(part)


@pytest.fixture(scope="module")
def cifar100_test(shared_data, tmp_path_factory):
    """The official test images, in an order of their own, out of sheets without loss."""
    import io

    from PIL import Image

    with np.load(shared_data / "cifar100_test.sheets.npz") as file:
        sheets = [np.asarray(Image.open(io.BytesIO(file[k].tobytes())).convert("RGB")) for k in sorted(file.files)
                  if k.startswith("sheet_")]  # fmt: skip
        side, count, labels, names = int(file["side"]), int(file["count"]), file["labels"], file["class_names"]
    parts = [s.reshape(-1, side, s.shape[1] // side, side, 3).transpose(0, 2, 1, 3, 4) for s in sheets]
    images = np.concatenate([p.reshape(-1, side, side, 3) for p in parts])[:count]
    return {"images": images, "labels": labels.astype(np.int64), "class_names": names}


def test_real_cifar100_is_known_in_any_order_and_under_its_labels_only(cifar100_test, tmp_path, caplog):
    file = tmp_path / "cifar100_test.npz"
    order = np.random.default_rng(0).permutation(10_000)
    shuffled = cifar100_test | {k: cifar100_test[k][order] for k in ("images", "labels")}
    np.savez(file, **shuffled)
    data = load_data("cifar100", tmp_path, download=False, test_only=True)
    assert data.source == "cifar100_test.npz (official images)" and not caplog.records
    assert pixel_sums(data.test) == CIFAR100["test"][0]
    np.savez(file, **shuffled | {"labels": np.roll(shuffled["labels"], 1)})
    with pytest.raises(ValueError, match="altered or under other labels"):
        load_data("cifar100", tmp_path, download=False, test_only=True)
    shuffled["images"][5, 5, 5, 1] ^= 1
    np.savez(file, **shuffled)
    data = load_data("cifar100", tmp_path, download=False, test_only=True)
    assert data.source == "cifar100_test.npz (not the official images)" and "pixel sums differ" in caplog.text
