"""What evaluate() calls its attacks with, and whose word counts in the end."""

import pytest
import torch

from d2rkit.data.arrays import Split
from d2rkit.evaluation.evaluate import accuracy_of, evaluate
from d2rkit.evaluation.evaluator import Evaluator
from d2rkit.methods import attacks
from tests.evaluation.test_autoattack import Nearest

EPS = 0.2


@pytest.fixture(scope="module")
def sample(digits):
    return Split(digits.test.images[:60], digits.test.labels[:60])


def test_every_batch_has_a_start_of_its_own(trained, sample):
    """C&W in batches of 20 is the library's attack from starts that follow from the seed and the batch's number."""
    result = evaluate(trained, sample, ("cw20",), EPS, seed=4, batch_size=20, exact=True)
    model, x, y = trained.target, sample.pixels(), sample.labels
    expected = model(x).argmax(1) == y
    batches = expected.nonzero().flatten().split(20)
    starts = []
    for number, index in enumerate(batches):
        starts.append(attacks.uniform_start(x[index], EPS, torch.Generator().manual_seed(4 * 100_003 + number)))
        x_adv = attacks.cw(model, x[index], y[index], eps=EPS, step_size=EPS / 4, steps=20, start=starts[-1])
        expected[index] = model(x_adv).argmax(1) == y[index]
    assert torch.equal(result.flags["cw20"], expected) and len(batches) > 1
    assert not torch.equal(*(start[:5] for start in starts[:2]))


def test_attacks_are_told_starts_and_losses(trained, sample, monkeypatch):
    """What each attack is called with: flags alone hardly tell C&W from PGD, or one random start from another."""
    calls = []
    for name in ("pgd_ce", "cw", "fgsm"):
        whole = getattr(attacks, name)
        monkeypatch.setattr(
            attacks, name, lambda *a, name=name, whole=whole, **k: calls.append((name, k)) or whole(*a, **k)
        )
    evaluate(trained, sample, ("pgd3", "cw3"), EPS, batch_size=20)
    names, starts = [name for name, _ in calls], [k["start"] for _, k in calls]
    half = len(calls) // 2
    assert half > 1 and set(names[:half]) == {"pgd_ce"} and set(names[half:]) == {"cw"}
    assert all(k["steps"] == 3 and k["step_size"] == EPS / 4 and k["eps"] == EPS for _, k in calls)
    assert len({start.flatten()[:8].tolist().__repr__() for start in starts[:half]}) == half
    assert all(0.9 * EPS < start.abs().max() <= EPS for start in starts)


def test_the_network_has_the_last_word_on_every_image(trained, sample):
    """What the attacked copy falls for says nothing, as long as the network does not."""
    x, y = sample.pixels(slice(0, 12)), sample.labels[:12]
    evaluator = Evaluator(Nearest(x, y), (x, y), batch_size=5)
    evaluator.attacked = trained.target
    for attack in ("fgsm", "pgd5", "cw5"):
        assert accuracy_of(Evaluator(trained.target, (x, y), batch_size=5).flags(attack, 0.3)) < 0.7
        assert evaluator.flags(attack, 0.3).all()
