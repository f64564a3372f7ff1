"""What tests of plugins share."""

import pytest

from d2rkit.experiments import plugins
from tests.experiments.plugin_files import MINE, TABLE, forget


@pytest.fixture
def as_before(monkeypatch):
    """What a test registers is gone after it; processes that are started find no plugins in the environment."""
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    tables = (plugins.REGISTERED, plugins.LOADED, *plugins.TABLES.values())
    kept = [dict(table) for table in tables]
    yield
    forget(tables, kept)
    plugins.FAULTS.clear()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """mine.py and mine.toml in the current folder."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.toml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
