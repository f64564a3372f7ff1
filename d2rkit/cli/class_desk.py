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
    """Summarise a folder of hand-ins: who is stuck where, misconceptions, predictions, near-identical code.

    Writes one offline HTML page and a CSV file, and overwrites nothing. docs/class.md explains both.

    Args:
        handins: a folder with files written by report().save(...), searched with its subfolders.
        output: the HTML page; the CSV gets the same name, ending in .csv.
        rerun: run the code of every hand-in again, each in a separate process with limits and without network, for a
            few seconds each. This protects against accidents and simple tricks, not against an attacker: see
            docs/class.md.
        seconds: with --rerun: time limit per check.
        memory: with --rerun: memory limit per check, in MiB.
    """
    page, table = check_outputs(output)
    limits = None
    if rerun:
        from d2rkit.exercises.rerun import Limits, without_network

        limits = Limits(seconds, memory).check()
        if not without_network():
            print(
                "this machine cannot isolate each check from the network: only Python's sockets are closed", flush=True
            )
        with progress_bar() as report:
            desk = class_desk(handins, limits, report)
    else:
        desk = class_desk(handins)
    desk.save(page)
    for file, sentence in desk.broken.items():
        print(f"does not count: {file} {sentence}")
    print(f"{len(desk.students)} hand-ins: {page} and {table}")
