import inspect
from dataclasses import replace

import pytest
import torch

from d2rkit.cli import main
from d2rkit.core.processes import Worker
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.autoattack import AutoAttackSettings
from d2rkit.evaluation.autoattack.upstream import standard
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.experiments.presets import PRESETS
from d2rkit.planning.cost import (
    PASSES,
    duration,
    evaluation_seconds,
    lines,
    plan,
    size,
    survivors_of,
    train_seconds,
)
from d2rkit.planning.synthetic import SHAPES, Counts, counts_of, random_data
from d2rkit.planning.timing import (
    EVALUATION_BATCH,
    EvaluationCost,
    GuideCost,
    Measured,
    TrainCost,
    guide_like,
    like,
    measure,
    target_like,
)
from tests.synthetic import make_run, preset

TINY = preset(
    rows=("trades", "d2r-cag"), target="cnn-4", guide="cnn-4", batch_size=16, steps=1, val_steps=1, padding=0,
    flip=False, test_images=20,
)  # fmt: skip
TRAIN = TrainCost(step=2.0, guide_step=1.0, epoch_end=10.0, validated=100, disk=1_000)
EVALUATION = EvaluationCost(prepare=3.0, pgd_step=0.01, passes=dict.fromkeys(PASSES, 1e-4))
GUIDE = GuideCost(prepare=5.0, pgd_step=0.02)


def measured(*presets):
    cells = [cell for each in presets for cell in each.experiments()]
    targets = {target_like(c).run_name: EVALUATION for c in cells}
    guides = {alike.run_name: GUIDE for alike in map(guide_like, cells) if alike}
    return Measured({like(c).run_name: TRAIN for c in cells}, targets, guides, 2**30, "a test")


def test_random_images_are_as_many_and_as_large_as_the_real_ones():
    data, shape = load_data("digits"), SHAPES["digits"]
    assert counts_of(TINY.base) == Counts(len(data.train), len(data.val), 20)
    assert counts_of(replace(TINY.base, test_images=0)).test == len(data.test)
    assert counts_of(replace(TINY.base, data="cifar10", subset="10k")) == Counts(9_000, 1_000, 20)
    assert (shape.channels, shape.size, shape.classes) == (data.channels, data.image_size, data.num_classes)
    made = random_data("tiny-imagenet", Counts(3, 2, 1))
    assert made.train.images.shape == (3, 3, 64, 64) and made.num_classes == 200 and len(made.val) == 2


def test_a_subset_is_measured_by_itself_where_it_leaves_fewer_validation_images_than_are_taken_at_once():
    whole, large, small = (replace(TINY.base, data="cifar10", subset=subset) for subset in ("", "10k", "160"))
    assert like(whole) == like(large) != like(small)
    assert counts_of(like(small)).val == 32


def test_training_is_steps_and_the_ends_of_epochs():
    # Digits: 1,200 images in batches of 16 are 75 steps of 2 s; 200 validation images cost twice the 100 measured.
    assert train_seconds(TINY.base, TRAIN) == 4 * (75 * 2 + 20)
    warm = replace(TINY.base, guide_warmup=2)
    assert train_seconds(warm, TRAIN) == 4 * (75 * 2 + 20) + 2 * (75 * 1 + 20)


def test_evaluation_is_every_measurement_on_the_images_it_attacks():
    survivors = survivors_of(TINY, [], clean=0.8, robust=0.4)
    cell = replace(TINY.base, test_images=100, attacks=("clean", "pgd10", "autoattack"), method="trades")
    step = 0.01 * 80  # a PGD step on the 80 images that are right
    # APGD-CE on 80, APGD-T on the mean of 40 + 0.15 * 40 and 40, the others on 40.
    autoattack_seconds = 1e-4 * (101 * 80 + 909 * 43 + 900 * 40 + 5_000 * 40)
    once = 3 + 10 * step + autoattack_seconds
    after = (7 * 20 + 2 * 100 + 20) * step  # PGD-20 at seven radii, PGD-100 at two, C&W-20
    assert evaluation_seconds(cell, EVALUATION, None, survivors) == pytest.approx(once + after)
    both = replace(cell, checkpoints=("best", "last"))
    assert evaluation_seconds(both, EVALUATION, None, survivors) == pytest.approx(2 * once + after)
    assert evaluation_seconds(replace(cell, attacks=()), EVALUATION, None, survivors) == 0
    known = replace(cell, attacks=("clean", "pgd20", "cw20", "autoattack"))  # what the checks want is there already
    assert evaluation_seconds(known, EVALUATION, None, survivors) == pytest.approx(once - 10 * step + after)
    guided = replace(cell, method="d2r-cag")
    assert evaluation_seconds(guided, EVALUATION, GUIDE, survivors) == pytest.approx(once + after + 5 + 20 * 0.02 * 80)


