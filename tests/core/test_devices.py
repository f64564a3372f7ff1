"""Two gloo processes against one: the same objective, the same flags, the same files."""

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from d2rkit.core import devices
from d2rkit.core.processes import launch
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.autoattack import AutoAttackBudget
from d2rkit.evaluation.evaluate import measure_attacks
from d2rkit.evaluation.evaluator import Budget, Evaluator
from d2rkit.experiments.experiment import Experiment, read_run
from d2rkit.experiments.run import Interrupted, run
from d2rkit.methods import attacks
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.divergences import kl_gap
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.training.guides import Beside, by_method
from d2rkit.training.loop import _fabric
from d2rkit.training.recipe import Recipe
from d2rkit.training.step import TrainState, guide_step, training_step
from tests.experiments.test_experiment import TINY
from tests.training.test_loop import changed


def mlp_pair():
    """A pair without BatchNorm, whose loss on a batch is a mean over its images and nothing else."""
    torch.manual_seed(0)
    return GuidedPair(*(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)) for _ in "fg"))


CASES = [
    ("d2r-cag", 0),
    ("d2r-cag", 7),
    ("d2r-cag", 5),
    ("d2r-cag-released", 0),
    ("mart", 0),
    ("trades-awp", 0),
    ("pgd-at", 0),
    ("rslad", 0),
    ("rslad-online", 0),
    ("peeraid", 7),
    ("adaad", 0),
    ("iad", 0),
    ("dgad", 7),
    ("adr", 0),
    ("ikl", 0),
    ("ikl-guided", 0),
]


def step_gradients(path, *, report=None, should_stop=None):
    """Gradients of one step on the same 31 images, by method and micro-batch, however many processes share them."""
    attacks.gaussian_start = lambda x, generator=None: torch.zeros_like(x) + 0.01
    attacks.uniform_start = lambda x, eps, generator=None: torch.zeros_like(x)
    fabric = _fabric("cpu", "32-true", partial=True)  # MART leaves the guide without gradients
    data = load_data("digits").train
    everything, first = data.pixels(slice(0, 31)).double(), mlp_pair().double()
    with torch.no_grad():  # one process gets the images whose gap is below 0, the other those where it is above
        order = kl_gap(first.target(everything), first.guide(everything)).argsort()
    index, weight = devices.shard(order)
    x, y = data.pixels(index).double(), data.labels[index]
    results = {}
    for name, micro_batch in CASES:
        pair, method = mlp_pair().double(), METHODS[name]
        model, optimizer = fabric.setup(pair, torch.optim.SGD(pair.parameters(), 0.0))
        recipe = Recipe(name, eps=0.2, step_size=0.05, steps=3, micro_batch=micro_batch)
        state = TrainState(fabric, model, pair, optimizer, method, recipe, torch.Generator(), awp=method.awp)
        training_step(state, x, y, weight)
        results[f"{name} {micro_batch}"] = {n: p.grad for n, p in pair.named_parameters() if p.grad is not None}
    for micro_batch in (0, 7):
        pair = mlp_pair().double()
        model, optimizer = fabric.setup(pair, torch.optim.SGD(pair.parameters(), 0.0))
        images: list[int] = []
        pair.guide.register_forward_hook(lambda guide, inputs, output, seen=images: seen.append(len(output)))
        recipe = Recipe("lbgat0", micro_batch=micro_batch)
        state = TrainState(fabric, model, pair, optimizer, METHODS["lbgat0"], recipe, torch.Generator())
        loss, right = guide_step(state, x, y, weight)
        assert max(images) <= (micro_batch or len(x)) and sum(images) == len(x)
        results[f"guide {micro_batch}"] = {n: p.grad for n, p in pair.guide.named_parameters()}
        results[f"guide {micro_batch}"] |= {"loss": devices.all_reduce(loss.total.clone(), "mean")}
        results[f"guide {micro_batch}"] |= {"right": devices.all_reduce(right["guide"] * weight / len(x), "mean")}
    if devices.rank() == 0:
        torch.save(results, path)


@pytest.fixture(scope="module")
def gradients(tmp_path_factory):
    """From one process and from two."""
    folder = tmp_path_factory.mktemp("gradients")
    before = attacks.gaussian_start, attacks.uniform_start
    step_gradients(folder / "one.pt")
    attacks.gaussian_start, attacks.uniform_start = before
    launch(2, step_gradients, (folder / "two.pt",))
    return torch.load(folder / "one.pt"), torch.load(folder / "two.pt")


