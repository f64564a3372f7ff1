"""The option that every benchmark has: where to write what it measured, with the command and the hardware."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from d2rkit.core.files import write_json
from d2rkit.experiments.experiment import machine


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Of the script with this docstring."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--to", type=Path, default=None, help="also write the results to this JSON file")
    return made


def write(to: Path | None, **results: Any) -> None:
    """Nothing if the reader asked for no file."""
    if to:
        made_by = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        write_json(to, {"made_by": made_by, "hardware": machine(), "torch": torch.__version__, **results})
