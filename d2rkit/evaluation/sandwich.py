"""The certified sandwich: what is proven robust, what an attack has broken, and what nobody knows.

The share of proven images is a lower bound of the robust accuracy, the share that an attack left is an upper bound. An
image cannot be both proven and broken; if one is, the bounds or the attack are wrong, and `contradictions` names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from d2rkit.core.validation import shown


@dataclass(frozen=True)
class Sandwich:
    """One network at one radius. proven: (N,) bool, certified; survived: (N,) bool, right on the clean image and under
    the attack; eps: pixel scale. ValueError for flags of different images."""

    proven: np.ndarray
    survived: np.ndarray
    eps: float

    def __post_init__(self) -> None:
        if self.proven.shape != self.survived.shape or self.proven.ndim != 1 or not self.proven.size:
            raise ValueError(
                f"flags of the same images are needed, not {shown(self.proven)} and {shown(self.survived)}"
            )
        if self.proven.dtype != bool or self.survived.dtype != bool:
            raise ValueError("flags must be bool")

    @property
    def open(self) -> np.ndarray:
        """(N,) bool: neither proven nor broken."""
        return self.survived & ~self.proven

    @property
    def contradictions(self) -> np.ndarray:
        """Numbers of the images that are both proven and broken: there must be none."""
        return np.flatnonzero(self.proven & ~self.survived)

    @property
    def lower(self) -> float:
        """Certified accuracy: no attack whatever can push the accuracy below it."""
        return float(self.proven.mean())

    @property
    def upper(self) -> float:
        """Accuracy under the attack."""
        return float(self.survived.mean())

    @property
    def decided(self) -> float:
        """Share of images that are proven or broken, one of the two: a contradiction decides nothing."""
        return float((self.proven ^ ~self.survived).mean())

    def report(self) -> str:
        """In a sentence, with an alarm if the two bounds contradict each other."""
        n, clash = len(self.proven), self.contradictions
        text = (
            f"At ε = {255 * self.eps:.3g}/255, of {n} images {int(self.proven.sum())} are proven robust, "
            f"{int((~self.survived).sum())} are broken and {int(self.open.sum())} are open: the robust accuracy lies "
            f"between {self.lower:.1%} and {self.upper:.1%}, and {self.decided:.1%} of the images are decided."
        )
        if len(clash):
            numbers = ", ".join(map(str, clash[:10])) + (", …" if len(clash) > 10 else "")
            text += (
                f" CONTRADICTION on {len(clash)} of them (number {numbers}): proven and broken; one of both is wrong."
            )
        return text


def at_radius(proven_radius: ArrayLike, broken_radius: ArrayLike, eps: float) -> Sandwich:
    """The sandwich at eps of images that are proven within proven_radius (N,) (-1: not even clean) and broken at
    broken_radius (N,) (0: the clean prediction is wrong; infinite: by no attack tried)."""
    proven, broken = np.asarray(proven_radius, float), np.asarray(broken_radius, float)
    return Sandwich(proven >= eps, broken > eps, eps)