def test_passes_are_those_of_the_package():
    assert inspect.signature(evaluate).parameters["batch_size"].default == EVALUATION_BATCH
    attack = standard(torch.nn.Identity(), "square", torch.zeros(1, 1, 8, 8), AutoAttackSettings(0.1, classes=10))
    targets = attack.apgd_targeted.n_target_classes
    assert PASSES["apgd-ce"] == attack.apgd.n_iter + 1 and targets == attack.fab.n_target_classes
    assert PASSES["apgd-t"] == targets * (attack.apgd_targeted.n_iter + 1)
    assert PASSES["fab-t"] == targets * attack.fab.n_iter and PASSES["square"] == attack.square.n_queries


def test_cells_that_are_done_cost_nothing_and_workers_share_the_rest():
    cells = TINY.experiments()
    survivors = survivors_of(TINY, [])
    whole = plan(TINY, (), 0, set(), measured(TINY), survivors)
    trades, guided = (cell.seconds for cell in whole.cells[:2])
    assert [cell.row for cell in whole.cells] == ["trades", "d2r-cag"] * 2 and guided > trades
    assert whole.seconds() == pytest.approx(2 * (trades + guided))
    assert whole.seconds(2) == pytest.approx(trades + guided) and whole.seconds(100) == pytest.approx(guided)
    rest = plan(TINY, (), 0, {cells[0].run_name}, measured(TINY), survivors)
    assert rest.seconds() == pytest.approx(trades + 2 * guided)
    assert "4 cells, 1 done" in lines(rest, 2)[0]
    assert lines(rest, 2)[2].endswith("1 of 2") and lines(rest, 2)[3].endswith("2 of 2")
    assert "1.0 GiB at batch 16 (a test)" in "\n".join(lines(rest, 2)) and "2.9 KiB for what is left" in "\n".join(
        lines(rest, 2)
    )
    assert len(plan(TINY, ("trades",), 1, set(), measured(TINY), survivors).cells) == 1
    everything = plan(TINY, (), 0, {cell.run_name for cell in cells}, measured(TINY), survivors)
    assert everything.seconds(2) == 0 and lines(everything, 1)


def test_survivors_come_from_finished_cells_else_from_a_table(tmp_path):
    cells = TINY.experiments()
    assert survivors_of(TINY, []).source.startswith("assumed")
    runs = [make_run(tmp_path, cells[i], {"clean": 0.9, "autoattack": a}) for i, a in enumerate((0.2, 0.4))]
    elsewhere = make_run(tmp_path, replace(cells[0], lr=0.7), {"clean": 0.1, "autoattack": 0.1})
    survivors = survivors_of(TINY, [*runs, elsewhere])
    assert (survivors.clean, round(survivors.robust, 9)) == (0.9, 0.3) and "2 finished" in survivors.source
    assert survivors_of(TINY, runs, robust=0.5).robust == 0.5
    assert survivors_of(PRESETS["small"], []) != survivors_of(PRESETS["paper-cifar10-wrn-34-10"], [])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: survivors_of(TINY, [], robust=1.5), "robust is a share"),
        (lambda: survivors_of(TINY, [], clean=0.3, robust=0.5), "robust 0.50 must not exceed 0.30"),
        (lambda: measure([], {}, steps=0), "at least 1, not 0"),
        (lambda: measure([], {}, clock="sun"), "unknown clock 'sun'"),
        (lambda: Worker(0), "threads must lie between 1 and"),
    ],
)
def test_bad_input_gets_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(["quik"], "did you mean 'quick'"), (["quick", "--workers", "999"], "workers x threads must lie between")],
)
def test_the_command_tells_bad_input_in_one_sentence(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["d2rkit", "plan", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    told = capsys.readouterr()
    assert caught.value.code == 2 and sentence in told.err and told.err.count("\n") == 1 and told.out == ""


def test_times_and_sizes_in_words():
    assert [duration(s) for s in (0.0124, 9, 120, 7_200, 360_000)] == ["12 ms", "9.0 s", "2.0 min", "2.0 h", "4.2 d"]
    assert [size(b) for b in (12, 2_048, 3 * 2**20, 5 * 2**30)] == ["12.0 B", "2.0 KiB", "3.0 MiB", "5.0 GiB"]


def test_the_command_measures_each_kind_once_and_names_the_rest(spawned, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    make_run(tmp_path, TINY.experiments()[0], {"clean": 0.9, "autoattack": 0.5})
    words = ["d2rkit", "plan", "tiny", "--runs", str(tmp_path), "--device", "cpu", "--workers", "2", "--steps", "2"]
    monkeypatch.setattr("sys.argv", words)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main()
        raise SystemExit(0)
    assert caught.value.code == 0 and sorted(tmp_path.rglob("*")) == before
    told = capsys.readouterr()
    assert "4 cells, 1 done" in told.out and "mean of 1 finished evaluations" in told.out
    assert "4/4" in told.err  # two methods, one target and one guide, not one for each seed
    rest = f"d2rkit reproduce tiny --runs {tmp_path} --device cpu --workers 2 --threads 1"
    assert told.out.splitlines()[-1] == f"the rest: {rest}"
