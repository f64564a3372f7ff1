"""Arguments nobody should pass, for every public function, and what may come of them: an answer or a sentence.

    python tests/hostile.py 100000      so many calls, counted by function and outcome
    D2RKIT_INPUTS=20000 pytest tests/test_hostile.py

A call begins with arguments that work; one or two of them are then replaced by something hostile.
"""

from __future__ import annotations

import copy
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from d2rkit.core import validation
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate, parse_attack
from d2rkit.experiments.experiment import Experiment, build_pair, read_run, read_runs
from d2rkit.methods import attacks, divergences, family, objectives
from d2rkit.methods.catalogue import METHODS, get_method
from d2rkit.methods.pair import GuidedPair, eval_mode, frozen
from d2rkit.networks.architectures import build_model
from d2rkit.networks.loading import load_released
from d2rkit.reporting import significance
from d2rkit.training.recipe import Recipe
from tests.hostile_inputs import NETWORKS, Inputs


def _attack(i: Inputs, *networks: str, labels: bool = True) -> dict[str, Any]:
    arguments = {name: NETWORKS[name] for name in networks} | {"x": i.images()}
    return arguments | ({"y": i.labels()} if labels else {}) | {"eps": 0.1, "step_size": 0.05, "steps": i.one(0, 1, 2),
                                                            "norm": i.one("linf", "l2")}  # fmt: skip


def _logits(i: Inputs, **options: Any) -> dict[str, Any]:
    return {"logits": None, "a": i.logits().float(), "b": i.logits().float(), "c": i.logits().float(), "d": None,
            "y": i.labels(), **options}  # fmt: skip


def _of_logits(function: Callable) -> Callable:
    """`function` of Logits whose parts are arguments of their own; d: the fourth, c's where it is None."""

    def call(logits: Any, a: Any, b: Any, c: Any, d: Any, y: Any, **options: Any) -> Any:
        made = objectives.Logits(a, b, c, c if d is None else d)
        return function(made if logits is None else logits, y, **options)

    return call


def _within(context: Callable) -> Callable:
    def call(network: Any) -> None:
        with context(network):
            pass

    return call


def _perturb(name: str, pair: Any, x: Any, y: Any, **how: Any) -> Any:
    return get_method(name).perturb(pair, x, y, **how)


def _forward(target: Any, guide: Any, x: Any, x_adv: Any) -> Any:
    return GuidedPair(target, guide).eval()(x, x_adv)


