"""Settings of any type and size: an experiment is refused in one sentence, or its name and its JSON are sound."""

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from d2rkit.core.paths import PROJECT
from d2rkit.experiments.experiment import Experiment
from tests.experiments.test_experiment import TINY

FIELDS = [field.name for field in dataclasses.fields(Experiment)]
HOSTILE = [
    None, True, False, -1, 0, 1, 1.0, 1.5, 10**400, -(2**63), 2**32, math.nan, math.inf, -math.inf, 1e308, 5e-324,
    "", "x", "no", "../x", "a/b", "a\nb", "\x00", "\x1b[31m", "\udcff", "pgd20", "9" * 5000, "²", b"x", [], (), {},
    set(), ["clean", "clean"], ("best", "best"), ["pgd20", 1], [[]], ("last",), {"w_clean": math.inf}, {1: 2},
    {"w_clean": []}, {"w_clean": 1, 2: 1}, {"variant": "a\nb"}, np.int64(1), np.float32(0.1), np.bool_(True),
    np.zeros(2), object(), 3 + 4j, len,
]  # fmt: skip


def answer(changes):
    """The experiment if its check lets it pass, else its one sentence."""
    experiment = dataclasses.replace(TINY, **changes)
    try:
        experiment.check()
    except ValueError as error:
        words = str(error)
        assert words and "\n" not in words and "\x1b" not in words and len(words) < 1_000, words
        return words
    assert re.fullmatch(r"[a-z0-9.-]+", experiment.run_name), experiment.run_name
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict(), allow_nan=False))) == experiment
    return experiment


@pytest.mark.parametrize("name", FIELDS)
def test_each_setting_takes_what_makes_sense_and_refuses_the_rest(name):
    refused = [value for value in HOSTILE if isinstance(answer({name: value}), str)]
    assert len(refused) > len(HOSTILE) / 2


def test_names_of_all_runs_that_lie_in_the_repository_are_what_they_were():
    files = sorted((PROJECT / "data" / "results").rglob("config.json"))
    assert len(files) > 50
    for file in files:
        experiment = Experiment.from_dict(json.loads(file.read_text(encoding="utf-8")))
        experiment.check()
        assert experiment.run_name == Path(file).parent.name
