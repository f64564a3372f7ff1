"""Commands about RobustBench: leaderboard, claim."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from d2rkit.cli.base import HERE, File, Place, Word, app
from d2rkit.core.files import write_atomically, write_json
from d2rkit.core.paths import new_file
from d2rkit.experiments.experiment import read_run
from d2rkit.reporting.robustbench import claim, our_name, read_leaderboard


@app.command
def leaderboard(
    folder: Word,
    data: str = "",
    network: str = "",
    extra_data: bool = True,
    output: File = "",
) -> None:
    """Read RobustBench's Linf entries from a copy of its repository, and print or save them as published rows.

    Args:
        folder: the copy, its model_info folder, or a folder with its JSON files.
        data: only this data set, e.g. cifar10.
        network: only this architecture, by the kit's name or RobustBench's, e.g. wrn-34-10 or WideResNet-34-10.
        extra_data: include entries trained with additional data.
        output: a CSV file to write, with the columns of published.csv where available.
    """
    board = read_leaderboard(folder)
    frame = board.frame if extra_data else board.frame[~board.frame["extra_data"]]
    if frame.empty:
        raise ValueError("every entry there was trained with additional data")
    for what, column, wanted in (("data set", "dataset", data), ("network", "target", network and our_name(network))):
        names = sorted(set(frame[column]))
        if wanted and wanted not in names:
            which = "" if extra_data else " without additional data"
            raise ValueError(f"no entry{which} of the {what} {wanted!r} there; there are {', '.join(names)}")
        frame = frame[frame[column] == wanted] if wanted else frame
    if output:
        path = new_file(output)
        with write_atomically(path) as draft:
            frame.to_csv(draft, index=False)
        print(f"{len(frame)} entries: {path}")
    else:
        print(frame.drop(columns="source").to_string(index=False, na_rep="", float_format="{:.2f}".format))
    print("RobustBench's published numbers, in percent; none was measured here; eps: radius in pixel scale")
    print("external: what an attack beside AutoAttack left, as RobustBench states it")
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
    """Write a run as the JSON file of a RobustBench entry, and list what would keep RobustBench from accepting it.

    Args:
        run: a run folder, or a run's name in the runs folder.
        checkpoint: best (on the validation images) or last.
        title: the paper's title (default: the method's name).
        authors: the paper's authors.
        venue: the paper's venue, e.g. arXiv, Jan 2026.
        link: the paper's URL.
        output: the file to write (default: named after the run, in the current folder).
    """
    asked = Path(run).expanduser()
    claimed = read_run(asked if asked.exists() else place.runs_root / run)
    content, why_not = claim(claimed, checkpoint=checkpoint, title=title, authors=authors, venue=venue, link=link)
    path = new_file(output or f"{claimed.experiment.run_name}.json")
    write_json(path, content)
    print(f"written: {path}: clean {content['clean_acc']} %, AutoAttack {content['autoattack_acc']} %")
    for words in why_not:
        print(f"before it can be submitted: {words}")
