"""What the tests share: one thread, the data, and a small pair that was trained once."""

import copy
import multiprocessing
from pathlib import Path

import pytest
import torch

from d2rkit.data.arrays import Split
from d2rkit.data.datasets import ImageData, load_data
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.training.loop import Recipe, fit

SLOW = (
    "exercises/test_class_desk.py", "acceleration/test_memory_format.py", "networks/test_released.py",
    "evaluation/test_evaluator.py", "experiments/test_presets.py", "networks/test_no_checkpoint.py", "test_refresh.py",
    "evaluation/test_anytime.py", "experiments/test_trackers.py", "browser", "exercises/test_checks_trained.py",
    "exercises/test_notebooks.py", "notebooks", "panels", "evaluation/test_auto_pgd.py",
    "acceleration/test_attack_copies.py", "evaluation/test_autoattack.py", "test_benchmarks.py", "cli/test_cli.py",
    "cli/test_command_lines.py", "core/test_device_names.py", "core/test_device_rules.py", "core/test_devices.py",
    "experiments/test_digits_seeds.py", "test_docs.py", "cli/test_doors.py", "planning/test_dry_run.py",
    "evaluation/test_evaluate.py", "experiments/test_experiment.py", "evaluation/test_fast_adaptive_boundary.py",
    "cli/test_failures.py", "reporting/test_figures.py", "acceleration/test_folding.py", "test_golden.py",
    "evaluation/test_gradient_masking.py", "training/test_guides.py", "experiments/test_hostile_runs.py",
    "test_install.py", "experiments/test_slurm.py", "networks/test_export.py", "reporting/test_pack.py",
    "planning/test_cost.py", "experiments/test_plugins.py", "experiments/test_plugin_digests.py",
    "experiments/test_plugin_faults.py", "experiments/test_status.py",
    "experiments/test_real_images.py", "training/test_resume.py", "experiments/test_run_evaluation.py",
    "evaluation/test_square.py", "experiments/test_sweep.py", "data/test_tiny_imagenet.py",
    "data/test_tiny_imagenet_forms.py", "training/test_loop.py", "experiments/test_tuning.py",
    "reporting/test_verify.py", "networks/test_zoo.py", "networks/test_zoo_libraries.py",
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
multiprocessing.set_forkserver_preload(
    [
        "d2rkit.planning.dry_run",
        "d2rkit.experiments.sweep",
        "lightning_fabric",
        "pyautoattack",
        "pytest",
        "d2rkit.panels",
        "ipykernel.kernelapp",
    ]
)


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
