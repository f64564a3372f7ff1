from dataclasses import replace

import pytest

from d2rkit.cli import main
from d2rkit.experiments.presets import QUICK
from d2rkit.experiments.sweep import sweep
from d2rkit.experiments.tuning import outcomes, trials

TABLE = replace(QUICK, rows=("pgd-at", "trades"), base=replace(QUICK.base, target="cnn-8", guide="cnn-8", steps=2))


def test_each_row_gets_its_best_rate_and_no_test_image_is_looked_at(tmp_path):
    candidates = trials(TABLE, (0.2, 1e-6), "200", 2)
    assert [(row, trial.lr, trial.epochs) for row, trial in candidates] == [
        ("pgd-at", 0.2, 2), ("trades", 0.2, 2), ("pgd-at", 1e-6, 2), ("trades", 1e-6, 2),
    ]  # fmt: skip
    assert outcomes(candidates, tmp_path).empty
    sweep([trial for _, trial in candidates], tmp_path, device="cpu", quiet=True)
    frame = outcomes(candidates, tmp_path)
    assert list(frame["row"]) == ["pgd-at", "pgd-at", "trades", "trades"]
    assert frame["chosen"].sum() == 2
    best = frame.loc[frame.groupby("row")["val_pgd"].idxmax(), "lr"].tolist()
    assert frame[frame["chosen"]]["lr"].tolist() == best
    assert not list(tmp_path.rglob("evaluation*"))


@pytest.mark.parametrize(
    ("rates", "rows", "words"), [((), (), "at least one"), ((0.0,), (), "lr must be"), ((0.1,), ("tredes",), "trades")]
)
def test_senseless_trials_are_refused(rates, rows, words):
    with pytest.raises(ValueError, match=words):
        trials(TABLE, rates, "200", 1, rows)


def test_the_command_tunes_on_sets_below_its_budget_and_keeps_what_it_found(tmp_path, monkeypatch):
    words = ["tune", "quick", "--rows", "trades", "--rates", "0.2", "--epochs", "1", "--workers", "0"]
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path), "--device", "cpu"]
    monkeypatch.setattr("sys.argv", ["d2rkit", *words, *places])
    main()  # digits have fewer than 3,000 images
    before = (tmp_path / "learning_rates.csv").read_text()
    assert before.count("trades") == 1
    monkeypatch.setattr("sys.argv", ["d2rkit", *words, "--subset", "9k", *places])
    with pytest.raises(SystemExit):
        main()
    assert (tmp_path / "learning_rates.csv").read_text() == before
