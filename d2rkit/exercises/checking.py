"""How an exercise is checked: steps, the result of a check, and the run that never raises.

A probe is a generator: it calls the student's solution and yields one `Step` for each thing it looks at.
The run stops at the first step that is not right, so a student has one thing to think about at a time.
"""

from __future__ import annotations

import html
import linecache
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2rkit.exercises.settings import said, step_name, title
from d2rkit.exercises.source import source_of
from d2rkit.reporting.html_table import html_table

PASSED, NOT_YET, UNWRITTEN = "passed", "not yet", "not yet written"
SYMBOLS = {PASSED: "✔", NOT_YET: "✘", UNWRITTEN: "…"}
STOPPED, UNKNOWN = "stopped", "not run: no such exercise here"  # what running it again may come to besides
# Okabe–Ito blue, vermilion and grey: told apart with any colour vision, and the word is always there too.
COLOURS = {PASSED: "#0072B2", NOT_YET: "#B34700", UNWRITTEN: "#595959"}


@dataclass(frozen=True)
class Step:
    """One thing a check looked at. got, expected: small numbers as text; hint: what to think about next."""

    name: str
    passed: bool
    got: str = ""
    expected: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Exercise:
    """name: for `check(name, ...)`. title: the kit's, over which a lecturer's own goes (see `settings`). call: how the
    check calls the solution. reference: a solution that passes."""

    name: str
    title: str
    minutes: int
    call: str
    probe: Callable[..., Iterator[Step]]
    reference: object


@dataclass(frozen=True)
class Result:
    """The answer of `check`: true in an `if` when passed; shows itself as text and in notebooks.

    code: the text of the student's function where Python can find it, for the hand-in."""

    name: str
    title: str
    status: str
    steps: tuple[Step, ...] = ()
    hint: str = ""
    seconds: float = 0.0
    code: str = ""

    @property
    def passed(self) -> bool:
        return self.status == PASSED

    @property
    def got(self) -> str:
        return self.steps[-1].got if self.steps and not self.passed else ""

    @property
    def expected(self) -> str:
        return self.steps[-1].expected if self.steps and not self.passed else ""

    def __bool__(self) -> bool:
        return self.passed

    def require(self) -> None:
        """For the graded cell, which nbgrader scores by its exception: nothing if passed, NotImplementedError
        if not yet written, else AssertionError with the hint. (nbgrader gives full marks to a printed 0.)"""
        if self.passed:
            return
        words = f"{self.name} is {self.status}: {self.hint}"
        error: Any = NotImplementedError(words) if self.status == UNWRITTEN else AssertionError(words)
        error._render_traceback_ = lambda: [words]  # IPython then shows this line instead of a traceback
        raise error

    def __repr__(self) -> str:
        lines = [f"{SYMBOLS[self.status]} {self.name} ({self.title}): {self.status}"]
        lines += [f"    {'ok ' if passed else 'not'}  {name}" for name, passed in self._checks()]
        lines += [f"    {word}: {text}" for word, text in self._facts()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        colour = COLOURS[self.status]
        head = f"{SYMBOLS[self.status]} {html.escape(self.name)}: {self.status}"
        steps = "".join(
            f"<li>{'✔ ok' if passed else '✘ not yet'} – {html.escape(name)}</li>" for name, passed in self._checks()
        )
        columns = ("style='text-align:left;vertical-align:top'", "style='text-align:left;white-space:pre-wrap'")
        facts = html_table((), self._facts(), columns=columns)
        return (
            f"<div role='status' style='border-left:6px solid {colour};padding:.4em 1em'>"
            f"<strong style='color:{colour}'>{head}</strong> <span>({html.escape(self.title)})</span>"
            f"<ul style='list-style:none;padding-left:.5em;margin:.3em 0'>{steps}</ul>{facts}</div>"
        )

    def _checks(self) -> list[tuple[str, bool]]:
        """Each step once, though a probe may look at the same thing on several inputs; right only if always right."""
        seen: dict[str, bool] = {}
        for step in self.steps:
            seen[step.name] = seen.get(step.name, True) and step.passed
        return list(seen.items())

    def _facts(self) -> list[tuple[str, str]]:
        facts = (("got", self.got), ("expected", self.expected), ("hint", self.hint))
        return [(word, text) for word, text in facts if text]


def run(exercise: Exercise, solution: object) -> Result:
    """Check `solution`, whatever it does: an exception in it becomes a hint. Ctrl-C still stops it.

    The global random state and the gradient mode are afterwards as they were."""
    began, steps, hint, status = time.perf_counter(), [], "", PASSED
    try:
        heading = title(exercise.name, exercise.title)
    except ValueError as error:  # not the student's fault, so it must not look like it
        words = f"the check could not begin, because the lecturer's file cannot be used: {error}"
        return Result(exercise.name, exercise.title, NOT_YET, hint=words)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), one_thread():
            torch.manual_seed(0)
            for step in exercise.probe(solution):
                steps.append(replace(step, name=step_name(step.name)))
                if not step.passed:
                    status, hint = NOT_YET, said(step.hint)
                    break
    except (Exception, SystemExit) as error:
        status, hint = _explain(error, exercise)
    seconds = round(time.perf_counter() - began, 3)
    return Result(exercise.name, heading, status, tuple(steps), hint, seconds, source_of(solution))


