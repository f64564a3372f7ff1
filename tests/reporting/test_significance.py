"""Paired tests against what counting gives, and against scipy."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from d2rkit.reporting.significance import (
    bootstrap_difference,
    flags_of,
    holm,
    mcnemar,
    paired_table,
    sign_flip_p,
    standard_error,
)
from d2rkit.reporting.tables import write_table
from tests.synthetic import make_run, preset, runs_of


def flags(n: int, p: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < p


def test_standard_error():
    assert standard_error([True] * 30 + [False] * 70) == pytest.approx(math.sqrt(0.3 * 0.7 / 100))


@pytest.mark.parametrize(("n", "p"), [(8, 0.5), (60, 0.4), (397, 0.45), (5_000, 0.49)])
def test_mcnemar_is_the_exact_binomial_test(n, p):
    a, b = flags(n, 0.5, 1), flags(n, p, 2)
    test = mcnemar(a, b)
    assert test.a_only == (a & ~b).sum() and test.b_only == (b & ~a).sum()
    assert test.p == pytest.approx(binomtest(test.a_only, test.a_only + test.b_only).pvalue, rel=1e-8)


def test_mcnemar_at_its_ends():
    same = flags(50, 0.5)
    assert mcnemar(same, same).p == 1.0
    assert mcnemar([True] * 10, [False] * 10) == (10, 0, pytest.approx(2 / 2**10))
    assert mcnemar(torch.tensor([True, False]), torch.tensor([False, True])).p == pytest.approx(1.0)


def test_several_seeds_flip_the_sign_of_a_whole_image():
    """By trying all signs: an image's seeds go together."""
    a, b = flags(3 * 9, 0.7, 3).reshape(3, 9), flags(3 * 9, 0.4, 4).reshape(3, 9)
    each = (a.astype(int) - b).sum(0)
    sums = [abs(np.dot(signs, each)) for signs in itertools.product((-1, 1), repeat=9)]
    assert sign_flip_p(a, b) == pytest.approx(np.mean(np.array(sums) >= abs(each.sum())))
    # Copies of one seed add no evidence.
    assert sign_flip_p(np.tile(a[0], (3, 1)), np.tile(b[0], (3, 1))) == pytest.approx(sign_flip_p(a[0], b[0]))


def test_bootstrap_is_the_bootstrap():
    """Against the plain way, image by image."""
    a, b = flags(2 * 200, 0.6, 5).reshape(2, 200), flags(2 * 200, 0.5, 6).reshape(2, 200)
    interval = bootstrap_difference(a, b, seed=0)
    each = (a.astype(float) - b).mean(0)
    drawn = np.random.default_rng(1).choice(each, (20_000, 200)).mean(1)
    assert interval.difference == pytest.approx(each.mean())
    assert (interval.low, interval.high) == (pytest.approx(np.quantile(drawn, 0.025), abs=0.004),
                                       pytest.approx(np.quantile(drawn, 0.975), abs=0.004))  # fmt: skip
    assert interval == bootstrap_difference(a, b, seed=0) != bootstrap_difference(a, b, seed=1)
    narrow = bootstrap_difference(a, b, level=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


def test_copies_of_a_seed_do_not_narrow_the_interval():
    a, b = flags(300, 0.6, 7), flags(300, 0.5, 8)
    one, three = bootstrap_difference(a, b), bootstrap_difference(np.tile(a, (3, 1)), np.tile(b, (3, 1)))
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.05)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([True], [True, False], "same images"),
        ([0.5, 0.2], [True, False], "must be bool"),
        ([], [], "must be bool"),
        (np.zeros((0, 5), bool), np.zeros((0, 5), bool), "must be bool"),
        ([[True], [True]], [[True], [True]], "one run with one run"),
    ],
)
def test_bad_flags_are_refused(a, b, words):
    with pytest.raises(ValueError, match=words):
        mcnemar(a, b)


def test_paired_table_reads_the_flags_of_the_runs(tmp_path):
    here = preset(rows=("d2r-cag", "trades", "pgd-at"), seeds=(0, 1))
    runs = runs_of(here, tmp_path)
    frame = paired_table(runs)
    assert list(frame["method"]) == ["pgd-at", "d2r-cag"]  # the order of METHODS
    row = frame.set_index("method").loc["d2r-cag"]
    of = {(r.experiment.method, r.experiment.seed): flags_of(r, "autoattack") for r in runs}
    a, b = (np.stack([of[name, seed] for seed in (0, 1)]) for name in ("d2r-cag", "trades"))
    assert row["difference"] == pytest.approx(a.mean() - b.mean())
    assert (row["better"], row["worse"]) == ((a & ~b).sum(), (b & ~a).sum())
    assert row["p"] == sign_flip_p(a, b) and row["low"] < row["difference"] < row["high"]
    assert (row["seeds"], row["n"]) == (2, 100) and list(frame["p_holm"]) == holm(list(frame["p"]))


def test_paired_table_pairs_the_seeds_that_both_have(tmp_path):
    runs = runs_of(preset(rows=("trades", "pgd-at"), seeds=(0, 1)), tmp_path)
    for method in ("trades", "pgd-at"):
        kept = [run for run in runs if (run.experiment.method, run.experiment.seed) != (method, 0)]
        assert list(paired_table(kept)["seeds"]) == [1]


def test_paired_table_says_what_is_wrong(tmp_path):
    runs = runs_of(preset(), tmp_path)
    with pytest.raises(ValueError, match="reference 'mart' is not exactly one row; there are: pgd-at"):
        paired_table(runs, reference="mart")
    with pytest.raises(ValueError, match=r"pgd20.npz does not exist"):
        paired_table(runs, attack="pgd20")
    (runs[0].folder / "evaluation" / "autoattack.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match="is damaged"):
        paired_table(runs)


def test_runs_on_other_images_are_not_paired(tmp_path):
    """As many of the same data set, but in another order: image by image such flags have nothing to do with another."""
    here = preset(rows=("trades", "pgd-at"), seeds=(0,))
    runs = runs_of(here, tmp_path)
    for number, run in enumerate(runs):
        file = run.folder / "evaluation" / "autoattack.npz"
        np.savez_compressed(file, flags=flags_of(run, "autoattack"), fact_images=np.asarray(number))
    with pytest.raises(ValueError, match="PGD-AT and TRADES were not attacked on the same images"):
        paired_table(runs)
    assert "not attacked on the same images" in write_table(here, runs, tmp_path / "table")[0].read_text()


def test_flags_of_another_number_of_images_are_refused(tmp_path):
    run = make_run(tmp_path, preset().base, {"autoattack": 0.5})
    np.savez_compressed(run.folder / "evaluation" / "autoattack.npz", flags=np.ones(7, bool))
    with pytest.raises(ValueError, match="7 flags"):
        flags_of(run, "autoattack")


@pytest.mark.parametrize("values", [[[0.5], [0.6]], ["0.5"], [0.5 + 1j]])
def test_what_is_no_list_of_numbers_has_no_holm(values):
    with pytest.raises(ValueError, match=r"numbers? "):
        holm(values)


@pytest.mark.parametrize("p", [[0.5, math.nan], [1.5], [-0.1]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match=r"p values must be numbers in \[0, 1\]"):
        holm(p)


def test_the_error_bar_is_of_one_run():
    with pytest.raises(ValueError, match=r"takes the flags of one run, \(N,\), not of 2"):
        standard_error([[True, False], [True, True]])
