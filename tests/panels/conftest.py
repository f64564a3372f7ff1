"""One untrained digits pair for every panel: the panels' wiring does not depend on what it learnt."""

import pytest
import torch

from d2rkit.data.datasets import load_data
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.panels.sample_pairs import SamplePair


@pytest.fixture(scope="session")
def sample() -> SamplePair:
    digits = load_data("digits")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pair = GuidedPair(build_model("cnn-4", 10, 8, 1), build_model("cnn-4", 10, 8, 1)).eval()
    return SamplePair(pair, digits.test.pixels(), digits.test.labels, digits.class_names, 0.2, "toy pair", "toy pair")


@pytest.fixture(scope="session")
def lonely(sample) -> SamplePair:
    """The same without a guide."""
    from dataclasses import replace

    return replace(sample, pair=GuidedPair(sample.pair.target))
