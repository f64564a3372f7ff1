"""Names of devices, launchers that are not ours, workers' cards, arithmetic: what a machine has is told, not needed."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from d2rkit.cli.runs import doctor
from d2rkit.core import devices
from d2rkit.core.arithmetic import attack_math, ieee_float32, training_math
from d2rkit.core.processes import launch
from d2rkit.data.datasets import load_data
from d2rkit.experiments import slurm
from d2rkit.experiments.experiment import machine
from d2rkit.experiments.run import run
from d2rkit.experiments.sweep import sweep
from d2rkit.networks.architectures import build_model
from d2rkit.panels.start_here import check
from d2rkit.training import fabric
from d2rkit.training.averaging import follow
from d2rkit.training.loop import fit
from tests.conftest import make_pair
from tests.experiments.test_experiment import TINY
from tests.training.test_loop import changed

CPU, NONE = torch.device("cpu"), "is not here: torch finds no"


@pytest.fixture
def gpus(monkeypatch):
    """gpus(2): a machine with so many NVIDIA GPUs; gpus(0, apple=True): with an Apple one."""

    def have(count, apple=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    have(0)
    return have


# Names --------------------------------------------------------------------------------------------


def test_auto_is_an_nvidia_gpu_or_the_cpu_and_an_apple_gpu_is_asked_for(gpus):
    gpus(0, apple=True)
    assert devices.resolve() == devices.resolve("CPU") == CPU and machine().endswith("thread(s)")
    assert devices.resolve("mps") == torch.device("mps", 0) and "Apple GPU" in machine("mps")
    gpus(2)
    assert [str(devices.resolve(d)) for d in ("auto", "cuda", "gpu", "cuda:1", torch.device("cuda", 1), "cpu")] == [
        "cuda:0", "cuda:0", "cuda:0", "cuda:1", "cuda:1", "cpu",
    ]  # fmt: skip
    assert machine("cuda:1") == "card 1" and machine() == "card 0"


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", NONE), ("cuda:1", NONE), ("gpu", NONE), ("mps", NONE), ("tpu", "unknown device 'tpu'"),
        ("cdua", "unknown device 'cdua'.*'cuda'"), ("cuda:x", "no such number"), ("", "unknown device"),
        ("auto:1", "no such number"), ("cpu:3", "no such number"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_here_is_one_sentence_and_leaves_nothing(gpus, tmp_path, few_digits, device, words):
    doors = (
        lambda: run(TINY, tmp_path, device=device),
        lambda: sweep([TINY], tmp_path, device=device, quiet=True),
        lambda: fit(make_pair(), few_digits, changed(), tmp_path / "fit", device=device),
        lambda: machine(device),
    )
    for door in doors:
        with pytest.raises(ValueError, match=words) as raised:
            door()
        assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_number_beyond_the_last_gpu_is_one_sentence(gpus):
    gpus(2)
    with pytest.raises(ValueError, match=r"'cuda:2' is not here: this machine has 2 GPU\(s\)"):
        devices.resolve("cuda:2")


@pytest.mark.parametrize(
    ("count", "device", "words"),
    [(3, "auto", r"2 GPU\(s\), not 3"), (2, "cuda:1", "names one GPU, not 2"), (200, "cpu", "between 1 and the batch")],
)
def test_devices_that_cannot_share_a_batch(gpus, count, device, words):
    gpus(2)
    devices.check_count(2, "cuda", 128)
    with pytest.raises(ValueError, match=words):
        devices.check_count(count, device, 128)
    gpus(0, apple=True)
    with pytest.raises(ValueError, match="an Apple GPU is one device, not 2"):
        devices.check_count(2, "mps", 128)


def test_doctor_names_the_device(capsys, monkeypatch):
    monkeypatch.setattr("d2rkit.cli.runs.DATASETS", ())
    doctor()
    assert f"Device: {machine()}" in capsys.readouterr().out


def test_workers_take_cards_in_turn(gpus, monkeypatch):
    assert devices.card_for(0, "auto") is None
    gpus(2)
    assert [devices.card_for(worker, "auto") for worker in range(3)] == ["0", "1", "0"]
    assert devices.card_for(1, "cpu") is None and devices.card_for(1, "cuda:0") is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [devices.card_for(worker, "cuda") for worker in range(3)] == ["5", "7", "5"]


def test_the_first_notebook_names_the_gpu_that_would_be_used(gpus):
    assert "none" in [item.found for item in check() if item.name == "GPU"]
    gpus(1)
    assert [item.found for item in check() if item.name == "GPU"] == [machine()]


def card_of(*_):
    """In place of a run, in a worker process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "none")


