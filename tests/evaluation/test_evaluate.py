"""evaluate(): flags, what is kept of them, and what it refuses."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from d2rkit.data.arrays import Split
from d2rkit.evaluation.evaluate import ATTACKS, evaluate, measure_attacks, parse_attack, parse_attacks
from d2rkit.evaluation.evaluator import Budget, Evaluator
from d2rkit.evaluation.gradient_masking import checks_of, masking_checks
from d2rkit.methods import attacks
from d2rkit.methods.pair import GuidedPair
from tests.evaluation.test_autoattack import SHORT, short

EPS = 0.2
FAST = ("clean", "fgsm", "pgd20", "cw20")


@pytest.fixture(scope="module")
def sample(digits):
    return Split(digits.test.images[:60], digits.test.labels[:60])


def briefly(model, data, attacks=ATTACKS, eps=EPS, *, folder=None, report=None, **how):
    """evaluate() with few iterations of AutoAttack."""
    evaluator = Evaluator(model, data, budget=Budget(autoattack=SHORT), **how)
    return measure_attacks(evaluator, parse_attacks(attacks), eps, folder=folder, report=report)


class Line(nn.Module):
    """Two classes, told apart by whether an image's mean is above 0.5; margin = 2 mean - 1."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        value = (x.mean((1, 2, 3)) - 0.5) * self.scale
        return torch.stack([-value, value], dim=1)


def grey(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()


@pytest.mark.parametrize("attack", ["fgsm", "pgd20", "pgd3", "cw20"])
def test_flags_of_a_linear_model_are_known(attack):
    x, y = grey(0.1, 0.45, 0.55, 0.9, 0.9), torch.tensor([0, 0, 1, 1, 0])
    result = evaluate(Line(), (x, y), ("clean", attack), eps=0.1)
    assert result.flags["clean"].tolist() == [True, True, True, True, False]
    assert result.flags[attack].tolist() == [True, False, False, True, False]
    assert result.accuracy(attack) == pytest.approx(0.4)
    assert result.standard_error(attack) == pytest.approx((0.4 * 0.6 / 5) ** 0.5)
    assert result.summary() == {"clean": pytest.approx(0.8), attack: pytest.approx(0.4)}


def test_every_attack_on_a_trained_network(trained, sample):
    result = briefly(trained, sample, eps=EPS, batch_size=20)
    assert tuple(result.flags) == ATTACKS
    accuracy = result.summary()
    assert accuracy["clean"] > 0.8
    assert accuracy["autoattack"] <= accuracy["pgd20"] <= accuracy["fgsm"] < accuracy["clean"]
    for flags in result.flags.values():
        assert flags.dtype == torch.bool and flags.shape == (60,) and not (flags & ~result.flags["clean"]).any()
    assert list(result.details) == ["clean", "apgd-ce", "apgd-t", "fab-t", "square"]
    assert torch.equal(result.details["square"], result.flags["autoattack"])


@pytest.mark.parametrize("batch_size", [7, 250])
def test_eps_zero_gives_exactly_the_clean_flags(trained, sample, batch_size, tmp_path):
    for folder in (None, tmp_path):
        result = evaluate(trained, sample, eps=0, batch_size=batch_size, folder=folder)
        assert tuple(result.flags) == ATTACKS and not result.flags["clean"].all()
        for name, flags in result.flags.items():
            assert torch.equal(flags, result.flags["clean"]), name


def test_pgd_is_the_attack_of_the_library(trained, sample):
    result = evaluate(trained, sample, ("pgd20",), EPS, seed=4, exact=True)
    model, x, y = trained.target, sample.pixels(), sample.labels
    clean = model(x).argmax(1) == y
    start = attacks.uniform_start(x[clean], EPS, torch.Generator().manual_seed(4 * 100_003))
    x_adv = attacks.pgd_ce(model, x[clean], y[clean], eps=EPS, step_size=EPS / 4, steps=20, start=start)
    expected = clean.clone()
    expected[clean] = model(x_adv).argmax(1) == y[clean]
    assert torch.equal(result.flags["pgd20"], expected)


def test_autoattack_is_the_wrapper_on_the_network_itself_when_exact(trained, sample):
    result = briefly(trained, sample, ("autoattack",), EPS, seed=4, batch_size=20, exact=True)
    state = short(trained.target, sample.pixels(), sample.labels, eps=EPS, seed=4, batch_size=20)
    assert torch.equal(result.flags["autoattack"], state.robust)


def test_folded_attacks_are_as_strong(trained, sample):
    """The network itself judges; the copy it is attacked through differs by rounding."""
    exact, fast = (evaluate(trained, sample, FAST, EPS, exact=e) for e in (True, False))
    assert torch.equal(exact.flags["clean"], fast.flags["clean"])
    for name in FAST[1:]:
        assert abs(exact.accuracy(name) - fast.accuracy(name)) <= 2 / 60


def test_data_may_be_a_split_or_images_and_labels_of_any_integer_type(trained, sample):
    flags = evaluate(trained, sample, FAST, EPS).flags
    for labels in (sample.labels, sample.labels.int(), sample.labels.to(torch.uint8)):
        again = evaluate(trained, (sample.pixels().double(), labels), FAST, EPS).flags
        assert all(torch.equal(again[name], flags[name]) for name in FAST)


def test_a_pair_is_judged_by_its_target_a_network_by_itself(trained, sample):
    swapped = GuidedPair(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), trained.target)
    assert torch.equal(evaluate(trained, sample, FAST, EPS).flags["pgd20"], evaluate(trained.target, sample, FAST, EPS).flags["pgd20"])  # fmt: skip  # noqa: E501
    assert evaluate(swapped, sample, ("clean",), EPS).accuracy("clean") < 0.5


