"""What an epoch is: every image once, in an order of its own, each weighing the same in its means."""

import pytest
import torch
from torch import nn

from d2rkit.methods.pair import GuidedPair
from d2rkit.training import loop
from d2rkit.training.loop import fit
from tests.training.test_loop import changed


def plain_pair():
    """Without BatchNorm: the loss on images is the mean of what each has alone."""
    torch.manual_seed(0)
    return GuidedPair(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)))


def test_every_epoch_has_an_order_of_its_own(few_digits):
    """Each image once an epoch, in another order each time, the same for the same seed."""

    def orders(seed):
        pair, seen = plain_pair(), []
        pair.target.register_forward_hook(lambda net, x, out: seen.append(x[0].clone()) if net.training else None)
        fit(pair, few_digits, changed(method="natural", epochs=2, padding=0, flip=False, seed=seed), device="cpu")
        return torch.cat(seen).flatten(1).split(len(few_digits.train))

    first, second = orders(0)
    images = few_digits.train.pixels().flatten(1)
    for epoch in (first, second):
        assert torch.equal(epoch.sort(0).values, images.sort(0).values)
    assert not torch.equal(first, second) and not torch.equal(first, images)
    assert torch.equal(torch.stack(orders(0)), torch.stack([first, second])) and not torch.equal(orders(1)[0], first)


def test_the_mean_of_an_epoch_is_that_of_its_images(few_digits):
    """160 images in batches of 64, 64 and 32: each image weighs the same."""
    pair = plain_pair()
    logits = pair.target(few_digits.train.pixels())
    right = (logits.argmax(1) == few_digits.train.labels).float().mean().item()
    loss = nn.functional.cross_entropy(logits, few_digits.train.labels).item()
    recipe = changed(method="natural", epochs=1, batch_size=64, lr=1e-9, padding=0, flip=False)
    (row,) = fit(pair, few_digits, recipe, device="cpu").history
    assert row["loss"] == row["loss_ce"] == pytest.approx(loss, rel=1e-5)
    assert row["train_clean"] == pytest.approx(right, abs=1e-6)


def test_best_is_chosen_by_pgd_accuracy_where_clean_accuracy_disagrees(few_digits, tmp_path, monkeypatch):
    """The first of the epochs with the highest accuracy under attack, whatever they are worth on clean images."""
    accuracies = [(0.5, 0.2), (0.6, 0.4), (0.9, 0.3), (0.2, 0.4)]
    script = iter([{"clean": clean, "pgd": pgd} for clean, pgd in accuracies])
    monkeypatch.setattr(loop._Loop, "validate", lambda self: next(script))
    kept = []
    recipe = changed(method="natural", epochs=4, padding=0)
    fit(plain_pair(), few_digits, recipe, tmp_path, device="cpu",
        on_epoch=lambda row: kept.append((tmp_path / "last.safetensors").read_bytes()))  # fmt: skip
    assert len(set(kept)) == 4 and (tmp_path / "best.safetensors").read_bytes() == kept[1]