@pytest.mark.parametrize(("method", "micro_batch"), [*CASES, ("guide", 0), ("guide", 7)])
def test_gradients_of_two_processes_are_those_of_one(gradients, method, micro_batch):
    one, two = (saved[f"{method} {micro_batch}"] for saved in gradients)
    assert one.keys() == two.keys() and all(g.abs().max() > 1e-5 for g in one.values())
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("step", ["d2r-cag", "guide"])
def test_micro_batches_add_up_to_the_batch(gradients, step):
    whole, pieces = gradients[0][f"{step} 0"], gradients[0][f"{step} 7"]
    for name in whole:
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-6, atol=1e-9, msg=name)


CURVE = dataclasses.replace(TINY, epochs=4, lr=0.3, warmup=1.0, batch_size=64, attacks=("clean", "pgd5"), test_images=0)


@pytest.mark.thorough
def test_a_run_on_two_devices_learns_as_one_does_and_leaves_the_same_files(tmp_path):
    one = run(CURVE, tmp_path / "one", device="cpu")
    seen = []
    two = run(CURVE, tmp_path / "two", device="cpu", count=2, report=lambda done, words: seen.append(done))
    assert two.result["devices"] == 2 and two.result["status"] == "done" and "devices" not in one.result
    assert seen == sorted(seen) and seen[-1] > 0.9
    names = [sorted(p.relative_to(r.folder).as_posix() for p in r.folder.rglob("*")) for r in (one, two)]
    assert names[0] == names[1]
    for name in ("clean", "pgd5"):
        a, b = (r.result["accuracy"]["best"][name] for r in (one, two))
        assert abs(a - b) < 0.12, (name, a, b)  # 397 images, other augmentation and starts: about seed noise
    assert two.result["accuracy"]["best"]["clean"] > 0.8


@pytest.mark.parametrize(
    "method", ["d2r-cag", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("ikl-guided", "adr", "rslad"))]
)
def test_a_run_on_two_devices_stops_goes_on_and_may_change_their_number(tmp_path, method):
    short = by_method(dataclasses.replace(CURVE, epochs=3, test_images=20), method)
    asked = iter(range(1000))
    with pytest.raises(Interrupted):
        run(short, tmp_path, device="cpu", count=2, report=lambda *_: None, should_stop=lambda: next(asked) >= 8)
    folder = tmp_path / short.run_name
    assert (folder / "resume.pt").exists() and not (folder / "result.json").exists()
    assert run(short, tmp_path, device="cpu").result["epochs"] == 3 + short.guide_warmup
    assert read_run(folder).result["status"] in ("done", "stuck at chance")


def flags(folder, path, *, report=None, should_stop=None):
    shared = devices.expected() > 1
    if shared:
        _fabric("cpu", "32-true")
    torch.manual_seed(1)
    network, data = build_model("cnn-8", 10, 8, 1), load_data("digits").test
    x = data.pixels(slice(0, 12))
    y = network.eval()(x).argmax(1)  # an untrained network is right about its own predictions
    evaluator = Evaluator(
        network, (x, y), batch_size=4, shared=shared, budget=Budget(autoattack=AutoAttackBudget(10, queries=100))
    )
    measured = measure_attacks(evaluator, ("clean", "pgd5", "autoattack"), 0.03, folder=folder)
    if devices.rank() == 0:
        torch.save(measured.flags | measured.details, path)


def test_flags_of_two_processes_are_those_of_one(tmp_path):
    flags(tmp_path / "one", tmp_path / "one.pt")
    launch(2, flags, (tmp_path / "two", tmp_path / "two.pt"))
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    assert one.keys() == two.keys() and 0 < one["autoattack"].sum() < 12
    for name in one:
        assert torch.equal(one[name], two[name]), name


def test_parts_of_a_batch_weigh_as_much_as_their_images(monkeypatch):
    batch, losses = torch.arange(31), torch.rand(31)
    monkeypatch.setattr(devices, "size", lambda: 3)
    weighted, seen = [], []
    for rank in range(3):
        monkeypatch.setattr(devices, "rank", lambda rank=rank: rank)
        index, weight = devices.shard(batch)
        weighted.append(weight * losses[index].mean())
        seen += index.tolist()
    assert seen == batch.tolist()
    torch.testing.assert_close(sum(weighted) / 3, losses.mean())
    index, weight = devices.shard(batch[:2])  # too few to be parted: each device takes all
    assert index.tolist() == [0, 1] and weight == 1.0


