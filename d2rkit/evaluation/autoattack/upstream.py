"""All that the kit touches of `pyautoattack` 0.2, in one place, and why.

The package's standard evaluation runs, with three changes that spare work and leave every flag as it is: APGD leaves
out what it has fooled (auto_pgd.py), FAB-T's target classes share batches (fast_adaptive_boundary.py), and so do
Square's queries (square.py). Those modules know nothing of the package; what ties them to it is here. Most of what
is named here is not the package's interface, hence the pin to 0.2 in pyproject.toml, and `changes`, which compares the
package with what this was written against; `tests/evaluation/test_upstream.py` fails with its sentences.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from pathlib import Path
from types import FunctionType
from typing import Any

import pyautoattack
import torch
from pyautoattack import AutoAttack, autopgd_base, fab_pt, square
from torch import Tensor, nn

from d2rkit.evaluation.autoattack import AutoAttackSettings, Norm
from d2rkit.evaluation.autoattack.auto_pgd import StillRight, dlr_targeted
from d2rkit.evaluation.autoattack.fast_adaptive_boundary import classes_side_by_side, projection_linf
from d2rkit.evaluation.autoattack.square import squares_side_by_side

PIXELS_AT_ONCE = 2**17  # a batch of so many keeps a CPU busy: more classes or queries side by side would gain nothing
LOGGER, FOOTNOTE = "auto-attack", " See flags_doc"  # who says the package's warnings, and where their footnote begins

# A CIFAR-10 network trained without defence, which panels/sample_pairs.py shows.
EXAMPLE = "examples/model_test.pt"

# What an AutoAttack and its attacks must have when they are made: we set or read it.
ATTRIBUTES = {
    "": ("attacks_to_run", "run_standard_evaluation"),
    "apgd": ("model", "n_iter", "attack_single_run"),
    "apgd_targeted": ("model", "n_iter", "n_target_classes", "y_target", "attack_single_run", "dlr_loss_targeted"),
    "fab": ("predict", "norm", "eps", "n_iter", "n_target_classes", "target_class", "attack_single_run"),
    "square": ("predict", "eps", "n_queries", "p_selection", "attack_single_run"),
}

# What must read as it did: code that ours replaces, or that ours is called by. The digest of its source, and why.
SOURCES = {
    "autoattack.AutoAttack.__init__": ("b27dcfbfe8aa", "makes the attacks that we change"),
    "autoattack.AutoAttack._set_version": ("2043cd7b8398", "holds the numbers of standard AutoAttack"),
    "autoattack.AutoAttack.run_standard_evaluation": ("ee3b9e945e39", "seeds and runs one attack on one batch"),
    "autopgd_base.APGDAttack.perturb": ("23e98324e5ec", "draws random numbers before it asks which images are left"),
    "autopgd_base.APGDAttack.attack_single_run": ("6b4bb9bb6830", "keeps what it found for images that look right"),
    "autopgd_base.APGDAttack_targeted.perturb": ("5dae406264b3", "takes its targets in order, which previews rely on"),
    "autopgd_base.APGDAttack_targeted.dlr_loss_targeted": ("6842d301c043", "is replaced: it indexes with CPU tensors"),
    "fab_base.FABAttack.perturb": ("e9d2190a82f5", "is replaced: one target class after the other"),
    "fab_base.FABAttack.attack_single_run": ("90afcafb3cd6", "runs with another projection, on targets of ours"),
    "fab_projections.projection_linf": ("df01b4ddeb24", "is replaced: it sorts every pixel"),
    "fab_pt.FABAttack_PT._get_predicted_label": ("b750d74771a8", "is replaced where the labels are known"),
    "fab_pt.FABAttack_PT.get_diff_logits_grads_batch_targeted": (
        "986037d85794",
        "is replaced: it has one target",
    ),
    "square.SquareAttack.perturb": ("3eb124c76c4c", "seeds, and runs ours on what is right"),
    "square.SquareAttack.attack_single_run": ("bbb4652b0b74", "is replaced: one square after the other"),
    "square.SquareAttack.p_selection": ("902243739799", "says how large the squares are"),
    "square.SquareAttack.random_choice": ("4578b77251ae", "is drawn again, on the CPU"),
    "square.SquareAttack.random_int": ("129608d4045a", "is drawn again, on the CPU"),
}


def changes() -> list[str]:
    """A sentence for each thing that the installed package does not have, or has in another form; none if all is as it
    was. A changed source need not be an error: read it, make ours do the same, and enter its new digest."""
    changed = []
    if not (Path(pyautoattack.__file__).parent / EXAMPLE).is_file():
        changed.append(f"pyautoattack carries no {EXAMPLE} any more, the undefended network of panels/sample_pairs.py.")
    attack = AutoAttack(nn.Identity(), device="cpu")
    for part, names in ATTRIBUTES.items():
        owner = getattr(attack, part, None) if part else attack
        missing = [name for name in names if not hasattr(owner, name)]
        changed += [f"pyautoattack's {part or 'AutoAttack'} has no {name} any more." for name in missing]
    for name, (digest, why) in SOURCES.items():
        try:
            source = inspect.getsource(attrgetter(name)(pyautoattack))
        except (AttributeError, OSError, TypeError):
            changed.append(f"pyautoattack has no {name} any more, which {why}.")
            continue
        if (now := hashlib.sha256(source.encode()).hexdigest()[:12]) != digest:
            changed.append(f"pyautoattack's {name}, which {why}, has changed: its source has the digest {now}.")
    return changed


def standard(network: nn.Module, stage: str, x: Tensor, settings: AutoAttackSettings) -> AutoAttack:
    """Standard AutoAttack, one attack of it, for batches of images like x: (B, C, H, W)."""
    model, device, budget = ContiguousGradient(network), x.device, settings.budget
    rows, most = settings.batch_size, 4 * settings.batch_size
    if device.type == "cpu":
        most = max(1, PIXELS_AT_ONCE // x[0].numel())
    alike = {"eps": settings.eps, "seed": settings.seed, "device": device}
    attack = AutoAttack(model, norm=settings.norm, version="standard", **alike)
    put(attack, attacks_to_run=[stage])
    attack.fab = SideBySideFAB(model, norm=settings.norm, rows=min(rows, most), **alike)
    if settings.norm == "Linf":  # without gradients, four times the images take no more memory
        attack.square = SideBySideSquare(model, rows=min(4 * rows, most), **alike)
    for apgd in (attack.apgd, attack.apgd_targeted):
        leave_out_fooled(apgd)
    for targeted in (attack.apgd_targeted, attack.fab):
        classes = min(targeted.n_target_classes, settings.classes - 1, budget.targets or settings.classes)
        put(targeted, n_target_classes=classes)
    for iterated in (attack.apgd, attack.apgd_targeted, attack.fab):
        put(iterated, n_iter=budget.iterations or iterated.n_iter)
    put(attack.square, n_queries=budget.queries or attack.square.n_queries)
    return attack


def put(owner: object, **values: Any) -> None:
    """Sets attributes that must be there: one that the package no longer reads would be set in vain, and silently."""
    for name, value in values.items():
        if not hasattr(owner, name):
            raise ImportError(f"pyautoattack's {type(owner).__name__} has no {name}: d2rkit needs pyautoattack 0.2")
        setattr(owner, name, value)


class ContiguousGradient(nn.Module):
    """The network, whose gradient with respect to the images has the layout of the images: the package calls
    `grad.view`, which fails for that of a channels_last network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        x = x.view_as(x)
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient.contiguous())
        return self.network(x)


