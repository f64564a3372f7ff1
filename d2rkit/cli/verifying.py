"""The command `verify`: do the weights of a run give the numbers that stand in a table?"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from d2rkit.cli.base import HERE, File, Place, Word, app, progress_bar
from d2rkit.experiments.experiment import find_runs
from d2rkit.reporting.verify import verify


@app.command(name="verify")
def verify_command(
    folder: Word,
    weights: File = "",
    place: tyro.conf.OmitArgPrefixes[Place] = HERE,
) -> None:
    """Remeasure a run's clean and PGD accuracy, image by image, and report which row of which table they confirm.

    Exits with code 1 if a run is not confirmed, or if its files do not belong together.

    Args:
        folder: a run folder, a run's name in the runs folder, or a folder that contains runs.
        weights: the checkpoint, for a run without one, e.g. in data/results.
    """
    asked = Path(folder).expanduser()
    asked = asked if asked.exists() else place.runs_root / folder
    if not asked.is_dir():
        raise ValueError(f"{folder} is neither a folder nor a run below {place.runs_root}")
    here = find_runs([asked])
    if not here.runs and not here.left_out:
        raise ValueError(f"there is no finished run below {asked}")
    if weights and len(here.runs) != 1:
        raise ValueError(f"--weights belongs to one run, but there are {len(here.runs)} below {asked}")
    confirmed = not here.left_out
    for words in here.left_out:
        print(words, flush=True)
    for run in here.runs:
        try:
            with progress_bar() as report:
                answers = verify(
                    run, Path(weights) if weights else None, device=place.device,
                    data_root=place.data_root or None, report=report,
                )  # fmt: skip
        except ValueError as error:
            if len(here.runs) == 1:
                raise
            confirmed = False
            print(f"NOT confirmed: {error}", flush=True)
            continue
        print(*answers, sep="\n", flush=True)
        confirmed &= all(answer.confirmed for answer in answers)
    if not confirmed:
        sys.exit(1)