def functions() -> dict[str, tuple[Callable, Callable[[Inputs], dict[str, Any]]]]:
    """name -> (function, arguments that work)."""
    callables: dict[str, tuple[Callable, Callable[[Inputs], dict[str, Any]]]] = {}
    for name, divergence in (divergences.DIVERGENCES | {"kl-gap": divergences.kl_gap}).items():
        smooth = {"smoothing": 1e-5} if "kl" in name and name != "reverse-kl" else {}
        callables[f"divergences {name}"] = (
            lambda p, q, divergence=divergence, **o: divergence(p, q, **o),
            lambda i, smooth=smooth: {"p": (z := i.logits()), "q": i.logits().to(z.dtype), **smooth},
        )
    d2r = {"w_clean": 1.0, "w_reverse": 2.0, "reduction": "mean", "detach_guide": False}
    for name, options in (
        ("d2r", {"variant": "released", **d2r}), ("pgd_at", {}), ("natural", {}), ("trades", {"beta": 6.0}),
        ("mart", {"beta": 6.0}), ("lbgat", {"beta": 6.0}), ("adagat", {"w_guide": 2.5}),
    ):  # fmt: skip
        callables[f"objectives {name}"] = (_of_logits(getattr(objectives, name)), lambda i, o=options: _logits(i, **o))
    for name, options in (
        ("rslad", {"w_adv": 1.0}), ("rslad_online", {"w_ce": 1.0}), ("adaad", {"alpha": 0.5}), ("dgad", {"beta": 1.0}),
        ("peeraid", {"temperature": 2.0, "f_ce": 1.0, "reduction": "batchmean"}), ("iad", {"trust": 0.1, "begin": 0.2}),
        ("adr", {"hot": 2.0, "most": 0.9}), ("ikl", {"alpha": 1.0, "guided": True}),
    ):  # fmt: skip
        callables[f"family {name}"] = (_of_logits(getattr(family, name)), lambda i, o=options: _logits(i, **o))
    sums = {"objective": lambda x: x.square().sum()}
    callables |= {
        "attacks pgd": (attacks.pgd, lambda i: sums | _attack(i, labels=False) | {"start": 0.01 * i.images()}),
        "attacks project": (
            attacks.project,
            lambda i: {"x_adv": i.images(), "x": i.images(), "eps": 0.1, "norm": i.one("linf", "l2")},
        ),
        "attacks gaussian_start": (attacks.gaussian_start, lambda i: {"x": i.images(), "scale": 0.001}),
        "attacks uniform_start": (attacks.uniform_start, lambda i: {"x": i.images(), "eps": 0.1}),
        "attacks pgd_ce": (attacks.pgd_ce, lambda i: _attack(i, "target") | {"start": 0.01 * i.images()}),
        "attacks fgsm": (attacks.fgsm, lambda i: {"target": NETWORKS["target"], "x": i.images(), "y": i.labels(),
                                                  "eps": 0.1}),
        "attacks cw": (attacks.cw, lambda i: _attack(i, "target")),
        "attacks margin": (attacks.margin, lambda i: {"logits": i.logits(), "y": i.labels()}),
        "attacks kl_self": (attacks.kl_self, lambda i: _attack(i, "target", labels=False)),
        "attacks cag": (attacks.cag, lambda i: _attack(i, "target", "guide") | {"guide_share": i.one(0.0, 0.5)}),
        "attacks kl_pair": (attacks.kl_pair, lambda i: _attack(i, "target", "guide", labels=False)),
        "methods get_method": (get_method, lambda i: {"name": "trades"}),
        "methods loss": (
            _of_logits(lambda logits, y, name, changes: get_method(name).loss(logits, y, changes)),
            lambda i: _logits(i, name=i.one(*METHODS), changes={}),
        ),
        "methods check_options": (
            lambda name, key, value, whole: get_method(name).check_options(
                whole if whole is not None else {key: value} if isinstance(key, Hashable) else [key]
            ),
            lambda i: {"name": "d2r", "whole": None} | i.one(
                {"key": "w_adv", "value": 1.0}, {"key": "variant", "value": "released"},
                {"key": "reduction", "value": "mean"}, {"key": "detach_guide", "value": True},
            ),
        ),
        "methods perturb": (
            _perturb,
            lambda i: {"name": i.one(*METHODS), "pair": GuidedPair(NETWORKS["target"], NETWORKS["guide"]),
                       "x": i.images(), "y": i.labels(), "eps": 0.1, "step_size": 0.1, "steps": 1, "guide_share": 0.5},
        ),
        "pair forward": (
            _forward,
            lambda i: {"target": NETWORKS["target"], "guide": NETWORKS["guide"], "x": i.images(), "x_adv": i.images()},
        ),
        "pair frozen": (_within(frozen), lambda i: {"network": copy.deepcopy(NETWORKS["target"])}),
        "pair eval_mode": (_within(eval_mode), lambda i: {"network": copy.deepcopy(NETWORKS["target"])}),
        "validation check_images": (
            validation.check_images,
            lambda i: {"images": i.images(), "labels": i.labels(), "num_classes": i.one(None, 5)},
        ),
        "significance standard_error": (significance.standard_error, lambda i: {"flags": i.flags()}),
        "significance mcnemar": (significance.mcnemar, lambda i: {"flags_a": i.flags(), "flags_b": i.flags()}),
        "significance sign_flip_p": (significance.sign_flip_p, lambda i: {"flags_a": i.flags(), "flags_b": i.flags()}),
        "significance bootstrap_difference": (
            significance.bootstrap_difference,
            lambda i: {"flags_a": i.flags(), "flags_b": i.flags(), "seed": 0, "level": 0.9, "draws": 20},
        ),
        "significance holm": (significance.holm, lambda i: {"p_values": [0.1, i.random.random(), 1.0]}),
    }  # fmt: skip
    return callables


