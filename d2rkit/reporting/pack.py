"""pack(): what a table is made of, small enough for git: settings, histories, per-image flags; weights on request.

    pack(get_preset("small"), runs, "data/results/small", weights="data/checkpoints")

The copy is a runs folder like any other (without training state), so `d2rkit table small --runs
data/results/small/runs` makes the same table, bit for bit, and find_runs() finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d2rkit.core.files import write_atomically
from d2rkit.core.validation import printable
from d2rkit.experiments.experiment import Run, settings_of
from d2rkit.experiments.presets import Preset
from d2rkit.networks.checkpoints import half_precision
from d2rkit.reporting.escaping import markdown_text
from d2rkit.reporting.tables import write_table

KEPT = ("config.json", "history.csv", "result.json", "evaluation*/*.npz")


def pack(
    preset: Preset,
    runs: Sequence[Run],
    folder: str | Path,
    weights: str | Path | None = None,
    seed: int | None = None,
    half: bool = False,
) -> list[Path]:
    """Copy the preset's runs to folder/runs, write its table to folder; return the files. weights: a folder that gets
    NAME.safetensors and NAME.json (the experiment) of each row's run of that `seed`, the preset's first by default.
    half: in float16, which rounds the weights; verify() says how many flags that turns.

    ValueError if there is no run of the preset, if a file is there with other content, or another table: nothing is
    replaced but this table, which follows from the runs."""
    folder, seed = Path(folder), preset.seeds[0] if seed is None else seed
    names = {settings_of(preset.experiment(row, preset.seeds[0])): row for row in preset.rows}
    chosen = [run for run in runs if settings_of(run.experiment) in names and run.experiment.seed in preset.seeds]
    if not chosen:
        raise ValueError(f"there is no finished run of preset {preset.name} to pack; `{preset.command}` makes some")
    _check_table(folder / "table.md", preset)
    copies = []
    for run in chosen:
        for pattern in KEPT:
            for file in sorted(run.folder.glob(pattern)):
                copies.append((file, folder / "runs" / run.folder.name / file.relative_to(run.folder)))
        if weights is not None and run.experiment.seed == seed and not run.result["status"].startswith("failed"):
            name = f"{preset.name}-{names[settings_of(run.experiment)]}"
            copies.append(
                (run.folder / f"{run.experiment.checkpoints[0]}.safetensors", Path(weights) / f"{name}.safetensors")
            )
            copies.append((run.folder / "config.json", Path(weights) / f"{name}.json"))
    contents = {}
    for source, copy in copies:
        if not source.is_file():
            raise ValueError(f"{source} does not exist, so that it cannot be packed")
        rounds = half and source.suffix == ".safetensors"
        contents[copy] = half_precision(source) if rounds else source.read_bytes()
        if copy.exists() and copy.read_bytes() != contents[copy]:
            raise ValueError(f"{copy} is there with other content; choose another folder")
    for copy, content in contents.items():
        with write_atomically(copy) as draft:
            draft.write_bytes(content)
    return [copy for _, copy in copies] + write_table(preset, chosen, folder)


def _check_table(file: Path, preset: Preset) -> None:
    """ValueError if another table lies where that of the preset goes."""
    title = f"# {markdown_text(preset.title)}"  # as write_table() begins
    there = file.read_text(encoding="utf-8", errors="replace").split("\n", 1)[0] if file.exists() else title
    if there != title:
        raise ValueError(f"{file} is another table ({printable(there.lstrip('# '))}); choose another folder")
