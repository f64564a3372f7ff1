"""What all commands share: the app, where things lie, a progress bar."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm.auto import tqdm

from d2rkit.border import home
from d2rkit.presets import Preset, presets_of

app = tyro.extras.SubcommandApp()
Word = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class Place:
    """Where things lie and what computes; the defaults suit a checkout."""

    runs: str = ""
    """Folder of run folders (default: $D2RKIT_RUNS, else runs/)."""
    data_root: str = ""
    """Folder of data sets (default: $D2RKIT_DATA, else data/)."""
    device: str = "auto"
    """auto (an NVIDIA GPU if there is one, else the CPU), cpu, cuda (or gpu), cuda:1, mps (an Apple GPU)."""

    @property
    def runs_root(self) -> Path:
        return Path(self.runs) if self.runs else home("runs")


HERE = Place()


@dataclass(frozen=True)
class Changes:
    """What may be asked of all cells of a table alike: other experiments, in run folders of their own."""

    precision: str = ""
    """32-true or bf16-mixed, instead of the table's own; evaluation is always float32."""
    micro_batch: int = 0
    """Images forwarded at once, gradients being added up to the batch: for small cards (0: the whole batch)."""
    speed: str = ""
    """exact or fast, instead of the table's own: fast attacks copies with folded BatchNorm while training, whose
    gradients are equal up to rounding."""

    def settings(self) -> dict[str, str | int]:
        """Those that are asked for."""
        return {name: value for name, value in vars(self).items() if value}


AS_IS = Changes()


def tables_of(name: str, changes: Changes = AS_IS) -> list[Preset]:
    """The tables of a preset's or a family's name, changed as asked; ValueError for what could not run."""
    tables = [preset.adapted(**changes.settings()) for preset in presets_of(name)]
    for preset in tables:
        preset.base.check()
    return tables


def command_line(
    name: str, preset: str, rows: Sequence[str], seeds: int, changes: Changes, place: Place, *more: str
) -> str:
    """A command about the same cells in the same place; defaults are left out."""
    words = ["d2rkit", name, preset] + (["--rows", *rows] if rows else []) + (["--seeds", str(seeds)] if seeds else [])
    for asked, default in ((changes, AS_IS), (place, HERE)):
        for option, value in vars(asked).items():
            if value != getattr(default, option):
                words += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join([*words, *more])


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left; yields report(fraction done, words)."""
    with tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| [{elapsed} gone, {remaining} left]{postfix}") as bar:

        def report(done: float, words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)

        yield report
