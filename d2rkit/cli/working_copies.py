"""The user's own copies of the notebooks: running them changes no file of the kit, and no update overwrites work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from d2rkit.core.digests import bytes_digest
from d2rkit.core.files import write_json

LEDGER = ".copied.json"  # file -> digest of the kit's file that was copied
LEFT_OUT = (".ipynb_checkpoints", "__pycache__", "source", "ruff.toml")
LECTURERS = ("solution", "LECTURERS.md")  # left out, too, of what a student works in


@dataclass
class Copied:
    """What update() did: names of files that are new, that follow the kit, and that were left as the user has them
    although the kit's have changed."""

    new: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def update(
    kit: Path, folder: Path, make: Callable[[Path], bytes] = Path.read_bytes,
    digest: Callable[[bytes], str] = bytes_digest, ledger_name: str = LEDGER, left_out: tuple[str, ...] = LECTURERS,
) -> Copied:  # fmt: skip
    """Bring copies of the files in `kit` to `folder`. A copy that the user has not changed follows the kit; one that
    was changed or deleted stays so.

    make: what a copy of a file holds. digest: of such content; the same for what does not count as a change. left_out:
    names of files and folders that are not copied, beside those that nobody wants."""
    folder.mkdir(parents=True, exist_ok=True)
    ledger, done = _read(folder / ledger_name), Copied()
    for file in sorted(kit.rglob("*")):
        name = file.relative_to(kit).as_posix()
        if not file.is_file() or any(part in LEFT_OUT + left_out for part in file.relative_to(kit).parts):
            continue
        content = make(file)
        copy, now, then = folder / name, digest(content), ledger.get(name)
        if now == then:
            continue
        if copy.exists() and digest(copy.read_bytes()) not in (now, then):
            done.kept.append(name)
            continue
        (done.new if then is None else done.renewed).append(name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
        ledger[name] = now
    write_json(folder / ledger_name, ledger)
    return done


def _read(file: Path) -> dict[str, str]:
    try:
        ledger = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or broken: then every copy counts as the user's own
        return {}
    return ledger if isinstance(ledger, dict) else {}
