"""Small measurements shipped with the kit: a script of benchmarks/ makes them, a notebook's panel reads them."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from d2rkit.core.files import read_json, write_atomically
from d2rkit.core.paths import shipped
from d2rkit.experiments.experiment import Experiment, machine
from d2rkit.panels import base


def facts(command: str, recipe: Experiment, seeds: Sequence[int], images: int, seconds: float) -> dict[str, Any]:
    """What a reader has to know of numbers: hardware, seeds, n, and the settings that are not the defaults."""
    default, used = Experiment().to_dict(), asdict(recipe)
    return {
        "made_by": command,
        "hardware": machine("cpu"),
        "torch": torch.__version__,
        "cpu_seconds": round(seconds),
        "recipe": {name: used[name] for name in default if used[name] != default[name]},
        "seeds": list(seeds),
        "images": images,
    }


def source(content: Mapping[str, Any]) -> str:
    """The facts as a sentence."""
    seeds = ", ".join(map(str, content["seeds"]))
    return (
        f"{len(content['seeds'])} seeds ({seeds}), {content['images']} test images; made by {content['made_by']} on: "
        f"{content['hardware']}, torch {content['torch']}, {content['cpu_seconds']} s."
    )


def write(file: Path, content: Mapping[str, Any]) -> None:
    """JSON with a list of numbers a line."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^][]*\]", lambda inner: " ".join(inner[0].split()), text)
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as draft:
        draft.write_text(text + "\n", encoding="utf-8")


def command(doc: str, name: str, measure: Callable[[Sequence[int]], dict], words: Callable[[dict], str]) -> int:
    """The script of benchmarks/ with this docstring: measures as many seeds as its reader asks for, writes the result
    and prints its words (HTML)."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many, from 0 on (default 5)")
    parser.add_argument("--to", type=Path, default=shipped("results") / name)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: one seed says nothing about others")
    torch.set_num_threads(1)
    measurement = measure(range(options.seeds))
    write(options.to, measurement)
    print(base.plain_text(words(measurement)))
    return 0


def read(name: str, file: Path | None = None) -> dict[str, Any]:
    """The shipped measurement of this name, or that of another file. ValueError if it is damaged."""
    file = file or shipped("results") / name
    measurement = read_json(file)
    if not isinstance(measurement, dict) or "made_by" not in measurement or "runs" not in measurement:
        raise ValueError(f"{file} holds no measurement of d2rkit")
    return measurement