@contextmanager
def one_thread() -> Iterator[None]:
    """Tiny networks are fastest with one thread; two busy kernels with two each are a hundred times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def functions(solution: object, count: int = 1) -> Iterator[Step]:
    """A failing step unless `solution` is a function (or a tuple of `count`)."""
    parts = (solution,) if count == 1 else solution
    fits = isinstance(parts, tuple | list) and len(parts) == count and all(callable(part) for part in parts)
    if not fits:
        wanted = "the function itself, without parentheses" if count == 1 else f"{count} functions in parentheses"
        yield Step("a function to check", False, short(solution), wanted, f"pass {wanted}, not what it returns")


def returned(name: str, got: object, shape: tuple[int, ...]) -> Step:
    """Is `got` a finite tensor of this shape?"""
    wanted = f"tensor of shape {shape}"
    if got is None:
        return Step(name, False, "None", wanted, "nothing came back: is a `return` missing at the end?")
    if not isinstance(got, Tensor):
        return Step(name, False, type(got).__name__, wanted, "stay in torch: no .item(), .numpy() or .tolist()")
    if tuple(got.shape) != shape:
        hint = f"the shape is {tuple(got.shape)}, not {shape}: which axis (dim) do you sum over, and which is kept?"
        return Step(name, False, f"shape {tuple(got.shape)}", f"shape {shape}", hint)
    if not got.isfinite().all():
        return Step(name, False, short(got), "finite numbers", "nan or inf: where do you take log(0) or divide by 0?")
    return Step(name, True)


def compare(
    name: str, got: Tensor, expected: Tensor, mistakes: Mapping[str, Tensor | Callable[[], Tensor]], hint: str,
    share: float = 1.0, tolerance: float = 1e-4,
) -> Step:  # fmt: skip
    """Does `got` agree with `expected`? If it agrees with a known mistake, say that mistake's hint, else `hint`.

    share: what part of the entries must agree. Rounding turns a sign of a gradient near 0 here and there, so
    attacks are compared with a share below 1."""
    got, expected = got.detach(), expected.detach()
    if agree(got, expected, share, tolerance):
        return Step(name, True)
    for why, wrong in mistakes.items():
        if agree(got, (wrong() if callable(wrong) else wrong).detach(), share, tolerance):
            hint = why
            break
    far = ((got - expected).abs() > tolerance * expected.abs().clamp_min(1)).flatten().nonzero().flatten()[:4]
    return Step(name, False, short(got.flatten()[far]), short(expected.flatten()[far]), hint)


def agree(got: Tensor, expected: Tensor, share: float = 1.0, tolerance: float = 1e-4) -> bool:
    if got.shape != expected.shape:
        return False
    near = (got - expected).abs() <= tolerance * expected.abs().clamp_min(1)
    return near.float().mean().item() >= share


def short(value: object) -> str:
    """At most four numbers with three decimals, or at most 80 characters."""
    if isinstance(value, Tensor):
        numbers = value.detach().flatten()[:4].tolist()
        more = ", …" if value.numel() > 4 else ""
        words = ", ".join(f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers) + more
        return f"[{words}]" if value.ndim else words
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _explain(error: BaseException, exercise: Exercise) -> tuple[str, str]:
    """Status and hint for an exception, with the line of the student's code in which it happened."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_students(frame.filename)]
    line = (frames[-1].line or linecache.getline(frames[-1].filename, frames[-1].lineno or 0)).strip() if frames else ""
    # torch says NotImplementedError too, for a dtype that an operation lacks: only a `raise` is a stub.
    if isinstance(error, NotImplementedError) and (line.startswith("raise") or not str(error)):
        return UNWRITTEN, "replace `raise NotImplementedError()` with your code, run that cell, then this one"
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
    if frames:
        return NOT_YET, f"your code stopped in line {frames[-1].lineno}, `{line}` – {text}"
    return NOT_YET, f"the check could not use your solution – {text}. It calls {exercise.call}"


def _is_students(file: str) -> bool:
    path = str(Path(file)) if not file.startswith("<") else file
    ours = (str(Path(__file__).resolve().parents[1]), sysconfig.get_paths()["stdlib"], torch.__path__[0])
    return not path.startswith(ours) and "site-packages" not in path and not file.startswith("<frozen")
