"""The two exercises whose checks train something: find the masked model, and a row of the table."""

import pytest
import torch

from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import Evaluation, evaluate
from d2rkit.exercises import check
from d2rkit.exercises.masked_model import masked_name, reference, suspects
from d2rkit.exercises.table_row import EPS, ROW_ATTACKS, export_row, train_and_evaluate


def turned_away(name, solution, *words):
    result = check(name, solution)
    assert not result and result.status == "not yet", repr(result)
    for word in words:
        assert word in result.hint, f"{word!r} is not in: {result.hint}"


# ---- the masked model


@pytest.fixture(scope="module")
def truths():
    """What a sound investigation finds, by the names that were dealt; so that each mistake costs nothing."""
    return {tuple(id(m) for m in suspects(s).models.values()): reference(*suspects(s)) for s in (0, 1)}


def answering(truths, change):
    return lambda models, x, y, eps: change(truths[tuple(id(m) for m in models.values())])


def highest(truth):
    return truth | {"masked": max(truth["pgd"], key=truth["pgd"].get)}


def second(truth):
    return sorted(truth["pgd"], key=truth["pgd"].get)[1]


MASKED = {
    "lowest PGD": (lambda t: t | {"masked": min(t["pgd"], key=t["pgd"].get)}, "undefended"),
    "the robust one": (lambda t: t | {"masked": second(t)}, "hardly changes"),
    "name typed by hand": (lambda t: t | {"masked": masked_name(0)}, ""),
    "no stronger attack": (lambda t: highest(t) | {"stronger": t["pgd"]}, "proves nothing", "margin loss"),
    "percent": (lambda t: t | {"pgd": {k: 100 * v for k, v in t["pgd"].items()}}, "percentages"),
    "only the accused": (lambda t: t | {"stronger": {t["masked"]: 0.1}}, "control"),
    "invented PGD numbers": (lambda t: t | {"pgd": dict.fromkeys(t["pgd"], 0.4)}, "eps in another scale"),
    "attack outside the ball": (lambda t: t | {"stronger": dict.fromkeys(t["stronger"], 0.0)}, "eps-ball"),
    "name only": (lambda t: t["masked"], "dict"),
    "not a suspect": (lambda t: t | {"masked": "dogwood"}, "one of the models"),
}


@pytest.mark.parametrize("case", MASKED)
def test_masked_model_mistakes(truths, case):
    change, *words = MASKED[case]
    turned_away("masked_model", answering(truths, change), *words)


def test_the_masked_model_is_what_the_exercise_says(truths):
    truth = reference(*suspects(0))
    masked, robust = masked_name(0), second(truth)
    assert truth["masked"] == masked and masked_name(0) != masked_name(1)
    assert truth["pgd"][masked] > 0.9 and truth["stronger"][masked] < 0.3  # high under PGD, broken by the margin loss
    assert abs(truth["pgd"][robust] - truth["stronger"][robust]) < 0.05 and truth["pgd"][robust] > 0.5


# ---- the row of the table


@pytest.fixture(scope="module")
def measured():
    return train_and_evaluate()


TRAINING = {
    "validation images": (lambda e: Evaluation(e.eps, {k: v[:200] for k, v in e.flags.items()}), "test images"),
    "eps in 255ths": (lambda e: Evaluation(0.15 / 255, e.flags), "pixel scale"),
    "another eps": (lambda e: Evaluation(8 / 255, e.flags), "pixel scale"),
    "an attack missing": (lambda e: Evaluation(e.eps, {k: v for k, v in e.flags.items() if k != "cw20"}), "cw20"),
    "invented flags": (
        lambda e: Evaluation(e.eps, e.flags | {"pgd20": torch.ones(397, dtype=torch.bool)}),
        "wrong without",
    ),
    "summary instead of flags": (lambda e: e.summary(), "flags"),
    "nothing": (lambda e: None, "evaluate"),
}


@pytest.mark.parametrize("case", TRAINING)
def test_training_mistakes(measured, case):
    change, *words = TRAINING[case]
    turned_away("table_row", (lambda: change(measured), export_row), *words)


def untrained():
    from d2rkit.networks.architectures import build_model

    torch.manual_seed(0)
    return evaluate(build_model("mlp-64", 10, 64, 1), load_data("digits").test, ROW_ATTACKS, EPS)


def test_an_untrained_pair_is_seen():
    turned_away("table_row", (untrained, export_row), "above chance")


def scaled(factor=1.0, error=lambda p, n: (p * (1 - p) / n) ** 0.5, order=None, fixed=None):
    """export_row, of an evaluation whose numbers were computed wrongly."""

    def export(method, evaluation):
        class Wrong(Evaluation):
            def accuracy(self, attack):
                return factor * super().accuracy(attack)

            def standard_error(self, attack):
                return factor * error(super().accuracy(attack), len(self.flags[attack]))

        flags = evaluation.flags if fixed is None else fixed
        names = order(list(flags)) if order else list(flags)
        row = export_row(method, Wrong(evaluation.eps, dict(zip(flags, (flags[n] for n in names), strict=True))))
        return row

    return export


def changed(form, change):
    return lambda method, evaluation: (row := export_row(method, evaluation)) | {form: change(row[form])}


ROWS = {
    "shares instead of percent": (scaled(0.01), "percent"),
    "standard deviation": (scaled(error=lambda p, n: (p * (1 - p)) ** 0.5), "standard deviation"),
    "fixed number of images": (scaled(error=lambda p, n: (p * (1 - p) / 397) ** 0.5), "number of images", "160"),
    "1.96": (scaled(error=lambda p, n: 1.96 * (p * (1 - p) / n) ** 0.5), "1.96"),
    "another order": (scaled(order=lambda names: names[::-1]), "order of flags", "flags"),
    "no escape": (changed("latex", lambda t: t.replace("\\%", "%")), "special in LaTeX"),
    "bare ampersand": (changed("latex", lambda t: t.replace("\\&", "&")), "&"),
    "no end of row": (changed("latex", lambda t: t.rstrip("\\")), "ends with"),
    "± in LaTeX": (changed("latex", lambda t: t.replace("$\\pm$", "±")), "$\\pm$"),
    "comma unquoted": (changed("csv", lambda t: t.replace('"', "")), "quote"),
    "no header": (changed("csv", lambda t: t.split("\n")[1]), "header"),
    "no pipes": (changed("markdown", lambda t: t.replace("|", " ")), "pipes"),
    "no error": (changed("markdown", lambda t: t.replace("±", "|")), "pipes"),
    "name typed by hand": (lambda method, e: export_row("D2R+CAG", e), "argument `method`"),
    "numbers typed by hand": (lambda method, e: export_row(method, HAND), "eps"),
    "only one format": (lambda method, e: export_row(method, e)["latex"], "dict"),
}
HAND = Evaluation(EPS, {name: torch.arange(397) < 300 for name in ROW_ATTACKS})


@pytest.mark.parametrize("case", ROWS)
def test_row_mistakes(measured, case):
    export, *words = ROWS[case]
    if case == "numbers typed by hand":
        words = ["flags"]
    if case == "another order":
        words = ["keep the order of the flags"]
    turned_away("table_row", (lambda: measured, export), *words)


def test_the_row_by_hand_passes(measured):
    assert check("table_row", (lambda: measured, export_row))