def test_flags_depend_on_the_seed_only(trained, sample):
    torch.manual_seed(0)
    first = evaluate(trained, sample, ("fgsm",), EPS, seed=1)
    torch.manual_seed(1)
    again = evaluate(trained, sample, ("fgsm",), EPS, seed=1)
    assert torch.equal(first.flags["fgsm"], again.flags["fgsm"])
    others = [evaluate(trained, sample, ("fgsm",), EPS, seed=s).flags["fgsm"] for s in range(2, 8)]
    assert any(not torch.equal(first.flags["fgsm"], other) for other in others)


def test_the_network_is_left_as_it_was(trained, sample):
    trained.train()
    before, generator = copy.deepcopy(trained.state_dict()), torch.get_rng_state()
    briefly(trained, sample.take(slice(0, 10)), eps=EPS)
    assert trained.target.training and all(p.requires_grad and p.grad is None for p in trained.parameters())
    assert all(torch.equal(before[k], v) for k, v in trained.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_images_that_are_all_misclassified(trained, sample):
    wrong = (sample.pixels(), (trained.target(sample.pixels()).argmax(1) + 1) % 10)
    result = evaluate(trained, wrong, eps=EPS)
    assert not any(flags.any() for flags in result.flags.values())


def test_progress_goes_from_0_to_1_in_words(trained, sample):
    seen = []
    briefly(
        trained,
        sample.take(slice(0, 20)),
        eps=EPS,
        batch_size=10,
        report=lambda done, words: seen.append((done, words)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[0][0] == 0 and seen[-1][0] == 1
    assert {words.split()[0] for _, words in seen} == set(ATTACKS)


# Kept flags --------------------------------------------------------------------------------------


def test_flags_are_kept_and_read_back(trained, sample, tmp_path, monkeypatch):
    first = briefly(trained, sample, eps=EPS, folder=tmp_path)
    assert sorted(p.name for p in (tmp_path / "evaluation").iterdir()) == sorted(f"{name}.npz" for name in ATTACKS)
    with np.load(tmp_path / "evaluation" / "pgd20.npz", allow_pickle=False) as arrays:
        assert arrays["flags"].tolist() == first.flags["pgd20"].tolist()
    for name in ("judge", "_attack", "autoattack"):
        monkeypatch.setattr(Evaluator, name, lambda *_: pytest.fail("measured again"))
    again = briefly(trained, sample, eps=EPS, folder=str(tmp_path))
    assert all(torch.equal(first.flags[name], again.flags[name]) for name in ATTACKS)
    assert all(torch.equal(first.details[name], again.details[name]) for name in first.details)
    assert again.warnings == first.warnings and first.details.keys() == again.details.keys()


def test_each_checkpoint_has_its_own_flags(trained, sample, tmp_path):
    for checkpoint in ("best", "last"):
        evaluate(trained, sample, ("clean",), EPS, folder=tmp_path, checkpoint=checkpoint)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation", "evaluation-last"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eps": 0.3}, "another eps than 0.3"),
        ({"seed": 9}, "another seed than 9"),
        ({"eot": 4}, "another eot than 4"),
        ({"images": 40}, "another count than 40"),
    ],
)
def test_flags_of_something_else_are_refused_and_stay(trained, sample, tmp_path, change, words):
    evaluate(trained, sample, ("clean", "fgsm"), EPS, folder=tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "evaluation").iterdir()}
    part = sample.take(slice(0, change.get("images", 60)))
    with pytest.raises(ValueError, match=f"holds flags for {words}; choose another folder"):
        how = {"eps": EPS, "seed": 0} | {name: value for name, value in change.items() if name != "images"}
        evaluate(trained, part, ("clean", "fgsm"), **how, folder=tmp_path)
    assert {p: p.read_bytes() for p in (tmp_path / "evaluation").iterdir()} == before


