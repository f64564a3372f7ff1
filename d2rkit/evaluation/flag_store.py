"""evaluation/<attack>.npz in a run folder: per-image correctness flags, and what they were measured with."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2rkit.core import devices
from d2rkit.core.files import write_atomically
from d2rkit.core.validation import as_pixels
from d2rkit.evaluation.autoattack import AutoAttackState

CHUNK = 1_000  # images at once, where all are read
ONCE = ("eot", 1)  # what files need not say: gradients are averaged over one forward pass


def images_digest(images: Tensor, labels: Tensor) -> int:
    """CRC-32 of all float32 pixels and then all int64 labels, as flags files have carried it from the first."""
    crc = 0
    for part in images.split(CHUNK):
        crc = zlib.crc32(as_pixels(part).to("cpu", torch.float32).contiguous().numpy().tobytes(), crc)
    return zlib.crc32(labels.cpu().numpy().tobytes(), crc)


class FlagStore:
    """The flags of one network on one set of images. folder: None keeps nothing. facts: what every file must agree
    with: eps and eot (but for clean flags), seed, count, images (images_digest), weights (digests.weights_digest)."""

    def __init__(self, folder: Path | None, facts: Mapping[str, float | int | str], batch_size: int, shared: bool):
        self.folder, self.facts, self.batch_size, self.shared = folder, facts, batch_size, shared

    def get(self, attack: str, measure: Callable[[], Mapping]) -> dict:
        """The flags of `attack`: read if they are kept, else measured and kept."""
        file = self.folder / f"{attack}.npz" if self.folder else None
        if file is None:
            return dict(measure())
        if not self._exists(file):
            self._write(file, measure())
            if attack == "autoattack":
                file.with_name("autoattack.partial.npz").unlink(missing_ok=True)
        return self._read(file)

    def partial(self) -> AutoAttackState | None:
        """Where an earlier AutoAttack was cut off."""
        file = self.folder / "autoattack.partial.npz" if self.folder else None
        if file is None or not self._exists(file):
            return None
        kept = self._read(file)
        robust, next_batch, batch_size = kept.pop("flags"), int(kept.pop("next_batch")), int(kept.pop("batch_size"))
        bound, previewed = kept.pop("bound", None), int(kept.pop("previewed", 0))
        if batch_size != self.batch_size:
            next_batch = 0  # other batches: the attack that was cut off begins anew
            bound, previewed = None, 0  # previews say what the same batches will end with
        return AutoAttackState(robust, kept, next_batch, kept.pop("warnings"), bound, previewed)

    def keep_partial(self, state: AutoAttackState) -> None:
        if self.folder:
            content = {"flags": state.robust, **state.after, "warnings": state.warnings}
            content |= {"next_batch": state.next_batch, "batch_size": self.batch_size}
            if state.bound is not None:
                content |= {"bound": state.bound, "previewed": state.previewed}
            self._write(self.folder / "autoattack.partial.npz", content)

    def _exists(self, file: Path) -> bool:
        return devices.broadcast(file.exists()) if self.shared else file.exists()

    def _write(self, file: Path, content: Mapping) -> None:
        if not self.shared or devices.rank() == 0:
            self._save(file, content)
        if self.shared:
            devices.barrier()

    def _save(self, file: Path, content: Mapping) -> None:
        arrays: dict[str, Any] = {k: v.numpy() if isinstance(v, Tensor) else np.asarray(v) for k, v in content.items()}
        arrays["warnings"] = np.asarray(content.get("warnings", []), dtype=str)
        arrays |= {f"fact_{name}": np.asarray(value) for name, value in self.facts.items() if (name, value) != ONCE}
        durable = ".partial" not in file.name  # partial flags are written after every batch, and cheap to lose
        with write_atomically(file, durable) as draft, draft.open("wb") as out:
            np.savez_compressed(out, **arrays)

    def _read(self, file: Path) -> dict:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # zipfile, zlib and numpy each have their own way of saying "truncated"
            raise ValueError(f"{file} is damaged ({error}); move it away to measure again") from error
        self._check(file, content)
        warnings = [str(w) for w in content.pop("warnings", [])]
        tensors = {k: torch.from_numpy(v) if v.dtype == bool else v for k, v in content.items()}
        return tensors | {"warnings": warnings}

    def _check(self, file: Path, content: dict) -> None:
        """Take the facts out of `content`; ValueError if one differs, or flags and count do."""
        for name, value in self.facts.items():
            fact = content.pop(f"fact_{name}", None)
            if name == "weights" and fact is None:
                raise ValueError(f"{file} does not say which weights it was measured on; move it away to measure again")
            if name in ("eps", "eot") and file.stem == "clean":
                continue
            if fact is None and name == ONCE[0]:
                fact = np.asarray(ONCE[1])
            if fact is None or fact.shape != () or str(fact[()]) != str(np.asarray(value)[()]):
                whose = {"images": "other images", "weights": "other weights"}.get(name, f"another {name} than {value}")
                raise ValueError(f"{file} holds flags for {whose}; choose another folder")
        flags = content.get("flags")
        count = self.facts["count"]
        if flags is None or flags.dtype != bool or flags.shape != (count,):
            raise ValueError(f"{file} is damaged (no flags of {count} images); move it away to measure again")
