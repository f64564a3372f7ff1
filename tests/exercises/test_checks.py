"""The checks themselves: references pass, stubs are not yet written, and whatever is handed over gets an answer."""

import numpy as np
import pytest
import torch

from d2rkit.exercises import NAMES, check, exercise
from d2rkit.exercises.checking import NOT_YET, UNWRITTEN
from tests.exercises.solutions import gradient, pgd, turned_away


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_passes_twice(name):
    for _ in range(1 if name in ("masked_model", "table_row") else 2):
        result = check(name, exercise(name).reference)
        assert result, repr(result)
    assert result.status == "passed" and not result.hint


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_not_yet_written(name):
    def stub(*args, **kwargs):
        raise NotImplementedError()

    result = check(name, (stub, stub) if name == "table_row" else stub)
    assert not result and result.status == UNWRITTEN
    with pytest.raises(NotImplementedError, match="not yet written"):
        result.require()


# ---- whatever a student may hand over


THINGS = [
    None, 3, "text", torch.zeros(3), np.zeros(2), (), [None], {},
    lambda *a, **k: None,
    lambda: None,
    lambda *a, **k: 1 / 0,
    lambda *a, **k: [object()] * 2,
    lambda *a, **k: {"pair": None, "batch": 3},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("thing", THINGS)
def test_never_raises(name, thing):
    result = check(name, (thing, thing) if name == "table_row" and callable(thing) else thing)
    assert not result and result.hint and repr(result) and result._repr_html_()


def test_leaving_python_is_a_hint():
    assert "SystemExit" in turned_away("kl", lambda p, q: exit(1)).hint


def test_an_unknown_exercise_names_the_nearest():
    result = check("pdg", None)
    assert not result and "did you mean 'pgd'" in result.hint


def test_the_line_of_the_mistake_is_shown():
    def broken(p_logits, q_logits):
        wrong = p_logits @ q_logits
        return wrong, wrong

    result = turned_away("kl", broken, "wrong = p_logits @ q_logits", "RuntimeError")
    assert f"line {broken.__code__.co_firstlineno + 1}" in result.hint


def test_a_torch_not_implemented_error_is_no_stub():
    def odd(p_logits, q_logits):
        return torch.ones(2, dtype=torch.bool).svd(), None

    assert check("kl", odd).status == NOT_YET


def test_the_random_state_and_threads_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    check("pgd", exercise("pgd").reference)
    check("ablation", exercise("ablation").reference)
    assert torch.equal(torch.rand(3), expected) and torch.get_num_threads() == threads


def test_checks_work_under_no_grad():
    with torch.no_grad():
        assert check("fgsm", lambda m, x, y, e: (x + e * gradient(m, x, y).sign()).clamp(0, 1))


def test_an_answer_in_words_numbers_and_html():
    result = turned_away("pgd", pgd(project=False))
    text, page = repr(result), result._repr_html_()
    assert "not yet" in text and "got: largest change" in text and "expected: at most 0.3" in text and "hint:" in text
    assert "not yet" in page and "ok" in page and "hint" in page  # the word, not only the colour
    assert "<script" not in check("kl", lambda p, q: ("<script>", 1))._repr_html_()
    with pytest.raises(AssertionError, match="project"):
        result.require()
    assert check("pgd", pgd()).require() is None
