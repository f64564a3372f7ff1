"""Ten exercises that check themselves.

    from d2rkit.exercises import check, report
    check("pgd", my_pgd)               # got, expected and a hint; true in an `if` when passed
    report().save("handin.json")       # what was checked so far, for hand-in

One module an exercise: its reference, the probes, the hints. The notebooks are in notebooks/exercises.
"""

from __future__ import annotations

import importlib

from d2rkit.border import nearest
from d2rkit.exercises.checking import NOT_YET, Exercise, Result, run
from d2rkit.exercises.handin import Report, collect, record, report

NAMES = (
    "kl",
    "gap",
    "fgsm",
    "pgd",
    "cag",
    "d2r_loss",
    "robust_accuracy",
    "masked_model",
    "ablation",
    "table_row",
)

__all__ = ["NAMES", "Exercise", "Report", "Result", "check", "collect", "exercise", "report"]


def exercise(name: str) -> Exercise:
    """The exercise called `name`; ValueError that names the nearest one. Only this exercise is imported."""
    if name not in NAMES:
        raise nearest(name, NAMES, "exercise")
    return importlib.import_module(f"d2rkit.exercises.{name}").EXERCISE


def check(name: str, solution: object) -> Result:
    """Check a solution and remember the result for `report`.

    name: one of NAMES. solution: the function the exercise asks for (not its result), or a tuple of functions.
    Never raises: an unknown name, an exception in the solution or a solution that is not yet written is part
    of the answer."""
    try:
        found = exercise(name)
    except ValueError as error:
        return Result(str(name), "no such exercise", NOT_YET, hint=str(error))
    result = run(found, solution)
    record(result)
    return result
