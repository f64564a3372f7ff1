"""D2R+CAG does not collapse on digits: seeds of the quick preset's own experiment.

Three of them; D2RKIT_SEEDS=20 tries as many."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch

from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.experiment import build_pair
from d2rkit.experiments.presets import QUICK
from d2rkit.training.loop import fit


def clean_accuracy(seed):
    """Status and clean accuracy on the test images of the last epoch, for one seed."""
    torch.set_num_threads(1)
    (experiment,) = (e for e in QUICK.experiments(("d2r-cag",), seeds=seed + 1) if e.seed == seed)
    data = load_data(experiment.data)
    pair = build_pair(experiment, data)
    status = fit(pair, data, experiment, device="cpu").status
    return seed, status, evaluate(pair, data.test, ("clean",), experiment.eps).accuracy("clean")


SEEDS = range(int(os.environ.get("D2RKIT_SEEDS", "3")))


@pytest.mark.timeout(1200)
@pytest.mark.thorough
def test_no_seed_collapses(capsys):
    # Two processes of one thread each: more only wait for each other.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as workers:
        results = list(workers.map(clean_accuracy, SEEDS))
    with capsys.disabled():
        print("\nD2R+CAG on digits, clean accuracy of seeds 0, 1, …:", *(f"{accuracy:.3f}" for *_, accuracy in results))
    assert [(seed, status) for seed, status, _ in results] == [(seed, "done") for seed in SEEDS]
    assert min(accuracy for *_, accuracy in results) >= 0.93
