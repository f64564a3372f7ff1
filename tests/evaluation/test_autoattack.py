"""Our AutoAttack against a direct call of the package: same seed, same batch size, same flags."""

import copy
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyautoattack import AutoAttack
from torch import nn

from d2rkit.evaluation.autoattack import (
    STAGES,
    AutoAttackBudget,
    AutoAttackState,
    autoattack,
    correct,
    forked_rng,
)
from d2rkit.evaluation.autoattack.upstream import ContiguousGradient
from d2rkit.networks.architectures import build_model

EPS, SEED, BATCH = 0.22, 3, 20


@pytest.fixture(scope="module")
def sample(digits):
    return digits.test.pixels(slice(0, 60)), digits.test.labels[:60]


class Contiguous(nn.Module):
    """The package calls grad.view: a channels_last network needs its input gradient in the usual layout."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        if x.requires_grad:
            x.register_hook(lambda gradient: gradient.contiguous())
        return self.network(x)


# Few iterations, for what does not depend on their number: standard AutoAttack takes seconds an image.
SHORT = AutoAttackBudget(iterations=5, queries=20)


def shorten(attack):
    """The package's own AutoAttack, cut to SHORT."""
    attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = SHORT.iterations
    attack.square.n_queries = SHORT.queries
    return attack


short = partial(autoattack, budget=SHORT)


def direct(model, x, y, eps=EPS, prepare=lambda attack: attack):
    attack = prepare(AutoAttack(model, norm="Linf", eps=eps, seed=SEED, version="standard", device="cpu"))
    adversarial, _ = attack.run_standard_evaluation(x, y, batch_size=BATCH)
    with torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in adversarial.split(BATCH)]) == y


@pytest.fixture(scope="module")
def reference(trained_once, sample):
    """Flags of a direct call, and of ours."""
    model = copy.deepcopy(trained_once.target)
    with forked_rng():
        flags = direct(model, *sample)
    return flags, autoattack(model, *sample, eps=EPS, seed=SEED, batch_size=BATCH)


def test_flags_agree_with_a_direct_call(reference):
    flags, ours = reference
    assert 0 < flags.sum() < 50  # both outcomes occur
    assert torch.equal(ours.robust, flags)


def test_the_flags_after_each_attack_only_shrink(reference, trained_once, sample):
    _, ours = reference
    assert list(ours.after) == ["clean", *STAGES]
    assert torch.equal(ours.after["clean"], correct(trained_once.target, *sample, BATCH))
    for before, after in zip(["clean", *STAGES], STAGES, strict=False):
        assert not (ours.after[after] & ~ours.after[before]).any()
    assert torch.equal(ours.after["square"], ours.robust) and ours.after["clean"].sum() > ours.robust.sum()


def test_flags_agree_over_many_batches_of_every_attack(trained, sample):
    with forked_rng():
        flags = direct(trained.target, *sample, 0.15, shorten)
    stages = []
    state = short(
        trained.target,
        *sample,
        eps=0.15,
        seed=SEED,
        batch_size=BATCH,
        on_batch=lambda _, stage, __: stages.append(stage),
    )
    assert torch.equal(state.robust, flags) and not flags.all()
    assert all(stages.count(stage) > 1 for stage in STAGES)


def test_channels_last_network_agrees_with_a_direct_call():
    torch.manual_seed(0)
    model = build_model("cnn-8", 10, 16, channels=3).eval().to(memory_format=torch.channels_last)
    x = torch.rand(30, 3, 16, 16)
    y = model(x).argmax(1)  # untrained, but always right where it is not attacked
    eps = 0.1
    with forked_rng():
        flags = direct(Contiguous(model), x, y, eps, shorten)
    state = short(model, x, y, eps=eps, seed=SEED, batch_size=BATCH)
    assert torch.equal(state.robust, flags) and 0 < flags.sum() < 30
    channels_last = short(model, x.to(memory_format=torch.channels_last), y, eps=eps, seed=SEED, batch_size=BATCH)
    assert torch.equal(channels_last.robust, flags)


def test_gradients_reach_the_images_contiguously():
    model = ContiguousGradient(nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last))
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert gradient.is_contiguous()
    (again,) = torch.autograd.grad(model.network(x).sum(), x)
    assert torch.equal(gradient, again)


