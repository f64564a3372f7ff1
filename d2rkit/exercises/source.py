"""The text of a student's functions with what they need to run elsewhere: imports, constants, helper functions."""

from __future__ import annotations

import inspect
import math
import sys
import textwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

CONSTANTS = (bool, int, float, str, type(None))


def source_of(solution: object) -> str:
    """The text of a function, or of several, after that of the functions of one's own that they call, and the imports
    and constants that all of them use; empty where Python cannot find the functions' text."""
    parts = solution if isinstance(solution, tuple | list) else (solution,)
    before: dict[str, None] = {}  # lines, in order, each once
    helpers: dict[str, None] = {}
    own = [text for part in parts if (text := _text(part))]
    seen = {id(part) for part in parts}
    for part in parts:
        _add_needs(part, before, helpers, seen)
    if not own:
        return ""
    head = ["\n".join(before)] if before else []
    return "\n\n".join(head + [text for text in helpers if text not in own] + own)


def _text(part: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(part)).rstrip() + "\n"
    except (OSError, TypeError, SyntaxError):
        return ""


def _add_needs(part: object, before: dict[str, None], helpers: dict[str, None], seen: set[int]) -> None:
    function = inspect.unwrap(part) if callable(part) else part
    if not isinstance(function, FunctionType):
        return
    for name in sorted(_names(function.__code__) & function.__globals__.keys()):
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            before[f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else "")] = None
        elif isinstance(value, CONSTANTS):
            text = f"float({str(value)!r})" if isinstance(value, float) and not math.isfinite(value) else repr(value)
            before[f"{name} = {text}"] = None
        elif (home := _home(value)) is not None:
            own = value.__name__
            before[f"from {home} import {own}" + (f" as {name}" if name != own else "")] = None
        elif isinstance(value, FunctionType | type) and id(value) not in seen:
            seen.add(id(value))
            _add_needs(value, before, helpers, seen)  # first what a helper itself needs
            if text := _text(value):
                helpers[text] = None


def _home(value: object) -> str | None:
    """The module that a function or class can be imported from; None for those of a notebook."""
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    known = module is not None and module != "__main__" and getattr(sys.modules.get(module), str(name), None) is value
    return module if known else None


def _names(code: CodeType) -> set[str]:
    """All global names that a function's code, and code within it, may look up."""
    inner = (_names(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)
