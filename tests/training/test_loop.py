"""fit(): the loop, its schedules, exact resume, and what it says when training fails."""

import copy
import csv
import dataclasses
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric

from d2rkit.data.arrays import Split
from d2rkit.methods.catalogue import METHODS
from d2rkit.networks.checkpoints import load_resume, load_weights
from d2rkit.training.loop import _Loop, fit
from d2rkit.training.recipe import Recipe
from d2rkit.training.step import TrainState, training_step
from tests.conftest import make_pair

RECIPE = Recipe(
    "d2r-cag", epochs=3, batch_size=32, lr=0.05, eps=0.1, step_size=0.05, steps=2, padding=1, flip=True, val_steps=1
)
FINISHED = ("done", "stuck at chance")  # so few steps on so few images are often too few to learn anything


def changed(**settings):
    return dataclasses.replace(RECIPE, **settings)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def train(data, recipe=RECIPE, folder=None, seed=0, **how):
    pair = make_pair(seed)
    return pair, fit(pair, data, recipe, folder, device="cpu", **how)


# The loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "d2rcag"}, "unknown method 'd2rcag' .*'d2r-cag'"),
        ({"loss": {"w_cleen": 1.0}}, "unknown loss option .*'w_cleen' .*'w_clean'"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin' .*'cosine'.*cosine, released, constant"),
        ({"update": "twostep"}, "unknown update 'twostep' .*'two-step'"),
        ({"precision": "bf16"}, "unknown precision 'bf16'.*32-true, bf16-mixed"),
        ({"epochs": 0}, "epochs must be above 0, not 0"),
        ({"batch_size": 0}, "batch_size must be above 0"),
        ({"lr": -0.1}, "lr must be above 0, not -0.1"),
        ({"lr": math.nan}, "lr must be a finite number, not nan"),
        ({"eps": 8.0}, "eps is in pixel scale"),
        ({"compile": True}, "set speed to fast"),
        ({"steps": -1}, "steps must not be negative"),
        ({"guide_warmup": -1}, "guide_warmup must not be negative"),
        ({"guide_share": 1.5}, r"guide_share must lie in \[0, 1\], not 1.5"),
        ({"ema": 2.0}, "ema must lie in"),
    ],
)
def test_senseless_settings_are_refused_before_anything_is_written(few_digits, tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        train(few_digits, changed(**settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["train", "val"])
def test_data_without_images_to_train_or_to_validate_on_are_refused(few_digits, part):
    split = getattr(few_digits, part)
    data = dataclasses.replace(few_digits, **{part: Split(split.images[:0], split.labels[:0])})
    with pytest.raises(ValueError, match=r"the data have no (training|validation) images"):
        fit(make_pair(), data, Recipe(epochs=1), device="cpu")


def test_a_guided_method_needs_a_guide(few_digits):
    with pytest.raises(ValueError, match=r"D2R\+CAG .* trains a guide beside the target"):
        fit(make_pair(guide=False), few_digits, RECIPE, device="cpu")


def test_history_files_and_progress(few_digits, tmp_path):
    seen, rows = [], []
    pair, done = train(few_digits, folder=tmp_path, report=lambda part, _: seen.append(part), on_epoch=rows.append)
    assert done.status in FINISHED and [row["epoch"] for row in done.history] == [1, 2, 3]
    assert seen == sorted(seen) and seen[-1] == 1 and len(seen) == 15
    assert rows == done.history
    for row in done.history:
        parts = sum(v for k, v in row.items() if k.startswith("loss_"))
        assert row["loss"] == pytest.approx(parts, rel=1e-5)
        assert all(0 <= row[k] <= 1 for k in ("train_clean", "train_adv", "train_guide", "val_clean", "val_pgd"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "best.safetensors", "history.csv", "last.safetensors", "resume.pt",
    ]  # fmt: skip
    with (tmp_path / "history.csv").open() as file:
        kept = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert kept == done.history
    assert same_weights(load_weights(tmp_path / "last.safetensors", make_pair(5)), pair)


def test_best_is_the_epoch_of_the_highest_pgd_accuracy(few_digits, tmp_path):
    kept = []

    def keep(row):
        kept.append((row["val_pgd"], (tmp_path / "last.safetensors").read_bytes()))

    train(few_digits, changed(epochs=5, lr=0.2), tmp_path, on_epoch=keep)
    assert len({accuracy for accuracy, _ in kept}) > 1
    assert (tmp_path / "best.safetensors").read_bytes() == max(kept, key=lambda pair: pair[0])[1]


def test_the_same_seed_gives_the_same_weights_another_seed_others(few_digits):
    first, second = train(few_digits), train(few_digits)
    assert same_weights(first[0], second[0]) and without_seconds(first[1].history) == without_seconds(second[1].history)
    assert not same_weights(first[0], train(few_digits, changed(seed=1))[0])


def test_the_global_generator_decides_nothing(few_digits):
    pairs = []
    for seed in (1, 2):
        pair = make_pair()
        torch.manual_seed(seed)
        fit(pair, few_digits, changed(epochs=1), device="cpu")
        pairs.append(pair)
    assert same_weights(*pairs)


def one_step(recipe, few_digits, lr=0.01):
    """A step on a fresh pair with plain SGD: parameters before, after, and what the step returned."""
    pair = make_pair()
    before = copy.deepcopy(pair)
    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(pair, torch.optim.SGD(pair.parameters(), lr))
    x, y = few_digits.train.pixels(slice(0, 32)), few_digits.train.labels[:32]
    generator = torch.Generator().manual_seed(0)
    state = TrainState(fabric, model, pair, optimizer, METHODS[recipe.method], recipe, generator)
    result = training_step(state, x, y)
    return before, pair, result, (x, y)


def by_hand(before, recipe, x, y, groups, lr=0.01):
    """The same step written out: one gradient step for each group of terms."""
    pair = copy.deepcopy(before).train()
    method = METHODS[recipe.method]
    budget = {"eps": recipe.eps, "step_size": recipe.step_size, "steps": recipe.steps}
    x_adv = method.perturb(pair, x, y, generator=torch.Generator().manual_seed(0), **budget)
    for terms in groups:
        parts = method.loss(pair(x, x_adv), y, recipe.loss).parts
        pair.zero_grad()
        sum(part for name, part in parts.items() if name in terms).backward()
        with torch.no_grad():
            for parameter in pair.parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
    return pair


@pytest.mark.parametrize(
    ("update", "groups"),
    [("joint", [("ce", "mse", "clean", "adv")]), ("two-step", [("mse", "adv"), ("ce", "clean")])],
)
def test_joint_and_two_step_updates(few_digits, update, groups):
    recipe = changed(update=update, method="d2r-cag-released")
    before, pair, (loss, correct), (x, y) = one_step(recipe, few_digits)
    expected = by_hand(before, recipe, x, y, groups)
    for name, value in pair.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)
    assert loss.parts.keys() == {"ce", "mse", "clean", "adv"}
    torch.testing.assert_close(loss.total, sum(loss.parts.values()))
    assert correct.keys() == {"clean", "adv", "guide"} and all(0 <= n <= 32 for n in correct.values())


def test_two_step_trains_and_differs_from_joint(few_digits):
    joint, (two_step, done) = train(few_digits)[0], train(few_digits, changed(update="two-step"))
    assert done.status in FINISHED and not same_weights(joint, two_step)


def test_loss_options_reach_the_loss(few_digits):
    _, done = train(few_digits, changed(loss={"w_mse": 0.0, "w_clean": 0.0}, epochs=1))
    assert done.history[0]["loss_mse"] == done.history[0]["loss_clean"] == 0 < done.history[0]["loss_adv"]


def test_guide_warmup_trains_the_guide_alone(few_digits):
    targets = []
    pair = make_pair()
    before = copy.deepcopy(pair)
    fit(
        pair, few_digits, changed(guide_warmup=2, epochs=1), device="cpu",
        on_epoch=lambda row: targets.append((copy.deepcopy(pair), row)),
    )  # fmt: skip
    assert len(targets) == 3
    for warmed, row in targets[:2]:
        assert same_weights(warmed.target, before.target) and not same_weights(warmed.guide, before.guide)
        assert "loss_adv" not in row and row["loss"] == row["loss_ce"] and row["lr"] == RECIPE.lr
    assert targets[1][1]["loss"] < targets[0][1]["loss"]
    assert not same_weights(targets[2][0].target, before.target) and "loss_adv" in targets[2][1]


def test_no_step_forwards_more_than_a_micro_batch(few_digits):
    pair, seen = make_pair(), []
    pair.guide.register_forward_hook(lambda guide, inputs, out: seen.append((guide.training, len(out))))
    done = fit(pair, few_digits, changed(guide_warmup=1, epochs=1, micro_batch=7), device="cpu")
    sizes = [size for training, size in seen if training]
    assert len(done.history) == 2 and max(sizes) <= 7 and sum(sizes) == 2 * len(few_digits.train)


def test_fast_training_lays_the_pair_out_and_gives_it_back_as_it_was(few_digits, monkeypatch):
    monkeypatch.setattr("d2rkit.acceleration.memory_format.WIDE", 8)  # the second convolution's
    pair, during = make_pair(), []

    def look(*_):
        during.append((_last(pair.target.convs[0]), _last(pair.target.convs[1]), _hooks(pair), _hooks(make_pair())))

    def _last(conv):
        return conv.weight.is_contiguous(memory_format=torch.channels_last)

    def _hooks(network):
        return sum(len(module._forward_pre_hooks) for module in network.modules())

    fit(pair, few_digits, changed(epochs=1, speed="fast"), device="cpu", on_epoch=look)
    assert [conv.out_channels >= 8 for conv in pair.target.convs] == [False, True, True]
    assert during == [(True, False, 4, 0)]
    assert _hooks(pair) == 0 and all(p.is_contiguous() for p in pair.parameters())


def test_ema_is_what_is_kept_and_evaluated(few_digits, tmp_path):
    decay = 0.9
    pair, average, steps = make_pair(), None, 0

    def follow():
        nonlocal average, steps
        weights = {k: v.clone() for k, v in pair.target.state_dict().items() if v.is_floating_point()}
        average = weights if average is None else {k: decay * average[k] + (1 - decay) * weights[k] for k in weights}
        steps += 1
        return False

    fit(pair, few_digits, changed(ema=decay, epochs=2), tmp_path, device="cpu", should_stop=follow)
    kept = load_weights(tmp_path / "last.safetensors", make_pair(3))
    assert steps == 10 and not same_weights(kept.target, pair.target) and same_weights(kept.guide, pair.guide)
    for name, value in average.items():
        torch.testing.assert_close(kept.target.state_dict()[name], value)


def test_methods_without_a_guide_train(few_digits, tmp_path):
    pair = make_pair(guide=False)
    done = fit(pair, few_digits, changed(method="trades", epochs=1), tmp_path, device="cpu")
    assert done.status in FINISHED and "val_guide" not in done.history[0]
    load_weights(tmp_path / "best.safetensors", make_pair(1, guide=False))


@pytest.mark.parametrize(("steps", "tolerance"), [(0, 1e-5), (2, 2e-3)])  # single signs of an attack may differ
def test_speed_fast_changes_the_rounding_only(few_digits, steps, tolerance):
    (exact, _), (fast, fitted) = (train(few_digits, changed(epochs=1, steps=steps, speed=s)) for s in ("exact", "fast"))
    assert fitted.status in FINISHED
    assert not same_weights(exact, make_pair()) and all(p.is_contiguous() for p in fast.parameters())
    for name, tensor in exact.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_attacks_change_the_rounding_only(few_digits):
    (fast, _), (compiled, _) = (train(few_digits, changed(epochs=1, speed="fast", compile=c)) for c in (False, True))
    for name, tensor in fast.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=2e-3, atol=2e-3, msg=name)


def test_compile_without_a_compiler_is_one_sentence(few_digits, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="compile needs a C\\+\\+ compiler"):
        train(few_digits, changed(speed="fast", compile=True))


def test_bf16_trains(few_digits):
    pair, done = train(few_digits, changed(precision="bf16-mixed", epochs=1))
    assert done.status in FINISHED and all(p.dtype == torch.float32 for p in pair.parameters())


# Failure -----------------------------------------------------------------------------------------


def finite(pair):
    return all(torch.isfinite(v).all() for v in pair.state_dict().values())


@pytest.mark.parametrize("in_folder", [True, False])
def test_a_non_finite_loss_says_so_and_leaves_finite_weights(few_digits, tmp_path, in_folder, caplog):
    pair, done = train(few_digits, changed(lr=1e9, schedule="constant"), tmp_path if in_folder else None)
    assert done.status.startswith("failed: ") and "not finite" in done.status and "in epoch 1, step" in done.status
    assert done.history == [] and finite(pair) and same_weights(pair, make_pair())
    assert "the last good state is kept" in caplog.text


@pytest.mark.parametrize("in_folder", [True, False])
@pytest.mark.parametrize("save_every", [600.0, 0.0])
def test_failure_in_a_later_epoch_keeps_the_epoch_before(few_digits, tmp_path, in_folder, save_every):
    """The first epoch is trained well; then the images become NaN, as from a broken disk or an overflow."""
    good, folder = [], tmp_path if in_folder else None
    pair = make_pair()

    def poison(row):
        good.append(copy.deepcopy(pair))
        with torch.no_grad():
            pair.target.linear.weight.fill_(torch.nan)

    done = fit(pair, few_digits, RECIPE, folder, device="cpu", on_epoch=poison, save_every=save_every)
    assert done.status.startswith("failed: ") and "in epoch 2" in done.status
    assert len(good) == 1 and len(done.history) == 1 and same_weights(pair, good[0])
    if in_folder:
        assert finite(load_weights(tmp_path / "last.safetensors", make_pair()))
        resumed, rest = train(few_digits, folder=tmp_path)
        assert rest.status in FINISHED and same_weights(resumed, train(few_digits)[0])


def test_a_weight_that_overflows_is_not_saved(few_digits, tmp_path):
    """The loss of the last step before a save was finite, the weights after it are not."""
    pair = make_pair()

    def poison():
        with torch.no_grad():
            pair.guide.linear.weight[0, 0] = torch.inf
        return False

    done = fit(pair, few_digits, RECIPE, tmp_path, device="cpu", should_stop=poison, save_every=0.0)
    assert done.status.startswith("failed: ") and finite(pair)
    assert not (tmp_path / "resume.pt").exists() or finite_state(tmp_path)


def finite_state(folder):
    return all(torch.isfinite(v).all() for v in load_resume(folder / "resume.pt")["pair"].values())


def test_stuck_at_chance_says_so(few_digits, caplog):
    grey = [Split(torch.full_like(s.images, 128), s.labels) for s in (few_digits.train, few_digits.val)]
    blind = dataclasses.replace(few_digits, train=grey[0], val=grey[1])
    _, done = train(blind, changed(epochs=1))
    assert done.status == "stuck at chance" and len(done.history) == 1
    assert "try a lower lr" in caplog.text
    assert train(few_digits, changed(method="natural", epochs=6, lr=0.1))[1].status == "done"


@pytest.mark.parametrize(("classes", "clean", "stuck"), [(2, 0.7, False), (2, 0.52, True), (10, 0.14, True)])
def test_stuck_is_what_is_not_clearly_above_chance(classes, clean, stuck):
    state = SimpleNamespace(history=[{"val_clean": clean}], chance=1 / classes)
    assert _Loop.stuck(state) is stuck