def doors() -> dict[str, tuple[Callable, Callable[[Inputs], dict[str, Any]]]]:
    """The same of what opens files, builds networks and describes runs."""
    nowhere = str(Path(__file__).parent / "nowhere")
    recipe = {"method": "trades", "epochs": 1, "lr": 0.1, "eps": 0.1, "steps": 1, "batch_size": 8, "padding": 0,
              "flip": False, "seed": 0, "schedule": "cosine", "speed": "exact", "loss": {}}  # fmt: skip
    whole = recipe | {"data": "digits", "target": "cnn-4", "attacks": ("clean",), "checkpoints": ("best",),
                      "test_images": 0, "subset": "", "test_eps": 0.0}  # fmt: skip
    return {
        "build_model": (
            build_model, lambda i: {"name": "cnn-4", "num_classes": 10, "image_size": 8, "channels": 1}
        ),
        "load_data": (
            load_data, lambda i: {"name": "digits", "root": nowhere, "subset": None, "download": False},
        ),
        "evaluate": (
            lambda model, images, labels, **how: evaluate(model, (images, labels), **how),
            lambda i: {"model": NETWORKS["target"], "images": i.images(), "labels": i.labels(), "attacks": ("clean",),
                       "eps": 0.1, "seed": 0, "batch_size": 2},
        ),
        "evaluation parse_attack": (parse_attack, lambda i: {"name": "pgd20"}),
        "load_released": (load_released, lambda i: {"path": nowhere, "name": "cnn-4", "image_size": 8}),
        "read_run": (read_run, lambda i: {"folder": nowhere}),
        "read_runs": (read_runs, lambda i: {"root": nowhere}),
        "Recipe": (lambda **how: Recipe(**how).check(), lambda i: dict(recipe)),
        "Experiment": (lambda **how: Experiment(**how).check(), lambda i: dict(whole)),
        "build_pair": (lambda **how: build_pair(Experiment(**how), DIGITS), lambda i: dict(whole)),
    }  # fmt: skip


DIGITS = load_data("digits")


def call(function: Callable, arguments: Callable[[Inputs], dict[str, Any]], seed: int) -> tuple[str, str]:
    """Outcome ("answer" or "sentence") of the call that `seed` decides, and what was said.

    AssertionError, with the arguments, for anything else."""
    i = Inputs(seed)
    given = arguments(i)
    names = i.random.sample(sorted(given), min(len(given), i.one(0, 1, 1, 1, 2)))
    hostile = {name: i.near(given[name]) for name in names}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numpy's "mean of empty slice" is no answer
            answer = function(**given | hostile)
    except ValueError as error:
        words = str(error)
        if words.strip() and "\n" not in words and "\x1b" not in words and len(words) < 600:
            return "sentence", words
        raise AssertionError(f"seed {seed}: no sentence but {words[:300]!r} for {hostile}") from error
    except Exception as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error} for {hostile}") from error
    if (words := _wrong(function, given | hostile, answer)) is not None:
        raise AssertionError(f"seed {seed}: {words} for {hostile}")
    return "answer", ""


def _wrong(function: Callable, given: dict[str, Any], answer: Any) -> str | None:
    """Why an answer cannot be one, from its shape alone."""
    if isinstance(answer, objectives.Loss):
        return None if answer.total.ndim == 0 and answer.parts else "a loss that is no scalar"
    if {"p", "q"} <= given.keys():
        return None if answer.shape == given["p"].shape[:1] else f"a divergence of shape {answer.shape}"
    if "x" in given and isinstance(answer, Tensor):
        adversarial = "scale" not in given and given.keys() != {"x", "eps"}
        inside = not adversarial or not ((answer < 0) | (answer > 1)).any()
        return (
            None if answer.shape == given["x"].shape and inside else f"images of shape {answer.shape}, outside [0, 1]"
        )
    return None


def main(count: int) -> int:
    """`count` calls, in turn of every function; prints what came of them."""
    torch.set_num_threads(1)
    began, outcomes, failures = time.perf_counter(), {}, []
    everything = functions() | doors()
    for seed in range(count):
        name = list(everything)[seed % len(everything)]
        try:
            outcome, _ = call(*everything[name], seed)
        except AssertionError as error:
            outcome = "FAILURE"
            failures.append(f"{name}: {error}")
        outcomes.setdefault(name, Counter())[outcome] += 1
    for name, counts in outcomes.items():
        print(f"{name:35} " + "  ".join(f"{kind} {n:,}" for kind, n in sorted(counts.items())))
    total = sum(outcomes.values(), Counter())
    print(f"{count:,} calls in {time.perf_counter() - began:.0f} s: {dict(total)}")
    for failure in failures[:40]:
        print(failure[:400])
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000))
