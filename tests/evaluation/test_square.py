"""Square side by side goes the way of the package's, query after query."""

import pytest
import torch
from pyautoattack.square import SquareAttack

from d2rkit.evaluation.autoattack import AutoAttackSettings
from d2rkit.evaluation.autoattack.upstream import SideBySideSquare, standard
from tests.acceleration.test_folding import folded

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sample(trained_once, digits):
    # In float64 two batches of other sizes hardly ever round to another way.
    model = folded(trained_once.target).double()
    x, y = digits.test.pixels(slice(0, 40)).double(), digits.test.labels[:40]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    return model, x[right], y[right]


def package(model, eps):
    return SquareAttack(model, norm="Linf", eps=eps, n_queries=600, seed=0, resc_schedule=False, device=CPU)


def side_by_side(model, eps, rows):
    attack = SideBySideSquare(model, eps=eps, seed=0, device=CPU, rows=rows)
    attack.n_queries = 600
    return attack


@pytest.mark.parametrize("eps", [0.1, 0.25])
@pytest.mark.parametrize("rows", [1, 100, 1000])
def test_the_same_way_as_query_after_query(sample, eps, rows):
    model, x, y = sample
    runs = []
    for attack in (package(model, eps), side_by_side(model, eps, rows)):
        attack.init_hyperparam(x)
        torch.manual_seed(0)
        runs.append(attack.attack_single_run(x, y))
    (expected_queries, expected), (queries, x_adv) = runs
    assert torch.equal(x_adv, expected) and torch.equal(queries, expected_queries)
    assert (x_adv - x).abs().max() <= eps + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    with torch.no_grad():
        fooled, as_expected = (model(images).argmax(1) != y for images in (x_adv, expected))
    assert torch.equal(fooled, as_expected) and 0 < fooled.sum() < len(x)


def test_a_square_that_changes_no_logit_is_not_kept(sample):
    model, x, y = sample
    seen = torch.ones(x.shape[-1], dtype=x.dtype)
    seen[::2] = 0
    blind = lambda images: model(images * seen)  # noqa: E731  (squares of one pixel often fall where nobody looks)
    right = blind(x).argmax(1) == y
    runs = []
    for attack in (package(blind, 0.25), side_by_side(blind, 0.25, 100)):
        attack.init_hyperparam(x)
        torch.manual_seed(0)
        runs.append(attack.attack_single_run(x[right], y[right]))
    assert torch.equal(runs[0][1], runs[1][1]) and torch.equal(runs[0][0], runs[1][0])


def test_batches_are_as_large_as_allowed_and_fewer(sample):
    model, x, y = sample
    sizes = []

    def counted(images):
        sizes.append(len(images))
        return model(images)

    counts = {}
    for rows in (1, 200):
        sizes.clear()
        side_by_side(counted, 0.1, rows).perturb(x, y)
        assert max(sizes) <= max(rows, len(x))
        counts[rows] = len(sizes)
    assert counts[200] < counts[1] / 2 and counts[1] > 600


def test_an_image_is_computed_for_exactly_the_squares_that_change_it(sample):
    model, x, y = sample
    eps, calls, computed = 0.02, [], []
    margins, _ = package(model, eps).margin_and_loss(x, y)
    x, y = (t[margins > margins.median()] for t in (x, y))  # none falls: the package computes all for every square

    def noted(images):
        calls.append(images.clone())
        return model(images)

    def counted(images):
        computed.append(len(images))
        return model(images)

    package(noted, eps).perturb(x, y)
    side_by_side(counted, eps, rows=1).perturb(x, y)
    assert all(len(images) == len(x) for images in calls) and len(calls) > 600
    # The first call asks what is right, the second where stripes lead, the last what is right in the end.
    expected, best, lowest = 3 * len(x), None, torch.full((len(x),), torch.inf).double()
    for number, images in enumerate(calls[1:-1]):
        if number:
            expected += int((images != best).flatten(1).any(1).sum())
        margins, _ = package(model, eps).margin_and_loss(images, y)
        better = margins < lowest
        best = images.clone() if best is None else torch.where(better[:, None, None, None], images, best)
        lowest = torch.minimum(margins, lowest)
    assert sum(computed) == expected < 0.9 * sum(len(images) for images in calls)


def test_a_second_call_finds_the_same(sample):
    model, x, y = sample
    attack = side_by_side(model, 0.15, 300)
    assert torch.equal(attack.perturb(x, y), attack.perturb(x, y))


@pytest.mark.parametrize(("side", "fab", "square"), [(8, 250, 1000), (32, 128, 128), (512, 1, 1)])
def test_a_cpu_gets_batches_of_so_many_pixels(side, fab, square):
    attack = standard(torch.nn.Identity(), "square", torch.zeros(1, 1, side, side), AutoAttackSettings(0.1, classes=10))
    assert (attack.fab.rows, attack.square.rows) == (fab, square)
