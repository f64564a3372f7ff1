"""The best that any classifier can do, clean and under attack, where the data's distribution is known.

Two classes on a grid of places: masses[c, i, j] counts class c at place (i, j), in whole numbers. A classifier answers
0 or 1 at every place; an attacker may move a point by up to `reach` places in both directions (an L-infinity ball).
Which classifier is best for a weighing of clean and robust accuracy is then a minimum cut (an attacked point is lost as
soon as one place in its ball answers wrong), and the maximum flow proves that no other is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy.ndimage import maximum_filter
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from d2rkit.core.validation import check_count, shown

PARTS = 64  # weights of robust accuracy are whole 64ths, so that every sum is exact
STEPS = (1, 12, 24, 32, 40, 52, 63)
MOST_MASS = 2**23  # times PARTS this still fits what the flow counts with
ENDLESS = 2**30


@dataclass(frozen=True)
class Optimum:
    """A best classifier for one weighing. decision: (H, W) bool, True for class 1; free: (H, W) bool, places at which
    best classifiers differ (no mass comes near); clean, robust: masses that it gets right; weight: of robust
    accuracy, in 64ths."""

    decision: np.ndarray
    free: np.ndarray
    clean: int
    robust: int
    weight: int

    @property
    def value(self) -> int:
        """What no classifier exceeds: (64 - weight) clean + weight robust."""
        return (PARTS - self.weight) * self.clean + self.weight * self.robust


@dataclass(frozen=True)
class Frontier:
    """The optima from nearly clean accuracy alone to nearly robust accuracy alone, and what they rule out.

    bayes: the mass that the best classifier without an attacker gets right; total: all mass."""

    optima: tuple[Optimum, ...]
    bayes: int
    total: int
    reach: int

    @cached_property
    def points(self) -> np.ndarray:
        """(K, 2) clean and robust accuracy of the optima. What lies on the line between two of them is reached by
        choosing one of both at random."""
        return np.array([(best.clean, best.robust) for best in self.optima]) / self.total

    def most_robust(self, clean: float) -> float:
        """No classifier of this clean accuracy has a robust accuracy above this, shares in [0, 1]."""
        bounds = [(best.value / self.total - (PARTS - best.weight) * clean) / best.weight for best in self.optima]
        return max(0.0, min(clean, *bounds))

    def most_clean(self, robust: float) -> float:
        """No classifier of this robust accuracy has a clean accuracy above this, shares in [0, 1]."""
        bounds = [(b.value / self.total - b.weight * robust) / (PARTS - b.weight) for b in self.optima]
        return max(robust, min(self.bayes / self.total, *bounds))

    @property
    def trade(self) -> tuple[float, float]:
        """Clean accuracy that the most robust classifier gives up against the best clean one, and what it wins."""
        first, last = self.points[0], self.points[-1]
        return float(first[0] - last[0]), float(last[1] - first[1])


def accuracies(decision: np.ndarray, masses: np.ndarray, reach: int) -> tuple[int, int]:
    """Masses that a classifier gets right, clean and with the worst place within reach; exact, there is no sample.

    decision: (H, W) bool, the answer at each place; masses: (2, H, W) whole numbers."""
    masses = check_masses(masses, reach)
    if decision.shape != masses.shape[1:] or decision.dtype != bool:
        raise ValueError(f"the decision must be bool of shape {masses.shape[1:]}, not {shown(decision)}")
    wrong = np.stack([decision, ~decision])
    hit = np.stack([maximum_filter(answer, 2 * reach + 1, mode="nearest") for answer in wrong])
    return int(masses[~wrong].sum()), int(masses[np.logical_not(hit)].sum())


def optimum(masses: np.ndarray, reach: int, weight: int) -> Optimum:
    """The classifier with the greatest (64 - weight) clean + weight robust, weight in 1..63; see the module."""
    masses = check_masses(masses, reach)
    check_count("weight", weight, 1, PARTS - 1)
    height, width = masses.shape[1:]
    count = height * width
    graph = _graph(masses, reach, weight)
    maximum = maximum_flow(graph, 0, 1)
    left = graph - maximum.flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    places = slice(2, 2 + count)
    ones, zeros = np.zeros((2, left.indptr.size - 1), bool)  # a row of `left` is a node
    ones[breadth_first_order(left, 0, return_predecessors=False)] = True
    zeros[breadth_first_order(left.T.tocsr(), 1, return_predecessors=False)] = True
    decision = ones[places].reshape(height, width)
    clean, robust = accuracies(decision, masses, reach)
    best = Optimum(decision, ~(ones | zeros)[places].reshape(height, width), clean, robust, weight)
    if PARTS * int(masses.sum()) - best.value != maximum.flow_value:  # the flow is a bound for every classifier
        raise AssertionError("the cut does not cost what the flow carries")
    return best


def frontier(masses: np.ndarray, reach: int, weights: Sequence[int] = STEPS) -> Frontier:
    """The optima for these weights of robust accuracy, in 64ths, from low to high. ValueError for impossible masses."""
    masses = check_masses(masses, reach)
    optima = tuple(optimum(masses, reach, weight) for weight in sorted(weights))
    return Frontier(optima, int(masses.max(0).sum()), int(masses.sum()), reach)


def check_masses(masses: np.ndarray, reach: int) -> np.ndarray:
    """The masses as int64, (2, H, W); ValueError if they are none, or if the reach is no whole number."""
    array = np.asarray(masses)
    if array.ndim != 3 or len(array) != 2 or array.dtype.kind not in "iu" or array.min() < 0:
        raise ValueError(f"masses must be whole numbers from 0, of shape (2, H, W), not {shown(masses)}")
    if not 0 < array.sum() <= MOST_MASS:
        raise ValueError(f"the masses must sum to 1 to {MOST_MASS:,}, not to {array.sum():,}")
    check_count("reach", reach, 0, min(array.shape[1:]) - 1)
    return array.astype(np.int64)


def _graph(masses: np.ndarray, reach: int, weight: int) -> csr_matrix:
    """Capacities. Nodes: source 0 (what answers 1 is on its side), sink 1, one node a place, and of either class the
    points under attack and the columns of their balls.

    Of class 1 an answer 0 is lost, and under attack a point is safe only if its whole ball is; class 0 likewise."""
    count = masses[0].size
    places, safe1, _, safe0, _ = (2 + np.arange(5 * count)).reshape(5, count)
    source, sink = np.zeros(count, int), np.ones(count, int)
    zero, one = masses.reshape(2, -1)
    tail, head = _balls(*masses.shape[1:], reach)
    tails = np.concatenate([tail, source, source, places, safe0])
    heads = np.concatenate([head, places, safe1, sink, sink])
    lost = [(PARTS - weight) * one, weight * one, (PARTS - weight) * zero, weight * zero]
    capacity = np.concatenate([np.full(len(tail), ENDLESS), *lost])
    kept = capacity > 0
    entries = (capacity[kept].astype(np.int32), (tails[kept], heads[kept]))
    return csr_matrix(entries, shape=(2 + 5 * count,) * 2)


@lru_cache(maxsize=32)
def _balls(height: int, width: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Tails and heads of the edges that tie a point under attack to all places of its ball, which is a window over rows
    of windows over columns."""
    count = height * width
    places, safe1, columns1, safe0, columns0 = (2 + np.arange(5 * count)).reshape(5, height, width)
    edges = []
    for step in range(-reach, reach + 1):
        for axis in (0, 1):
            size = (height, width)[axis]
            here, there = [slice(None)] * 2, [slice(None)] * 2
            here[axis] = slice(max(0, -step), size - max(0, step))
            there[axis] = slice(max(0, step), size - max(0, -step))
            at, to = tuple(here), tuple(there)
            if axis == 0:
                edges += [(safe1[at], columns1[to]), (columns0[to], safe0[at])]
            else:
                edges += [(columns1[at], places[to]), (places[to], columns0[at])]
    return np.concatenate([a.ravel() for a, _ in edges]), np.concatenate([b.ravel() for _, b in edges])
