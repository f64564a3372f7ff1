import csv
import math
import os
from dataclasses import replace
from unittest import mock

import pytest
import torch

from d2rkit.acceleration.attack_copies import AttackCopy, attack_copy
from d2rkit.cli import main
from d2rkit.evaluation.autoattack import AutoAttackBudget, square
from d2rkit.experiments.presets import PRESETS
from d2rkit.methods.catalogue import METHODS
from d2rkit.planning import dry_run as module
from d2rkit.planning import synthetic
from d2rkit.planning.dry_run import Rehearsal, dry_run, rehearse
from d2rkit.planning.synthetic import Counts, own_labels, random_data, run_stage
from d2rkit.training.guides import by_method
from tests.conftest import make_pair
from tests.synthetic import preset

SMALL = {"target": "cnn-8", "guide": "cnn-8", "padding": 0, "flip": False, "lr": 0.01}
ALL = preset(rows=tuple(METHODS), **SMALL)
ALL = replace(ALL, base=replace(ALL.base, attacks=("clean", "fgsm", "pgd20", "cw20", "autoattack")))
TWO = replace(ALL, rows=("broken", "trades"), changes={"broken": {"method": "mart", "loss": {"w": 1.0}}})
BLANK = Rehearsal("tiny", "row", "method")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_steps_resumes_and_is_attacked(method):
    rehearsal = rehearse(BLANK, by_method(ALL.base, method), 2, "cpu")
    assert rehearsal.error == "" and rehearsal.resumed and rehearsal.attacked
    assert math.isfinite(rehearsal.loss_1) and math.isfinite(rehearsal.loss_2) and rehearsal.loss_1 != rehearsal.loss_2
    assert rehearsal.seconds > 0 and rehearsal.memory > 2**20
    assert "resumed ok; attacks ok" in str(rehearsal)


def test_both_checkpoints_and_a_guide_that_starts_alone():
    cell = replace(ALL.experiment("d2r-cag", 0), guide_warmup=5, checkpoints=("best", "last"))
    rehearsal = rehearse(BLANK, cell, 3, "cpu")
    assert rehearsal.error == "" and rehearsal.attacked


def test_training_anew_is_not_taken_for_a_resume(monkeypatch):
    whole = module.fit

    def forgetful(pair, data, recipe, folder, **options):
        (folder / "resume.pt").unlink(missing_ok=True)
        return whole(pair, data, recipe, folder, **options)

    monkeypatch.setattr(module, "fit", forgetful)
    rehearsal = rehearse(BLANK, ALL.experiment("trades", 0), 2, "cpu")
    assert not rehearsal.resumed and "after 2 steps" in rehearsal.error and "resumed NO" in str(rehearsal)


def test_an_attack_that_fails_is_told_apart_from_training(monkeypatch):
    def broken(network, stage, images, labels, budget):
        raise RuntimeError(f"no {stage}")

    monkeypatch.setattr(module, "run_stage", broken)
    rehearsal = rehearse(BLANK, ALL.experiment("trades", 0), 2, "cpu")
    assert rehearsal.resumed and not rehearsal.attacked and rehearsal.error == "RuntimeError: no apgd-ce"


@pytest.mark.parametrize(("stage", "per_unit"), [("apgd-ce", 1), ("apgd-t", 1), ("fab-t", 2), ("square", 1)])
def test_each_attack_alone_makes_every_pass_it_is_given(stage, per_unit, monkeypatch):
    monkeypatch.setattr(square, "AT_ONCE", 1)  # otherwise queries share passes, and some are made in vain
    target = make_pair().target
    images = random_data("digits", Counts(1, 1, 6)).test.pixels()
    labels = own_labels(target, images)
    passes = []
    for count in (2, 7):
        seen = []
        with Counting(seen):
            run_stage(target, stage, images, labels, AutoAttackBudget(count, 1, count))
        passes.append(len(seen))
        # A square that changes no pixel of an image costs that image no pass.
        assert all(0 < size <= len(images) if stage == "square" else size == len(images) for size in seen)
        assert sum(seen) > 0.8 * len(seen) * len(images)
    assert passes[1] - passes[0] == 5 * per_unit


class Counting:
    """Inside, every forward pass of the copies that attacks alone go through is written down, by its batch size."""

    def __init__(self, seen):
        self.seen = seen

    def __enter__(self):
        seen = self.seen

        class Counted(torch.nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, x):
                seen.append(len(x))
                return self.network(x)

        def counted(network, x):
            return AttackCopy(Counted(attack_copy(network, x).network))

        self.patch = mock.patch.object(synthetic, "attack_copy", counted)
        self.patch.start()

    def __exit__(self, *_):
        self.patch.stop()


def die(blank, experiment, batch, device):
    """In place of rehearse(), in the process of a cell."""
    os._exit(1) if blank.row == "trades" else None
    return replace(blank, resumed=True, attacked=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cell_whose_process_dies_leaves_the_others_alone(monkeypatch, workers):
    monkeypatch.setattr(module, "rehearse", die)
    rehearsals = list(dry_run([ALL], ("trades", "mart"), workers=workers, device="cpu"))
    assert [each.error for each in rehearsals] == ["the process died (out of memory?)", ""]


@pytest.mark.parametrize("rows", [["trades"], ["broken", "trades"]])
def test_the_command_tells_what_failed_and_writes_no_run(tmp_path, monkeypatch, capsys, rows):
    monkeypatch.setitem(PRESETS, "tiny", TWO)
    words = ["reproduce", "tiny", "--dry-run", "--rows", *rows, "--threads", "1", "--device", "cpu"]
    words += ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["d2rkit", *words])
    with pytest.raises(SystemExit) as caught:
        main()
        raise SystemExit(0)
    told = capsys.readouterr().out
    with (tmp_path / "results" / "dry_run.csv").open() as file:
        log = list(csv.DictReader(file))
    assert [line["row"] for line in log] == rows
    assert "10 queries of Square" in told and not (tmp_path / "runs").exists()
    if "broken" in rows:
        assert caught.value.code == 1 and "1 of 2 cells ran" in told
        assert "unknown loss option of MART 'w'" in log[0]["error"] and log[1]["error"] == ""
    else:
        assert caught.value.code == 0 and "1 of 1 cells ran" in told


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": ("trade",)}, "did you mean 'trades'"),
        ({"batch": 1}, "batch must be at least 2"),
        ({"workers": 0}, "at least one worker"),
    ],
)
def test_bad_input_gets_one_sentence(options, words):
    with pytest.raises(ValueError, match=words):
        dry_run([ALL], **options)
