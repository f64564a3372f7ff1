"""What all commands share: the app, where things lie, a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm.auto import tqdm

from d2rkit.border import home

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
    """auto, cpu, cuda or mps."""

    @property
    def runs_root(self) -> Path:
        return Path(self.runs) if self.runs else home("runs")


HERE = Place()


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left; yields report(fraction done, words)."""
    with tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| [{elapsed} gone, {remaining} left]{postfix}") as bar:

        def report(done: float, words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update(done - bar.n)

        yield report
