"""What the tests share: one thread, the data, and a small pair that was trained once."""

import copy
import multiprocessing
from pathlib import Path

import pytest
import torch

from d2rkit.arrays import Split
from d2rkit.data import ImageData, load_data
from d2rkit.models import build_model
from d2rkit.pair import GuidedPair
from d2rkit.training import Recipe, fit

SLOW = (
    "browser", "exercises/test_checks_trained.py", "exercises/test_notebooks.py", "notebooks", "panels",
    "test_apgd.py", "test_attack_copies.py", "test_autoattack.py", "test_benchmarks.py", "test_cli.py",
    "test_command_lines.py", "test_device_names.py", "test_device_rules.py", "test_devices.py",
    "test_digits_seeds.py", "test_docs.py", "test_doors.py", "test_dry_run.py", "test_evaluation.py",
    "test_experiment.py", "test_fab.py", "test_failures.py", "test_figures.py", "test_folding.py", "test_golden.py",
    "test_gradient_masking.py", "test_guides.py", "test_hostile_runs.py", "test_install.py", "test_jobs.py",
    "test_network_export.py", "test_packing.py", "test_planning.py", "test_plugins.py", "test_progress.py",
    "test_real_images.py", "test_resume.py", "test_run_evaluation.py", "test_square.py", "test_sweep.py",
    "test_tiny_imagenet.py", "test_training.py", "test_tuning.py", "test_verifying.py",
)  # fmt: skip
"""Files and folders that `make check` leaves out: they train, start processes or draw for more than a few seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        path = item.path.relative_to(here)
        if any(path == Path(slow) or Path(slow) in path.parents for slow in SLOW):
            item.add_marker("slow")


# Worker processes import torch anew, three to five seconds of CPU each. In tests they are forked from a process that
# has imported it, and differ from the spawned ones of users in nothing else but that they do not see later changes of
# the environment; who needs that, and one test of each kind of process, takes the fixture `spawned`.
_get_context = multiprocessing.get_context
multiprocessing.get_context = lambda method=None: _get_context("forkserver" if method == "spawn" else method)
multiprocessing.set_forkserver_preload(["d2rkit.dry_run", "d2rkit.sweep", "lightning_fabric", "pyautoattack", "pytest"])


@pytest.fixture
def spawned(monkeypatch):
    """Worker processes begin as those of users do."""
    monkeypatch.setattr(multiprocessing, "get_context", _get_context)


torch.set_num_threads(1)  # small networks on busy cores: more threads only wait for each other


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="session")
def few_digits(digits) -> ImageData:
    """160 training, 40 validation and 40 test images: enough for a loop to run, quick enough to repeat."""
    parts = (Split(s.images[:n], s.labels[:n]) for s, n in ((digits.train, 160), (digits.val, 40), (digits.test, 40)))
    return ImageData("digits", digits.class_names, *parts, "a few digits")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images in {folder}")
    return folder


def make_pair(seed: int = 0, name: str = "cnn-4", guide: bool = True) -> GuidedPair:
    torch.manual_seed(seed)
    networks = [build_model(name, 10, 8, channels=1) for _ in range(2 if guide else 1)]
    return GuidedPair(*networks)


@pytest.fixture(scope="session")
def trained_once(digits) -> GuidedPair:
    pair = make_pair(name="cnn-8")
    recipe = Recipe(
        "d2r-cag-released", epochs=8, batch_size=64, lr=0.2, warmup=2, eps=0.1, step_size=0.05, steps=3,
        padding=0, flip=False, val_steps=1,
    )  # fmt: skip
    assert fit(pair, digits, recipe, device="cpu").status == "done"
    return pair.eval()


@pytest.fixture
def trained(trained_once) -> GuidedPair:
    """A digits pair whose target is right on most clean images and on some attacked ones; a copy for each test."""
    return copy.deepcopy(trained_once)
