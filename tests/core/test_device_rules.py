"""The kit on a pretended GPU: nothing that a real one would refuse, and few moments at which it has to wait."""

import contextlib
from collections import Counter

import pytest
import torch

from d2rkit.data.datasets import augment
from d2rkit.evaluation.autoattack import AutoAttackBudget
from d2rkit.evaluation.evaluate import measure_attacks
from d2rkit.evaluation.evaluator import Budget, Evaluator
from d2rkit.evaluation.gradient_masking import checks_of
from d2rkit.methods import attacks
from d2rkit.methods.catalogue import METHODS
from d2rkit.networks.architectures import build_model
from d2rkit.networks.checkpoints import load_resume
from d2rkit.planning import synthetic
from d2rkit.training import loop
from d2rkit.training.recipe import generator_for
from tests.conftest import make_pair
from tests.pretend_device import Refused, pretend, pretended_fabric
from tests.training.test_loop import changed

KINDS = pytest.mark.parametrize("kind", ["cuda", "mps"])
QUICK = {"epochs": 1, "batch_size": 80, "steps": 2, "awp_warmup": 0}  # two steps of 80 images


@contextlib.contextmanager
def gpu_for_fit(kind, monkeypatch):
    with pretend(kind) as gpu, monkeypatch.context() as patch:
        patch.setattr(loop, "_fabric", pretended_fabric(gpu))
        yield gpu


def fit_on(kind, monkeypatch, data, folder=None, **settings):
    """A pair trained on the pretended device, what fit() said, and the device."""
    how = {k: settings.pop(k) for k in ("should_stop",) if k in settings}
    pair = make_pair()
    with gpu_for_fit(kind, monkeypatch) as gpu:
        fitted = loop.fit(pair, data, changed(**QUICK | settings), folder, device="auto", **how)
        assert not fitted.status.startswith("failed") and all(map(gpu.holds, pair.state_dict().values()))
    return pair, fitted, gpu


def victim(count=6):
    torch.manual_seed(0)
    network = build_model("cnn-4", 10, 8, 1).eval()
    x = torch.rand(count, 1, 8, 8)
    with torch.no_grad():
        return network, x, network(x).argmax(1)


# The pretended device itself ----------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "action",
    [
        lambda a, b: a + b, lambda a, b: torch.cat([a, b]), lambda a, b: a @ b.T, lambda a, b: b[a.argmax(1)],
        lambda a, b: a.numpy(), lambda a, b: torch.rand(2, device=a.device, generator=torch.Generator()),
    ],
    ids=["sum", "cat", "matmul", "index", "numpy", "generator"],
)  # fmt: skip
def test_what_a_device_refuses_is_refused(kind, action):
    with pretend(kind) as gpu:
        a, b = torch.rand(2, 2).to(gpu.device), torch.rand(2, 2)
        assert a.device == gpu.device and b.device.type == "cpu" and (a * torch.tensor(2.0)).device == gpu.device
        assert torch.zeros(2, device=gpu.device).device == gpu.device and a.cpu().numpy().shape == (2, 2)
        with pytest.raises(Refused):
            action(a, b)


def test_an_apple_gpu_has_no_float64():
    with pretend("mps") as gpu:
        x = torch.rand(2).to(gpu.device)
        for action in (x.double, lambda: x.to(torch.float64), lambda: torch.rand(2).double().to(gpu.device)):
            with pytest.raises(Refused, match="float64"):
                action()
    with pretend("cuda") as gpu:
        assert torch.rand(2).to(gpu.device).double().device == gpu.device


def test_waits_are_counted():
    with pretend("cuda") as gpu:
        x = torch.rand(4).to(gpu.device)
        gpu.waits.clear()
        x * 2
        assert gpu.waits.total() == 0
        x.sum().item(), x[x > 0.5], torch.tensor([1.0], device=gpu.device), bool(x[0] > 0)
        assert gpu.waits.total() >= 4


# Training -----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "d2r-cag", "ema": 0.9, "speed": "fast"},
        {"method": "d2r-cag-released", "update": "two-step", "guide_warmup": 1},
        {"method": "lbgat0", "micro_batch": 30},
        {"method": "d2r-cag-jeffreys", "guide_share": 0.5},
        {"method": "mart"},
        {"method": "adagat", "speed": "fast"},
        {"method": "trades-awp", "speed": "fast", "precision": "bf16-mixed"},
        {"method": "rslad", "guide_warmup": 1, "micro_batch": 30},
        {"method": "adaad", "guide_warmup": 1, "speed": "fast"},
        {"method": "iad", "guide_warmup": 1},
        {"method": "dgad", "guide_warmup": 1, "precision": "bf16-mixed"},
        {"method": "peeraid", "speed": "fast"},
        {"method": "adr", "ema": 0.9, "speed": "fast"},
        {"method": "ikl-guided", "micro_batch": 30},
    ],
    ids=lambda settings: settings["method"] + " " + " ".join(list(settings)[1:]),
)
def test_a_run_obeys_the_rules(kind, monkeypatch, few_digits, tmp_path, settings):
    _, fitted, _ = fit_on(kind, monkeypatch, few_digits, tmp_path, **settings)
    assert 0 <= fitted.history[-1]["val_pgd"] <= fitted.history[-1]["val_clean"] <= 1
    assert set(load_resume(tmp_path / "resume.pt")) >= {"device", "moved"}


@KINDS
def test_a_state_of_the_same_kind_is_gone_on_with(kind, monkeypatch, few_digits, tmp_path):
    stop = iter([True])
    fit_on(kind, monkeypatch, few_digits, tmp_path, ema=0.9, should_stop=lambda: next(stop, False))
    assert load_resume(tmp_path / "resume.pt")["device"] == kind
    _, rest, _ = fit_on(kind, monkeypatch, few_digits, tmp_path, ema=0.9)
    assert len(rest.history) == 1 and "moved" not in rest.history[0]


