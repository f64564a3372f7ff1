"""Commands about RobustBench: leaderboard, claim."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from d2rkit.cli.base import HERE, File, Place, Word, app
from d2rkit.core.files import write_atomically, write_json
from d2rkit.core.paths import new_file
from d2rkit.experiments.experiment import read_run
from d2rkit.reporting.robustbench import claim, read_leaderboard


@app.command
def leaderboard(
    folder: Word,
    data: str = "",
    network: str = "",
    extra_data: bool = True,
    output: File = "",
) -> None:
    """Read RobustBench's entries (Linf) from a copy of its repository, and print or save them as published rows.

    Args:
        folder: the copy, its model_info, or a folder of its JSON files.
        data: only this data set, e.g. cifar10.
        network: only this architecture, e.g. wrn-34-10.
        extra_data: also entries trained with additional data.
        output: a new CSV file, with the columns of published.csv where it has them.
    """
    board = read_leaderboard(folder)
    frame = board.frame
    for name, wanted in (("dataset", data), ("target", network)):
        if wanted and wanted not in set(frame[name]):
            raise ValueError(
                f"no entry of {name} {wanted!r} there; there are {', '.join(sorted(set(frame[name]))[:8])}"
            )
        frame = frame[frame[name] == wanted] if wanted else frame
    frame = frame if extra_data else frame[~frame["extra_data"]]
    if output:
        path = new_file(output)
        with write_atomically(path) as draft:
            frame.to_csv(draft, index=False)
        print(f"{len(frame)} entries: {path}")
    else:
        print(frame.drop(columns="source").to_string(index=False, na_rep="", float_format="{:.2f}".format))
    print("external: what an attack beside AutoAttack left, as RobustBench states it; in percent")
    for words in board.left_out:
        print(f"d2rkit: {words}", file=sys.stderr)


@app.command(name="claim")
def claim_command(
    run: Word,
    checkpoint: str = "best",
    title: str = "",
    authors: str = "",
    venue: str = "",
    link: str = "",
    output: File = "",
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Write a run as the JSON file of a RobustBench entry, and say what keeps it from being one.

    Args:
        run: a run folder, or a run's name below the runs folder.
        checkpoint: best (on the validation images) or last.
        title: of the paper (default: the method's name).
        authors: of the paper.
        venue: e.g. arXiv, Jan 2026.
        link: to the paper.
        output: the new file (default: the run's name, in the current folder).
    """
    asked = Path(run).expanduser()
    claimed = read_run(asked if asked.exists() else place.runs_root / run)
    content, why_not = claim(claimed, checkpoint=checkpoint, title=title, authors=authors, venue=venue, link=link)
    path = new_file(output or f"{claimed.experiment.run_name}.json")
    write_json(path, content)
    print(f"written: {path}: clean {content['clean_acc']} %, AutoAttack {content['autoattack_acc']} %")
    for words in why_not:
        print(f"before it can be submitted: {words}")