def test_workers_of_a_sweep_have_a_card_each(gpus, monkeypatch, tmp_path):
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two workers need two cores")
    gpus(2)
    monkeypatch.setattr("d2rkit.experiments.sweep._work", card_of)
    cells = [dataclasses.replace(TINY, method=method) for method in ("trades", "d2r-cag")]
    assert [o.status for o in sweep(cells, tmp_path, workers=2, quiet=True)] == ["0", "1"]


def test_compile_asks_for_the_compiler_of_its_device(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="compile needs a C\\+\\+ compiler"):
        fabric.check_compiler(CPU)
    monkeypatch.setattr(fabric, "find_spec", lambda name: object())
    fabric.check_compiler(torch.device("cuda"))
    monkeypatch.setattr(fabric, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="compile needs the package triton"):
        fabric.check_compiler(torch.device("cuda"))


# Launchers ----------------------------------------------------------------------------------------

FOREIGN = {
    "another program's launcher": {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
    "torchrun": {
        "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    },
    "srun --ntasks 8": {
        "SLURM_NTASKS": "8", "SLURM_JOB_NAME": "d2rkit", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "0",
        "SLURM_JOB_ID": "1", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "n1",
    },
}  # fmt: skip


@pytest.mark.parametrize("whose", FOREIGN)
def test_a_run_on_one_device_does_not_care_who_started_it(whose, monkeypatch):
    for name, value in FOREIGN[whose].items():
        monkeypatch.setenv(name, value)
    assert devices.expected() == 1
    made = fabric.make_fabric("cpu", "32-true")
    assert (made.world_size, made.global_rank, made.device) == (1, 0, CPU)


def counted(path, *, report=None, should_stop=None):
    made = fabric.make_fabric("cpu", "32-true")
    Path(path, f"{devices.rank()} of {devices.size()}").write_text(str(made.world_size))


def test_a_group_of_ours_does_not_care_either(monkeypatch, tmp_path):
    for name, value in FOREIGN["torchrun"].items():
        monkeypatch.setenv(name, value)
    launch(2, counted, (tmp_path,))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]


@pytest.mark.thorough
def test_sigterm_is_heard_inside_another_programs_launcher(tmp_path):
    command = [sys.executable, "-m", "d2rkit", "train", "--data", "digits", "--epochs", "500", "--runs", str(tmp_path)]
    environment = os.environ | FOREIGN["another program's launcher"] | {"OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until = time.monotonic() + 90
        while not list(tmp_path.glob("*/history.csv")) and running.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        running.send_signal(signal.SIGTERM)
        out, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert list(tmp_path.glob("*/resume.pt")) and "Traceback" not in out, out


@pytest.mark.parametrize("name", ["SLURM_NNODES", "GROUP_WORLD_SIZE"])
def test_several_machines_are_refused_where_devices_share_a_run(tmp_path, monkeypatch, name):
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match=f"one machine, but {name} is 2"):
        run(TINY, tmp_path, device="cpu", count=2)
    with pytest.raises(ValueError, match="leave nodes out"):
        slurm.Slurm(extra={"nodes": "2"}).check()
    assert list(tmp_path.iterdir()) == []


def shared_memory(path, *arguments, report=None, should_stop=None):
    """How many segments of shared memory this process has in use."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    Path(path, str(devices.os.environ["RANK"])).write_text(str(sum("/dev/shm/torch" in line for line in maps)))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads /proc")
def test_images_do_not_go_through_shared_memory(tmp_path, monkeypatch):
    sent = []

    def noted(count, function, arguments, **how):
        sent.extend(arguments)
        launch(2, shared_memory, (tmp_path, *arguments))
        raise ValueError("seen")

    monkeypatch.setattr("d2rkit.experiments.run.launch", noted)
    with pytest.raises(ValueError, match="seen"):
        run(TINY, tmp_path / "runs", device="cpu", count=2)
    assert len(sent) == 4 and [(tmp_path / rank).read_text() for rank in "01"] == ["0", "0"]
    launch(2, shared_memory, (tmp_path, load_data("digits").train))  # and this is how the test would see them
    assert (tmp_path / "0").read_text() != "0"


# Arithmetic ---------------------------------------------------------------------------------------


def switches():
    backends = torch.backends
    newer = (
        [backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.matmul] if hasattr(backends.cudnn, "conv") else []
    )
    return [place.fp32_precision for place in newer] + [
        backends.cudnn.allow_tf32, torch.get_float32_matmul_precision(), backends.cudnn.deterministic,
        backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled(),
    ]  # fmt: skip


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_tf32_is_off_for_the_judge_on_for_attacks_that_may_and_as_before_afterwards(before):
    try:
        torch.set_float32_matmul_precision(before)
        as_it_was = switches()
        with ieee_float32():
            assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
            with attack_math("tf32"):
                assert torch.backends.cudnn.allow_tf32 and torch.backends.cuda.matmul.allow_tf32
                with attack_math("32-true"):
                    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
            assert not torch.backends.cudnn.allow_tf32
            with attack_math("bf16"):  # in which the network alone runs, under an autocast of the Evaluator's
                assert not torch.backends.cudnn.allow_tf32
                assert (torch.rand(2, 2) @ torch.rand(2, 2)).dtype == torch.float32
        assert switches() == as_it_was
        with pytest.raises(ZeroDivisionError), ieee_float32():
            raise ZeroDivisionError
        assert switches() == as_it_was
    finally:
        torch.set_float32_matmul_precision("highest")


def test_an_unknown_attack_precision_is_one_sentence():
    with pytest.raises(ValueError, match=r"unknown attack precision 'fp16'.*32-true, tf32, bf16"), attack_math("fp16"):
        pass


def test_exact_training_is_deterministic_on_a_gpu_and_leaves_no_trace(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    as_it_was = switches()
    with training_math(True, torch.device("cuda")):
        assert torch.backends.cudnn.deterministic and torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.allow_tf32 and os.environ["CUBLAS_WORKSPACE_CONFIG"]
    assert switches() == as_it_was
    with training_math(False, torch.device("cuda")):
        assert torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    assert switches() == as_it_was


@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_fit_sets_and_restores_them(few_digits, speed):
    as_it_was, seen = switches(), []
    recipe = changed(epochs=1, speed=speed)
    fit(
        make_pair(), few_digits, recipe, device="cpu", report=lambda *_: seen.append(torch.backends.cudnn.deterministic)
    )
    assert set(seen) == {speed == "exact"} and switches() == as_it_was


def test_an_average_follows_as_torch_has_it():
    torch.manual_seed(0)
    network = build_model("cnn-4", 10, 8, 1)
    ours = AveragedModel(network, use_buffers=True)
    torchs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(3):
        network(torch.rand(4, 1, 8, 8))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        follow(ours, network, 0.9)
        torchs.update_parameters(network)
        assert all(
            torch.equal(a, b) for a, b in zip(ours.state_dict().values(), torchs.state_dict().values(), strict=True)
        )
