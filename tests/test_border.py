"""Bad input: one sentence, the value, what is allowed."""

import pytest
import torch

from d2rkit import border
from d2rkit.border import check_images, home, nearest

IMAGES, LABELS = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])


def test_nearest_names_value_guess_and_all_that_is_allowed():
    error = nearest("tradse", ["trades", "mart"], "method")
    assert isinstance(error, ValueError)
    assert str(error) == "unknown method 'tradse' (did you mean 'trades'?); allowed: trades, mart"


def test_nearest_does_not_guess_wildly():
    assert "did you mean" not in str(nearest("zzz", ["trades", "mart"], "method"))


def test_home_follows_the_environment_then_the_checkout_then_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("D2RKIT_DATA", str(tmp_path / "elsewhere"))
    assert home("data") == tmp_path / "elsewhere"
    monkeypatch.delenv("D2RKIT_DATA")
    assert home("data") == border.PROJECT / "data"
    monkeypatch.setattr(border, "PROJECT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert home("runs") == tmp_path / "runs"


def test_good_images_pass():
    check_images(IMAGES, LABELS, 3)
    check_images(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), LABELS[:2])


@pytest.mark.parametrize(
    ("images", "labels", "classes", "words"),
    [
        (IMAGES[0], LABELS, None, r"\(N, C, H, W\), not \(1, 4, 4\)"),
        (IMAGES, LABELS[:2], None, r"3 images need labels of shape \(3,\), not \(2,\)"),
        (IMAGES, LABELS[:, None], None, r"not \(3, 1\)"),
        (IMAGES, LABELS.float(), None, "integers, not torch.float32"),
        (IMAGES, LABELS.bool(), None, "integers, not torch.bool"),
        (IMAGES[:0], LABELS[:0], None, "no images"),
        (IMAGES + 1, LABELS, None, r"\[0, 1\], not in \[1"),
        (IMAGES - 1, LABELS, None, r"\[0, 1\], not in \[-"),
        (IMAGES * torch.nan, LABELS, None, r"\[0, 1\], not in \[nan"),
        ((IMAGES * 255).to(torch.uint8), LABELS, None, "divide uint8 pixels by 255"),
        (IMAGES, LABELS, 2, r"0\.\.1, not in 0\.\.2"),
        (IMAGES, LABELS - 1, 3, r"0\.\.2, not in -1\.\.1"),
    ],
)
def test_bad_images_and_labels_are_named(images, labels, classes, words):
    with pytest.raises(ValueError, match=words):
        check_images(images, labels, classes)
