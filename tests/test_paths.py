"""Where data, runs and results live."""

from d2rkit import paths
from d2rkit.paths import home


def test_home_follows_the_environment_then_the_checkout_then_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("D2RKIT_DATA", str(tmp_path / "elsewhere"))
    assert home("data") == tmp_path / "elsewhere"
    monkeypatch.delenv("D2RKIT_DATA")
    assert home("data") == paths.PROJECT / "data"
    monkeypatch.setattr(paths, "PROJECT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert home("runs") == tmp_path / "runs"