class Nearest(nn.Module):
    """Names the label of the nearest of some images: right however they are attacked."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x.flatten(1), y
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        nearest = torch.cdist(x.flatten(1), self.x).argmin(1)
        return self.scale * F.one_hot(self.y[nearest], 10) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_the_network_has_the_last_word_on_every_image(trained, sample):
    """What the copy falls for says nothing, as long as the network does not."""
    x, y = sample[0][:12], sample[1][:12]
    copy_alone = short(trained.target, x, y, eps=0.3, seed=SEED, batch_size=5).robust
    model = Nearest(x, y).eval()
    assert copy_alone.sum() < 6 and short(model, x, y, eps=0.3, through=trained.target, batch_size=5).robust.all()


def test_nothing_global_and_no_gradient_is_touched(trained, sample):
    x, y = sample[0][:8], sample[1][:8]
    model = trained.target.train()
    model.convs[0].weight.grad = torch.ones_like(model.convs[0].weight)
    model.linear.bias.requires_grad_(False)
    weights = copy.deepcopy(model.state_dict())
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    short(model, x, y, eps=EPS, seed=SEED, batch_size=BATCH)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]
    assert all(p.grad is None for name, p in model.named_parameters() if name != "convs.0.weight")
    assert torch.equal(model.convs[0].weight.grad, torch.ones_like(model.convs[0].weight))
    assert model.training and not model.linear.bias.requires_grad and model.linear.weight.requires_grad
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())


def test_seeds_matter_but_the_global_generator_does_not(trained, sample):
    x, y = sample[0][:8], sample[1][:8]
    torch.manual_seed(1)
    first = short(trained.target, x, y, eps=EPS, seed=SEED, batch_size=BATCH)
    torch.manual_seed(2)
    again = short(trained.target, x, y, eps=EPS, seed=SEED, batch_size=BATCH)
    assert all(torch.equal(first.after[s], again.after[s]) for s in first.after)


@pytest.mark.parametrize("cut", [1, 2, 4, 5])
def test_cut_off_and_resumed_ends_with_the_same_flags(trained, sample, cut):
    whole = short(trained.target, *sample, eps=EPS, seed=SEED, batch_size=BATCH)
    kept, stages = [], []

    def stop(state, stage, done):
        kept.append(copy.deepcopy(state))
        if len(kept) == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        short(trained.target, *sample, eps=EPS, seed=SEED, batch_size=BATCH, on_batch=stop)
    resumed = short(
        trained.target, *sample, eps=EPS, seed=SEED, batch_size=BATCH, state=kept[-1],
        on_batch=lambda state, stage, done: stages.append((stage, state.next_batch)),
    )  # fmt: skip
    assert ("apgd-ce", 1) not in stages  # what was done is not done again
    for stage in whole.after:
        assert torch.equal(resumed.after[stage], whole.after[stage])


def test_progress_goes_from_0_to_1(trained, sample):
    x, y = sample[0][:8], sample[1][:8]
    seen = []
    short(trained.target, x, y, eps=EPS, batch_size=4, on_batch=lambda state, stage, done: seen.append((stage, done)))
    assert [stage for stage, _ in seen] == sorted((stage for stage, _ in seen), key=STAGES.index)
    assert [done for _, done in seen] == sorted(done for _, done in seen) and seen[-1] == ("square", 1)


def test_no_survivors_are_no_trouble(trained, sample):
    x, y = sample[0][:6], sample[1][:6]
    assert not short(trained.target, x, (y + 1) % 10, eps=EPS).robust.any()  # already wrong when clean
    assert not short(trained.target, x, y, eps=0.9).robust.any()  # all fall to the first attack


def test_the_packages_warnings_are_kept_and_not_shown(sample, caplog, capsys):
    x, y = sample[0][:4], sample[1][:4]

    class Masked(nn.Module):
        """Right on every image, with gradients of exactly zero."""

        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.eye(10)[y] * 5)

        def forward(self, x):
            return self.table[torch.arange(len(x)) % len(self.table)] + 0 * x.sum((1, 2, 3))[:, None]

    state = short(Masked(), x, y, eps=EPS)
    assert any("zero gradient" in words for words in state.warnings)
    assert len(state.warnings) == len(set(state.warnings))
    assert not caplog.records and "gradient" not in capsys.readouterr().err


def test_square_beating_the_gradient_attacks_is_a_warning(trained, sample, monkeypatch):
    x, y = sample[0][:4], sample[1][:4]
    clean = torch.ones(4, dtype=torch.bool)
    after = {stage: clean.clone() for stage in ("clean", "apgd-ce", "apgd-t", "fab-t")}
    state = AutoAttackState(clean.clone(), after)
    broken = short(trained.target, x, y, eps=0.9, state=state)
    assert not broken.robust.any()
    assert any("Square alone broke another 100.0%" in words for words in broken.warnings)
    few = torch.zeros(len(y), dtype=torch.bool)
    few[clean.nonzero().flatten()[:2]] = True  # of which two are no sign of anything
    state = AutoAttackState(few.clone(), after | {"fab-t": few})
    assert short(trained.target, x, y, eps=0.9, state=state).warnings == []


@pytest.mark.parametrize("classes", [2, 3])
def test_fewer_than_four_classes_are_refused_in_one_sentence(sample, classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    with pytest.raises(ValueError, match=f"^standard AutoAttack needs at least 4 classes, not {classes}$"):
        autoattack(model, sample[0][:4], sample[1][:4] % classes, eps=EPS)


def test_four_classes_work(sample):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    x = sample[0][:6]
    y = model(x).argmax(1)
    assert short(model, x, y, eps=0.001).robust.any()
    assert not short(model, x, y, eps=0.9).robust.any()


def test_the_forked_generators_come_back_after_an_error():
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(RuntimeError, match="on purpose"), forked_rng():
        torch.manual_seed(99)
        random.seed(99)
        raise RuntimeError("on purpose")
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
