import dataclasses
import fcntl
import os
import time

import pytest

from d2rkit.core.files import write_json
from d2rkit.experiments.presets import get_preset
from d2rkit.experiments.status import progress, progress_table, totals
from d2rkit.experiments.sweep import attempt
from tests.experiments.test_experiment import TINY
from tests.synthetic import make_run

CELL = dataclasses.replace(TINY, epochs=4, guide_warmup=1, checkpoints=("best", "last"))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / CELL.run_name
    made.mkdir()
    return made


def only_cell(root):
    (cell,) = progress([CELL], root)
    return cell


def write(folder, name, text="", age=0.0):
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    os.utime(file, (time.time() - age,) * 2)


def test_without_a_folder_a_run_is_not_begun(tmp_path):
    cell = only_cell(tmp_path)
    assert (cell.state, cell.epoch, cell.epochs, cell.age) == ("not begun", 0, 5, None)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_held_tells_running_from_stopped(tmp_path, folder):
    write(folder, "history.csv", "epoch,lr\n1,0.1\n2,0.1\n", age=100)
    write(folder, "lock", age=300)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(folder / "lock", (time.time() - 300,) * 2)
        cell = only_cell(tmp_path)
    assert (cell.state, cell.epoch, cell.epochs) == ("running", 2, 5) and 100 <= cell.age < 110
    assert only_cell(tmp_path).state == "stopped"
    with (folder / "lock").open("w") as file:  # looking has not kept the lock
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_attacks_are_counted_over_both_checkpoints_and_drafts_are_not(tmp_path, folder):
    for name in ("evaluation/clean.npz", "evaluation-last/pgd2.npz", "evaluation/autoattack.partial.npz",
                 "evaluation/.pgd2.npz.77.tmp"):  # fmt: skip
        write(folder, name)
    cell = only_cell(tmp_path)
    assert (cell.attacked, cell.attacks) == (2, 4)


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        ("done", "done", ""),
        ("stuck at chance", "done", "stuck at chance"),
        ("failed: a weight is not finite in epoch 1, step 2", "failed", "a weight is not finite in epoch 1, step 2"),
    ],
)
def test_a_result_says_done_or_why_training_failed(tmp_path, folder, status, state, words):
    make_run(tmp_path, CELL, {"clean": 0.5, "pgd2": 0.25}, status=status)
    write(folder, "error.txt", "some time\nan older trouble\n")  # what went wrong before does not count
    cell = only_cell(tmp_path)
    assert (cell.state, cell.words) == (state, words)


def test_what_no_table_would_take_is_damaged_and_says_why(tmp_path, folder):
    write_json(folder / "config.json", CELL.to_dict() | {"seed": 7})
    cell = only_cell(tmp_path)
    assert cell.state == "damaged" and "another experiment" in cell.words
    write_json(folder / "config.json", CELL.to_dict())
    assert only_cell(tmp_path).state == "stopped"
    write_json(folder / "result.json", {"status": "done"})
    cell = only_cell(tmp_path)
    assert cell.state == "damaged" and "has no 'n_test'" in cell.words


def test_an_error_without_words_is_an_error(tmp_path, folder):
    write(folder, "error.txt")
    cell = only_cell(tmp_path)
    assert (cell.state, cell.words) == ("error", "error.txt says nothing")


def test_an_error_counts_until_somebody_works_on_the_run_again(tmp_path):
    broken = dataclasses.replace(CELL, test_images=999)
    assert attempt(broken, tmp_path, device="cpu").startswith("error: ")
    (cell,) = progress([broken], tmp_path)
    assert (cell.state, cell.words) == ("error", "test_images 999 is more than the 397 test images of digits")
    text = (tmp_path / broken.run_name / "error.txt").read_text()
    assert text.startswith("20") and "Traceback" in text and "chosen_test" in text
    later = time.time() + 5
    (tmp_path / broken.run_name / "lock").touch()
    os.utime(tmp_path / broken.run_name / "lock", (later, later))
    assert progress([broken], tmp_path)[0].state == "stopped"


def test_a_run_whose_folder_goes_while_we_look_has_no_age(tmp_path):
    cell = dataclasses.replace(only_cell(tmp_path), state="running", epoch=1, age=None)
    assert progress_table(["tiny"], [cell]).splitlines()[-1].rstrip().endswith(f"running 1/{cell.epochs}")


def test_the_table_has_a_line_a_row_and_a_column_a_seed_and_fits_the_terminal(tmp_path):
    quick = get_preset("quick")
    cells, whole = progress(quick.experiments(), tmp_path), quick.base.epochs
    states = [
        {"state": "done"},
        {"state": "running", "epoch": 7, "age": 125.0},
        {"state": "running", "epoch": whole, "attacked": 3, "age": 12.0},
        {"state": "stopped", "epoch": 4},
        {"state": "error", "words": "a sentence that is too long for the terminal " * 3},
    ]
    cells[:5] = [dataclasses.replace(cell, **state) for cell, state in zip(cells, states, strict=False)]
    text = progress_table(quick.rows, cells, width=80)
    lines = text.splitlines()
    assert lines[0].split() == ["seed", "0", "seed", "1", "seed", "2"]
    assert [line.split("  ")[0].strip() for line in lines[1:9]] == list(quick.rows)
    assert f"running 7/{whole}, 2 min" in lines[2] and f"stopped 4/{whole}" in lines[4]
    assert "running attacks 3/5, 12 s" in lines[3]
    assert lines[9].startswith("lbgat6, seed 0: error: a sentence") and lines[9].endswith("...")
    assert lines[10] == f"  in {cells[4].experiment.run_name}"
    assert max(map(len, lines)) <= 80
    assert totals(cells) == "24 runs: 1 done, 2 running, 1 stopped, 1 error, 19 not begun"
