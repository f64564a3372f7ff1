"""Run folders that are damaged in every way we know: each is left out and named, none ends in a traceback."""

import json
import math
import os
import random
import shutil
import zipfile

import numpy as np
import pytest

from d2rkit.core.files import read_json, write_json
from d2rkit.experiments.experiment import find_runs, read_run, read_runs
from d2rkit.experiments.run_folders import history_of
from d2rkit.experiments.status import progress, progress_table
from d2rkit.networks.checkpoints import digests_beside, save_weights
from d2rkit.panels import table_rows
from d2rkit.planning.cost import survivors_of
from d2rkit.reporting import figures
from d2rkit.reporting.frame import tidy
from d2rkit.reporting.pack import pack
from d2rkit.reporting.significance import paired_table
from d2rkit.reporting.tables import write_table
from d2rkit.training.history import write_history
from tests.conftest import make_pair
from tests.synthetic import make_run, preset, runs_of

HOSTILE = [
    None, True, -1, 0, 1.5, math.nan, math.inf, "x", "../x", "a\nb", "\x1b[31m", [], {}, [1, "a"], {"a": []}, 10**400,
    "x" * 100_000, [[[[[[]]]]]], {"best": None}, {"best": {"clean": "0.5"}}, {"best": {"clean": 1.5}},
    {"best": {"pgd-20": 0.5}}, {"eps": [0.1], "pgd20": [0.1, 0.2]}, [{"passed": "no"}], {"best": [None]},
]  # fmt: skip
TEXTS = [
    b"", b"[]", b"{}", b"null", b"5", b"NaN", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5_000, b"\xff\xfe\x00",
    b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 60, b"epoch\n", b"epoch,val_pgd\n1\n", b"epoch,val_pgd\n1,2,3\n",
    b"epoch,val_clean,val_pgd,seconds\n1,nan,-inf,x\n", b'epoch\n"1', b"epoch,val_clean,val_pgd,seconds\n2,0,0,0\n",
    b"epoch,val_clean,val_pgd,seconds\n1,0,7,0\n", b"version https://git-lfs.github.com/spec/v1\n",
]  # fmt: skip
ARRAYS = [
    np.ones((2, 50), bool), np.ones(99, bool), np.ones(100), np.zeros(0, bool), np.array(True), np.ones(100, "U3"),
    np.array([{}] * 100, object), np.ones(100, bool),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A sound root: two rows, two seeds, weights beside them."""
    root = tmp_path_factory.mktemp("sound")
    for run in runs_of(preset(rows=("trades", "pgd-at"), attacks=("clean", "pgd20", "autoattack")), root):
        save_weights(run.folder / "best.safetensors", make_pair().target, None)
    return root


def damage(folder, rng):
    """One fault in one file of a run folder; returns what was done, in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = rng.choice(files)
    kind = rng.choice(["bytes", "value", "value", "text", "place", "arrays", "cut", "missing"])
    if kind == "value":
        file = rng.choice([folder / "config.json", folder / "result.json"])
        content, value = read_json(file), rng.choice(HOSTILE)
        where = content
        keys = [rng.choice([*where, "new"])]
        while isinstance(where.get(keys[-1]), dict) and where[keys[-1]] and rng.random() < 0.6:
            where = where[keys[-1]]
            keys.append(rng.choice(list(where)))
        where[keys[-1]] = value
        file.write_text(json.dumps(content))
        return f"{file.name}: {keys} = {repr(value)[:40]}"
    if kind == "arrays":
        file = rng.choice(sorted(folder.rglob("*.npz")))
        arrays, name = rng.choice(ARRAYS), rng.choice(["flags", "flags", "flag"])
        facts = rng.choice([{}, {"fact_eps": 0.1}, {"fact_seed": "x"}, {"fact_weights": 3.0}, {"fact_images": [1, 2]}])
        np.savez_compressed(file, **{name: arrays}, **facts)
        return f"{file.name}: {name} {arrays.dtype} {arrays.shape} {facts}"
    content = file.read_bytes()
    file.unlink()
    if kind == "text":
        file.write_bytes(rng.choice(TEXTS))
    elif kind == "cut":
        file.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "bytes":
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        file.write_bytes(changed)
    elif kind == "place":
        place = rng.choice([file.mkdir, lambda: file.symlink_to(file.name), lambda: os.mkfifo(file),
                            lambda: file.symlink_to(folder)])  # fmt: skip
        place()
    return f"{file.name}: {kind}"


def use(run, others, here, folder):
    """Whoever reads runs, on one that was not left out."""
    runs = [run, *others]
    write_table(here, runs, folder / "table")
    pack(here, runs, folder / "packed")
    paired_table(runs, "autoattack", "pgd-at")
    history_of(run)
    survivors_of(here, runs)
    figures.draw_eps_curve(runs)
    figures.draw_training_curves(runs)
    figures.draw_clean_vs_robust(tidy(runs))
    setting = table_rows.setting_of(run.experiment)
    table_rows.compute("preset:tiny", setting, table_rows.ALL, runs, {"tiny": here})


@pytest.mark.timeout(300)
def test_no_damage_ends_in_a_traceback(model, tmp_path):
    here = preset(rows=("trades", "pgd-at"), attacks=("clean", "pgd20", "autoattack"))
    names = [experiment.run_name for experiment in here.experiments()]
    others = [read_run(model / name) for name in names[1:]]
    rng, left_out, used = random.Random(0), 0, 0
    for number in range(300):
        root = tmp_path / str(number)
        folder = root / names[0]
        shutil.copytree(model / names[0], folder)
        words = damage(folder, rng)
        try:
            runs = find_runs([root])
            if os.path.lexists(folder / "result.json"):
                assert len(runs.runs) + len(runs.left_out) == 1
            for sentence in runs.left_out:
                assert names[0] in sentence and "\n" not in sentence and len(sentence) < 1_000
            cells = progress(here.experiments(), root)
            assert "\n" not in cells[0].words and progress_table(here.rows, cells)
            if runs.runs and used < 12:
                use(runs.runs[0], others, here, root)
                used += 1
        except Exception as error:
            raise AssertionError(f"{number}: {words}") from error
        left_out += len(runs.left_out)
        shutil.rmtree(root)
    assert left_out > 150 and used > 5


def test_bad_folders_are_named_and_the_others_make_the_table(model, tmp_path, caplog):
    here = preset(rows=("trades", "pgd-at"), attacks=("clean", "pgd20", "autoattack"))
    shutil.copytree(model, tmp_path / "runs")
    names = [experiment.run_name for experiment in here.experiments()]
    (tmp_path / "runs" / names[0] / "config.json").write_text("[]")
    (tmp_path / "runs" / names[1] / "result.json").write_text('{"status": "done"}')
    runs = read_runs(tmp_path / "runs")
    assert {run.folder.name for run in runs} == set(names[2:])
    assert [sum(name in record.message for record in caplog.records) for name in names] == [1, 1, 0, 0]
    write_table(here, runs, tmp_path)
    assert "1 of 2" in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_a_copy_of_a_run_counts_once_and_is_named(model, tmp_path, caplog):
    name = preset(rows=("trades",), attacks=("clean", "pgd20", "autoattack")).experiments()[0].run_name
    for place in ("", "old/", "link/"):
        shutil.copytree(model / name, tmp_path / place / name)
    shutil.copytree(model / name, tmp_path / f"{name} (copy)")
    (tmp_path / "circle").symlink_to(tmp_path)
    runs = read_runs(tmp_path)
    assert [run.folder for run in runs] == [tmp_path / name] and len(tidy(runs)) == len(tidy([*runs, *runs])) == 1
    words = [record.message for record in caplog.records]
    assert len(words) == 3 and sum("counts once" in w for w in words) == 2
    assert sum(f"{name} (copy) holds the run {name}" in w for w in words) == 1


def edited(folder, name, **changes):
    write_json(folder / name, read_json(folder / name) | changes)


def reflagged(file, **more):
    with np.load(file) as arrays:
        content = dict(arrays)
    np.savez_compressed(file, **content | more)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: edited(f, "config.json", lr=0.3), "whose folder must be called so"),
        (lambda f: edited(f, "config.json", tomorrow=1), "unknown setting 'tomorrow'"),
        (lambda f: edited(f, "result.json", format=2), "format 2"),
        (lambda f: edited(f, "result.json", accuracy={"best": {"clean": 0.99}}), "has an accuracy of 0.9000, but"),
        (lambda f: edited(f, "result.json", accuracy={"last": {}}), "which config.json lacks"),
        (lambda f: edited(f, "result.json", accuracy={"best": {"fgsm": 0.5}}), "which config.json lacks"),
        (lambda f: edited(f, "result.json", n_test=50), "holds 100 flags, not one for each of 50"),
        (lambda f: edited(f, "result.json", epochs=9), "has 4 epochs, but result.json 9"),
        (lambda f: edited(f, "result.json", weights={"best": "0" * 16}), "numbers of other weights: result.json"),
        (lambda f: reflagged(f / "evaluation/clean.npz", fact_weights="a" * 16), "numbers of other weights: best.saf"),
        (lambda f: reflagged(f / "evaluation/pgd20.npz", fact_eps=0.1), "eps 0.1, but the run is of eps 0.2"),
        (lambda f: reflagged(f / "evaluation/pgd20.npz", fact_seed=3), "seed 3, but the run is of seed 0"),
        (lambda f: [reflagged(f / f"evaluation/{a}.npz", fact_images=i) for i, a in enumerate(("clean", "pgd20"))],
         "of different images"),
        (lambda f: save_weights(f / "best.safetensors", make_pair(3).target, None) or edited(
            f, "result.json", weights={"best": "0" * 16}), "other weights"),
        (lambda f: (f / "evaluation/pgd20.npz").unlink(), "does not exist"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused(model, tmp_path, change, words):
    name = preset(rows=("trades",), attacks=("clean", "pgd20", "autoattack")).experiments()[0].run_name
    folder = shutil.copytree(model / name, tmp_path / name)
    assert read_run(folder).folder == folder
    change(folder)
    with pytest.raises(ValueError, match=words) as error:
        read_run(folder)
    assert "\n" not in str(error.value) and name in str(error.value)


def test_facts_that_agree_are_no_fault(model, tmp_path):
    name = preset(rows=("trades",), attacks=("clean", "pgd20", "autoattack")).experiments()[0].run_name
    folder = shutil.copytree(model / name, tmp_path / name)
    digest = digests_beside(folder / "best.safetensors")["target"]
    for attack in ("clean", "pgd20", "autoattack"):
        facts = {"fact_weights": digest, "fact_eps": 0.2, "fact_seed": 0, "fact_count": 100, "fact_images": 12345}
        reflagged(folder / f"evaluation/{attack}.npz", **facts)
    edited(folder, "result.json", weights={"best": digest})
    assert read_run(folder).result["weights"] == {"best": digest}


def test_flags_that_unpack_to_gigabytes_are_not_unpacked(model, tmp_path):
    name = preset(rows=("trades",), attacks=("clean", "pgd20", "autoattack")).experiments()[0].run_name
    folder = shutil.copytree(model / name, tmp_path / name)
    with zipfile.ZipFile(folder / "evaluation/clean.npz", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("flags.npy", bytes(2**25))
    with pytest.raises(ValueError, match="unpacks to more than"):
        read_run(folder)


def test_a_run_whose_history_is_that_of_another_is_refused(model, tmp_path):
    run = make_run(tmp_path, preset().base, {"clean": 0.5})
    write_history(run.folder / "history.csv", history_of(run)[:2])
    with pytest.raises(ValueError, match=r"has 2 epochs, but result\.json 4"):
        read_run(run.folder)
