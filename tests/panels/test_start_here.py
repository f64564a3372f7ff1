"""What the start panel says about this machine and about a preset."""

import pytest

from d2rkit.experiments.presets import PRESETS
from d2rkit.methods.catalogue import METHODS
from d2rkit.panels import base, start_here
from d2rkit.panels.start_here import StartHere, check, check_words


def test_check_names_what_is_needed_and_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "cifar10_train10k.npz").touch()
    items = {item.name: item for item in check(tmp_path)}
    assert items["Python"].ok and items["torch"].ok and items["data: digits"].ok
    assert items["data: cifar10"].ok and "train10k" in items["data: cifar10"].found
    assert not items["data: cifar100"].ok and items["data: cifar100"].note == "d2rkit data cifar100"
    assert "Everything that the notebooks need is here" in check_words(list(items.values()))
    monkeypatch.setattr(start_here, "PACKAGES", ("torch", "no-such-package"))
    words = base.plain_text(check_words(check(tmp_path)))
    assert "Not ready: no-such-package." in words and "✗ missing pip install d2rkit" in words


def test_panel_follows_its_controls(monkeypatch, tmp_path):
    monkeypatch.setenv("D2RKIT_DATA", str(tmp_path))
    panel = StartHere()
    before = panel.picture.value
    assert panel.error == "" and "scikit-learn" in panel.text.value
    panel.controls["method"].main.value = "trades"
    assert "TRADES" in panel.text.value and panel.picture.value != before
    assert panel.experiment.method == "trades" and panel.data.parameters[1] == 0
    panel.controls["data"].main.value = "cifar100"
    assert "d2rkit data cifar100" in panel.error and "TRADES" in panel.text.value


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_and_method_can_be_shown(preset):
    for method in METHODS:
        data = start_here.compute("digits", preset, method)
        assert data.parameters[0] > 0 and preset in start_here.words(data)
    assert start_here.draw(data)


def test_unknown_names():
    for settings in (("digit", "quick", "trades"), ("digits", "quik", "trades"), ("digits", "quick", "trade")):
        with pytest.raises(ValueError, match="did you mean"):
            start_here.compute(*settings)


def test_data_that_are_not_here_are_one_sentence_with_the_command(tmp_path, monkeypatch):
    from d2rkit.experiments.experiment import Experiment

    monkeypatch.setenv("D2RKIT_DATA", str(tmp_path))
    with pytest.raises(start_here.NotHere, match="run `d2rkit data cifar10`") as raised:
        start_here.load_here(Experiment(data="cifar10"))
    assert raised.value._render_traceback_() == [str(raised.value)], "a notebook shows this and no traceback"
    assert len(start_here.load_here(Experiment(data="digits")).test) == 397


def test_commands_in_sentences_are_set_as_code():
    assert start_here.as_code("<p>run `d2rkit doctor` first</p>") == "<p>run <code>d2rkit doctor</code> first</p>"
    assert "`" not in start_here.words(start_here.compute("digits", "medium", "trades"))


def test_menus_fit_beside_their_labels():
    """A longer entry widens its menu until the label has to stand above it, away from the others."""
    for control in StartHere().controls.values():
        assert max(map(len, control.spec.options)) <= 40, control.spec.label
