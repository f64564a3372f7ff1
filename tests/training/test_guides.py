"""Guides that are frozen, or an average of the target, and class means: what training does with them, at every door."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from d2rkit.data.arrays import Split
from d2rkit.exercises import ablation
from d2rkit.experiments.experiment import Experiment, build_pair
from d2rkit.experiments.presets import PRESETS, get_preset
from d2rkit.experiments.run import run
from d2rkit.methods import attacks
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.objectives import Logits
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.checkpoints import load_resume
from d2rkit.panels.table_rows import Setting, command_for
from d2rkit.planning.timing import guide_like, like
from d2rkit.training import guides, loop
from d2rkit.training.averaging import blend
from d2rkit.training.guides import by_method, decay_at, guide_of
from d2rkit.training.loop import fit
from tests.conftest import make_pair
from tests.experiments.test_experiment import TINY
from tests.training.test_loop import changed, same_weights

NEW = ("rslad", "rslad-online", "peeraid", "adaad", "iad", "dgad", "adr", "ikl", "ikl-guided")
FROZEN = [name for name in METHODS if METHODS[name].guide == "frozen"]


def trained(data, name, **settings):
    pair, after = make_pair(guide=METHODS[name].needs_guide), []
    recipe = by_method(changed(**settings), name)
    done = fit(pair, data, recipe, device="cpu", on_epoch=lambda row: after.append(copy.deepcopy(pair)))
    assert not done.status.startswith("failed")
    return pair, done.history, after


def test_the_family_is_sixteen_rows_with_a_guide():
    guided = [name for name, method in METHODS.items() if method.needs_guide]
    assert len(guided) == 16 and set(guided) == set(get_preset("family").rows)
    assert FROZEN == ["rslad", "adaad", "iad", "dgad"]
    assert {name for name, method in METHODS.items() if method.guide == "average"} == {"adr"}


# -- frozen -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FROZEN)
def test_a_frozen_guide_is_trained_first_and_then_never_moves(few_digits, name):
    """To the bit, BatchNorm's statistics too; nor does the target move before."""
    first = make_pair()
    pair, history, after = trained(few_digits, name, guide_warmup=2, epochs=2)
    assert same_weights(after[0].target, first.target) and same_weights(after[1].target, first.target)
    assert not same_weights(after[0].guide, first.guide) and not same_weights(after[1].guide, after[0].guide)
    assert same_weights(after[2].guide, after[1].guide) and same_weights(pair.guide, after[1].guide)
    assert not same_weights(after[2].target, after[1].target)
    assert [row["val_guide"] for row in history[1:]] == [history[1]["val_guide"]] * 3


def test_a_guide_to_be_frozen_is_trained_on_attacked_images(few_digits, monkeypatch):
    """Made by PGD on itself, in pieces of a micro-batch; another guide's warm-up sees clean images, as before."""
    seen = []

    def noted(network, x, y, **how):
        x_adv = attacks_pgd(network, x, y, **how)
        seen.append((network, len(x), float((x_adv - x).abs().max())))
        return x_adv

    attacks_pgd = attacks.pgd_ce
    monkeypatch.setattr(attacks, "pgd_ce", noted)
    pair, *_ = trained(few_digits, "rslad", guide_warmup=1, epochs=1, micro_batch=7)
    on_guide = [(n, far) for network, n, far in seen if network is pair.guide]
    assert sum(n for n, _ in on_guide) == len(few_digits.train) and max(n for n, _ in on_guide) <= 7
    assert all(0.05 < far <= 0.1 + 1e-6 for _, far in on_guide)
    seen.clear()
    pair, *_ = trained(few_digits, "rslad-online", guide_warmup=1, epochs=1)
    assert not any(network is pair.guide for network, *_ in seen)


@pytest.mark.parametrize("name", FROZEN)
def test_a_guide_drawn_at_random_is_not_frozen(name):
    with pytest.raises(
        ValueError, match=r"freezes its guide, which is drawn at random: set guide_warmup to the epochs"
    ):
        Experiment(method=name).check()
    assert Experiment(method=name, guide_warmup=1).check() is METHODS[name]


def test_a_guide_that_someone_brings_may_be_frozen_at_once(few_digits):
    pair = make_pair()
    before = copy.deepcopy(pair.guide)
    fit(pair, few_digits, changed(method="rslad", epochs=1), device="cpu")  # a Recipe knows of no random guide
    assert same_weights(pair.guide, before)


