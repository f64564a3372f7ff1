"""Splits, the user's .npz files and the array cache."""

import numpy as np
import pytest
import torch

from d2rkit.data.arrays import Split, cached_source, nchw, read_cache, read_npz, write_cache

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(6) % 3
NAMES = np.array(["ant", "bee", "cat"])


def write_npz(path, **changes):
    arrays = {"images": IMAGES, "labels": LABELS, "class_names": NAMES} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def split(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=generator), torch.arange(n) % 2)


def test_pixels_are_floats_of_the_chosen_images():
    part = Split(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), torch.arange(3))
    assert part.pixels().flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert part.pixels(torch.tensor([2])).flatten().tolist() == [1]
    assert part.images.flatten().tolist() == [0, 51, 255]
    assert len(part.take(slice(1, 3))) == 2 and part.take(slice(1, 3)).labels.tolist() == [1, 2]


def test_nchw_moves_the_channels_only():
    moved = nchw(IMAGES)
    assert moved.shape == (6, 3, 5, 4) and moved.is_contiguous()
    assert moved[4, 2, 1, 3] == IMAGES[4, 1, 3, 2]


def test_npz_is_read_as_written(tmp_path):
    part, names = read_npz(write_npz(tmp_path / "a.npz"))
    assert names == ("ant", "bee", "cat")
    assert part.labels.tolist() == LABELS.tolist() and part.labels.dtype == torch.int64
    assert torch.equal(part.images, nchw(IMAGES))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "lacks an array.*labels"),
        ({"images": IMAGES / 255}, "must be uint8"),
        ({"images": IMAGES[..., 0]}, r"\(N, H, W, 3\), not uint8 \(6, 5, 4\)"),
        ({"labels": LABELS[:4]}, "6 images but labels of shape"),
        ({"labels": LABELS + 0.5}, r"whole numbers 0\.\.2, not 0\.5"),
        ({"labels": np.array([0, 1, np.nan, 0, 1, 2])}, r"whole numbers 0\.\.2, not nan"),
        ({"labels": LABELS > 0}, "not true and false"),
        ({"labels": LABELS.astype(str)}, r"class numbers 0\.\.2, not strings"),
        ({"labels": LABELS.astype("datetime64[s]")}, "not datetime64"),
        ({"labels": LABELS.astype(complex)}, "not complex128"),
        ({"labels": LABELS.astype(np.uint64) + np.uint64(2**63)}, r"0\.\.2"),
        ({"images": IMAGES[:4], "labels": LABELS[:4]}, "holds 4 images; at least 5 are needed"),
        ({"images": IMAGES[:, :, :0]}, r"not uint8 \(6, 5, 0, 3\)"),
        ({"class_names": np.array(["ant", "bee", "ant"])}, "class_names holds 'ant' more than once"),
        ({"class_names": np.array(["ant", "", "cat"])}, "class_names holds '', which is no name"),
        ({"class_names": np.array(["ant", "b\x1b[31m", "c"])}, r"holds 'b\\x1b\[31m', which is no name"),
        ({"class_names": np.array("ant")}, r"one list of names, not <U3 of shape \(\)"),
        ({"class_names": np.array([0.5, 1, 2])}, "one list of names, not float64"),
        ({"class_names": np.array(["ant"]), "labels": LABELS * 0}, "at least two classes"),
        ({"labels": LABELS + 1}, r"0\.\.2"),
        ({"labels": LABELS - 1}, r"0\.\.2"),
        ({"class_names": np.array(["a", None], dtype=object)}, "cannot be read"),  # would need pickle
    ],
)
def test_bad_npz_is_refused_in_one_sentence(tmp_path, changes, words):
    file = write_npz(tmp_path / "bad.npz", **changes)
    with pytest.raises(ValueError, match=words) as error:
        read_npz(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (np.array([b"ant", b"b\xc3\xa9"]), ("ant", "bé")),
        (np.array([b"ant", b"b\xe9"]), ("ant", "bé")),
        (np.arange(2), ("0", "1")),
    ],
)
def test_class_names_as_bytes_are_decoded(tmp_path, given, names):
    assert read_npz(write_npz(tmp_path / "a.npz", class_names=given, labels=LABELS % 2))[1] == names


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
def test_whole_numbers_of_any_type_are_labels(tmp_path, dtype):
    part, _ = read_npz(write_npz(tmp_path / "a.npz", labels=LABELS.astype(dtype)))
    assert part.labels.tolist() == LABELS.tolist() and part.labels.dtype == torch.int64


def test_an_npz_that_swells_is_refused_before_it_is_unpacked(tmp_path):
    file = tmp_path / "bomb.npz"
    np.savez_compressed(
        file, images=np.zeros((40_000, 64, 64, 3), np.uint8), labels=np.zeros(40_000, int), class_names=NAMES
    )
    assert file.stat().st_size < 2_000_000
    with pytest.raises(ValueError, match="would unpack to 491"):
        read_npz(file)


def test_labels_are_checked_against_the_given_number_of_classes(tmp_path):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        read_npz(write_npz(tmp_path / "a.npz"), classes=2)


@pytest.mark.parametrize("size", [0, 10, 150, 400])
def test_truncated_npz_is_refused_and_stays(tmp_path, size):
    file = write_npz(tmp_path / "cut.npz")
    content = file.read_bytes()[:size]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"cut\.npz cannot be read as an \.npz file"):
        read_npz(file)
    assert file.read_bytes() == content


def test_cache_round_trip_leaves_no_drafts(tmp_path):
    train, test = split(6), split(4, seed=1)
    file = tmp_path / "deep" / "set.safetensors"
    write_cache(file, train, test, ["a, with comma", "b"])
    train_again, test_again, names = read_cache(file)
    assert names == ("a, with comma", "b")
    assert torch.equal(train_again.images, train.images) and torch.equal(test_again.labels, test.labels)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("size", [0, 100, 300])
def test_truncated_cache_is_refused_and_stays(tmp_path, size):
    file = tmp_path / "set.safetensors"
    write_cache(file, split(6), split(4), ["a", "b"])
    content = file.read_bytes()[:size]
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"not a readable array cache.*move it away"):
        read_cache(file)
    assert file.read_bytes() == content


def test_a_cache_with_one_flipped_bit_is_refused(tmp_path):
    file = tmp_path / "set.safetensors"
    write_cache(file, split(6), split(4), ["a", "b"])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"train images are not those that were written.*move it away"):
        read_cache(file)
    content[-1] ^= 1
    content[int.from_bytes(content[:8], "little") + 8 + 16 * 6] ^= 128
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"are not those that were written|damaged|no \(N, C"):
        read_cache(file)


def test_a_cache_knows_its_source_and_gives_the_test_images_alone(tmp_path):
    file = tmp_path / "set.safetensors"
    write_cache(file, split(6), split(4, seed=1), ["a", "b"], "mark")
    train, test, names = read_cache(file, test_only=True)
    assert cached_source(file) == "mark" and names == ("a", "b")
    assert train.images.shape == (0, 3, 4, 4) and torch.equal(test.images, split(4, seed=1).images)
