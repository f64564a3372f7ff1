"""Bad input: one sentence, the value, what is allowed."""

import pytest
import torch
from torch import nn

from d2rkit.core.validation import (
    asked,
    check_batch,
    check_choice,
    check_count,
    check_images,
    check_labels,
    check_logits,
    check_number,
    logits_of,
    nearest,
    shown,
)

IMAGES, LABELS = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])


def test_nearest_names_value_guess_and_all_that_is_allowed():
    error = nearest("tradse", ["trades", "mart"], "method")
    assert isinstance(error, ValueError)
    assert str(error) == "unknown method 'tradse' (did you mean 'trades'?); allowed: trades, mart"


def test_nearest_does_not_guess_wildly():
    assert "did you mean" not in str(nearest("zzz", ["trades", "mart"], "method"))


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
        (IMAGES.round().bool(), LABELS, None, "images must be floats"),
        (IMAGES.numpy(), LABELS, None, r"images must be a tensor, not a ndarray of float32 and shape \(3, 1, 4, 4\)"),
        (IMAGES, [0, 1, 2], None, r"labels must be a tensor, not \[0, 1, 2\]"),
        (torch.rand(3, 32, 32, 3), LABELS, None, r"look like \(N, H, W, C\)"),
        (IMAGES[..., :0], LABELS, None, "no images to work on"),
        (IMAGES, LABELS, 2, r"0\.\.1, not in 0\.\.2"),
        (IMAGES, LABELS - 1, 3, r"0\.\.2, not in -1\.\.1"),
    ],
)
def test_bad_images_and_labels_are_named(images, labels, classes, words):
    with pytest.raises(ValueError, match=words):
        check_images(images, labels, classes)


Z = torch.zeros(4, 5)


@pytest.mark.parametrize(
    ("logits", "words"),
    [
        ((Z[0],), r"shape \(B, C\) .* not \(5,\)"),
        ((Z[:0],), "B >= 1 examples"),
        ((Z[:, :1],), "C >= 2 classes"),
        ((Z.long(),), "floating-point tensor .* torch.int64"),
        ((Z.numpy(),), "not a ndarray of float32"),
        ((None,), "not None"),
        ((Z, Z[:3]), r"one shape and one device, not \(4, 5\) on cpu and \(3, 5\) on cpu"),
        ((Z, Z[:, :4]), "one shape"),
        ((Z, Z.to("meta")), "on cpu and .* on meta"),
    ],
)
def test_what_logits_may_be(logits, words):
    with pytest.raises(ValueError, match=words) as caught:
        check_logits(*logits)
    assert "\n" not in str(caught.value)
    check_logits(Z, Z.half(), Z.double().requires_grad_())


@pytest.mark.parametrize("low", [-1, 5, -100])
def test_labels_are_looked_at_on_a_cpu_only(low):
    y = torch.tensor([0, low, 4])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.4, not in"):
        check_labels(y, 3, 5)
    check_labels(y, 3)
    check_labels(y.to("meta"), 3, 5)  # on a device nobody may ask for a value, as on a GPU nobody should
    check_labels(torch.tensor([0, 4]), 2, 5)


@pytest.mark.parametrize("y", [torch.tensor([0, 1]), torch.tensor([[0, 1, 2]]), torch.zeros(3), [0, 1, 2], None])
def test_labels_are_one_int64_an_example(y):
    with pytest.raises(ValueError, match=r"labels must be an int64 tensor of shape \(3,\)"):
        check_labels(y, 3, 5)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), float("inf"), 10**30, "0.5", None, True, Z])
def test_numbers(value):
    with pytest.raises(ValueError, match=r"^share must be a finite number in \[0, 1\], not ") as caught:
        check_number("share", value, high=1)
    assert len(str(caught.value)) < 200
    check_number("share", 0, high=1)
    check_number("share", 1.0, high=1)


@pytest.mark.parametrize("value", [-1, 1.0, "1", None, False, 10**30])
def test_counts(value):
    with pytest.raises(ValueError, match=r"^steps must be a whole number of at least 0, not "):
        check_count("steps", value)
    check_count("steps", 0)


@pytest.mark.parametrize("value", ["trade", None, ["trades"], 3])
def test_choices(value):
    with pytest.raises(ValueError, match=r"^unknown method .*allowed: trades, mart$"):
        check_choice(value, ("trades", "mart"), "method")


def test_values_are_shown_in_a_line():
    assert shown("a\nb\x1b[31m") == r"'a\nb\x1b[31m'" and "\x1b" not in shown("\x1b")
    assert len(shown("x" * 10_000)) == 80
    assert shown(torch.zeros(2, 3)) == "a Tensor of torch.float32 and shape (2, 3)"


class Head(nn.Module):
    def __init__(self, returned=lambda x: x.mean((2, 3))):
        super().__init__()
        self.conv, self.returned = nn.Conv2d(3, 5, 1), returned

    def forward(self, x):
        return self.returned(self.conv(x))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (
            torch.rand(2, 6, 6, 3),
            r"takes images of shape \(B, 3, H, W\), not \(2, 6, 6, 3\); these look like \(B, H, W, C\)",
        ),
        (torch.rand(2, 1, 6, 6), r"shape \(B, 3, H, W\), not \(2, 1, 6, 6\)$"),
        (torch.rand(2, 3, 6, 6).double(), "the images are torch.float64, the network is torch.float32"),
        ([[0.5]], r"images must be a tensor, not \[\[0.5\]\]"),
    ],
)
def test_a_network_says_what_it_takes(x, words):
    with pytest.raises(ValueError, match=words):
        asked(Head(), x)


def test_a_linear_layer_that_does_not_fit_is_named():
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 8\) do not fit: they give 64 features where a layer takes 8$"):
        asked(network, torch.rand(2, 1, 8, 8))


def test_a_networks_own_error_stays_its_own():
    def fails(z):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        logits_of(Head(fails), torch.rand(2, 3, 6, 6))


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (lambda z: (z,), "logits must be a floating-point tensor"),
        (lambda z: z, r"not \(2, 5, 6, 6\)"),
    ],
)
def test_a_network_must_return_logits(returned, words):
    with pytest.raises(ValueError, match=words):
        logits_of(Head(returned), torch.rand(2, 3, 6, 6))
    assert logits_of(Head(), torch.rand(0, 3, 6, 6)).shape == (0, 5)


def test_batches_have_a_start_like_themselves():
    x = torch.rand(2, 3)
    check_batch(x, torch.zeros(2, 3))
    for start in (torch.zeros(2, 1), torch.zeros(2, 3).double(), 0.1, torch.zeros(2, 3, device="meta")):
        with pytest.raises(ValueError, match=r"start must be like the images, torch.float32 of shape \(2, 3\) on cpu"):
            check_batch(x, start)
    for wrong in (x[0], x.bool(), x.numpy(), None):
        with pytest.raises(ValueError, match="images must be a floating-point tensor"):
            check_batch(wrong)
