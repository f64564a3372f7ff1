"""What predictions are measured by: change a result, and answer and text change with it."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from d2rkit.panels import cag_compare as compare
from d2rkit.panels import divergence_explorer as simplex
from d2rkit.panels import guide_and_target as plane
from d2rkit.panels import own_row, seed_pairs, term_ablation, training_variants, verdicts
from d2rkit.panels.quizzes import QUESTIONS, mixed, quiz
from d2rkit.panels.shares import Share
from d2rkit.panels.table_browser import TableBrowser
from d2rkit.panels.table_rows import Setting
from d2rkit.panels.training_session import Curves, small
from d2rkit.reporting.significance import paired_table


def flags(right: int, n: int = 100) -> np.ndarray:
    return np.arange(n) < right


@pytest.mark.parametrize(("a", "b", "actual"), [(90, 50, "first"), (50, 90, "second"), (50, 52, "same")])
def test_compared(a, b, actual):
    verdict = verdicts.compared("A", "B", flags(a), flags(b))
    assert verdict["actual"] == actual and f"A: {Share(a, 100)}" in verdict["words"]


def test_half_lost_lies_between_the_radii_around_it():
    verdict = verdicts.half_lost(((0.0, 1.0), (10 / 255, 0.75), (20 / 255, 0.25)), 20)
    assert verdict["actual"] == 15 and verdict["close"] == pytest.approx(5) and "10/255 and 20/255" in verdict["words"]


def test_a_change_of_the_curve_changes_the_sentence():
    curves = {"noise": ((0.0, 1.0), (0.2, 0.9)), "pgd": ((0.0, 1.0), (0.2, 0.0))}
    verdict = verdicts.at_radius(curves, "noise", 0.2, 10)
    assert verdict["actual"] == 90 and "pgd: 0 % (0 to 28 %)" in verdict["words"]
    assert verdicts.at_radius(curves | {"noise": ((0.0, 1.0), (0.2, 0.5))}, "noise", 0.2, 10)["actual"] == 50


def test_the_way_on_the_triangle():
    setting = {"guide_a": 0.6, "guide_b": 0.75, "start_a": 0.1, "start_b": 0.15}
    assert verdicts.way_of(simplex.compute("kl", **setting))["actual"] == "bent"
    assert verdicts.way_of(simplex.compute("absolute-gap", **setting))["actual"] == "stuck"
    data = simplex.compute("kl", **setting)
    share = np.linspace(0, 1, len(data.path))[:, None]
    line = (1 - share) * data.path[0] + share * data.path[-1]
    assert verdicts.way_of(dataclasses.replace(data, path=line))["actual"] == "straight"


def test_directions_and_arrivals():
    torn = simplex.point(0.48, 0.96)
    assert verdicts.both_directions(torn, {"sure": simplex.point(0.98, 0.5)})["actual"] == "backward"
    assert verdicts.both_directions(torn, {"even": simplex.point(1 / 3, 0.5)})["actual"] == "forward"
    verdict = verdicts.arrivals({"kl": np.zeros(20), "absolute-gap": np.repeat([0.0, 1.0], 10)}, "absolute-gap")
    assert verdict["actual"] == 50 and "100 %" in verdict["words"]


def test_terms_in_the_plane():
    rows = {
        "all terms": np.array([[1, 1, 0.8, 2.0], [1, 1, 0.9, 2.1]]),
        "alone": np.array([[1, 1, 0.9, 5], [1, 1, 1, 6]]),
    }
    assert verdicts.best_row(rows, list(rows))["actual"] == "alone"
    assert verdicts.sureness(rows, "all terms", "alone")["actual"] == "smaller"
    words = term_ablation.ablation_words(rows, "caption")
    assert (
        "80 to 90 %" in words and "Better on every seed: alone." in words and "Worse on every seed: nothing." in words
    )
    rows["alone"][0, 2] = 0.7
    assert "Better on every seed: nothing." in term_ablation.ablation_words(rows, "caption")


def test_who_sinks_needs_more_than_chance():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(30, 5))
    labels = np.arange(30) % 5
    sunk = clean - 2 * np.eye(5)[labels]
    data = SimpleNamespace(target_clean=clean, target_adv=sunk, labels=labels)
    assert verdicts.who_sinks(data)["actual"] == "true"
    data.target_adv = clean + rng.normal(size=clean.shape)
    assert verdicts.who_sinks(data)["actual"] == "alike"


def test_with_the_guide_is_paired():
    def transfer(climbs: int) -> compare.Transfer:
        return compare.Transfer(Share(1, 2), Share(1, 2), flags(climbs, 20))

    rows = {"without": transfer(6), "with": transfer(0), "half": transfer(5)}
    assert verdicts.with_the_guide(rows, "without", "with", 20)["actual"] == "fewer"
    assert verdicts.with_the_guide(rows, "without", "half", 20)["actual"] == "same"


def test_what_cag_is_worth_in_training_comes_from_the_shipped_runs(monkeypatch):
    verdict = verdicts.cag_in_training()
    assert verdict["actual"] == "no" and "5 seeds" in verdict["words"] and "100 test images" in verdict["words"]
    real = verdicts.paired_table

    def better(*args, **options):
        return real(*args, **options).assign(p=0.001, difference=0.2)

    monkeypatch.setattr(verdicts, "paired_table", better)
    assert verdicts.cag_in_training()["actual"] == "cag" and "+20.0" in verdicts.cag_in_training()["words"]


def test_published_numbers_and_their_span():
    browser = TableBrowser(setting=Setting("cifar10", "wrn-34-10", 8 / 255), attack="clean")
    verdict = verdicts.published_span(browser, "pgd-at")
    assert verdict["actual"] > 1 and verdict["words"].count("<tr>") >= 3
    with pytest.raises(ValueError, match="nothing is published for D2R"):
        verdicts.published_span(browser, "d2r-cag")


def curves(**columns: list[float]) -> Curves:
    rows = [
        dict(zip(columns, row, strict=True)) | {"epoch": i + 1}
        for i, row in enumerate(zip(*columns.values(), strict=True))
    ]
    return Curves("T", small(), (600, 200), 10, tuple(rows), 1.0, "done")


def test_training_answers():
    run = curves(
        val_guide=[0.3, 0.9], val_clean=[0.2, 0.8], val_pgd=[0.6, 0.4], loss_ce=[2.0, 0.1], loss_adv=[0.1, 0.2]
    )
    assert training_variants.order_of_rising(run)["actual"] == "attacked"
    assert training_variants.largest_term(run)["actual"] == "adv"
    assert training_variants.turning(run, run)["actual"] == 1
    stuck = curves(val_guide=[0.1], val_clean=[0.1], loss_mse=[0.001])
    works = curves(val_guide=[0.9], val_clean=[0.9], loss_mse=[0.1])
    assert training_variants.agreed_on({"a": [stuck], "b": [works]}, "a")["actual"] == "nothing"
    assert training_variants.agreed_on({"a": [works], "b": [stuck]}, "a")["actual"] == "guide"


def test_own_row():
    both = [simplex.compute("kl"), simplex.compute("absolute-gap")]
    assert own_row.closer(*both)["actual"] == "first" and own_row.closer(*both[::-1])["actual"] == "second"
    assert own_row.closer(both[0], both[0])["actual"] == "same"


def test_a_row_against_its_reference():
    runs = [run for run in seed_pairs.family_runs() if run.experiment.method in ("d2r-cag", "dgad", "d2r")]
    paired = paired_table(runs, "autoattack", reference="d2r-cag")
    assert (
        own_row.against(paired, "dgad")["actual"] == "worse"
        and "-10.0 points" in own_row.against(paired, "dgad")["words"]
    )
    assert own_row.against(paired, "d2r")["actual"] == "same"


def test_cut_off_says_what_was_learnt():
    whole = plane.compute()
    chance = dataclasses.replace(whole, target_clean=np.where(np.arange(180) % 3, -1.0, 1.0))
    assert verdicts.cut_off(whole, chance)["actual"] == "chance"
    assert verdicts.cut_off(whole, whole)["actual"] == "learns"


@pytest.mark.parametrize("notebook", list(QUESTIONS))
def test_a_quiz_has_reasons_and_its_order_stays(notebook):
    made = quiz(notebook)
    assert 3 <= len(made.parts) <= 5
    for question in QUESTIONS[notebook]:
        again = mixed(question)
        assert again == mixed(question) and sorted(again.options) == sorted(question.options)
        right = question.options["abcde".index(question.right)]
        assert again.options["abcde".index(again.right)] == right


def test_no_letter_gives_the_right_answer_away():
    letters = [mixed(question).right for each in QUESTIONS.values() for question in each]
    assert max(letters.count(letter) for letter in "abc") < 0.6 * len(letters)


def test_no_notebook_without_a_quiz():
    with pytest.raises(ValueError, match="99"):
        quiz("99")


def test_no_cosine_is_above_one_not_even_at_the_end_of_an_interval():
    verdict = verdicts.alike({"same": np.array([0.8, 1.0, 1.0])}, "same")
    assert verdict["interval"][1] == 1 and "1.00)" in verdict["words"]


def test_the_largest_claim_is_of_the_results_at_hand():
    claims = {"A": (flags(60), flags(55)), "B": (flags(50), flags(38))}
    verdict = verdicts.largest_claim(claims, "pgd20", "autoattack")
    assert (
        verdict["actual"] == 12 and str(Share(38, 100)) in verdict["words"] and "On 100 test images" in verdict["words"]
    )
    assert verdicts.largest_claim(claims | {"B": (flags(50), flags(49))}, "pgd20", "autoattack")["actual"] == 5
