"""evaluate(): one flag an image and attack, kept, so that accuracy, error bars and paired tests follow later."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from d2rkit import attacks, devices
from d2rkit.arrays import Split
from d2rkit.autoattack import AutoAttackState, autoattack, clean_flags
from d2rkit.border import check_images, nearest
from d2rkit.checkpoints import write_atomically
from d2rkit.folding import folded
from d2rkit.pair import GuidedPair, eval_mode

ATTACKS = ("clean", "fgsm", "pgd20", "cw20", "autoattack")
Report = Callable[[float, str], None]


@dataclass
class Evaluation:
    """flags[attack]: (N,) bool on the CPU, True where the attacked image is still classified correctly.

    An attacker may leave an image alone, so an image whose clean prediction is wrong counts as not robust
    under every attack. details: of AutoAttack, the flags after each of its attacks. warnings: its own words."""

    eps: float
    flags: dict[str, Tensor] = field(default_factory=dict)
    details: dict[str, Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def accuracy(self, attack: str) -> float:
        return accuracy_of(self.flags[attack])

    def standard_error(self, attack: str) -> float:
        """Binomial standard error of the accuracy."""
        p, n = self.accuracy(attack), len(self.flags[attack])
        return (p * (1 - p) / n) ** 0.5

    def summary(self) -> dict[str, float]:
        return {attack: self.accuracy(attack) for attack in self.flags}


def evaluate(
    model: nn.Module,
    data: Split | tuple[Tensor, Tensor],
    attacks: Sequence[str] = ATTACKS,
    eps: float = 8 / 255,
    seed: int = 0,
    *,
    folder: str | Path | None = None,
    checkpoint: str = "best",
    batch_size: int = 250,
    device: torch.device | str | None = None,
    exact: bool = False,
    shared: bool = False,
    report: Report | None = None,
) -> Evaluation:
    """Attack `model` (for a GuidedPair: its target) on every image of `data`, in float32.

    data: an ImageData split, or (images (N, C, H, W) in [0, 1], labels (N,)). attacks: of "clean", "fgsm",
    "pgdK" and "cwK" with K steps of eps/4 from a random start, and "autoattack" (standard: all four attacks).
    eps: radius of the L-infinity ball, pixel scale; with eps = 0 every attack gives exactly the clean flags.
    folder: a run folder; flags are kept in evaluation/<attack>.npz (for another checkpoint than "best", in
    evaluation-<checkpoint>/), read back when they are there, and AutoAttack goes on where it was cut off.
    exact: attack the network as it is; by default attacks run through a copy with folded BatchNorm (faster,
    equal to rounding), and the network itself judges every attacked image.
    shared: every process of a group (devices.start) makes this call; each attacks its share of the batches, and
    all get all flags, the same that one process alone would find.
    Raises ValueError for unknown attacks, images outside [0, 1] or of the wrong rank, labels out of range, or
    kept flags that belong to other images, eps or seed."""
    network = model.target if isinstance(model, GuidedPair) else model
    plan = {name: parse_attack(name) for name in attacks}
    if not 0 <= eps <= 1:
        raise ValueError(f"eps is in pixel scale and must lie in [0, 1], e.g. 8/255 = 0.0314, not {eps}")
    device = torch.device(device) if device is not None else next(network.parameters()).device
    images, labels = (data.pixels(), data.labels) if isinstance(data, Split) else data
    check_images(images, labels)
    x, y = images.to(device, torch.float32), labels.to(device, torch.int64)
    with eval_mode(network), torch.no_grad():
        check_images(x, y, network(x[:1]).shape[1])
    place = "evaluation" if checkpoint == "best" else f"evaluation-{checkpoint}"
    store = _Store(Path(folder) / place if folder else None, eps, seed, x, y, batch_size, shared)
    result = Evaluation(eps)
    attacked = network if exact else folded(network)
    with eval_mode(network):
        clean = store.get("clean", lambda: {"flags": clean_flags(network, x, y, batch_size)})["flags"]
        for number, (name, (kind, steps)) in enumerate(plan.items()):

            def progress(done: float, words: str = name, number: int = number) -> None:
                if report:
                    report((number + done) / len(plan), words)

            progress(0.0)
            if kind == "clean":
                result.flags[name] = clean
            elif kind == "autoattack":
                found = store.get(name, lambda: _autoattack(network, attacked, x, y, clean, store, progress))
                result.warnings = [str(w) for w in found.pop("warnings", [])]
                result.details = {k: v for k, v in found.items() if k != "flags"}
                result.flags[name] = found["flags"]
            else:
                arguments = (network, attacked, x, y, clean, kind, steps, eps, seed, batch_size, shared, progress)
                result.flags[name] = store.get(name, lambda: {"flags": _attacked(*arguments)})["flags"]  # noqa: B023
            progress(1.0)
    return result


def accuracy_of(flags: Tensor) -> float:
    """Share of True, exact as a count over a count can be."""
    return int(flags.sum()) / len(flags)


def parse_attack(name: str) -> tuple[str, int]:
    """Kind and number of steps: "pgd20" -> ("pgd", 20)."""
    if match := re.fullmatch(r"(pgd|cw)([1-9]\d*)", name):
        return match[1], int(match[2])
    if name in ("clean", "fgsm", "autoattack"):
        return name, 1
    raise nearest(name, ATTACKS, "attack")


def _attacked(
    network: nn.Module, attacked: nn.Module, x: Tensor, y: Tensor, clean: Tensor, kind: str, steps: int, eps: float,
    seed: int, batch_size: int, shared: bool, progress: Callable[[float], None],
) -> Tensor:  # fmt: skip
    robust = clean.clone()
    batches = clean.nonzero().flatten().split(batch_size)
    for number, index in enumerate(batches):
        if shared and number % devices.size() != devices.rank():
            continue
        images, labels = x[index.to(x.device)], y[index.to(x.device)]
        generator = torch.Generator(x.device).manual_seed(seed * 100_003 + number)
        start = attacks.uniform_start(images, eps, generator)
        if kind == "fgsm":
            adversarial = attacks.fgsm(attacked, images, labels, eps=eps, start=start)
        else:
            run = attacks.pgd_ce if kind == "pgd" else attacks.cw
            adversarial = run(attacked, images, labels, eps=eps, step_size=eps / 4, steps=steps, start=start)
        # At eps = 0 nothing moves; asking again in other batches could round differently.
        robust[index] = clean_flags(network, adversarial, labels, batch_size) if eps else True
        progress((number + 1) / len(batches))
    return devices.reduced(robust, "min") if shared else robust


def _autoattack(
    network: nn.Module, attacked: nn.Module, x: Tensor, y: Tensor, clean: Tensor, store: _Store, progress
) -> dict[str, Tensor]:
    if store.eps == 0:
        return {"flags": clean}

    def on_batch(state: AutoAttackState, stage: str, done: float) -> None:
        store.keep_partial(state)
        progress(done, f"autoattack {stage}")

    state = store.partial() or AutoAttackState(clean.clone())
    state = autoattack(
        network,
        x,
        y,
        eps=store.eps,
        seed=store.seed,
        batch_size=store.batch_size,
        through=attacked,
        state=state,
        shared=store.shared,
        on_batch=on_batch,
    )
    return {"flags": state.robust, **state.after, "warnings": state.warnings}


class _Store:
    """evaluation/<attack>.npz: per-image flags, and what they were measured with."""

    def __init__(self, folder: Path | None, eps: float, seed: int, x: Tensor, y: Tensor, batch_size: int, shared: bool):
        self.folder, self.eps, self.seed, self.batch_size, self.shared = folder, eps, seed, batch_size, shared
        self.facts = {"eps": eps, "seed": seed, "count": len(y)}
        if folder:
            self.facts["images"] = zlib.crc32(y.cpu().numpy().tobytes(), zlib.crc32(x.cpu().numpy().tobytes()))

    def get(self, attack: str, measure: Callable[[], Mapping]) -> dict:
        """The flags of `attack`: read if they are kept, else measured and kept."""
        file = self.folder / f"{attack}.npz" if self.folder else None
        if file is None:
            return dict(measure())
        if not self._exists(file):
            self._write(file, measure())
            (self.folder / "autoattack.partial.npz").unlink(missing_ok=True) if attack == "autoattack" else None
        return self._read(file)

    def _exists(self, file: Path) -> bool:
        return devices.from_first(file.exists()) if self.shared else file.exists()

    def partial(self) -> AutoAttackState | None:
        file = self.folder / "autoattack.partial.npz" if self.folder else None
        if file is None or not self._exists(file):
            return None
        found = self._read(file)
        robust, next_batch, batch_size = found.pop("flags"), int(found.pop("next_batch")), int(found.pop("batch_size"))
        if batch_size != self.batch_size:
            next_batch = 0  # other batches: the attack that was cut off begins anew
        return AutoAttackState(robust, found, next_batch, found.pop("warnings"))

    def keep_partial(self, state: AutoAttackState) -> None:
        if self.folder:
            content = {"flags": state.robust, **state.after, "warnings": state.warnings}
            content |= {"next_batch": state.next_batch, "batch_size": self.batch_size}
            self._write(self.folder / "autoattack.partial.npz", content)

    def _write(self, file: Path, content: Mapping) -> None:
        if not self.shared or devices.rank() == 0:
            self._save(file, content)
        if self.shared:
            devices.wait()

    def _save(self, file: Path, content: Mapping) -> None:
        arrays = {k: v.numpy() if isinstance(v, Tensor) else np.asarray(v) for k, v in content.items()}
        arrays["warnings"] = np.asarray(content.get("warnings", []), dtype=str)
        with write_atomically(file) as draft, draft.open("wb") as out:
            np.savez_compressed(out, **arrays, **{f"fact_{k}": v for k, v in self.facts.items()})

    def _read(self, file: Path) -> dict:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # zipfile, zlib and numpy each have their own way of saying "truncated"
            raise ValueError(f"{file} is damaged ({error}); move it away to measure anew") from error
        for name, value in self.facts.items():
            if float(content.pop(f"fact_{name}", np.nan)) != float(value) and not (
                name == "eps" and file.stem == "clean"
            ):
                whose = "other images" if name == "images" else f"another {name} than {value}"
                raise ValueError(f"{file} holds flags for {whose}; choose another folder")
        warnings = [str(w) for w in content.pop("warnings", [])]
        tensors = {k: torch.from_numpy(v) if v.dtype == bool else v for k, v in content.items()}
        return tensors | {"warnings": warnings}


def accuracy_against_eps(
    model: nn.Module,
    data: Split | tuple[Tensor, Tensor],
    eps_values: Sequence[float],
    attack: str = "pgd20",
    seed: int = 0,
    shared: bool = False,
    known: Evaluation | None = None,
) -> dict[float, Tensor]:
    """Flags of `attack` at each radius; a sound evaluation falls to about 0 as eps grows. known: of the same model,
    data and seed, so that what it holds need not be measured again."""
    return {eps: _with_known(known, model, data, (attack,), eps, seed, shared).flags[attack] for eps in eps_values}


def _with_known(known: Evaluation | None, model, data, attacks: Sequence[str], eps: float, seed, shared) -> Evaluation:
    """evaluate(), but for the attacks that `known` has at this radius."""
    there = known.flags if known and known.eps == eps else {}
    missing = [attack for attack in attacks if attack not in there]
    found = evaluate(model, data, missing, eps, seed, shared=shared) if missing else Evaluation(eps)
    found.flags = {**there, **found.flags}
    return found


@dataclass(frozen=True)
class MaskingCheck:
    """One sign of gradient masking: `passed` is False where it shows."""

    name: str
    passed: bool
    words: str


def masking_checks(
    target: nn.Module,
    data: Split | tuple[Tensor, Tensor],
    eps: float,
    *,
    guide: nn.Module | None = None,
    seed: int = 0,
    shared: bool = False,
    known: Evaluation | None = None,
) -> list[MaskingCheck]:
    """Four signs of masked gradients (Athalye et al. 2018; Carlini et al. 2019), each with its numbers: accuracy
    stays up at an absurd radius; more steps help the defender; the margin loss beats CE by far; images made
    against another network (the guide) fool the target more often than its own gradients do. known: of the same
    model, data and seed, so that what it holds need not be measured again."""
    images, labels = (data.pixels(), data.labels) if isinstance(data, Split) else data
    here = _with_known(known, target, (images, labels), ("clean", "pgd20", "pgd100", "cw20"), eps, seed, shared)
    far = min(1.0, 8 * eps)
    absurd = evaluate(target, (images, labels), ("pgd100",), far, seed, shared=shared).accuracy("pgd100")
    pgd20, pgd100, margin = (here.accuracy(name) for name in ("pgd20", "pgd100", "cw20"))
    noise = 2 * max(here.standard_error("pgd20"), 1 / len(labels))
    checks = [
        MaskingCheck(
            "large radius", absurd <= 0.05, f"PGD-100 accuracy {absurd:.1%} at eps {far:.3f}, expected about 0"
        ),
        MaskingCheck("more steps", pgd100 <= pgd20 + noise, f"PGD-20 {pgd20:.1%}, PGD-100 {pgd100:.1%}"),
        MaskingCheck("margin loss", margin >= pgd20 - 0.1, f"PGD-20 {pgd20:.1%}, C&W-20 {margin:.1%}"),
    ]
    if guide is not None:
        device = next(target.parameters()).device
        x, y = images.to(device), labels.to(device)
        borrowed = attacks.pgd_ce(guide, x, y, eps=eps, step_size=eps / 4, steps=20)
        with eval_mode(target):
            transfer = accuracy_of(clean_flags(target, borrowed, y, 250) & here.flags["clean"])
        words = f"PGD-20 {pgd20:.1%}, images made against the guide {transfer:.1%}"
        checks.append(MaskingCheck("transfer", transfer >= pgd20 - noise, words))
    return checks
