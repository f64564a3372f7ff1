"""The command `class`: a folder of hand-ins as one page and a table."""

from __future__ import annotations

from typing import Annotated

import tyro

from d2rkit.cli.base import File, Folder, app, progress_bar
from d2rkit.exercises.class_desk import check_outputs, class_desk


@app.command(name="class")
def class_command(
    handins: Annotated[Folder, tyro.conf.Positional],
    output: File = "class.html",
    rerun: bool = False,
    seconds: float = 60.0,
    memory: int = 8192,
) -> None:
    """Read a folder of hand-ins: who is stuck where, misconceptions, predictions, code that is alike.

    Writes one offline page and a CSV beside it, and overwrites nothing. docs/class.md says how to read them.

    Args:
        handins: a folder of what report().save(...) wrote, in folders below it, too.
        output: the page; the CSV has the same name with .csv.
        rerun: run the code of every hand-in again, each in a process of its own with limits and without network; a few
            seconds each. It guards against accidents and plain attempts, not against an attacker: see docs/class.md.
        seconds: of --rerun: the longest that one check may take.
        memory: of --rerun: MiB that one check may have.
    """
    page, table = check_outputs(output)
    limits = None
    if rerun:
        from d2rkit.exercises.rerun import Limits, without_network

        limits = Limits(seconds, memory).check()
        if not without_network():
            print("no network of its own for each check on this machine: only Python's sockets are closed", flush=True)
        with progress_bar() as report:
            desk = class_desk(handins, limits, report)
    else:
        desk = class_desk(handins)
    desk.save(page)
    for file, sentence in desk.broken.items():
        print(f"does not count: {file} {sentence}")
    print(f"{len(desk.students)} hand-ins: {page} and {table}")
