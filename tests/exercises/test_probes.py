"""What every check looks at first, by itself: a wrong answer must not wait for the comparison with the reference."""

import pytest
import torch

from d2rkit.exercises import probes
from d2rkit.exercises.checking import returned


def failing(steps):
    return [step for step in steps if not step.passed]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_named(value):
    step = returned("a number an image", torch.tensor([1.0, value]), (2,))
    assert not step.passed and "nan or inf" in step.hint
    assert returned("a number an image", torch.tensor([1.0, 2.0]), (2,)).passed


def test_an_attack_keeps_four_promises():
    x = probes.images().clamp(0.3, 0.7)
    assert not failing(probes.inside(x + 0.1, x, x, 0.1))
    (far,) = failing(probes.inside(x + 0.13, x, x, 0.1))
    assert far.name == "inside the eps-ball" and "moved by 0.13" in far.hint
    (outside,) = failing(probes.inside(x + 0.35, x, x, 0.35))
    assert outside.name == "pixels stay in [0, 1]" and "clamp" in outside.hint
    (changed,) = failing(probes.inside(x, x + 0.01, x, 0.1))
    assert changed.name == "the clean images are unchanged"
    (hanging,) = failing(probes.inside((x + 0.1).requires_grad_(), x, x, 0.1))
    assert hanging.name == "the images are detached" and "detach" in hanging.hint
