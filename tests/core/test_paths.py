"""Where data, runs and results live."""

from d2rkit.core import paths
from d2rkit.core.paths import home
from d2rkit.experiments.experiment import find_runs
from d2rkit.panels.sample_pairs import shipped_pair
from d2rkit.panels.start_here import check


def test_home_follows_the_environment_then_the_checkout_then_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("D2RKIT_DATA", str(tmp_path / "elsewhere"))
    assert home("data") == tmp_path / "elsewhere"
    monkeypatch.delenv("D2RKIT_DATA")
    assert home("data") == paths.PROJECT / "data"
    monkeypatch.setattr(paths, "PROJECT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert home("runs") == tmp_path / "runs"


def test_what_came_with_the_kit_is_found_wherever_the_data_sets_are(monkeypatch, tmp_path):
    monkeypatch.setenv("D2RKIT_DATA", str(tmp_path))
    monkeypatch.setenv("D2RKIT_RUNS", str(tmp_path / "runs"))
    assert any(run.experiment.method == "mart" for run in find_runs().runs)
    assert shipped_pair("trades").title == "TRADES on CIFAR-10"
    assert any(item.name == "trained pairs" and item.ok for item in check())
