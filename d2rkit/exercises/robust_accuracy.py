"""Exercise 7: robust accuracy with its error bar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from d2rkit.exercises import probes
from d2rkit.exercises.checking import Exercise, Step, compare, functions
from d2rkit.methods import attacks
from d2rkit.methods.pair import eval_mode


def reference(model: nn.Module, x: Tensor, y: Tensor, attack: Callable, batch_size: int) -> tuple[float, float]:
    """Share of images that are right before AND after attack(model, x, y), and its binomial standard error
    sqrt(p (1 - p) / n); x: (N, C, H, W) in [0, 1], y: (N,). Eval mode throughout, afterwards as it was."""
    with eval_mode(model):
        flags = _flags(model, x, y, attack, batch_size)
    p = flags.float().mean().item()
    return p, math.sqrt(p * (1 - p) / len(y))


def _flags(model: nn.Module, x: Tensor, y: Tensor, attack: Callable, batch_size: int, clean_too: bool = True) -> Tensor:
    flags = []
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        x_adv = attack(model, images, labels)
        with torch.no_grad():
            right = model(x_adv).argmax(1) == labels
            flags.append(right & (model(images).argmax(1) == labels) if clean_too else right)
    return torch.cat(flags)


def shaking(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A poor attack, on purpose: it repairs some wrong images, so counting only the attacked ones shows."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(len(x)))
    return (x + 0.4 * noise).clamp(0, 1)


def pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return attacks.pgd_ce(model, x, y, eps=0.05, step_size=0.02, steps=3)


def probe(solution: Callable) -> Iterator[Step]:
    yield from functions(solution)
    model, x, y, size = probes.network(2), probes.images(46, seed=3), _mixed_labels(), 20  # batches of 20, 20 and 6
    for words, attack in (("an attack that does nothing", _nothing), ("a poor attack", shaking), ("PGD", pgd)):
        twin = probes.twin(model, training=True)
        answer = solution(twin, x.clone(), y.clone(), attack, size)
        pair = isinstance(answer, tuple | list) and len(answer) == 2
        hint = "return accuracy, standard_error: two numbers (is a `return` missing?)"
        yield Step("returns two numbers", pair, type(answer).__name__, "accuracy, standard error", hint)
        got, expected = (
            torch.tensor([float(v) for v in both]) for both in (answer, reference(model, x, y, attack, size))
        )
        yield compare(
            f"accuracy under {words}", got[0], expected[0], _accuracy_mistakes(model, x, y, attack, size, expected[0]),
            "count the images that are right before and after the attack, divide by all images",
        )  # fmt: skip
        p, n = expected[0], len(y)
        bars = {
            "that is the standard deviation of one flag: the standard error of the mean is smaller by sqrt(n)": (
                p * (1 - p)
            ).sqrt(),
            "the square root is missing: that is a variance": p * (1 - p) / n,
            "n is the number of images, not the batch size or the number of batches": (p * (1 - p) / size).sqrt(),
            "n is the number of images, not of batches": (p * (1 - p) / 3).sqrt(),
            "that is a 95 % half-width, 1.96 standard errors: return one standard error": 1.96 * expected[1],
        }
        hint = "a share p of n independent images has the standard error sqrt(p (1 - p) / n)"
        yield compare(f"error bar under {words}", got[1], expected[1], bars, hint)
        back = all(probes.modes(twin))
        hint = "the network came in train mode and was left in eval mode: put it back when you are done"
        yield Step("the network is back in train mode", back, "eval mode", "train mode, as it came", hint)


def _accuracy_mistakes(model, x, y, attack, size, right) -> dict[str, Tensor | Callable[[], Tensor]]:
    training = probes.twin(model, training=True)

    def attacked_only() -> Tensor:
        return _flags(model, x, y, attack, size, clean_too=False).float().mean()

    def batch_means() -> Tensor:
        return torch.stack([part.float().mean() for part in _flags(model, x, y, attack, size).split(size)]).mean()

    def last_batch_dropped() -> Tensor:
        return _flags(model, x[:40], y[:40], attack, size).float().mean()

    def only_clean() -> Tensor:
        return (model(x).argmax(1) == y).float().mean()

    def train_mode() -> Tensor:
        return _flags(training, x, y, attack, size).float().mean()

    def train_mode_attacked_only() -> Tensor:
        return _flags(probes.twin(model, training=True), x, y, attack, size, clean_too=False).float().mean()

    train_hint = "train mode was left on: BatchNorm uses the batch's own statistics; evaluate in eval mode"
    return {
        train_hint: train_mode,
        f"{train_hint} (and count images that were wrong already as not robust)": train_mode_attacked_only,
        "that is a percentage: return a share in [0, 1]": 100 * right,
        "an image that was wrong already is not robust: an attacker can leave it as it is": attacked_only,
        "that is the mean of the batch means: the last batch is smaller and must count less": batch_means,
        "the last, smaller batch was dropped: use every image": last_batch_dropped,
        "that is the clean accuracy: predict on the attacked images": only_clean,
        "that is the error rate, 1 - accuracy": 1 - right,
    }


def _nothing(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x


def _mixed_labels() -> Tensor:
    """Two thirds of the labels are what the network says; the last images are wrong more often, so that the
    batches differ."""
    with torch.no_grad():
        said = probes.network(2)(probes.images(46, seed=3)).argmax(1)
    wrong = (torch.arange(46) % 3 == 0) | (torch.arange(46) > 42)
    return torch.where(wrong, (said + 1) % probes.CLASSES, said)


EXERCISE = Exercise(
    "robust_accuracy", "Robust accuracy with its error bar", 20,
    "my_robust_accuracy(model, x, y, attack, batch_size)", probe, reference,
)  # fmt: skip
