"""Data sets, splits and augmentation. Real CIFAR-10 where the images are at hand."""

import numpy as np
import pytest
import torch
import torchvision

from d2rkit import data as data_module
from d2rkit.data import augment, cifar_sha1, first_of_each_class, load_data, stratified_index


def counts(labels, classes=10):
    return torch.bincount(labels, minlength=classes).tolist()


def keys(split):
    """Each image with its label as bytes, to compare sets."""
    return [image.numpy().tobytes() + bytes([label]) for image, label in zip(split.images, split.labels, strict=True)]


def test_digits_are_all_there_and_scaled_to_uint8(digits):
    from sklearn.datasets import load_digits

    assert (len(digits.train), len(digits.val), len(digits.test)) == (1200, 200, 397)
    assert digits.class_names == tuple("0123456789")
    assert (digits.num_classes, digits.channels, digits.image_size) == (10, 1, 8)
    raw = load_digits()
    expected = [
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() + bytes([label])
        for image, label in zip(raw.images, raw.target, strict=True)
    ]
    assert sorted(keys(digits.train) + keys(digits.val) + keys(digits.test)) == sorted(expected)
    assert digits.train.images.dtype == torch.uint8 and digits.train.images.max() == 255


def test_splits_are_balanced_and_the_same_every_time(digits):
    assert counts(digits.val.labels) == [20] * 10
    test = counts(digits.test.labels)
    assert min(test) >= 39 and max(test) <= 40
    again = load_data("digits")
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(again, part).images, getattr(digits, part).images)


def test_subset_takes_the_first_of_each_class(digits):
    part = load_data("digits", subset=500)
    assert (len(part.train), len(part.val), len(part.test)) == (400, 100, 397)
    assert counts(torch.cat([part.train.labels, part.val.labels])) == [50] * 10
    assert set(keys(part.train)).isdisjoint(keys(part.val))
    assert torch.equal(load_data("digits", subset="1K").test.images, digits.test.images)
    assert "500 training images" in part.source


def test_to_moves_every_split(digits):
    moved = digits.to("meta")
    assert {s.images.device.type for s in (moved.train, moved.val, moved.test)} == {"meta"}
    assert load_data("digits", device="meta").test.labels.device.type == "meta"


@pytest.mark.parametrize(
    ("name", "subset", "words"),
    [
        ("cifar-10", None, r"unknown data set 'cifar-10' \(did you mean 'cifar10'\?\); allowed: digits, cifar10"),
        ("mnist", None, "unknown data set 'mnist'.*tiny-imagenet"),
        ("digits", 0, "subset 0 is not a number"),
        ("digits", 4, "subset 4 is not .* 5 or more"),
        ("digits", -5, "subset -5 is not a number"),
        ("digits", "many", "subset 'many'.*10k"),
        ("digits", "10k", "subset '10k' asks for more than the 1400 training images"),
    ],
)
def test_unknown_data_set_or_subset(name, subset, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        load_data(name, tmp_path, subset)
    assert not list(tmp_path.iterdir())


def test_index_helpers():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    assert first_of_each_class(labels, 3).tolist() == [0, 3, 5]
    assert first_of_each_class(labels, 5).tolist() == [0, 1, 3, 4, 5]
    drawn = stratified_index(labels, 6, seed=0)
    assert counts(labels[drawn], 3) == [2, 2, 2] and drawn.tolist() == sorted(drawn.tolist())
    many = torch.arange(100) % 2
    assert stratified_index(many, 10, seed=0).tolist() != stratified_index(many, 10, seed=1).tolist()


# Augmentation ------------------------------------------------------------------------------------


def ramps(n=200, size=6):
    """Images that differ in every pixel: value = 1 + position, none of them 0."""
    return (1 + torch.arange(size * size)).view(1, 1, size, size).expand(n, 1, size, size).float()


def crops(x, padding, flip):
    """Every image that augmentation may produce from one image x: (1, H, W)."""
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    size = x.shape[-1]
    for source in (padded, padded.flip(-1)) if flip else (padded,):
        for i in range(2 * padding + 1):
            for j in range(2 * padding + 1):
                yield source[:, i : i + size, j : j + size]


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (2, True)])
def test_every_augmented_image_is_a_crop_and_every_crop_occurs(padding, flip):
    x = ramps(1500)
    found = augment(x, padding, flip, torch.Generator().manual_seed(0))
    allowed = {crop.numpy().tobytes() for crop in crops(x[0], padding, flip)}
    assert len(allowed) == (2 * padding + 1) ** 2 * (2 if flip else 1)
    assert {image.contiguous().numpy().tobytes() for image in found} == allowed


def test_augmentation_is_per_image_and_follows_its_generator():
    x = ramps(50).to(torch.uint8)
    found = augment(x, 2, True, torch.Generator().manual_seed(0))
    assert found.dtype == torch.uint8 and len(found.flatten(1).unique(dim=0)) > 20
    assert torch.equal(found, augment(x, 2, True, torch.Generator().manual_seed(0)))
    assert not torch.equal(found, augment(x, 2, True, torch.Generator().manual_seed(1)))
    assert torch.equal(augment(x, 0, False), x)


def test_augmentation_moves_the_channels_of_an_image_together():
    x = torch.cat([ramps(50), 100 + ramps(50)], dim=1)
    found = augment(x, 0, True, torch.Generator().manual_seed(0))
    assert torch.equal(found[:, 1] - found[:, 0], torch.full((50, 6, 6), 100.0))


# CIFAR -------------------------------------------------------------------------------------------


def write_cifar(root, name="cifar10", train=40, test=20, classes=10, part="train"):
    rng = np.random.default_rng(0)
    for split, n in ((part, train), ("test", test)):
        images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
        names = np.array([f"class {i}" for i in range(classes)])
        np.savez(root / f"{name}_{split}.npz", images=images, labels=np.arange(n) % classes, class_names=names)


def test_own_arrays_come_first(tmp_path):
    write_cifar(tmp_path, "cifar100", train=400, classes=100, test=100)
    found = load_data("cifar100", tmp_path, download=False)
    assert (len(found.train), len(found.val), len(found.test), found.num_classes) == (320, 80, 100, 100)
    assert found.source == "cifar100_train.npz and cifar100_test.npz"
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
    write_cifar(tmp_path, train=22, test=11, classes=11, part="other")  # rewrites the test file with a label 10
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
    found = load_data("cifar10", cifar_root, subset="10k", download=False)
    assert (len(found.train), len(found.val), len(found.test)) == (9000, 1000, 10000)
    assert counts(found.train.labels) == [900] * 10 and counts(found.val.labels) == [100] * 10
    assert found.class_names[:3] == ("airplane", "automobile", "bird") and (found.channels, found.image_size) == (3, 32)
    assert cifar_sha1(found.test) == data_module.CIFAR10_SHA1["test"]
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
