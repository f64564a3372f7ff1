"""AutoAttack that answers early: an upper bound first, the same number in the end.

Every standard call is one (attack, batch), reseeded, and so the same call whenever it is made. APGD-T with its first k
targets on a batch is the beginning of the full call on that batch: it draws the same random numbers and finds the same
images. So APGD-T is tried with few targets on all images before it is run with all nine on the first ones; what such a
preview breaks, the full attack breaks too. Previews fill a tensor of flags of their own: the standard attacks take no
notice of them, which is why the flags in the end are exactly those of an undisturbed run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from d2rkit.core.validation import shown

if TYPE_CHECKING:
    from d2rkit.evaluation.autoattack import AutoAttackState

PREVIEWS = (1, 3)  # targets of APGD-T in each preview; benchmarks/anytime.py compares others
# Forward passes that an attack takes for an image that survives it, and for one that falls; a backward pass counts as
# two. Counted on a shipped CIFAR-10 network (small-trades, 10 classes). None of its images falls to FAB-T or Square
# alone, so that half of what a survivor takes is a guess there.
COST = {"apgd-ce": (310.0, 25.0), "apgd-t": (2750.0, 125.0), "fab-t": (3630.0, 1815.0), "square": (5050.0, 2525.0)}
TARGETS = 9  # of which the costs of the targeted attacks are


@dataclass(frozen=True)
class Bound:
    """AutoAttack, not done yet. flags: (N,) bool, the images that may be robust in the end. share: of the work that is
    done. seconds_left: about."""

    flags: Tensor
    share: float
    seconds_left: float

    def __str__(self) -> str:
        words = f"{self.share:.0%} of the work done, about {duration(self.seconds_left)} left"
        return f"AutoAttack {at_most(self.flags)}, {words}"


def at_most(flags: Tensor) -> str:
    """The share of True as an upper bound in words, rounded up: "<= 34.3 %"."""
    return f"<= {-(-1000 * int(flags.sum()) // len(flags)) / 10:.1f} %"


class BudgetSpent(Exception):
    """The time for AutoAttack is over; `bound` is what is known by then."""

    def __init__(self, bound: Bound):
        super().__init__(str(bound))
        self.bound = bound


class Clock:
    """Stops AutoAttack `seconds` after it was made; None: never."""

    def __init__(self, seconds: float | None):
        self.made, self.seconds, self.limited = time.monotonic(), seconds, seconds is not None

    def begin(self, done: float) -> None:
        """AutoAttack begins, with so much work done before."""
        self.began, self.before = time.monotonic(), done

    def check(self, flags: Tensor, done: float, left: float) -> None:
        """Raises BudgetSpent if time is up, but not if nothing is left to do."""
        now = time.monotonic()
        if self.seconds is not None and left and now - self.made >= self.seconds:
            pace = (now - self.began) / max(done - self.before, 1.0)
            raise BudgetSpent(Bound(flags.clone(), done / (done + left), left * pace))


def seconds_of(text: str) -> float:
    """ "90", "90s", "10m" or "1.5h" in seconds; ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or not float(match[1]):
        raise ValueError(f"a budget is a time above 0 in s, m or h, e.g. 90s, 10m or 1.5h, not {shown(text)}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def duration(seconds: float) -> str:
    """In words of the size that says most: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def next_previews(done: int, batches: int, at_once: int = 1) -> Iterator[tuple[int, int]]:
    """Targets and first batch of each call that is left of the previews, `done` batches of which are."""
    for number, targets in enumerate(PREVIEWS):
        for first in range(max(0, done - number * batches), batches, at_once):
            yield targets, first


def work(state: AutoAttackState, batch_size: int, classes: int, previews: bool = False) -> tuple[float, float]:
    """What is done and what is left of AutoAttack, in forward passes; of attacks to come as if no more images fell to
    them than are known to fall."""
    known, before = state.upper_bound(), state.after["clean"]
    done = left = 0.0
    current = next((stage for stage in COST if stage not in state.after), "")
    for stage, (survives, falls) in COST.items():
        part = min(TARGETS, classes - 1) / TARGETS if stage in ("apgd-t", "fab-t") else 1.0
        index, now = before.nonzero().flatten(), state.after.get(stage, known)
        tried = len(index) if stage in state.after else state.next_batch * batch_size * (stage == current)
        if stage == "apgd-t":
            batches = -(-len(index) // batch_size)
            for number, targets in enumerate(PREVIEWS):
                seen = min(max(0, state.previewed - number * batches), batches) * batch_size
                each = survives * targets / TARGETS
                done += _passes(now[index[:seen]], each, min(falls, each))
                if previews and not tried:
                    left += _passes(now[index[seen:]], each, min(falls, each))
        done += _passes(now[index[:tried]], survives * part, falls * part)
        left += _passes(now[index[tried:]], survives * part, falls * part)
        before = now
    return done, left


def _passes(kept: Tensor, survives: float, falls: float) -> float:
    count = int(kept.sum())
    return survives * count + falls * (len(kept) - count)
