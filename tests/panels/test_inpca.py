"""Distances of predictions against closed forms, and the plane against what classical scaling must give."""

import numpy as np
import pytest

from d2rkit.panels.inpca import bhattacharyya, distances, embed


def points(count=7, images=5, classes=4, seed=0):
    logits = np.random.default_rng(seed).normal(0, 2, (count, images, classes))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def coins(angles):
    """Bernoulli distributions with p = cos^2: the angle between their roots is that of `angles`."""
    with np.errstate(divide="ignore"):
        return 2 * np.log(np.stack([np.cos(angles), np.sin(angles)], -1))[:, None]


def test_two_coins_have_the_closed_form():
    angles = np.linspace(0.05, 1.5, 9)
    expected = -np.log(np.cos(angles[:, None] - angles))
    np.testing.assert_allclose(bhattacharyya(coins(angles)), expected, atol=1e-12)


def test_certainty_of_the_label_is_half_the_cross_entropy_away():
    log_p, labels = points(1, 6), np.array([0, 1, 2, 3, 0, 1])
    with np.errstate(divide="ignore"):
        truth = np.log(np.eye(4)[labels])
    ce = -log_p[0, np.arange(6), labels].mean()
    assert bhattacharyya(np.stack([log_p[0], truth]))[0, 1] == pytest.approx(ce / 2)
    assert distances(log_p, truth[None])[0] == pytest.approx(ce / 2)


def test_the_distance_is_intensive():
    log_p = points()
    np.testing.assert_allclose(bhattacharyya(np.concatenate([log_p] * 3, 1)), bhattacharyya(log_p), atol=1e-12)


def test_pair_by_pair_is_the_matrix():
    log_p, log_q = points(seed=1), points(seed=2)
    whole = bhattacharyya(np.concatenate([log_p, log_q]))
    np.testing.assert_allclose(distances(log_p, log_q), np.diag(whole[:7, 7:]), atol=1e-12)


@pytest.mark.parametrize("log_p", [points(), points(12, 1, 3), coins(np.linspace(0.01, 1.55, 8))])
def test_all_axes_give_every_distance_back(log_p):
    squared = bhattacharyya(log_p)
    embedding = embed(squared, len(squared))
    np.testing.assert_allclose(embedding.squared_distances(), squared, atol=1e-9)
    assert embedding.kept(len(squared)) == pytest.approx(1)


def test_some_axes_count_negative():
    """Coins lie on a curve whose D is no squared Euclidean distance: without the signs distances come out too long."""
    squared = bhattacharyya(coins(np.linspace(0.01, 1.55, 8)))
    embedding = embed(squared, 8)
    assert embedding.eigenvalues.min() < -1e-3
    without_signs = ((embedding.coordinates[:, None] - embedding.coordinates[None]) ** 2).sum(-1)
    assert (without_signs - squared).max() > 0.3


def test_two_points_by_hand():
    embedding = embed(np.array([[0.0, 4.0], [4.0, 0.0]]))
    assert embedding.eigenvalues[0] == pytest.approx(2) and abs(embedding.coordinates[:, 0]) == pytest.approx([1, 1])


def test_of_a_euclidean_distance_it_is_pca():
    """Hellinger's squared distance is Euclidean between the roots: no eigenvalue is negative, coordinates are PCA's."""
    roots = np.exp(points(9, 1, 4)[:, 0] / 2)
    embedding = embed(((roots[:, None] - roots[None]) ** 2).sum(-1), 3)
    assert embedding.eigenvalues.min() > -1e-12
    u, s, _ = np.linalg.svd(roots - roots.mean(0))
    np.testing.assert_allclose(abs(embedding.coordinates), abs(u[:, :3] * s[:3]), atol=1e-9)


def test_axes_come_by_size_whatever_their_sign():
    embedding = embed(bhattacharyya(coins(np.linspace(0.0, 1.57, 20))), 5)
    assert (np.diff(abs(embedding.eigenvalues)) <= 1e-12).all()
    np.testing.assert_array_equal(embedding.signs, np.sign(embedding.eigenvalues[:5]))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: bhattacharyya(np.zeros((3, 2))), "points, images, classes"),
        (lambda: bhattacharyya(np.zeros((3, 2, 4))), "sum to 1"),
        (lambda: embed(np.zeros((3, 2))), "square matrix"),
        (lambda: embed(np.array([[0, np.inf], [np.inf, 0]])), "finite"),
        (lambda: embed(np.array([[0.0, 1.0], [2.0, 0.0]])), "symmetric"),
        (lambda: embed(np.zeros((3, 3)), 4), "axes must be 1 to 3"),
    ],
)
def test_bad_input_in_words(made, words):
    with pytest.raises(ValueError, match=words):
        made()
