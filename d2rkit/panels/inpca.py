"""Predictions as points: distances between what networks predict, and the plane that keeps most of them.

A *point* is what one network says about N images: N distributions over C classes. The distance is the intensive one
(Quinn et al. 2019; for networks Mao et al. 2024): the Bhattacharyya distance of an image, averaged over images,

    D(u, v) = -1/N sum_n log sum_c sqrt(p_u(c | x_n) p_v(c | x_n)),

which plays the part of a *squared* distance. Unlike Hellinger's it does not saturate with the number of images. It is
no squared distance of any Euclidean space: double centring gives negative eigenvalues too, and the coordinates that
belong to them count negatively (a Minkowski space, as in Quinn et al.). With all of them every D comes back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Embedding:
    """coordinates: (P, k), the axes by falling |eigenvalue|; eigenvalues: (P,), all of them in that order. An axis of a
    negative eigenvalue shortens distances: D(u, v) is the sum over axes of sign * (difference of coordinates)^2."""

    coordinates: np.ndarray
    eigenvalues: np.ndarray

    @property
    def signs(self) -> np.ndarray:
        """(k,) of +1 and -1: how each axis of `coordinates` counts."""
        return np.where(self.eigenvalues[: self.coordinates.shape[1]] < 0, -1.0, 1.0)

    def squared_distances(self) -> np.ndarray:
        """(P, P): D as the kept axes show it; with all P axes, D itself."""
        apart = self.coordinates[:, None] - self.coordinates[None]
        return (apart**2 * self.signs).sum(-1)

    def kept(self, axes: int = 2) -> float:
        """Share of the centred matrix, in squared Frobenius norm, that lies in the first axes."""
        squares = self.eigenvalues**2
        return float(squares[:axes].sum() / max(squares.sum(), 1e-300))


def bhattacharyya(log_p: np.ndarray) -> np.ndarray:
    """(P, P) intensive squared distances of P points; log_p: (P, N, C), log-probabilities, -inf for 0.

    ValueError for another shape, or for rows that are no distributions. Infinite where two points exclude each other
    on an image."""
    log_p = np.asarray(log_p, np.float64)
    if log_p.ndim != 3 or 0 in log_p.shape:
        raise ValueError(f"log-probabilities must have shape (points, images, classes), not {log_p.shape}")
    roots = np.exp(log_p / 2)
    if not np.allclose((roots**2).sum(-1), 1, atol=1e-4):
        raise ValueError("log-probabilities must be those of distributions: each row's exponentials sum to 1")
    roots /= np.linalg.norm(roots, axis=-1, keepdims=True)
    total = np.zeros((len(log_p), len(log_p)))
    with np.errstate(divide="ignore"):
        for image in roots.transpose(1, 0, 2):
            total -= np.log(np.minimum(image @ image.T, 1.0))
    np.fill_diagonal(total, 0.0)
    return total / log_p.shape[1]


def distances(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """(P,) D between the points of two lists, pair by pair; both (P, N, C)."""
    with np.errstate(divide="ignore"):
        return -np.log(np.minimum(np.exp((log_p + log_q) / 2).sum(-1), 1.0)).mean(-1)


def embed(squared: np.ndarray, axes: int = 2) -> Embedding:
    """Classical scaling of (P, P) squared distances, with eigenvalues of either sign; `axes` = P keeps them all.

    ValueError unless `squared` is finite, symmetric, with zeros on its diagonal."""
    squared = np.asarray(squared, np.float64)
    if squared.ndim != 2 or squared.shape[0] != squared.shape[1] or not np.isfinite(squared).all():
        raise ValueError(f"squared distances must be a finite square matrix, not of shape {squared.shape}")
    if not np.allclose(squared, squared.T) or np.diag(squared).any():
        raise ValueError("squared distances must be symmetric, with zeros on the diagonal")
    if not 1 <= axes <= len(squared):
        raise ValueError(f"axes must be 1 to {len(squared)}, the number of points, not {axes}")
    centred = squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)
    order = np.argsort(-abs(values), kind="stable")
    values, vectors = values[order], vectors[:, order[:axes]]
    return Embedding(vectors * np.sqrt(abs(values[:axes])), values)