def settled(path, *, report=None, should_stop=None):
    _fabric("cpu", "32-true")
    network = build_model("cnn-4", 10, 8, 1)
    network.norms[0].running_mean.fill_(devices.rank() + 1.0)
    devices.sync_batchnorm_stats(network)
    if devices.rank() == 0:
        torch.save(network.norms[0].running_mean, path)


@pytest.mark.thorough
def test_running_statistics_are_averaged_over_devices(spawned, tmp_path):
    launch(2, settled, (tmp_path / "settled.pt",))
    assert torch.equal(torch.load(tmp_path / "settled.pt"), torch.full((4,), 1.5))


def counted(path, *, report=None, should_stop=None):
    """Class means of 31 images, saved in the middle and gone on with, by however many processes."""
    _fabric("cpu", "32-true")
    data, pair = load_data("digits").train, mlp_pair()
    beside = Beside(METHODS["ikl-guided"], pair, 10, torch.device("cpu"))
    for first in (0, 31):
        index, _ = devices.shard(torch.arange(first, first + 31))
        with torch.no_grad():
            beside.see(pair(data.pixels(index), None), data.labels[index])
        kept, beside = beside.state(), Beside(METHODS["ikl-guided"], pair, 10, torch.device("cpu"))
        beside.load(kept)
    beside.finish_epoch()
    if devices.rank() == 0:
        torch.save(beside.means, path)


def test_class_means_of_two_processes_are_those_of_one(tmp_path):
    counted(tmp_path / "one.pt")
    launch(2, counted, (tmp_path / "two.pt",))
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    torch.testing.assert_close(two, one)
    torch.testing.assert_close(one.sum(1), torch.ones(10))
    data, pair = load_data("digits").train, mlp_pair()
    predictions, y = pair.guide(data.pixels(slice(0, 62))).softmax(1), data.labels[:62]
    torch.testing.assert_close(one, torch.stack([predictions[y == c].mean(0) for c in range(10)]))


def test_a_batch_is_cut_into_pieces_within_the_limit():
    assert [devices.pieces(count, limit) for count, limit in ((31, 0), (31, 7), (32, 8), (3, 1), (5, 9))] == [
        1, 5, 4, 3, 1,
    ]  # fmt: skip


def test_no_device_cuts_its_part_into_more_pieces_than_another_has_images(monkeypatch):
    monkeypatch.setattr(devices, "size", lambda: 2)
    monkeypatch.setattr(devices, "all_reduce", lambda value, how: {"max": max, "min": min}[how](value, torch.tensor(2)))
    assert devices.pieces(6, 1) == devices.pieces(2, 1) == 2


def failing(path, *, report=None, should_stop=None):
    if os.environ["RANK"] == "1":
        raise ValueError("the second process meets a broken file")
    time.sleep(60)


def test_an_error_of_one_process_ends_them_all(tmp_path):
    began = time.monotonic()
    with pytest.raises(ValueError, match="the second process meets a broken file"):
        launch(2, failing, (tmp_path,))
    assert time.monotonic() - began < 40


def killed(path, *, report=None, should_stop=None):
    report(0.5, "half of it")
    while not Path(path, "told").exists():
        time.sleep(0.05)
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_process_that_dies_ends_them_all_in_one_sentence(tmp_path):
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"^a process of 2 died \(out of memory\?\); the state of its last save is"):
        launch(2, killed, (tmp_path,), report=lambda done, words: (tmp_path / "told").write_text(f"{done} {words}"))
    assert time.monotonic() - began < 40 and (tmp_path / "told").read_text() == "0.5 half of it"


@pytest.mark.parametrize(("count", "words"), [(0, "between 1 and"), (10_000, "between 1 and the batch size 100")])
def test_impossible_numbers_of_devices_are_refused(tmp_path, count, words):
    with pytest.raises(ValueError, match=words):
        run(TINY, tmp_path, device="cpu", count=count)


def test_two_step_takes_whole_batches():
    with pytest.raises(ValueError, match="set micro_batch to 0"):
        changed(update="two-step", micro_batch=8).check()
    with pytest.raises(ValueError, match="micro_batch must not be negative"):
        Experiment(micro_batch=-1).check()
