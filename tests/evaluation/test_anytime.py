"""AutoAttack with a budget: bounds that are never too low, and in the end the flags of an undisturbed run."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from pyautoattack.autopgd_base import APGDAttack_targeted

from d2rkit.cli import main
from d2rkit.data.arrays import Split
from d2rkit.evaluation import evaluate
from d2rkit.evaluation.autoattack import STAGES, AutoAttackState, anytime, autoattack
from d2rkit.evaluation.autoattack.anytime import PREVIEWS, Bound, at_most, duration, next_previews, seconds_of, work
from d2rkit.evaluation.autoattack.upstream import leave_out_fooled
from d2rkit.evaluation.evaluate import measure_attacks
from d2rkit.evaluation.evaluator import Budget, Evaluator
from d2rkit.networks.architectures import build_model
from tests.evaluation.test_autoattack import SHORT

EPS, SEED, BATCH = 0.15, 3, 15


@pytest.fixture(scope="module")
def sample(digits):
    return digits.test.pixels(slice(0, 40)), digits.test.labels[:40]


@pytest.fixture(scope="module")
def plain(trained_once, sample):
    """The state at the end of an undisturbed run."""
    return run(trained_once.target, sample, previews=False)


def untrained(seed):
    torch.manual_seed(seed)
    model = build_model("cnn-8", 10, 8, channels=1).eval()
    x = torch.rand(24, 1, 8, 8)
    return model, x, model(x).argmax(1), 0.04  # untrained, but right where it is not attacked


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("network", ["trained", "untrained"])
def test_few_targets_are_the_beginning_of_the_full_attack(trained, sample, network, seed):
    """To the pixel: what k targets found is what the full call found for the same images."""
    model, x, y, eps = untrained(seed) if network == "untrained" else (trained.target, *sample, EPS)
    right = model(x).argmax(1) == y
    x, y = x[right], y[right]
    x_adv = {}
    for targets in (*PREVIEWS, 9):
        attack = APGDAttack_targeted(
            model, n_iter=10, n_target_classes=targets, eps=eps, seed=seed, device=torch.device("cpu")
        )
        leave_out_fooled(attack)
        x_adv[targets] = attack.perturb(x, y)
    broken = {targets: model(x_adv[targets]).argmax(1) != y for targets in x_adv}
    counts = [int(broken[targets].sum()) for targets in (*PREVIEWS, 9)]
    assert 0 < counts[0] <= counts[1] <= counts[2] < len(y)
    for targets in PREVIEWS:
        assert not (broken[targets] & ~broken[9]).any()
        assert torch.equal(x_adv[targets][broken[targets]], x_adv[9][broken[targets]])


def run(model, sample, state=None, on_batch=None, previews=True):
    how = {"eps": EPS, "seed": SEED, "batch_size": BATCH, "budget": SHORT}
    return autoattack(model, *sample, **how, state=state, on_batch=on_batch, previews=previews)


def test_previews_bound_the_flags_and_do_not_change_them(trained, sample, plain):
    bounds = []
    state = run(
        trained.target, sample, on_batch=lambda s, stage, done: bounds.append((stage, s.upper_bound().clone(), done))
    )
    assert list(state.after) == list(plain.after)
    assert all(torch.equal(state.after[stage], plain.after[stage]) for stage in plain.after)
    assert plain.bound is None and plain.previewed == 0
    assert all(not (plain.robust & ~bound).any() for _, bound, _ in bounds)
    sums = [int(bound.sum()) for _, bound, _ in bounds]
    assert sums == sorted(sums, reverse=True) and sums[-1] == int(plain.robust.sum())
    early = [int(bound.sum()) for stage, bound, _ in bounds if "targets" in stage]
    batches = -(-int(plain.after["apgd-ce"].sum()) // BATCH)
    assert batches > 1 and len(early) == len(PREVIEWS) * batches
    assert int(plain.after["apgd-ce"].sum()) > early[-1] >= int(plain.robust.sum())
    done = [share for _, _, share in bounds]
    assert done == sorted(done) and done[0] > 0 and done[-1] == 1


def stop_after(calls, kept):
    def stop(state, stage, done):
        kept.append(copy.deepcopy(state))
        if len(kept) == calls:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("cut", [1, 4, 6, 8])
def test_cut_off_among_the_previews_and_resumed_with_or_without_them(trained, sample, plain, cut, again):
    kept, seen = [], []
    with pytest.raises(KeyboardInterrupt):
        run(trained.target, sample, on_batch=stop_after(cut, kept))
    resumed = run(trained.target, sample, kept[-1], lambda s, stage, _: seen.append(stage), previews=again)
    assert all(torch.equal(resumed.after[stage], plain.after[stage]) for stage in plain.after)
    batches = -(-int(plain.after["apgd-ce"].sum()) // BATCH)
    first = -(-int(plain.after["clean"].sum()) // BATCH)
    previews = sum("targets" in stage for stage in seen)
    assert previews == again * min(len(PREVIEWS) * batches, max(0, first + len(PREVIEWS) * batches - cut))


def test_previews_of_a_group_take_its_batches_at_once():
    assert list(next_previews(0, 3)) == [(k, first) for k in PREVIEWS for first in range(3)]
    assert list(next_previews(4, 3)) == [(PREVIEWS[1], 1), (PREVIEWS[1], 2)]
    assert list(next_previews(0, 3, at_once=2)) == [(k, first) for k in PREVIEWS for first in (0, 2)]
    assert list(next_previews(6, 3)) == list(next_previews(0, 0)) == []


def test_work_is_counted_in_images_that_are_left():
    clean = torch.ones(10, dtype=torch.bool)
    state = AutoAttackState(clean.clone(), {"clean": clean})
    survives = sum(cost for cost, _ in anytime.COST.values())
    assert work(state, 5, 10) == (0, 10 * survives)
    previews = anytime.COST["apgd-t"][0] * sum(PREVIEWS) / 9
    assert work(state, 5, 10, previews=True) == pytest.approx((0, 10 * (survives + previews)))
    state.robust[:4] = False  # the first of two batches: one image of five survived
    state.next_batch = 1
    kept, fallen = anytime.COST["apgd-ce"]
    assert work(state, 5, 10) == pytest.approx((kept + 4 * fallen, 6 * survives - kept))
    five = AutoAttackState(clean.clone(), {"clean": clean})
    assert work(five, 5, 5)[1] == pytest.approx(
        10 * sum(cost * (4 / 9 if stage in ("apgd-t", "fab-t") else 1) for stage, (cost, _) in anytime.COST.items())
    )
    for stage in STAGES:
        five.after[stage] = clean
    assert work(five, 5, 10)[1] == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), ("2 h", 7200), (" 0.5s ", 0.5)]
)
def test_budgets_are_read(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["0", "0m", "-5m", "10x", "m", "ten minutes", "1e3", "10m30s", "nan"])
def test_budgets_that_are_none(text):
    with pytest.raises(ValueError, match=r"^a budget is a time above 0 in s, m or h, e\.g\. 90s, 10m or 1\.5h, not "):
        seconds_of(text)


def test_a_bound_in_words_is_rounded_up():
    flags = torch.arange(3000) < 1027  # 34.2333 %
    assert at_most(flags) == "<= 34.3 %" and at_most(flags[:1000]) == "<= 100.0 %" and at_most(~flags[:9]) == "<= 0.0 %"
    assert str(Bound(flags, 0.612, 700)) == "AutoAttack <= 34.3 %, 61% of the work done, about 12 min left"
    assert [duration(s) for s in (5, 89, 90, 5399, 5400)] == ["5 s", "89 s", "2 min", "90 min", "1.5 h"]


# evaluate ------------------------------------------------------------------------------------------


def evaluator(trained, sample, batch_size=BATCH):
    budget = Budget(autoattack=SHORT)
    return Evaluator(trained, sample, seed=SEED, batch_size=batch_size, exact=True, budget=budget)


def attacked(trained, sample, folder, seconds, batch_size=BATCH, report=None):
    how = {"folder": folder, "seconds": seconds, "report": report}
    return measure_attacks(evaluator(trained, sample, batch_size), ("clean", "autoattack"), EPS, **how)


def test_resumed_again_and_again_it_ends_with_the_flags_of_an_undisturbed_run(trained, sample, tmp_path):
    """A budget that is spent at once lets each call do one batch."""
    whole = attacked(trained, sample, tmp_path / "whole", None)
    number, shares, sums = int(whole.flags["autoattack"].sum()), [], []
    for call in range(100):
        result = attacked(trained, sample, tmp_path / "cut", 1e-9)
        if not result.bounds:
            break
        assert list(result.summary()) == ["clean"] and not result.details
        bound = result.bounds["autoattack"]
        assert not (whole.flags["autoattack"] & ~bound.flags).any() and bound.seconds_left > 0
        shares.append(bound.share)
        sums.append(int(bound.flags.sum()))
        if call % 3 == 2:  # the file outlives the process, and its previews with it
            with np.load(tmp_path / "cut" / "evaluation" / "autoattack.partial.npz") as kept:
                assert ("bound" in kept) == (int(kept["previewed"]) > 0 if "previewed" in kept else False)
    assert torch.equal(result.flags["autoattack"], whole.flags["autoattack"])
    assert all(torch.equal(result.details[name], whole.details[name]) for name in whole.details)
    assert len(shares) > 10 and shares == sorted(shares) and shares[0] > 0 and shares[-1] < 1
    assert sums == sorted(sums, reverse=True) and sums[0] > sums[-1] >= number
    assert not (tmp_path / "cut" / "evaluation" / "autoattack.partial.npz").exists()


def test_other_batches_forget_the_previews(trained, sample, tmp_path):
    """Previews say what the same batches will end with; of others they say nothing."""
    for _ in range(6):
        assert attacked(trained, sample, tmp_path, 1e-9).bounds
    store = evaluate._store(evaluator(trained, sample), tmp_path / "evaluation", EPS)
    assert store.partial().bound is not None and store.partial().previewed > 0
    store = evaluate._store(evaluator(trained, sample, 30), tmp_path / "evaluation", EPS)
    assert store.partial().bound is None and store.partial().previewed == 0
    whole = attacked(trained, sample, tmp_path / "other", None, 30)
    kept = attacked(trained, sample, tmp_path, 1e-9, 30).bounds["autoattack"].flags
    assert (kept | ~whole.details["apgd-t"])[whole.details["apgd-ce"]].all()


def test_every_progress_line_carries_the_bound(trained, sample):
    seen = []
    result = attacked(trained, sample, None, None, report=lambda done, words: seen.append(words))
    lines = [words for words in seen if words.startswith("autoattack ")]
    assert lines[-1] == f"autoattack square, {at_most(result.flags['autoattack'])}"
    assert all(" <= " in words for words in lines) and not any("targets" in words for words in lines)


@pytest.fixture(scope="module")
def checkpoint(trained_once, tmp_path_factory):
    file = tmp_path_factory.mktemp("anytime") / "model.pt"
    torch.save(trained_once.target.state_dict(), file)
    return file


def words(checkpoint, folder, *more, images=30, batch=15):
    line = f"evaluate {checkpoint} --data digits --eps 0.15 --test-images {images} --batch-size {batch} --device cpu"
    return [*line.split(), "--folder", str(folder), "--attacks", "clean", "autoattack", *more]


def answered(monkeypatch, capsys, *line):
    monkeypatch.setattr(sys, "argv", ["d2rkit", *line])
    code = main()
    return code or 0, capsys.readouterr()


def test_a_later_call_with_fewer_attacks_loses_no_result(checkpoint, tmp_path, monkeypatch, capsys):
    line = words(checkpoint, tmp_path)[:-3]  # without its attacks
    first, second = [*line, "--attacks", "clean", "fgsm"], [*line, "--attacks", "pgd20"]
    for call in (first, second):
        assert answered(monkeypatch, capsys, *call)[0] == 0
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert told["attacks"] == list(told["accuracy"]) == ["clean", "fgsm", "pgd20"]
    (tmp_path / "evaluation.json").write_text("{")  # damaged: the flags are there all the same
    assert answered(monkeypatch, capsys, *second)[0] == 0
    assert list(json.loads((tmp_path / "evaluation.json").read_text())["accuracy"]) == ["pgd20"]


def test_the_command_bounds_resumes_and_never_presents_a_bound_as_the_number(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("d2rkit.cli.evaluate.Evaluator", partial(Evaluator, budget=Budget(autoattack=SHORT)))
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    code, said = answered(monkeypatch, capsys, *words(checkpoint, cut, "--budget", "0.001s"))
    assert code == 0
    (line,) = (line for line in said.out.splitlines() if line.startswith("AutoAttack"))
    assert " % of" not in line and line.startswith("AutoAttack <= ") and line.endswith("left; the same command resumes")
    assert "autoattack " not in said.out and "before AutoAttack is done" in said.out
    told = json.loads((cut / "evaluation.json").read_text())
    assert list(told["accuracy"]) == ["clean"] and set(told["bounds"]) == {"autoattack"}
    assert 0 < told["bounds"]["autoattack"]["share_done"] < 1
    code, said = answered(monkeypatch, capsys, *words(checkpoint, cut))
    assert code == 0 and "AutoAttack <=" not in said.out and "autoattack  " in said.out
    answered(monkeypatch, capsys, *words(checkpoint, whole))
    ended = json.loads((cut / "evaluation.json").read_text())
    assert (
        ended["bounds"] == {} and ended["accuracy"] == json.loads((whole / "evaluation.json").read_text())["accuracy"]
    )
    assert ended["accuracy"]["autoattack"] <= told["bounds"]["autoattack"]["at_most"]
    with np.load(cut / "evaluation" / "autoattack.npz") as a, np.load(whole / "evaluation" / "autoattack.npz") as b:
        assert a.files == b.files and all((a[name] == b[name]).all() for name in a.files)


def test_a_budget_that_is_none_is_one_sentence(checkpoint, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        answered(monkeypatch, capsys, *words(checkpoint, tmp_path, "--budget", "10 minutes"))
    said = capsys.readouterr().err
    assert end.value.code == 2 and "a budget is a time above 0" in said and said.count("\n") == 1


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_killed_and_resumed_it_ends_with_the_same_flags(checkpoint, tmp_path):
    """Standard AutoAttack, all of it; the first process dies without a word as soon as it has kept something."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    line, few = [sys.executable, "-m", "d2rkit"], {"images": 4, "batch": 2}
    budget = ("--budget", "1h", "--no-masking")
    first = subprocess.Popen([*line, *words(checkpoint, cut, *budget, **few)], stderr=subprocess.PIPE)
    partial, until = cut / "evaluation" / "autoattack.partial.npz", time.monotonic() + 200
    while not partial.exists() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert partial.exists() and not (cut / "evaluation.json").exists()
    for folder in (cut, whole):
        done = subprocess.run(
            [*line, *words(checkpoint, folder, "--no-masking", **few)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    with np.load(cut / "evaluation" / "autoattack.npz") as a, np.load(whole / "evaluation" / "autoattack.npz") as b:
        assert a.files == b.files and all((a[name] == b[name]).all() for name in a.files)


def test_a_budget_spares_the_other_attacks(trained, sample):
    measured = measure_attacks(evaluator(trained, Split(*_uint8(sample))), ("autoattack", "fgsm"), EPS, seconds=1e-9)
    assert list(measured.flags) == ["fgsm"] and list(measured.bounds) == ["autoattack"]


def _uint8(sample):
    return (sample[0] * 255).round().to(torch.uint8), sample[1]
