"""A digest of what a function or class does: its source, that of the functions it calls, and the values it captured.

Two versions of a loss have two digests, so that their runs are told apart. Only what lies outside the libraries is
read: a change in torch or in the kit itself changes no digest, as it changes no run's name.
"""

from __future__ import annotations

import ast
import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from d2rkit.core.digests import file_digest, tensors_digest, weights_digest
from d2rkit.core.validation import shown

NO_DIGEST = "of which no digest can be made; give version='1', and another one for each change"
LENGTH = 12  # hexadecimal digits
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, PurePath)


def digest_of(thing: Any, home: str = "") -> str:
    """Of a function, class or callable object: its source, what its names stand for, its closure's values. home: a
    package that is read although it is installed. ValueError, in one sentence, where a part has neither source nor
    plain values."""
    return digest_of_text(_Reader(home).words(thing))


def digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


class _Reader:
    """One walk over a thing and all that it refers to; what was seen before is not gone into again."""

    def __init__(self, home: str):
        self.home = home
        self.seen: dict[int, Any] = {}  # holds the things, too: an id is only good as long as its thing lives

    def words(self, value: Any, name: str = "") -> str:
        if isinstance(value, PLAIN):
            return repr(value)
        if isinstance(value, Tensor | np.ndarray):
            return tensors_digest({"": torch.as_tensor(value)})
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}[{', '.join(self.words(each, name) for each in value)}]"
        if isinstance(value, set | frozenset):
            return f"set[{', '.join(sorted(self.words(each, name) for each in value))}]"
        if isinstance(value, dict):
            return f"dict[{', '.join(f'{self.words(k, name)}: {self.words(v, name)}' for k, v in value.items())}]"
        if isinstance(value, functools.partial):
            return f"partial {self.words([value.func, value.args, value.keywords], name)}"
        if isinstance(value, MethodType):
            return f"method {self.words([value.__func__, value.__self__], name)}"
        if isinstance(value, ModuleType):
            if self._of_library(value):
                content = ""
            elif value.__file__:
                content = file_digest(Path(value.__file__))
            else:  # a folder without an __init__.py
                raise ValueError(f"{value.__name__} is a package without a file, {NO_DIGEST}")
            return f"{_top(value)} {value.__name__.split('.')[-1]} {content}"
        if hasattr(value, "__wrapped__") and not isinstance(value, FunctionType):  # of functools.cache
            return self.words(value.__wrapped__, name)
        if id(value) in self.seen:
            return "seen"
        self.seen[id(value)] = value
        if isinstance(value, type) or inspect.isroutine(value):
            return self._of_code(value, name)
        return self._of_object(value, name)

    def _of_code(self, value: Callable, name: str) -> str:
        if self._of_library(value):
            return f"{_top(value)} {getattr(value, '__qualname__', name)}"  # in whichever module it lies there
        parts = [_source(value, name)]
        for code in [value] if isinstance(value, FunctionType) else _functions_of(value):
            parts += [f"{each} = {self.words(what, each)}" for each, what in _references(code)]
        if isinstance(value, type):
            parts += [self.words(base, base.__name__) for base in value.__bases__]
        return "\n".join(parts)

    def _of_object(self, value: Any, name: str) -> str:
        if isinstance(value, nn.Module):
            return f"{self.words(type(value))} {weights_digest(value)}"
        if dataclasses.is_dataclass(value) or not self._of_library(type(value)):
            return f"{self.words(type(value))} {self.words(vars(value), name)}"
        if callable(value) and isinstance(getattr(value, "__name__", None), str):  # e.g. of NumPy
            return f"{type(value).__name__} {value.__name__}"
        raise ValueError(f"{name or 'it'} is {shown(value)}, {NO_DIGEST}")

    def _of_library(self, thing: Any) -> bool:
        """Whether it came with Python, the kit or an installed package, and not with who registers it."""
        return _top(thing) != self.home and _is_installed(thing)


def _top(thing: Any) -> str:
    """The name of the package that it is from."""
    name = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    return str(name or "builtins").split(".")[0]


def _is_installed(thing: Any) -> bool:
    top = _top(thing)
    if top == "__main__" or (top == "builtins" and isinstance(thing, FunctionType)):  # of exec()
        return False
    if top in ("builtins", "d2rkit") or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def _source(thing: Any, name: str) -> str:
    """Its text, without the decorators that register it: they name titles, which change nothing."""
    try:
        text = textwrap.dedent(inspect.getsource(thing))
    except (OSError, TypeError, IndexError) as error:
        words = f"the source of {getattr(thing, '__qualname__', name) or shown(thing)} cannot be read"
        raise ValueError(
            f"{words}, so that its versions could not be told apart; write it in a file, or give version='1', and "
            "another one for each change"
        ) from error
    try:
        (node, *_) = ast.parse(text).body
    except (SyntaxError, ValueError):  # a lambda within a longer statement
        return text
    lines = text.splitlines()
    for decorator in getattr(node, "decorator_list", ()):
        if "register_" in ast.unparse(decorator):
            lines[decorator.lineno - 1 : decorator.end_lineno] = [""] * (decorator.end_lineno - decorator.lineno + 1)
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _functions_of(thing: Any) -> Iterator[FunctionType]:
    """The functions in the body of a class."""
    for value in vars(thing).values() if isinstance(thing, type) else ():
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(value, FunctionType) and value.__module__ == thing.__module__:
            yield value


def _references(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What the names in a function stand for: globals, captured values, defaults; those of Python itself left out."""
    function = inspect.unwrap(function)
    names = sorted(set(_globals_in(function.__code__)) & function.__globals__.keys())
    yield from ((name, function.__globals__[name]) for name in names)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if name != "__class__":
            yield name, content
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.default is not parameter.empty:
            yield name, parameter.default


def _globals_in(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_in(constant)
