"""Counts of the trials, added up over the processes that make them."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

VARIABLE = "D2RKIT_FAULTS_COUNTED"  # a file with a word a line: worker processes inherit it


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[VARIABLE] = str(Path(tempfile.mkdtemp(prefix="faults-")) / "counted")


def count(word: str) -> None:
    with open(os.environ[VARIABLE], "a") as file:
        file.write(f"{word}\n")


def counted() -> Counter:
    file = Path(os.environ[VARIABLE])
    return Counter(file.read_text().split() if file.exists() else ())


def pytest_sessionfinish(session: pytest.Session) -> None:
    counts = counted()
    sound = counts["injected"] == counts["survived"] > 0 and not counts["tracebacks"]
    if not hasattr(session.config, "workerinput") and not sound:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    counts = counted()
    for word in ("injected", "survived", "tracebacks"):
        terminalreporter.write_line(f"faults {word}: {counts[word]}")
