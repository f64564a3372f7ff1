"""The other side of `rerun`: reads a solution from standard input, checks it, writes the answer to a file.

python -m d2rkit.exercises.rerun_child ANSWER.json
"""

from __future__ import annotations

import ast
import json
import linecache
import os
import sys
from pathlib import Path

from d2rkit.core.faults import one_line
from d2rkit.exercises import check, exercise
from d2rkit.experiments.plugins import load_plugin

# Events of Python that code of an exercise has no business with; see sys.audit.
FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.kill",
    "pty.",
)
CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
           "os.mkdir", "shutil.")  # fmt: skip


def guard(folder: Path, answer: Path) -> None:
    """From now on this process starts no programs, opens no sockets, and changes no files outside `folder`."""
    within = os.path.realpath(folder)

    def inside(path: int | str | bytes | os.PathLike) -> bool:
        if isinstance(path, int):  # a file that is open already
            return True
        real = os.path.realpath(os.fsdecode(path))
        return os.path.commonpath([within, real]) == within and real != str(answer)

    def hook(event: str, arguments: tuple) -> None:
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"{event.split('.')[0]}: a solution needs no network and no other programs")
        if event == "open":
            path, mode, flags = arguments
            writes = set("wax+") & set(mode or "") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and path is not None and not inside(path):
                raise PermissionError("a solution writes no files outside its own folder")
        paths = (each for each in arguments if isinstance(each, str | bytes | os.PathLike))
        if event.startswith(CHANGES) and not all(inside(path) for path in paths):
            raise PermissionError("a solution changes no files outside its own folder")

    sys.addaudithook(hook)


def solution_in(code: str, count: int) -> object:
    """The function that a hand-in's text defines last, or a tuple of the last `count`."""
    names = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)][-count:]
    if len(names) < count:
        raise ValueError("the text holds no function")
    file = "<hand-in>"
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    space: dict = {"__name__": "__main__"}
    exec(compile(code, file, "exec"), space)
    found = tuple(space[name] for name in names)
    return found if count > 1 else found[0]


def run(asked: dict, answer: Path) -> None:
    """Check the text of `asked` as a solution and write what came of it; this process is guarded from then on."""
    with answer.open("w", encoding="utf-8") as opened:  # before the guard, which forbids it
        for file in asked["plugins"]:
            load_plugin(file)
        reference = exercise(asked["exercise"]).reference
        guard(answer.parent, answer.resolve())
        try:
            solution = solution_in(asked["code"], len(reference) if isinstance(reference, tuple) else 1)
        except BaseException as error:  # whatever the text does when it is run
            told = {"status": "stopped", "step": "", "hint": f"the text does not run: {one_line(error)}"}
        else:
            result = check(asked["exercise"], solution)
            step = next((step.name for step in result.steps if not step.passed), "")
            told = {"status": result.status, "step": step, "hint": result.hint}
        json.dump(told, opened)


if __name__ == "__main__":
    run(json.loads(sys.stdin.read()), Path(sys.argv[1]))
