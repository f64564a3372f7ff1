"""Eleven exercises that check themselves.

    from d2rkit.exercises import check, report
    check("pgd", my_pgd)               # got, expected and a hint; true in an `if` when passed
    report().save("handin.json")       # what was checked so far, for hand-in

One module an exercise: its reference, the probes, the hints. The notebooks are in notebooks/exercises.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from d2rkit.core.validation import nearest, shown
from d2rkit.exercises.checking import NOT_YET, Exercise, Result, run
from d2rkit.exercises.handin import Report, collect, record, report
from d2rkit.experiments import plugins

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
    "own_loss",
)

__all__ = ["NAMES", "Exercise", "Report", "Result", "check", "collect", "exercise", "register_exercise", "report"]

OWN: dict[str, Exercise] = {}  # what register_exercise adds
plugins.TABLES["exercise"] = OWN
plugins.REGISTERING.append(__file__)


def register_exercise(
    name: str, probe: Callable | None = None, *, reference: object, title: str = "", minutes: int = 10, call: str = ""
):
    """Register an exercise, for `check(name, solution)` and the report. Without `probe`, returns a decorator.

    probe: a generator that calls the solution and yields a Step for each thing it looks at (see `checking`).
    reference: a solution that passes, which is tried now. title, minutes, call: as in Exercise. Returns probe.
    ValueError for a name that is taken, or a reference that does not pass."""
    if probe is None:
        told = {"reference": reference, "title": title, "minutes": minutes, "call": call}
        return lambda function: register_exercise(name, function, **told)
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"an exercise is named like a Python variable, not {shown(name)}")
    if name in NAMES:
        raise ValueError(f"the exercise {name!r} is the kit's own; choose another name")
    registered = Exercise(name, title or name, minutes, call or f"{name}(...)", probe, reference)
    tried = run(registered, reference)
    if not tried:
        raise ValueError(f"the reference of exercise {name!r} does not pass: {tried.hint or tried.got}")
    plugins.enter("exercise", name, registered, "")
    return probe


def exercise(name: str) -> Exercise:
    """The exercise called `name`; ValueError that names the nearest one. Only this exercise is imported."""
    if name in OWN:
        return OWN[name]
    if name not in NAMES:
        raise nearest(name, [*NAMES, *OWN], "exercise")
    return importlib.import_module(f"d2rkit.exercises.{name}").EXERCISE


def check(name: str, solution: object) -> Result:
    """Check a solution and remember the result for `report`.

    name: one of NAMES or a registered one. solution: the function the exercise asks for (not its result), or a tuple
    of functions.
    Never raises: an unknown name, an exception in the solution or a solution that is not yet written is part
    of the answer."""
    try:
        asked = exercise(name)
    except ValueError as error:
        return Result(str(name), "no such exercise", NOT_YET, hint=str(error))
    result = run(asked, solution)
    record(result)
    return result
