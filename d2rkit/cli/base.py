"""What all commands share: the app, how words are read, where things lie, a progress bar."""

from __future__ import annotations

import functools
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm.auto import tqdm

from d2rkit.core.devices import resolve
from d2rkit.core.paths import home
from d2rkit.core.processes import check_cores
from d2rkit.core.validation import number
from d2rkit.experiments import trackers
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.plugins import command_words
from d2rkit.experiments.presets import Preset, presets_of


class Commands(tyro.extras.SubcommandApp):
    """The app, parsed first and run afterwards: complaints of the parser become one sentence of ours."""

    def command(self, func: Any = None, *, name: str | None = None, **options: Any) -> Any:
        if func is None:
            return functools.partial(self.command, name=name, **options)

        @functools.wraps(func)
        def later(*given: Any, **settings: Any) -> Callable[[], None]:
            return functools.partial(func, *given, **settings)

        super().command(name=name or func.__name__, **options)(later)
        return func

    def parsed(self, description: str, words: Sequence[str] | None = None) -> Callable[[], None]:
        """What the words (default: sys.argv) ask for, to be called; ValueError, in one sentence, if there is no such
        thing."""
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                return self.cli(prog="d2rkit", description=description, args=words, registry=READING)
        except SystemExit as stopped:
            if not stopped.code:  # --help
                raise
            raise ValueError(_sentence(said.getvalue())) from None


def without_plugins(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command but for each `--plugin FILE`, which every command takes, and those files."""
    rest, files, coming = [], [], iter(words)
    for word in coming:
        option, equals, file = word.partition("=")
        if option != "--plugin":
            rest.append(word)
        elif file := file if equals else next(coming, ""):
            files.append(file)
        else:
            raise ValueError("--plugin needs a file, e.g. --plugin mine.py")
    return rest, files


def _sentence(box: str) -> str:
    """The parser's framed complaint, up to its first rule, as one line. A word on the command line may itself hold
    letters of a frame or colours: those go too."""
    plain = re.sub("\x1b\\[[0-9;]*[A-Za-z]", "", box)
    lines = [line.strip("│| ") for line in plain.splitlines() if not line.lstrip().startswith(("╭", "╰"))]
    rules = [number for number, line in enumerate(lines) if line.startswith("────")]
    text = " ".join(" ".join(lines[: rules[0]] if rules else lines).split())
    return f"{text}; `d2rkit --help` and `d2rkit COMMAND --help` say what there is" if text else "cannot be understood"


def number_words(value: float) -> str:
    """What number() reads as exactly this value, as people write it: 8/255 rather than 0.03137254901960784."""
    fraction = f"{round(255 * value)}/255"
    return fraction if number(fraction) == value and len(fraction) < len(str(value)) else str(value)


READING = tyro.constructors.ConstructorRegistry()


@READING.primitive_rule
def _fractions(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Every option that is a number is read by number(): a radius may be written 8/255 wherever there is one."""
    if info.type is not float:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar="FLOAT", instance_from_str=lambda words: number(words[0]),
        is_instance=lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        str_from_instance=lambda value: [number_words(value)],
    )  # fmt: skip


def _path_option(check: Callable[[str], None], metavar: str) -> tyro.constructors.PrimitiveConstructorSpec:
    def read(words: list[str]) -> str:
        path = os.path.expanduser(words[0])
        check(path)
        return path

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar=metavar, instance_from_str=read, is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    )  # fmt: skip


def check_folder(path: str) -> None:
    """ValueError if a file stands where this folder, or one above it, should be or become."""
    for each in (Path(path), *Path(path).parents) if path else ():
        try:
            if each.exists() and not each.is_dir():
                raise ValueError(f"{each} is a file where a folder is needed")
        except OSError as error:  # a name too long, a folder above that may not be entered
            raise ValueError(f"{each} cannot be a folder: {error.strerror}") from error


def check_file(path: str) -> None:
    """ValueError if a folder stands where this file should be."""
    if path and os.path.isdir(path):
        raise ValueError(f"{path} is a folder where a file is needed")


# A tilde is expanded in both: a shell leaves that of --runs=~/runs alone.
Folder = Annotated[str, _path_option(check_folder, "FOLDER")]
File = Annotated[str, _path_option(check_file, "FILE")]

app = Commands()
Word = Annotated[str, tyro.conf.Positional]


@dataclass(frozen=True)
class Place:
    """Folders and device; the defaults suit a checkout."""

    runs: Folder = ""
    """Folder with the run folders (default: $D2RKIT_RUNS, else runs/)."""
    data_root: Folder = ""
    """Folder with the data sets (default: $D2RKIT_DATA, else data/)."""
    device: str = "auto"
    """auto (an NVIDIA GPU if there is one, else the CPU), cpu, cuda (or gpu), cuda:1, mps (an Apple GPU)."""

    @property
    def runs_root(self) -> Path:
        return Path(self.runs) if self.runs else home("runs")


HERE = Place()


@dataclass(frozen=True)
class Changes:
    """Settings that apply to all cells of a table; they make other experiments, in separate run folders."""

    precision: str = ""
    """32-true or bf16-mixed, instead of the table's setting; evaluation is always float32."""
    micro_batch: int = 0
    """Images per forward pass, with gradients accumulated over the batch; for small GPUs (0: the whole batch)."""
    speed: str = ""
    """exact or fast, instead of the table's setting: with fast, training attacks run on copies with folded BatchNorm,
    whose gradients are equal up to rounding."""

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
    return shlex.join([*words, *more, *command_words()])


def workers_here(workers: int, threads: int, place: Place, devices: int = 1) -> int:
    """Worker processes: as asked, or for -1 one a core on a CPU, none on a GPU or where devices share each run.
    threads: torch threads of each. ValueError for what could not be."""
    if workers < -1:
        raise ValueError(f"workers must not be negative (but -1: as many as fit), not {workers}")
    if devices < 1:
        raise ValueError(f"devices must be at least 1, not {devices}")
    check_cores(max(1, workers), threads)
    if workers >= 0:
        return workers
    on_gpu = resolve(place.device).type != "cpu"
    return 0 if on_gpu or devices > 1 else max(1, (os.cpu_count() or 1) // threads)


def log_to(names: Sequence[str], experiments: Sequence[Experiment], place: Place) -> None:
    """Every run that this command trains logs to these trackers; what cannot be logged any more is said."""
    trackers.ask(names)
    if late := trackers.too_late(names, [place.runs_root / experiment.run_name for experiment in experiments]):
        print(f"d2rkit: {late}", file=sys.stderr)


def check_counts(**counts: int) -> None:
    """ValueError for a number of things that is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name.replace('_', ' ')} must be at least 1, not {count}")


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """A bar with the time left, from the first report on; yields report(fraction done, words)."""
    bars: list[tqdm] = []  # none beside the sentence of a command that fails before there is anything to report

    def report(done: float, words: str) -> None:
        if not bars:
            bars.append(
                tqdm(total=1.0, bar_format="{percentage:3.0f}%|{bar}| [{elapsed} gone, {remaining} left]{postfix}")
            )
        bars[0].set_postfix_str(words, refresh=False)
        bars[0].update(done - bars[0].n)

    try:
        yield report
    finally:
        for bar in bars:
            bar.close()
