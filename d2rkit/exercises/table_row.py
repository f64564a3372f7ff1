"""Exercise 10: reproduce one row of the table and export it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from d2rkit.data.datasets import DIGITS_TEST, load_data
from d2rkit.evaluation.evaluate import Evaluation, evaluate
from d2rkit.exercises.ablation import BASE, EPS
from d2rkit.exercises.checking import Exercise, Step, functions, short
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.training.loop import Recipe, fit

ROW_ATTACKS = ("clean", "fgsm", "pgd20", "cw20")
FORMATS = ("markdown", "latex", "csv")
HARD_NAME = "R&D, 50%_v2"  # each of & % _ means something in LaTeX, and the comma something in CSV
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def train_and_evaluate() -> Evaluation:
    """A small D2R pair on digits, and its flags on the 397 test images at eps = 0.15 (two seconds)."""
    torch.manual_seed(0)
    data = load_data("digits")
    target, guide = (build_model("mlp-64", 10, image_size=64, channels=1) for _ in range(2))
    pair = GuidedPair(target, guide)
    fit(pair, data, Recipe(**BASE), device="cpu")
    return evaluate(pair, data.test, ROW_ATTACKS, EPS)


def export_row(method: str, evaluation: Evaluation) -> dict[str, str]:
    """One row in three formats: accuracy and standard error in percent, one decimal, attacks in the order of flags."""
    cells = [(100 * evaluation.accuracy(name), 100 * evaluation.standard_error(name)) for name in evaluation.flags]
    escaped = re.sub(r"([&%_#$])", r"\\\1", method)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "eps", *[c for name in evaluation.flags for c in (name, f"{name}_se")]])
    writer.writerow([method, f"{evaluation.eps:.4f}", *[f"{v:.1f}" for cell in cells for v in cell]])
    eps = f"{evaluation.eps:.4f}"
    return {
        "markdown": "| " + " | ".join([method, eps, *[f"{a:.1f} ± {s:.1f}" for a, s in cells]]) + " |",
        "latex": " & ".join([escaped, eps, *[rf"{a:.1f} $\pm$ {s:.1f}" for a, s in cells]]) + r" \\",
        "csv": out.getvalue(),
    }


def probe(solution: Any) -> Iterator[Step]:
    yield from functions(solution, 2)
    train, export = solution
    evaluation = train()
    yield from _measured(evaluation)
    for words, method, case in (("your run", "D2R+CAG", evaluation), ("another run", HARD_NAME, _other_run())):
        row = export(method, case)
        complete = isinstance(row, Mapping) and all(isinstance(row.get(name), str) for name in FORMATS)
        hint = "return a dict of three strings: markdown, latex, csv; is a `return` missing?"
        yield Step("three formats", complete, type(row).__name__, ", ".join(FORMATS), hint)
        yield from _markdown(row["markdown"], method, case, words)
        yield from _latex(row["latex"], method, case, words)
        yield from _csv(row["csv"], method, case, words)


def _other_run() -> Evaluation:
    """Flags nobody trained: numbers typed by hand, or another number of images, cannot survive this."""
    count = 160
    shares = {"clean": 140, "fgsm": 91, "pgd20": 77, "cw20": 74}
    return Evaluation(4 / 255, {name: torch.arange(count) < right for name, right in shares.items()})


def _measured(evaluation: Any) -> Iterator[Step]:
    hint = "return what evaluate(...) returns: the flags, not numbers computed from them"
    yield Step(
        "an Evaluation with its flags",
        isinstance(evaluation, Evaluation),
        type(evaluation).__name__,
        "Evaluation",
        hint,
    )
    flags = evaluation.flags
    missing = [name for name in ROW_ATTACKS if name not in flags]
    yield Step(
        "clean, FGSM, PGD-20, C&W-20", not missing, ", ".join(flags), ", ".join(ROW_ATTACKS), f"missing: {missing}"
    )
    count = len(flags["clean"])
    hint = (
        f"{count} images: the row needs all {DIGITS_TEST} test images, data.test; training and validation images "
        "have been used already"
    )
    yield Step("on the test images", count == DIGITS_TEST, str(count), str(DIGITS_TEST), hint)
    eps = evaluation.eps
    hint = f"eps is in pixel scale: {EPS} here, and the same in training and evaluation"
    yield Step("at the stated eps", abs(eps - EPS) < 1e-6, short(float(eps)), str(EPS), hint)
    clean = evaluation.accuracy("clean")
    hint = "hardly above chance: did fit() run, and did you evaluate the pair that was trained?"
    yield Step("the pair has learned something", clean >= 0.5, short(clean), "at least 0.5", hint)
    never = all(bool((~flags[name] | flags["clean"]).all()) for name in ROW_ATTACKS)
    hint = "an image that is wrong without attack cannot be robust: take the flags as evaluate returns them"
    yield Step("robust images are right to begin with", never, "robust but wrong", "robust ⊆ clean", hint)
    robust = evaluation.accuracy("pgd20")
    hint = "PGD-20 leaves almost nothing: was the pair trained with an attack at the same eps (method, eps, steps)?"
    yield Step("trained against attacks", robust >= 0.15, short(robust), "at least 0.15", hint)


def _markdown(text: str, method: str, case: Evaluation, words: str) -> Iterator[Step]:
    line = text.strip()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    shape = line.startswith("|") and line.endswith("|") and "\n" not in line and len(cells) == 2 + len(case.flags)
    hint = f"one line, | method | eps | one cell per attack |: {2 + len(case.flags)} cells between pipes"
    yield Step("markdown: one row of cells", shape, f"{len(cells)} cells", str(2 + len(case.flags)), hint)
    yield from _numbers("markdown", cells[0] == method, cells[1:], case, words)


def _latex(text: str, method: str, case: Evaluation, words: str) -> Iterator[Step]:
    line = text.strip()
    hint = r"a LaTeX row ends with \\ (write it as a raw string, r'\\')"
    yield Step(r"latex: ends with \\", line.endswith("\\\\"), line[-6:], r"… \\", hint)
    body = line.removesuffix("\\\\").strip()
    raw = re.search(r"(?<!\\)[%_#]", body)
    hint = r"%, _ and # are special in LaTeX (whatever follows % on the line vanishes): write \% \_ \#"
    yield Step("latex: special characters are escaped", raw is None, raw[0] if raw else "", r"\% \_", hint)
    cells = [cell.strip() for cell in re.split(r"(?<!\\)&", body)]
    hint = r"wrong number of cells: an & inside a method's name starts a new cell, write it as \&"
    yield Step(
        "latex: number of cells", len(cells) == 2 + len(case.flags), str(len(cells)), str(2 + len(case.flags)), hint
    )
    named = re.sub(r"\\([&%_#$])", r"\1", cells[0]) == method
    math = all(r"\pm" in cell and "±" not in cell for cell in cells[2:])
    yield Step(
        r"latex: $\pm$ between accuracy and error", math, short(cells[2]), r"85.1 $\pm$ 1.8", r"write $\pm$ in LaTeX"
    )
    yield from _numbers("latex", named, cells[1:], case, words)


def _csv(text: str, method: str, case: Evaluation, words: str) -> Iterator[Step]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    wanted = ["method", "eps", *[c for name in case.flags for c in (name, f"{name}_se")]]
    header = [cell.strip() for cell in rows[0]] if rows else []
    hint = "two lines: a header, " + ",".join(wanted[:4]) + ",…, and the row"
    yield Step("csv: header", len(rows) == 2 and header == wanted, ",".join(header)[:60], ",".join(wanted)[:60], hint)
    row = rows[1]
    hint = "a comma inside a value starts a new column: quote it (csv.writer does so)"
    yield Step("csv: as many values as names", len(row) == len(wanted), str(len(row)), str(len(wanted)), hint)
    pairs = [f"{row[i]} {row[i + 1]}" for i in range(2, len(row), 2)]
    yield from _numbers("csv", row[0] == method, [row[1], *pairs], case, words)


def _numbers(form: str, named: bool, cells: list[str], case: Evaluation, words: str) -> Iterator[Step]:
    yield Step(f"{form}: the method's name", named, "another name", "the name as given", "use the argument `method`")
    got = [float(n) for n in NUMBER.findall(cells[0])[:1]] or [float("nan")]
    right = abs(got[0] - case.eps) < 6e-4
    yield Step(
        f"{form}: eps of the evaluation", right, cells[0], f"{case.eps:.4f}", "print evaluation.eps, in pixel scale"
    )
    for name, cell in zip(case.flags, cells[1:], strict=True):
        numbers = [float(n) for n in NUMBER.findall(cell.replace(r"\pm", " "))]
        p, n = case.accuracy(name), len(case.flags[name])
        error = case.standard_error(name)
        two = len(numbers) == 2
        yield Step(
            f"{form}: accuracy and error", two, cell, "85.1 ± 1.8", "each cell has two numbers: accuracy ± error"
        )
        accuracy_hint = (
            "tables are in percent: multiply by 100"
            if abs(numbers[0] - p) < 0.051
            else f"the number for {name} is not its flags' 100 * flags.float().mean(): keep the order of the flags"
        )
        step = f"{form}: accuracies follow from the flags ({words})"
        yield Step(step, abs(numbers[0] - 100 * p) < 0.06, cell, f"{100 * p:.1f}", accuracy_hint)
        deviation = 100 * (p * (1 - p)) ** 0.5
        known = {
            "that is the standard deviation of one flag: divide by sqrt(n)": deviation,
            f"n is the number of images of this evaluation, {n}": 100 * (p * (1 - p) / DIGITS_TEST) ** 0.5,
            "the error is in percent too: multiply by 100": error,
            "that is 1.96 standard errors: print one": 196 * error,
        }
        hint = next((why for why, v in known.items() if abs(numbers[1] - v) < 0.06), "100 * sqrt(p (1 - p) / n)")
        step = f"{form}: errors follow from the flags ({words})"
        yield Step(step, abs(numbers[1] - 100 * error) < 0.06, cell, f"{100 * error:.1f}", hint)


EXERCISE = Exercise(
    "table_row", "Reproduce one row of the table and export it", 40,
    "train_and_evaluate() and export_row(method, evaluation)", probe, (train_and_evaluate, export_row),
)  # fmt: skip
