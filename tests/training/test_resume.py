"""Exact resume of fit(): interrupted anywhere, by anyone, and gone on with, bit for bit."""

import dataclasses
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from d2rkit.data.arrays import Split
from d2rkit.data.datasets import load_data
from d2rkit.networks.checkpoints import load_resume, load_weights, save_resume
from d2rkit.training.loop import fit
from d2rkit.training.stopping import polite_stop
from tests.conftest import make_pair
from tests.training.test_loop import FINISHED, changed, same_weights, train, without_seconds


def stop_after(steps):
    """should_stop that says yes once, after so many steps."""
    asked = []

    def should_stop():
        asked.append(1)
        return len(asked) == steps

    return should_stop


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ema": 0.9, "guide_warmup": 1},
        {"update": "two-step", "method": "d2r-cag-released"},
        {"method": "pgd-at"},
        {"method": "ikl-guided"},
        {"method": "adr", "ema": 0.9},
        {"method": "rslad", "guide_warmup": 1},
    ],
    ids=["plain", "ema and guide warm-up", "two-step", "pgd-at", "class means", "a guide that is an average", "frozen"],
)
@pytest.mark.parametrize("steps", [2, 5, 8])  # within an epoch, at its last step, within the second
def test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run(few_digits, tmp_path, settings, steps):
    recipe = changed(**settings, epochs=2)
    whole, done = train(few_digits, recipe, tmp_path / "whole")
    _, cut = train(few_digits, recipe, tmp_path / "cut", should_stop=stop_after(steps))
    assert cut.status == "interrupted" and len(cut.history) == (steps - 1) // 5
    state = load_resume(tmp_path / "cut" / "resume.pt")
    assert (state["epoch"], state["step"]) == ((steps - 1) // 5, (steps - 1) % 5 + 1)
    resumed, rest = train(few_digits, recipe, tmp_path / "cut", seed=99)  # other initial weights: they are replaced
    assert rest.status in FINISHED and same_weights(resumed, whole)
    assert without_seconds(rest.history) == without_seconds(done.history)
    for name in ("last", "best"):
        a, b = (load_weights(tmp_path / run / f"{name}.safetensors", make_pair()) for run in ("whole", "cut"))
        assert same_weights(a, b)


def test_interrupted_many_times(few_digits, tmp_path):
    whole, done = train(few_digits)
    for steps in (1, 3, 2, 1, 4):
        assert train(few_digits, folder=tmp_path, should_stop=stop_after(steps))[1].status == "interrupted"
    resumed, rest = train(few_digits, folder=tmp_path)
    assert same_weights(resumed, whole) and without_seconds(rest.history) == without_seconds(done.history)


def test_saves_within_an_epoch_change_nothing(few_digits, tmp_path):
    whole, _ = train(few_digits)
    assert same_weights(train(few_digits, folder=tmp_path, save_every=0.0)[0], whole)


def test_a_finished_run_is_not_trained_again(few_digits, tmp_path):
    whole, done = train(few_digits, folder=tmp_path)
    again, nothing = train(few_digits, folder=tmp_path, seed=1, on_epoch=lambda row: pytest.fail("trained again"))
    assert same_weights(again, whole) and nothing.history == done.history


def test_another_recipe_or_a_damaged_state_is_refused_and_nothing_is_written_over(few_digits, tmp_path):
    train(few_digits, folder=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="belongs to another recipe"):
        train(few_digits, changed(lr=0.1), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    (tmp_path / "resume.pt").write_bytes(before["resume.pt"][:5000])
    with pytest.raises(ValueError, match=r"resume\.pt is damaged"):
        train(few_digits, folder=tmp_path)
    assert (tmp_path / "resume.pt").read_bytes() == before["resume.pt"][:5000]


SCRIPT = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from tests.conftest import make_pair
from d2rkit.data.datasets import load_data
from d2rkit.training.loop import Recipe, fit

data, slow = load_data("digits", subset=200), sys.argv[3] == "slow"
recipe = Recipe("d2r-cag", epochs=2, batch_size=32, lr=0.05, eps=0.1, step_size=0.05, steps=1, padding=1, val_steps=1)

def report(done, words):
    if slow:
        print("step", flush=True)
        time.sleep(0.2)

result = fit(make_pair(), data, recipe, sys.argv[2], device="cpu", report=report)
print(result.status, len(result.history))
"""


def start(folder, how):
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parents[2]), str(folder), how]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_signal_saves_the_state_and_a_second_run_goes_on(tmp_path, number):
    running = start(tmp_path / "cut", "slow")
    for _ in range(3):
        assert running.stdout.readline() == "step\n"
    running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0 and out.splitlines()[-1] == "interrupted 0", err
    state = load_resume(tmp_path / "cut" / "resume.pt")
    assert state["epoch"] == 0 and 1 <= state["step"] <= 5
    if number == signal.SIGTERM:
        return
    out, err = start(tmp_path / "cut", "fast").communicate(timeout=120)
    assert running.returncode == 0 and out.split()[-1] == "2", err
    data, recipe = load_data("digits", subset=200), changed(epochs=2, steps=1, flip=True)
    whole, _ = train(data, recipe)
    assert same_weights(load_weights(tmp_path / "cut" / "last.safetensors", make_pair(1)), whole)


@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_only_ctrl_c_breaks_off_what_was_asked_to_stop(first, second):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # even if these tests were started with nohup
    breaks = pytest.raises(KeyboardInterrupt) if second == signal.SIGINT else nullcontext()
    try:
        with polite_stop() as asked, breaks:
            signal.raise_signal(first)
            assert asked.is_set()
            signal.raise_signal(second)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_state_of_other_data_or_networks_is_not_gone_on_with(few_digits, tmp_path):
    train(few_digits, folder=tmp_path, should_stop=stop_after(3))
    before = (tmp_path / "resume.pt").read_bytes()
    images = few_digits.train.images.clone()
    images[3, 0, 4, 4] ^= 1
    labels = few_digits.train.labels.roll(1)
    for split in (Split(images, few_digits.train.labels), Split(few_digits.train.images, labels)):
        with pytest.raises(ValueError, match="belongs to another data"):
            train(dataclasses.replace(few_digits, train=split), folder=tmp_path)
    with pytest.raises(ValueError, match="belongs to other networks"):
        fit(make_pair(name="cnn-8"), few_digits, changed(), tmp_path, device="cpu")
    assert (tmp_path / "resume.pt").read_bytes() == before
    state = load_resume(tmp_path / "resume.pt")
    state.pop("data")  # as older versions saved it
    save_resume(tmp_path / "resume.pt", state)
    assert train(few_digits, folder=tmp_path)[1].status in FINISHED
