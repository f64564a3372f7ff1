"""Standard AutoAttack, PGD-20 and C&W-20: ours against the plain way, on the same network, images and seed.

    python benchmarks/evaluate.py                     # the shipped CIFAR-10 network (needs CIFAR-10 in the data folder)
    python benchmarks/evaluate.py --network digits    # a digits network that is trained first

The plain way to AutoAttack is one call of `pyautoattack` on the network as it is; to PGD and C&W a loop over all
images on the network as it is, as releases write it, from the same random starts. Ours attacks only images that are
right to begin with, in a copy with folded BatchNorm, APGD without what it has fooled, FAB-T's classes and Square's
queries side by side, and lets the network itself judge. Plain and ours take turns (`--autoattack-repeats` and
`--repeats`; medians); flags that differ are listed. All in float32.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import results
from d2rkit.data.datasets import first_of_each_class, load_data
from d2rkit.evaluation.autoattack import correct, forked_rng
from d2rkit.evaluation.autoattack.upstream import ContiguousGradient
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import machine
from d2rkit.methods.attacks import uniform_start
from d2rkit.methods.pair import eval_mode
from d2rkit.panels.sample_pairs import digits_pair, shipped_pair

TIMED = ("pgd20", "cw20", "autoattack")


def plain_autoattack(network: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int, batch_size: int) -> Tensor:
    """(N,) bool: still right after one call of the package."""
    from pyautoattack import AutoAttack

    with eval_mode(network), forked_rng():
        attack = AutoAttack(
            ContiguousGradient(network), norm="Linf", eps=eps, seed=seed, version="standard", device="cpu"
        )
        x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=batch_size)
        return correct(network, x_adv, y, batch_size)


def plain_pgd(
    network: nn.Module, x: Tensor, y: Tensor, eps: float, start: Tensor, kind: str, batch_size: int
) -> Tensor:
    """(N,) bool: still right after 20 steps of PGD (kind "pgd") or of C&W's margin loss ("cw") on every image."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        if kind == "pgd":
            return F.cross_entropy(logits, labels)
        right = F.one_hot(labels, logits.shape[1]).bool()
        return (logits.masked_fill(right, -torch.inf).amax(1) - logits[right]).sum()

    robust = []
    with eval_mode(network):
        for images, labels, delta in zip(*(t.split(batch_size) for t in (x, y, start)), strict=True):
            x_adv = images + delta
            for _ in range(20):
                x_adv.requires_grad_()
                (gradient,) = torch.autograd.grad(loss(network(x_adv), labels), [x_adv])
                x_adv = x_adv.detach() + eps / 4 * gradient.sign()
                x_adv = torch.min(torch.max(x_adv, images - eps), images + eps).clamp(0, 1)
            robust.append(correct(network, x_adv, labels, batch_size))
    return torch.cat(robust)


def same_starts(clean: Tensor, x: Tensor, eps: float, seed: int, batch_size: int) -> Tensor:
    """The random starts that evaluate() gives to images that are right; others start where they are."""
    start = torch.zeros_like(x)
    for number, index in enumerate(clean.nonzero().flatten().split(batch_size)):
        start[index] = uniform_start(x[index], eps, torch.Generator().manual_seed(seed * 100_003 + number))
    return start


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def compared(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    batch_size: int,
    repeats: int,
    attacks: Sequence[str] = TIMED,
    autoattack_repeats: int = 1,
) -> list[dict]:
    """Each attack: seconds plainly and ours, accuracies, and the numbers of the images whose flags differ."""
    rows = []
    with eval_mode(network):
        clean = correct(network, x, y, batch_size)
    start = same_starts(clean, x, eps, 0, batch_size)
    for attack in attacks:
        plain_seconds, our_seconds = [], []
        for _ in range(autoattack_repeats if attack == "autoattack" else repeats):
            if attack == "autoattack":
                seconds, plain = timed(lambda: plain_autoattack(network, x, y, eps, 0, batch_size))
            else:
                kind = attack.removesuffix("20")
                seconds, plain = timed(lambda kind=kind: plain_pgd(network, x, y, eps, start, kind, batch_size))
                plain &= clean
            plain_seconds.append(seconds)
            seconds, ours = timed(
                lambda attack=attack: evaluate(network, (x, y), (attack,), eps, batch_size=batch_size).flags[attack]
            )
            our_seconds.append(seconds)
        ratios = [a / b for a, b in zip(plain_seconds, our_seconds, strict=True)]
        rows.append(
            {
                "attack": attack,
                "seconds_plain": statistics.median(plain_seconds),
                "seconds_ours": statistics.median(our_seconds),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "accuracy_clean": clean.float().mean().item(),
                "accuracy_plain": plain.float().mean().item(),
                "accuracy_ours": ours.float().mean().item(),
                "differ": (plain != ours).nonzero().flatten().tolist(),
            }
        )
    return rows


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--network", choices=["small", "digits"], default="small")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="turns of PGD and C&W")
    parser.add_argument("--autoattack-repeats", type=int, default=1, help="turns of AutoAttack")
    parser.add_argument("--attacks", nargs="+", choices=TIMED, default=TIMED, help="which attacks")
    parser.add_argument("--data-root", default=None, help="where CIFAR-10 lies")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    small = chosen.network == "small"
    try:
        test = (load_data("cifar10", chosen.data_root, "10k") if small else load_data("digits")).test
        sample = shipped_pair("d2r-cag") if small else digits_pair("d2r-cag")
    except ValueError as error:
        sys.exit(str(error))
    test = test.take(first_of_each_class(test.labels, chosen.images))
    x, y = test.pixels(), test.labels
    network, size, repeats = sample.pair.target, chosen.batch_size, chosen.repeats
    rows = compared(network, x, y, sample.eps, size, repeats, chosen.attacks, chosen.autoattack_repeats)
    results.write(chosen.to, network=sample.title, images=chosen.images, attacks=rows)
    right = f"{rows[0]['accuracy_clean']:.1%} of them right without an attack"
    print(f"{sample.title}, {chosen.images} test images, {right}, {machine()}")
    for row in rows:
        print(
            f"{row['attack']:10}  plain {row['seconds_plain']:7.1f} s ({row['accuracy_plain']:.1%})  ours "
            f"{row['seconds_ours']:7.1f} s ({row['accuracy_ours']:.1%})  {row['ratio']:.2f}x "
            f"({row['ratio_min']:.2f} to {row['ratio_max']:.2f})  "
            f"flags that differ: {row['differ'] or 'none'}"
        )


if __name__ == "__main__":
    main()
