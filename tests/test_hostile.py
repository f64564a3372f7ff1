"""Thousands of hostile calls of every public function: an answer or one sentence, never a traceback."""

import os

import pytest

from tests import hostile

INPUTS = int(os.environ.get("D2RKIT_INPUTS", "3000"))
PURE = hostile.functions()
DOORS = hostile.doors()


@pytest.mark.parametrize("name", [*PURE, *DOORS])
def test_an_answer_or_a_sentence(name):
    function = (PURE | DOORS)[name]
    outcomes = {hostile.call(*function, seed)[0] for seed in range(max(INPUTS // len(PURE | DOORS), 20))}
    assert "answer" in outcomes or name in ("load_released", "read_run")  # of which no file is at hand
    assert "sentence" in outcomes or name == "read_runs"  # which passes over what it cannot read


def test_arguments_that_work_do():
    for name, (function, arguments) in PURE.items():
        for seed in range(20):
            function(**arguments(hostile.Inputs(seed)))
        assert function, name


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda p, q: [][0], "IndexError"),
        (lambda p, q: (_ for _ in ()).throw(ValueError("two\nlines")), "no sentence"),
        (lambda p, q: (_ for _ in ()).throw(ValueError("")), "no sentence"),
        (lambda p, q: p, "a divergence of shape"),
    ],
)
def test_the_trial_sees_what_it_looks_for(broken, words):
    with pytest.raises(AssertionError, match=words):
        for seed in range(50):
            hostile.call(broken, lambda i: {"p": i.logits(), "q": i.logits()}, seed)
