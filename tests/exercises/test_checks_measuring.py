"""Robust accuracy and ablations: typical mistakes are turned away with a hint that fits."""

import math
from statistics import mean, stdev

import pytest
import torch

from d2rkit.exercises import check
from d2rkit.exercises.ablation import T95, World
from d2rkit.exercises.ablation import reference as ablate
from tests.exercises.solutions import turned_away

# ---- robust accuracy


def measure(train=False, restore=True, clean_too=True, drop=False, batch_means=False, out=lambda p, n, size: (p, math.sqrt(p * (1 - p) / n))):  # fmt: skip  # noqa: E501
    def solution(model, x, y, attack, batch_size):
        was = model.training
        model.train(train)
        flags = []
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            if drop and len(images) < batch_size:
                continue
            right = model(attack(model, images, labels)).argmax(1) == labels
            flags.append(right & (model(images).argmax(1) == labels) if clean_too else right)
        model.train(was if restore else False)
        parts = [part.float().mean() for part in flags]
        p = (torch.stack(parts).mean() if batch_means else torch.cat(flags).float().mean()).item()
        return out(p, len(y), batch_size)

    return solution


ACCURACY = {
    "train mode left on": (measure(train=True), "train mode"),
    "train mode and attacked only": (measure(train=True, clean_too=False), "train mode"),
    "left in eval mode": (measure(restore=False), "put it back"),
    "attacked only": (measure(clean_too=False), "wrong already"),
    "last batch dropped": (measure(drop=True), "last, smaller batch"),
    "mean of means": (measure(batch_means=True), "mean of the batch means"),
    "percent": (measure(out=lambda p, n, b: (100 * p, 100 * math.sqrt(p * (1 - p) / n))), "percentage"),
    "standard deviation": (measure(out=lambda p, n, b: (p, math.sqrt(p * (1 - p)))), "standard deviation"),
    "variance": (measure(out=lambda p, n, b: (p, p * (1 - p) / n)), "square root"),
    "batch size as n": (measure(out=lambda p, n, b: (p, math.sqrt(p * (1 - p) / b))), "number of images"),
    "95 percent": (measure(out=lambda p, n, b: (p, 1.96 * math.sqrt(p * (1 - p) / n))), "1.96"),
    "error rate": (measure(out=lambda p, n, b: (1 - p, math.sqrt(p * (1 - p) / n))), "1 - accuracy"),
    "accuracy only": (measure(out=lambda p, n, b: p), "two numbers"),
    "no attack": (
        lambda m, x, y, attack, b: measure()(m, x, y, lambda model, images, labels: images, b), "clean accuracy"),
}  # fmt: skip


def test_measuring_by_hand_passes():
    assert check("robust_accuracy", measure())


@pytest.mark.parametrize("case", ACCURACY)
def test_robust_accuracy_mistakes(case):
    turned_away("robust_accuracy", *ACCURACY[case])


# ---- ablation


def ablation(**changes):
    """The reference with some entries of its answer computed otherwise from the whole answer."""

    def solution(trial):
        answer = ablate(trial)
        return answer | {name: change(answer) for name, change in changes.items()}

    return solution


def designed(control, treatment, seeds, seeds_of_treatment=None):
    def solution(trial):
        before = [trial(control, s) for s in seeds]
        after = [trial(treatment, s) for s in seeds_of_treatment or seeds]
        differences = [b - a for a, b in zip(before, after, strict=True)]
        n = len(seeds)
        half = T95[n] * stdev(differences) / math.sqrt(n) if n > 1 else 0.0
        middle = mean(differences)
        claim = "not shown" if abs(middle) <= half else "higher" if middle > 0 else "lower"
        return {
            "control": control, "treatment": treatment, "seeds": seeds, "control_scores": before,
            "treatment_scores": after, "difference": middle, "half_width": half, "claim": claim,
        }  # fmt: skip

    return solution


D = {"method": "d2r"}, {"method": "d2r-cag"}


def spread(answer):
    return stdev([b - a for a, b in zip(answer["control_scores"], answer["treatment_scores"], strict=True)])


ABLATION = {
    "two factors": (designed(D[0], {"method": "d2r-cag", "steps": 7}, [0, 1, 2]), "method and steps", "one factor"),
    "no factor": (designed(D[0], D[0], [0, 1, 2]), "no factor"),
    "no factor, spelt out": (designed(D[1], {}, [0, 1]), "no factor"),
    "one seed": (designed(*D, [0]), "two seeds or more"),
    "the same seed again": (designed(*D, [3, 3, 3]), "same seed"),
    "other seeds for the treatment": (designed(*D, [0, 1], [2, 3]), "second factor"),
    "eps in the wrong scale": (designed(D[0], {"method": "d2r", "eps": 8}, [0, 1]), "pixel scale"),
    "unknown setting": (designed(D[0], {"method": "d2r", "w_cleam": 1.0}, [0, 1]), "did you mean 'w_clean'"),
    "typed numbers": (ablation(control_scores=lambda a: [0.5] * 4), "not what trial returned"),
    "sign turned": (ablation(difference=lambda a: -a["difference"]), "treatment minus control"),
    "1.96": (ablation(half_width=lambda a: 1.96 * spread(a) / 2), "Student's t"),
    "standard error": (ablation(half_width=lambda a: spread(a) / 2), "one standard error"),
    "standard deviation": (ablation(half_width=spread), "standard deviation"),
    "sqrt(n) missing": (ablation(half_width=lambda a: T95[4] * spread(a)), "sqrt(n)"),
    "not paired": (
        ablation(half_width=lambda a: T95[4] * math.sqrt(
            (stdev(a["control_scores"]) ** 2 + stdev(a["treatment_scores"]) ** 2) / 4)), "paired"),
    "claim by hand": (ablation(claim=lambda a: "higher"), "compute the claim"),
    "claim from the mean": (ablation(claim=lambda a: "higher" if a["difference"] > 0 else "lower"), "contains 0"),
    "own words": (ablation(claim=lambda a: "better"), "higher, lower, not shown"),
    "no claim": (lambda trial: {"control": D[0], "treatment": D[1]}, "missing", "claim"),
}  # fmt: skip


@pytest.mark.parametrize("case", ABLATION)
def test_ablation_mistakes(case):
    turned_away("ablation", *ABLATION[case])


@pytest.mark.parametrize("seeds", [[5, 6], [1, 2, 3], list(range(10))])
def test_other_sound_ablations_pass(seeds):
    assert check("ablation", designed({"method": "trades"}, {"method": "trades", "beta": 3.0}, seeds))
    assert check("ablation", designed({}, {"w_clean": 0.0}, seeds))


def test_the_simulated_worlds_are_what_they_say():
    truths = ((0.15, 0.004, "higher"), (-0.15, 0.004, "lower"), (0, 0.03, "not shown"), (0.01, 0.2, "not shown"))
    for effect, noise, claim in truths:
        assert ablate(World(*D, effect, noise))["claim"] == claim