@KINDS
@pytest.mark.parametrize("old", [False, True], ids=["now", "a state without its device's name"])
def test_a_run_moves_between_kinds_of_device_and_says_so(kind, monkeypatch, few_digits, tmp_path, old):
    def here(folder, **how):
        return loop.fit(make_pair(), few_digits, changed(**QUICK | {"epochs": 2}), folder, device="cpu", **how)

    def there(folder, **how):
        return fit_on(kind, monkeypatch, few_digits, folder, epochs=2, **how)[1]

    for number, (first, second) in enumerate([(here, there), (there, here)]):
        folder, stop = tmp_path / str(number), iter([True])
        assert first(folder, should_stop=lambda stop=stop: next(stop, False)).status == "interrupted"
        if old:
            state = load_resume(folder / "resume.pt")
            del state["device"], state["moved"]
            torch.save(state, folder / "resume.pt")
        history = second(folder).history
        assert [row.get("moved") for row in history] == [1, None]
        assert (folder / "history.csv").read_text().splitlines()[0].split(",").count("moved") == 1


@pytest.mark.parametrize("method", ["d2r-cag", "trades-awp", "d2r-cag-awp", "adaad", "ikl-guided"])
def test_bf16_is_meant_for_every_convolution_of_a_step(monkeypatch, few_digits, method):
    seen, step = Counter(), loop.training_step

    def noted(*arguments, **how):
        before = len(gpu.convolutions)
        out = step(*arguments, **how)
        seen.update(dtype for dtype, _, _ in gpu.convolutions[before:])
        return out

    monkeypatch.setattr(loop, "training_step", noted)
    with gpu_for_fit("cuda", monkeypatch) as gpu:
        recipe = changed(**QUICK, method=method, precision="bf16-mixed", speed="fast")
        loop.fit(make_pair(guide=METHODS[method].needs_guide), few_digits, recipe, device="auto")
    assert set(seen) == {torch.bfloat16}


def waits_a_step(monkeypatch, data, **settings):
    """Of four steps instead of two, so that what a run waits for once drops out."""
    counts = [fit_on("cuda", monkeypatch, data, **settings | {"batch_size": b})[2].waits for b in (80, 40)]
    return {where: (counts[1][where] - n) / 2 for where, n in counts[1].items() if n != counts[0][where]}


@pytest.mark.parametrize("method", ["d2r-cag", "ikl-guided", "adr", "dgad", "peeraid"])
def test_a_training_step_waits_once(monkeypatch, few_digits, method):
    waits = waits_a_step(monkeypatch, few_digits, speed="fast", ema=0.9, method=method)
    assert sum(waits.values()) <= 1, waits


# Evaluation ---------------------------------------------------------------------------------------


@KINDS
def test_attacks_obey_the_rules_and_the_judge_has_no_tf32(kind, tmp_path):
    network, x, y = victim()
    budget = AutoAttackBudget(5, 2, 30)
    with pretend(kind) as gpu:
        network.to(gpu.device)
        evaluator = Evaluator(network, (x, y), budget=Budget(autoattack=budget))
        measured = measure_attacks(evaluator, ("clean", "fgsm", "pgd2", "cw2", "autoattack"), 0.02, folder=tmp_path)
        images, labels = evaluator.batch(slice(None))
        assert images.device == gpu.device
        assert kind != "cuda" or any(tf32 for _, tf32, _ in gpu.convolutions)  # of the attacks, which may
        gpu.convolutions.clear()
        evaluator.judge(images, labels)
        assert gpu.convolutions and not any(tf32 for _, tf32, _ in gpu.convolutions)
        for stage in synthetic.STAGES:
            synthetic.run_stage(network, stage, images, labels, budget)
    assert measured.flags["clean"].all()


@KINDS
def test_curve_checks_and_augmentation_obey_the_rules(kind, digits):
    (network, x, y), (guide, *_) = victim(), victim()
    with pretend(kind) as gpu:
        network.to(gpu.device), guide.to(gpu.device)
        evaluator = Evaluator(network, (x, y), budget=Budget(steps=2))
        evaluator.curve([0.0, 0.05], "pgd2")
        checks_of(evaluator, 0.01, guide)
        images = digits.train.take(slice(0, 4)).to(gpu.device).images
        generator = generator_for("augment", 0, gpu.device)
        assert gpu.holds(augment(images, 2, True, generator))
        with pytest.raises(Refused):
            augment(images, 2, True, torch.Generator())
        assert gpu.holds(attacks.uniform_start(images.float(), 0.1, generator))


@pytest.mark.parametrize(
    ("stage", "most", "short", "long"),
    [("apgd-ce", 3, 20, 50), ("apgd-t", 3, 20, 50), ("fab-t", 4, 5, 15), ("square", 2, 20, 50)],
)
def test_waits_in_an_iteration_of_autoattack(stage, most, short, long):
    waits_in = []
    for iterations in (short, long):
        network, x, y = victim()
        with pretend("cuda") as gpu:
            network.to(gpu.device)
            budget = AutoAttackBudget(iterations, 1, iterations)
            synthetic.run_stage(network, stage, x.to(gpu.device), y.to(gpu.device), budget)
        waits_in.append(gpu.waits)
    waits = {
        where: (n - waits_in[0][where]) / (long - short) for where, n in waits_in[1].items() if n != waits_in[0][where]
    }
    assert 0 < sum(waits.values()) <= most, waits