# -- an average -------------------------------------------------------------------------------------------------
def test_adrs_guide_is_the_average_of_its_target(few_digits, monkeypatch):
    """It starts as the target and follows it after every step, parameters and statistics."""
    expected, steps = [], []

    def noted(average, network, decay):
        if not expected:
            expected.append({k: v.clone().double() for k, v in start.target.state_dict().items()})
        steps.append(decay)
        for name, value in network.state_dict().items():
            expected[0][name] = decay * expected[0][name] + (1 - decay) * value
        blend(average, network, decay)

    start = make_pair()
    monkeypatch.setattr(guides, "blend", noted)
    pair, history, after = trained(few_digits, "adr", epochs=2)
    assert steps == [decay_at(k) for k in range(10)] and steps[0] == 0.1 and decay_at(10**6) == 0.999
    for name, value in pair.guide.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[0][name], rtol=1e-5, atol=1e-6)
    assert not same_weights(after[0].guide, start.guide) and not same_weights(pair.guide, pair.target)
    assert "train_clean" not in history[0] and "train_guide" in history[0]


def test_adr_needs_two_networks_that_are_alike_and_no_warm_up(few_digits):
    with pytest.raises(ValueError, match="guide of ADR is an average of the target; set guide_warmup to 0"):
        changed(method="adr", guide_warmup=1).check()
    pair = GuidedPair(make_pair(name="cnn-4").target, make_pair(name="cnn-8").target)
    with pytest.raises(ValueError, match="both must be the same network, with the same parameters"):
        fit(pair, few_digits, changed(method="adr"), device="cpu")
    with pytest.raises(ValueError, match="the pair has none"):
        fit(make_pair(guide=False), few_digits, changed(method="adr"), device="cpu")


# -- class means ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ikl", "ikl-guided"])
def test_class_means_are_the_last_epochs_predictions(few_digits, monkeypatch, name):
    """On clean images, by the network behind n, each at its step's weights; in the first epoch all classes alike."""
    seen, used, see, handed = [], [], guides.Beside.see, guides.Beside.handed

    def noted(beside, logits, y):
        clean = logits.guide_clean if name == "ikl-guided" else logits.target_clean
        seen.append((clean.detach().softmax(1), y))
        see(beside, logits, y)

    def given(beside, progress):
        extras = handed(beside, progress)
        used.append((extras["progress"], extras["class_means"].clone()))
        return extras

    monkeypatch.setattr(guides.Beside, "see", noted)
    monkeypatch.setattr(guides.Beside, "handed", given)
    trained(few_digits, name, epochs=2)
    assert [progress for progress, _ in used] == pytest.approx([k / 10 for k in range(10)])
    assert all(torch.equal(means, torch.full((10, 10), 0.1)) for _, means in used[:5])
    p, y = torch.cat([p for p, _ in seen[:5]]), torch.cat([y for _, y in seen[:5]])
    expected = torch.stack([p[y == c].mean(0) for c in range(10)])
    for _, means in used[5:]:
        torch.testing.assert_close(means, expected)


def test_a_class_without_an_image_keeps_its_means():
    beside = guides.Beside(METHODS["ikl"], make_pair(guide=False), 3, torch.device("cpu"))
    z = torch.tensor([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [2.0, 0.0, 0.0]])
    beside.see(Logits(z, z, None), torch.tensor([0, 2, 0]))
    beside.finish_epoch()
    torch.testing.assert_close(beside.means[0], z[[0, 2]].softmax(1).mean(0))
    torch.testing.assert_close(beside.means[2], z[1].softmax(0))
    assert torch.equal(beside.means[1], torch.full((3,), 1 / 3)) and not beside.sums.any()


def test_a_saved_state_holds_the_class_means_and_lacks_them_for_no_one(few_digits, tmp_path):
    stop = iter([False] * 6 + [True])
    fit(make_pair(), few_digits, changed(method="ikl-guided"), tmp_path, device="cpu", should_stop=lambda: next(stop))
    state = load_resume(tmp_path / "resume.pt")["beside"]
    assert state["means"].shape == (10, 10) and state["sums"].sum() == pytest.approx(64, rel=1e-5)
    beside = guides.Beside(METHODS["ikl"], make_pair(), 10, torch.device("cpu"))
    with pytest.raises(ValueError, match="lacks the class means that IKL needs"):
        beside.load({})


# -- with everything else ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NEW)
def test_awp_perturbs_every_new_row_and_comes_back(few_digits, monkeypatch, name):
    monkeypatch.setitem(METHODS, "perturbed", replace(METHODS[name], awp=5e-3))
    how = {"epochs": 2, "batch_size": 40, "steps": 1, "padding": 0, "awp_warmup": 1}
    _, plain, _ = trained(few_digits, name, **how)
    _, worst, _ = trained(few_digits, "perturbed", **how)
    assert worst[-2]["loss"] == plain[-2]["loss"]
    before, after = (row["loss"] - row.get("loss_guide_ce", 0.0) for row in (plain[-1], worst[-1]))
    assert after > before  # the target's terms: no weight of the guide is perturbed


@pytest.mark.parametrize("name", NEW)
def test_an_averaged_target_fast_copies_and_pieces_go_with_every_new_row(few_digits, name):
    pair, history, _ = trained(few_digits, name, epochs=2, ema=0.9, speed="fast", micro_batch=16)
    assert all(torch.isfinite(v).all() for v in pair.state_dict().values())
    assert history[-1]["loss"] < 50 and 0 <= history[-1]["val_pgd"] <= history[-1]["val_clean"] <= 1