def leave_out_fooled(attack: autopgd_base.APGDAttack) -> None:
    """From now on each run of `attack` computes only images that it has not fooled."""
    network, run = attack.model, attack.attack_single_run
    if isinstance(attack, autopgd_base.APGDAttack_targeted):
        targets = attrgetter("y_target")  # None before it runs
        put(attack, dlr_loss_targeted=lambda logits, y: dlr_targeted(logits, y, targets(attack)))

    def attack_single_run(x: Tensor, y: Tensor, x_init: Tensor | None = None):
        attack.model = StillRight(network, y)
        try:
            return run(x, y, x_init)
        finally:
            attack.model = network

    put(attack, attack_single_run=attack_single_run)


def with_names(function: FunctionType, **names: Any) -> FunctionType:
    """A copy of `function` for which some of its module's names mean something else.

    FAB's loop of two hundred lines takes its projection from its module. To set that name in the module would change
    FAB for all who use the package in this process; to copy the loop into the kit would part it from its fixes."""
    if missing := names.keys() - function.__globals__.keys():
        raise ImportError(f"pyautoattack lacks {', '.join(sorted(missing))}: d2rkit needs pyautoattack 0.2")
    return FunctionType(function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__)


class SideBySideFAB(fab_pt.FABAttack_PT):
    """FAB for one restart and targets, with batches of up to `rows` images (of one class at a time if that is less)."""

    attack_single_run = with_names(fab_pt.FABAttack_PT.attack_single_run, projection_linf=projection_linf)

    def __init__(self, model: nn.Module, *, norm: Norm, eps: float, seed: int, device: torch.device, rows: int):
        super().__init__(model, norm=norm, eps=eps, seed=seed, device=device, targeted=True)
        self.rows = rows
        self.given: Tensor | None = None

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, C, H, W), y: (N,). Images at which an attack within eps succeeded are replaced by what it found."""
        ball = torch.inf if self.norm == "Linf" else 2, self.eps
        return classes_side_by_side(self.predict, self._run, x, y, self.n_target_classes, ball, self.rows)

    def _run(self, images: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        self.targets, self.given, self.target_class = targets, labels, 1  # a class is asked for, but ours are taken
        # The package indexes by CPU tensors, and copies constants to the device, eleven times an iteration.
        with images.device if images.device.type != "cpu" else nullcontext():
            return self.attack_single_run(images, labels, is_targeted=True)

    def _get_predicted_label(self, x: Tensor) -> Tensor:
        # A run begins with those it finds right. All are; one at the very boundary may look wrong in another batch.
        given, self.given = self.given, None
        return super()._get_predicted_label(x) if given is None else given

    def get_diff_logits_grads_batch_targeted(self, imgs: Tensor, la: Tensor, la_target: Tensor):
        """z_target - z_label of images (N, C, H, W) at our targets, (N, 1), and its gradient, (N, 1, C, H, W)."""
        with torch.enable_grad():
            images = imgs.clone().requires_grad_()
            logits = self.predict(images)
            difference = -(logits.gather(1, la[:, None]) - logits.gather(1, self.targets[:, None]))
            (gradient,) = torch.autograd.grad(difference.sum(), images)
        return difference.detach(), gradient[:, None]


class SideBySideSquare(square.SquareAttack):
    """Untargeted L-infinity Square with batches of up to `rows` images (of one square at a time if that is less)."""

    def __init__(self, model: nn.Module, *, eps: float, seed: int, device: torch.device, rows: int):
        super().__init__(model, norm="Linf", eps=eps, seed=seed, device=device, resc_schedule=False)
        self.rows = rows

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """x: (N, C, H, W), y: (N,). Queries spent on each image, and the images where they ended."""
        how = {"eps": self.eps, "count": self.n_queries, "share": self.p_selection, "rows": self.rows}
        return squares_side_by_side(self.predict, x, y, **how)


@contextmanager
def warnings_heard() -> Iterator[list[str]]:
    """What the package's own checks warn of, each sentence once, instead of on the terminal."""
    heard: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage().split(FOOTNOTE)[0]
            if record.levelno >= logging.WARNING and text not in heard:
                heard.append(text)

    logger, handler = logging.getLogger(LOGGER), Collector()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield heard
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