def test_flags_of_as_many_other_images_are_refused(trained, digits, sample, tmp_path):
    evaluate(trained, sample, ("clean",), EPS, folder=tmp_path)
    others = Split(digits.val.images[:60], digits.val.labels[:60])
    with pytest.raises(ValueError, match="holds flags for other images"):
        evaluate(trained, others, ("clean",), EPS, folder=tmp_path)
    with pytest.raises(ValueError, match="holds flags for other images"):
        evaluate(trained, Split(sample.images, sample.labels.flip(0)), ("clean",), EPS, folder=tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_truncated_flags_are_refused_and_stay(trained, sample, tmp_path, share):
    evaluate(trained, sample, ("fgsm",), EPS, folder=tmp_path)
    file = tmp_path / "evaluation" / "fgsm.npz"
    cut = file.read_bytes()[: int(share * file.stat().st_size)]
    file.write_bytes(cut)
    with pytest.raises(ValueError, match=r"fgsm\.npz is damaged .* move it away") as error:
        evaluate(trained, sample, ("fgsm",), EPS, folder=tmp_path)
    assert "\n" not in str(error.value) and file.read_bytes() == cut


class Cut(Exception):
    pass


def cut_after(batches):
    """A report that breaks off after so many of AutoAttack's batches."""
    seen = []

    def report(done, words):
        if words.startswith("autoattack "):
            seen.append(words)
        if len(seen) == batches:
            raise Cut

    return report


@pytest.mark.parametrize(("batches", "then"), [(1, 20), (3, 20), (5, 20), (6, 20), (1, 60), (3, 11), (5, 60)])
def test_autoattack_goes_on_where_it_was_cut_off(trained, sample, tmp_path, batches, then):
    """`then` is the second run's batch size. With the same batches (20) the flags are those of an uninterrupted
    run; with others the attack that was cut off begins anew, so that no image escapes it."""
    how = {"attacks": ("autoattack",), "eps": 0.15}
    whole = briefly(trained, sample, **how, batch_size=20)
    with pytest.raises(Cut):
        briefly(trained, sample, **how, batch_size=20, folder=tmp_path, report=cut_after(batches))
    partial = tmp_path / "evaluation" / "autoattack.partial.npz"
    assert partial.exists() and not (tmp_path / "evaluation" / "autoattack.npz").exists()
    seen = []
    resumed = briefly(
        trained, sample, **how, batch_size=then, folder=tmp_path, report=lambda done, words: seen.append(words)
    )
    assert not partial.exists()
    fresh = [words for words in seen if words.startswith("autoattack apgd-ce,")]
    if then == 20:
        for name, flags in whole.details.items():
            assert torch.equal(resumed.details[name], flags), name
        assert len(fresh) == max(0, 3 - batches)
    else:
        assert len(fresh) == (-(-int(whole.details["clean"].sum()) // then) if batches < 4 else 0)


# Input validation -------------------------------------------------------------------------------


def test_attack_names():
    assert [parse_attack(name) for name in ("clean", "fgsm", "pgd7", "cw100", "autoattack")] == [
        ("clean", 1), ("fgsm", 1), ("pgd", 7), ("cw", 100), ("autoattack", 1),
    ]  # fmt: skip
    for name in ("pgd", "pgd0", "pgd-20", "autoatack", "PGD20"):
        with pytest.raises(ValueError, match=f"unknown attack '{name}'.*allowed: clean, .*, pgdN and cwN with N steps"):
            parse_attack(name)


X, Y = torch.rand(4, 1, 8, 8), torch.arange(4)


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        ((X, Y), {"attacks": ("pgd20", "autoatack")}, "unknown attack 'autoatack' .*'autoattack'"),
        ((X, Y), {"eps": 8.0}, r"pixel scale and must lie in \[0, 1\], .* not 8.0"),
        ((X, Y), {"eps": -0.1}, "not -0.1"),
        ((X * 255, Y), {}, r"images must lie in \[0, 1\]"),
        (((X * 255).to(torch.uint8), Y), {}, "divide uint8 pixels by 255"),
        ((X - 0.5, Y), {}, r"images must lie in \[0, 1\]"),
        ((X[0], Y), {}, r"shape \(N, C, H, W\), not \(1, 8, 8\)"),
        ((X, Y[:3]), {}, "4 images need labels"),
        ((X, Y + 7), {}, r"labels must lie in 0\.\.9, not in 7\.\.10"),
        ((X, Y - 1), {}, r"labels must lie in 0\.\.9, not in -1\.\.2"),
        ((X, Y.float()), {}, "labels must be integers"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(trained_once, tmp_path, data, settings, words):
    with pytest.raises(ValueError, match=words) as error:
        evaluate(trained_once, data, **{"attacks": ("clean",), "folder": tmp_path / "run"} | settings)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_autoattack_with_too_few_classes_is_refused():
    with pytest.raises(ValueError, match="at least 4 classes, not 2"):
        evaluate(Line(), (grey(0.1, 0.9), torch.tensor([0, 1])), ("autoattack",), 0.1)


# Curves and masking ------------------------------------------------------------------------------


def test_accuracy_falls_with_eps(trained, sample):
    curve = Evaluator(trained, sample).curve([0.0, 0.1, 0.2, 0.6])
    values = [flags.float().mean().item() for flags in curve.values()]
    assert list(curve) == [0.0, 0.1, 0.2, 0.6] and values == sorted(values, reverse=True) and values[-1] <= 0.05


def test_an_honest_network_passes_the_masking_checks(trained, digits):
    # All test images: on 60 of them PGD and C&W part by chance, on one CPU more than on another.
    checks = masking_checks(trained.target, digits.test, EPS, guide=trained.guide)
    names = ["large radius", "more steps", "margin loss", "same answer", "outputs", "gradients", "transfer"]
    assert [check.name for check in checks] == names
    assert all(check.passed for check in checks), checks


def test_what_is_known_is_not_measured_again(trained, sample, monkeypatch):
    evaluator = Evaluator(trained, sample)
    expected = {eps: Evaluator(trained, sample).flags("pgd20", eps) for eps in (0.1, EPS)}
    measured, whole = [], Evaluator._attack

    def noted(self, kind, steps, eps, progress):
        measured.append((f"{kind}{steps}", eps))
        return whole(self, kind, steps, eps, progress)

    monkeypatch.setattr(Evaluator, "_attack", noted)
    for _ in range(2):
        curve = evaluator.curve([0.0, 0.1, EPS])
        checks = checks_of(evaluator, EPS, trained.guide)
    assert all(torch.equal(curve[eps], flags) for eps, flags in expected.items())
    assert measured == [("pgd20", 0.1), ("pgd20", EPS), ("pgd100", 1.0), ("pgd100", EPS), ("cw20", EPS)]
    assert checks == masking_checks(trained.target, sample, EPS, guide=trained.guide)


class Staircase(nn.Module):
    """Rounds its input: the same predictions, no gradient."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network((x * 16).round() / 16 + 0 * x)


def test_a_network_that_hides_its_gradient_is_found_out(trained, sample):
    checks = {c.name: c.passed for c in masking_checks(Staircase(trained.target), sample, EPS, guide=trained.target)}
    assert not checks["large radius"] and not checks["transfer"]
    assert "transfer" not in {c.name for c in masking_checks(trained.target, sample, EPS)}