def test_fast_copies_hold_the_guide_where_the_attack_looks_at_it(few_digits, monkeypatch):
    made, twin = {}, loop.AttackCopies

    def noted(pair, compiled, guide, dtype):
        made[method] = guide
        return twin(pair, compiled, guide, dtype)

    monkeypatch.setattr(loop, "AttackCopies", noted)
    for method in ("trades", "d2r-cag", "rslad", "adaad", "iad", "adr"):
        trained(few_digits, method, epochs=1, speed="fast")
    assert made == {"trades": False, "d2r-cag": True, "rslad": True, "adaad": True, "iad": False, "adr": False}


@pytest.mark.parametrize("name", ["rslad", "adr", "peeraid"])
def test_a_whole_run_is_measured_and_its_guide_checked(tmp_path, name):
    made = run(by_method(TINY, name), tmp_path, device="cpu")
    assert made.result["status"] in ("done", "stuck at chance") and 0 <= made.result["guide_clean"] <= 1
    assert "transfer" in {check["name"] for check in made.result["masking"]}


def test_two_steps_a_batch_are_refused():
    for name in NEW:
        with pytest.raises(ValueError, match="update two-step splits the plain D2R loss"):
            by_method(changed(update="two-step"), name).check()


# -- doors ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", METHODS)
def test_any_experiment_becomes_one_of_any_method(name):
    for base in (TINY, PRESETS["small"].base, replace(TINY, guide_warmup=3)):
        plan = by_method(base, name)
        assert plan.check() is METHODS[name] and plan.method == name
        assert like(plan).check() is METHODS[name]
        assert (guide_like(plan) is None) == (guide_of(plan) == "") == (not METHODS[name].needs_guide)
    assert plan.guide_warmup == (0 if METHODS[name].guide == "average" else 3)


def test_the_average_is_of_the_targets_kind_whatever_the_guide_says(digits):
    plan = replace(TINY, method="adr", target="cnn-4", guide="cnn-8")
    assert guide_of(plan) == "cnn-4" and guide_like(plan).guide == "cnn-4"
    pair = build_pair(plan, digits)
    assert [p.shape for p in pair.guide.parameters()] == [p.shape for p in pair.target.parameters()]
    assert guide_of(replace(plan, method="trades")) == "" and guide_of(replace(plan, method="peeraid")) == "cnn-8"


def test_commands_that_fill_a_cell_warm_up_what_is_frozen_and_name_no_guide_for_an_average():
    setting = Setting("cifar10", "wrn-34-10", 8 / 255)
    assert "--guide-warmup 33 --guide resnet18-guide" in command_for("rslad", setting, {})[0]
    assert "--guide" not in command_for("adr", setting, {})[0]
    assert "--guide-warmup" not in command_for("peeraid", setting, {})[0]


def test_the_exercise_trains_a_guide_first():
    assert ablation._recipe({"method": "rslad", "epochs": 3}, 0).guide_warmup == 1
    assert ablation._recipe({"method": "d2r-cag"}, 0).guide_warmup == 0


def test_no_more_images_than_a_micro_batch_are_forwarded(few_digits):
    data = replace(few_digits, train=Split(few_digits.train.images[:40], few_digits.train.labels[:40]))
    pair, seen = make_pair(), []
    for network in (pair.target, pair.guide):
        network.register_forward_pre_hook(lambda net, inputs: seen.append(len(inputs[0])))
    fit(pair, data, by_method(changed(epochs=1, micro_batch=8, val_steps=1), "dgad"), device="cpu")
    assert max(seen) <= 8


def test_networks_of_different_classes_are_refused_by_the_attack_through_both():
    pair = GuidedPair(nn.Linear(4, 3), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="must tell the same classes apart, not 3 and 2"):
        attacks.kl_pair(pair.target, pair.guide, torch.rand(2, 4), eps=0.1, step_size=0.1, steps=1)


def test_the_attack_through_both_is_the_formulas():
    torch.manual_seed(0)
    target, guide = nn.Linear(4, 3).double(), nn.Linear(4, 3).double()
    x = torch.rand(5, 4).double()
    x_adv = (x + 0.01).requires_grad_()
    F.kl_div(target(x_adv).log_softmax(1), guide(x_adv).log_softmax(1), reduction="sum", log_target=True).backward()
    expected = torch.min(torch.max(x + 0.01 + 0.05 * x_adv.grad.sign(), x - 0.05), x + 0.05).clamp(0, 1)
    attacked = attacks.kl_pair(target, guide, x, eps=0.05, step_size=0.05, steps=1, start=torch.full_like(x, 0.01))
    assert torch.equal(attacked, expected.detach())
    alone = attacks.cag(target, guide, x, eps=0.05, step_size=0.05, steps=1, start=torch.full_like(x, 0.01))
    assert not torch.equal(attacked, alone)
