"""A short D2R+CAG run of small networks on real CIFAR-10 beats chance clearly under PGD-20."""

import pytest
import torch

from d2rkit.data.arrays import Split
from d2rkit.data.datasets import ImageData, first_of_each_class, load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.networks.checkpoints import load_weights
from d2rkit.training.loop import Recipe, fit

# Two attack steps, and weights for a few hundred training steps: the defaults are for a hundred epochs.
RECIPE = Recipe(
    "d2r-cag", epochs=5, batch_size=32, lr=0.1, warmup=0.5, steps=2, step_size=6 / 255, padding=2,
    loss={"w_clean": 0.5, "w_adv": 10.0}, ema=0.98, speed="fast", val_steps=2,
)  # fmt: skip


def some(split: Split, count: int) -> Split:
    return split.take(first_of_each_class(split.labels, count))


@pytest.mark.timeout(900)  # about a minute
def test_cifar10_under_pgd20(shared_data, tmp_path, capsys):
    whole = load_data("cifar10", shared_data, subset="10k", download=False)
    parts = some(whole.train, 2500), some(whole.val, 200), some(whole.test, 1000)
    data = ImageData(whole.name, whole.class_names, *parts, whole.source)
    torch.manual_seed(0)
    pair = GuidedPair(*(build_model("patch-resnet-16", 10) for _ in range(2))).to(memory_format=torch.channels_last)
    done = fit(pair, data, RECIPE, tmp_path, device="cpu")
    best = load_weights(tmp_path / "best.safetensors", pair)
    result = evaluate(best, data.test, ("clean", "pgd20"), 8 / 255)
    robust, error = result.accuracy("pgd20"), result.standard_error("pgd20")
    with capsys.disabled():
        print(f"\nCIFAR-10, D2R+CAG, patch-resnet-16, {done.seconds:.0f} s of training: clean", end=" ")
        print(f"{result.accuracy('clean'):.1%}, PGD-20 {robust:.1%} ± {error:.1%} (chance 10%)")
    assert done.status == "done"
    assert robust - 1.96 * error > 0.12
