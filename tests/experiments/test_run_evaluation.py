"""A run, a plan and a dry run go the same way: whatever one of them measures, all do."""

from dataclasses import replace
from pathlib import Path

import pytest

from d2rkit.evaluation.evaluator import Budget, Evaluator
from d2rkit.experiments import run_evaluation
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.experiments.run import run
from d2rkit.experiments.run_evaluation import Measurement, evaluate_checkpoint, measurements
from d2rkit.planning import dry_run, timing
from d2rkit.planning.cost import PASSES
from d2rkit.planning.synthetic import Counts, random_data

TINY = Experiment(
    method="d2r-cag", epochs=1, batch_size=200, lr=0.1, eps=0.1, step_size=0.05, steps=1, padding=0, flip=False,
    val_steps=1, test_images=20, target="cnn-4", guide="cnn-4", attacks=("clean", "pgd2", "cw20"),
)  # fmt: skip


@pytest.fixture
def evaluators(monkeypatch):
    """Every Evaluator that is made inside run_evaluation."""
    made = []

    class Noted(Evaluator):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(run_evaluation, "Evaluator", Noted)
    return made


def measured_by(evaluators):
    """What they know, as measurements; the first is of the target, the second of its guide."""
    made = {Measurement(name, "prepare") for name, _ in zip(("target", "guide"), evaluators, strict=False)}
    for attack, eps in evaluators[0].known:
        if attack != "clean":
            made.add(Measurement("guide" if attack.startswith("transfer") else "target", attack, eps))
    return made


@pytest.mark.parametrize("method", ["d2r-cag", "trades"])
@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_what_is_listed_is_what_is_measured(evaluators, method, checkpoint):
    experiment = replace(TINY, method=method, checkpoints=("best", "last"), attacks=("clean", "pgd20", "fgsm"))
    data = random_data("digits", Counts(1, 1, 8))
    evaluate_checkpoint(experiment, build_pair(experiment, data), data.test, checkpoint, budget=Budget(1))
    listed = measurements(experiment, checkpoint)
    assert len(listed) == len(set(listed)) and measured_by(evaluators) == set(listed)


def test_a_run_measures_what_is_listed_and_keeps_all_of_it(evaluators, tmp_path):
    done = run(TINY, tmp_path, device="cpu")
    assert measured_by(evaluators) == set(measurements(TINY, "best"))
    result = done.result
    assert set(result["accuracy"]["best"]) == {"clean", "pgd2", "cw20"} and result["judged_in"] == "IEEE float32"
    assert len(result["weights"]["best"]) == 16 and result["attack_precision"] == "32-true"
    assert len(result["eps_curve"]["eps"]) == len(run_evaluation.SWEEP) and 0 <= result["guide_clean"] <= 1
    assert "gradient masking" in result["masking_verdict"] and result["masking"]


def test_plan_and_dry_run_evaluate_as_a_run_does(monkeypatch):
    seen = {}

    def noted(name):
        def evaluate(experiment, *arguments, **options):
            seen.setdefault(name, []).append(experiment.method)
            return evaluate_checkpoint(experiment, *arguments, **options)

        return evaluate

    for module in (timing, dry_run):
        monkeypatch.setattr(module, "evaluate_checkpoint", noted(module.__name__.split(".")[-1]))
    shares = dict.fromkeys(("pgd", *PASSES), 1.0)
    target = timing._target_cost(timing.target_like(TINY), shares, "cpu", "cpu")
    guide = timing._guide_cost(timing.guide_like(TINY), 1.0, "cpu", "cpu")
    rehearsal = dry_run.rehearse(dry_run.Rehearsal("tiny", "row", "d2r-cag"), TINY, 2, "cpu")
    assert rehearsal.error == "" and seen == {"timing": ["natural", "d2r-cag"], "dry_run": ["d2r-cag"]}
    assert target.prepare > 0 and guide.prepare > 0 and guide.pgd_step >= 0 and set(target.passes) == set(PASSES)


def test_nothing_else_evaluates_a_run():
    source = (Path(run_evaluation.__file__).parent / "run.py").read_text()
    assert source.count("= evaluate_checkpoint(") == 1 and "masking" not in source and "Evaluator" not in source
