import numpy as np
import pytest

from d2rkit.panels import seed_pairs
from d2rkit.reporting.significance import mcnemar
from tests.synthetic import preset, runs_of


def test_every_pair_is_counted_once(tmp_path):
    here = preset(seeds=(0, 1, 2))
    runs = runs_of(here, tmp_path)
    first = runs[0].experiment.method
    methods = {run.experiment.method for run in runs}
    data = seed_pairs.compute(runs, "clean", first)
    assert len(data.within) == 3 * len(methods) and len(data.between) == 3 * (len(methods) - 1)
    assert (data.seeds, data.methods) == (3, len(methods))
    assert f"{data.called_different('within').right} of {len(data.within)}" in seed_pairs.words(data)
    assert len(seed_pairs.draw(data).axes) == 1


def test_one_network_twice_is_no_difference(monkeypatch, tmp_path):
    """The control of the control: equal flags are never called different."""
    runs = runs_of(preset(seeds=(0, 1)), tmp_path)
    same = np.arange(100) % 3 > 0
    monkeypatch.setattr(seed_pairs, "flags_of", lambda run, attack: same)
    data = seed_pairs.compute(runs, "clean", runs[0].experiment.method)
    assert data.called_different("within").right == data.called_different("between").right == 0
    assert not data.within[:, 0].any() and (data.within[:, 1] == mcnemar(same, same).p).all()


def test_it_says_what_is_missing(tmp_path):
    runs = runs_of(preset(seeds=(0,)), tmp_path)
    with pytest.raises(ValueError, match="two seeds"):
        seed_pairs.compute(runs, "clean", runs[0].experiment.method)
    with pytest.raises(ValueError, match="no runs of mart"):
        seed_pairs.compute([run for run in runs if run.experiment.method != "mart"], "clean", "mart")
