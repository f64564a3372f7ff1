"""Data sets, splits and augmentation."""

import numpy as np
import pytest
import torch

from d2rkit.data.datasets import augment, first_of_each_class, load_data, stratified_index


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
    augmented = augment(x, padding, flip, torch.Generator().manual_seed(0))
    allowed = {crop.numpy().tobytes() for crop in crops(x[0], padding, flip)}
    assert len(allowed) == (2 * padding + 1) ** 2 * (2 if flip else 1)
    assert {image.contiguous().numpy().tobytes() for image in augmented} == allowed


def test_augmentation_is_per_image_and_follows_its_generator():
    x = ramps(50).to(torch.uint8)
    augmented = augment(x, 2, True, torch.Generator().manual_seed(0))
    assert augmented.dtype == torch.uint8 and len(augmented.flatten(1).unique(dim=0)) > 20
    assert torch.equal(augmented, augment(x, 2, True, torch.Generator().manual_seed(0)))
    assert not torch.equal(augmented, augment(x, 2, True, torch.Generator().manual_seed(1)))
    assert torch.equal(augment(x, 0, False), x)


def test_augmentation_moves_the_channels_of_an_image_together():
    x = torch.cat([ramps(50), 100 + ramps(50)], dim=1)
    augmented = augment(x, 0, True, torch.Generator().manual_seed(0))
    assert torch.equal(augmented[:, 1] - augmented[:, 0], torch.full((50, 6, 6), 100.0))
