"""What attacks go through is the network that is judged, whatever the network is made of."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from d2rkit.acceleration import attack_copies
from d2rkit.acceleration.attack_copies import BFLOAT16, FLOAT32, AttackCopies, attack_copy, difference
from d2rkit.acceleration.folding import FoldedCopy
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from tests.acceleration.test_folding import stir


@pytest.fixture(scope="module")
def sample(digits):
    return digits.test.pixels(slice(0, 80)), digits.test.labels[:80]


class Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


class Shifted(Wrapped):
    """The mean over copies of the image that are shifted by as many pixels as Python's loop says."""

    def forward(self, x):
        return sum(self.network(x.roll(s, -1)) for s in (-1, 0, 1)) / 3


class Views(Wrapped):
    def forward(self, x):
        return self.network(x).view(len(x), -1)


class Branches(Wrapped):
    def forward(self, x):
        return self.network(x * 0.5 if x.max() > 1 else x)


class Counts(Wrapped):
    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.network(x)


class Functional(nn.Module):
    """BatchNorm by torch.nn.functional."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.linear = nn.Linear(8, 10)
        for name, value in (("mean", torch.rand(8)), ("var", torch.rand(8) + 0.5)):
            self.register_buffer(name, value)

    def forward(self, x):
        return self.linear(F.batch_norm(self.conv(x), self.mean, self.var).relu().mean((2, 3)))


class Twice(nn.Module):
    """One convolution in two places, only one of them before a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.norm = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
        )
        self.linear = nn.Linear(4, 10)

    def forward(self, x):
        out = self.first(x)
        return self.linear((self.norm(self.conv(out)) + self.conv(out.relu())).mean((2, 3)))


class TiedWeights(Twice):
    """Two convolutions with one weight."""

    def __init__(self):
        super().__init__()
        self.other = nn.Conv2d(4, 4, 3, padding=1)
        self.other.weight = self.conv.weight

    def forward(self, x):
        out = self.first(x)
        return self.linear((self.norm(self.conv(out)) + self.other(out.relu())).mean((2, 3)))


class Calls(Wrapped):
    def __call__(self, x):
        return super().__call__((x - 0.3) / 0.3)


class HidesGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


class Masks(Wrapped):
    def forward(self, x):
        return self.network(HidesGradient.apply(x))


def hooked(network, register, hook, layer=None):
    network = copy.deepcopy(network)
    getattr(network if layer is None else network.get_submodule(layer), register)(hook)
    return network


def with_pre_hook(network):
    return hooked(network, "register_forward_pre_hook", lambda module, inputs: ((inputs[0] - 0.4) / 0.5,))


def with_inner_hook(network):
    return hooked(network, "register_forward_hook", lambda module, inputs, out: out.clamp(-1, 1), "convs.1")


def with_backward_hook(network):
    return hooked(network, "register_full_backward_hook", lambda module, inputs, outputs: (inputs[0] * 0,), "convs.0")


def parametrized(network):
    network = copy.deepcopy(network)
    parametrizations.spectral_norm(network.convs[1])
    return network.eval()


KINDS = {
    "forward pre-hook": with_pre_hook,
    "forward hook inside": with_inner_hook,
    "backward hook": with_backward_hook,
    "spectral norm": parametrized,
    "weight norm": lambda n: (net := copy.deepcopy(n), parametrizations.weight_norm(net.convs[1]))[0],
    "shifted copies": Shifted,
    "view of len(x)": Views,
    "branch on a value": Branches,
    "buffer that changes": Counts,
    "functional BatchNorm": lambda n: Functional(),
    "convolution used twice": lambda n: stir(Twice()),
    "tied weights": lambda n: stir(TiedWeights()),
    "own __call__": Calls,
    "masked gradient": Masks,
    "scripted": lambda n: torch.jit.trace(copy.deepcopy(n).eval(), torch.rand(2, 1, 8, 8)),
    "data parallel": lambda n: nn.DataParallel(copy.deepcopy(n)),
    "compiled": lambda n: torch.compile(copy.deepcopy(n), backend="eager"),
    "sequential": lambda n: nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10)),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_every_network_is_attacked_as_what_it_is(trained, sample, kind):
    torch.manual_seed(0)
    network, x = KINDS[kind](trained.target).eval(), sample[0]
    copied = attack_copy(network, x)
    assert copied.network is network or not difference(network, copied.network, x)
    labels = network(x).argmax(1).detach()  # right about all, whatever it has learnt
    fast, exact = (evaluate(network, (x, labels), "pgd10", 0.03, exact=e) for e in (False, True))
    assert abs(fast.accuracy("pgd10") - exact.accuracy("pgd10")) <= 2 / 80
    said = [note for note in fast.notes if "attacked without" in note]
    assert len(said) == (copied.network is network) and not [n for n in exact.notes if "attacked without" in n]


@pytest.mark.parametrize(
    "kind", ["forward pre-hook", "forward hook inside", "backward hook", "spectral norm", "own __call__"]
)
def test_what_tracing_would_lose_is_named(trained, sample, kind):
    copied = attack_copy(KINDS[kind](trained.target).eval(), sample[0])
    assert copied.reason and "\n" not in copied.reason


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_is_judged_but_has_no_gradient_to_attack(trained, sample):
    network = torch.ao.quantization.quantize_dynamic(copy.deepcopy(trained.target).eval(), {nn.Linear})
    assert evaluate(network, sample, "clean", 0.03).accuracy("clean") > 0.5
    with pytest.raises(ValueError, match="no gradient with respect to the images"):
        evaluate(network, sample, "pgd10", 0.03)


def test_a_hook_is_named_even_where_it_does_nothing_yet(trained, sample):
    network = copy.deepcopy(trained.target)
    network.linear.register_forward_hook(lambda *_: None)
    assert attack_copy(network, sample[0]).reason == "it has hooks (in linear)"


def test_hooks_for_all_modules_are_seen(trained, sample):
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "hooks are registered for all modules" in attack_copy(trained.target, sample[0]).reason
    finally:
        handle.remove()
    assert attack_copy(trained.target, sample[0]).reason == ""


def test_a_copy_that_differs_in_logits_gradient_or_far_from_the_images_is_found_out(trained, sample):
    x = sample[0]

    class Louder(Wrapped):
        def forward(self, x):
            return 1.01 * self.network(x)

    class Steeper(Wrapped):  # by less than a kink may be
        def forward(self, x):
            logits = self.network(x)
            return logits + 0.1 * (logits - logits.detach())

    class DiffersFar(Wrapped):
        def forward(self, x):
            return self.network(x) + (x.amax((1, 2, 3)) > 0.95).float()[:, None]

    class DiffersAlone(Wrapped):
        def forward(self, x):
            return self.network(x) + (len(x) == 1)

    network, quiet = trained.target, x * 0.93
    assert difference(network, copy.deepcopy(network), x) == ""
    assert "logits differ" in difference(network, Louder(network), x)
    assert "gradients differ by 100.0% to 100.0% on the first images" in difference(network, Masks(network), x)
    assert "gradients differ by 10.0% to 10.0% on the first images" in difference(network, Steeper(network), x)
    assert "on their corners" in difference(network, DiffersFar(network), quiet)
    assert "on one image" in difference(network, DiffersAlone(network), x)
    assert "copy fails" in difference(network, build_model("cnn-4", 10, 8, 3), x)
    assert "instead of (64, 10)" in difference(network, build_model("cnn-4", 7, 8, 1), x)


@pytest.mark.parametrize("name", ["wrn-10-1", "preactresnet18", "resnet18-guide", "patch-resnet-16", "cnn-16"])
def test_the_kits_networks_get_a_folded_copy(name):
    torch.manual_seed(0)
    copied = attack_copy(stir(build_model(name, 10, 32)), torch.rand(4, 3, 32, 32))
    assert copied.reason == "" and not any(isinstance(m, nn.BatchNorm2d) for m in copied.network.modules())


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "vgg11_bn", "densenet121", "shufflenet_v2_x0_5", "convnext_tiny"]
)
def test_torchvisions_networks_are_attacked_as_what_they_are(name):
    import torchvision

    torch.manual_seed(0)
    network, x = stir_any(getattr(torchvision.models, name)(num_classes=10)), torch.rand(2, 3, 64, 64)
    copied = attack_copy(network, x)
    assert copied.reason == "" and not difference(network, copied.network, x)


def stir_any(network):
    """As `stir`, by little, for deep networks whose logits would overflow."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.05)
            module.running_var.uniform_(0.8, 1.2)
    return network.eval()


# -- in training, where weights move after the proof ---------------------------------------------------------
class BareNorm(nn.Module):
    """A BatchNorm without running statistics behind a convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)
        self.linear = nn.Linear(4, 10)

    def forward(self, x):
        return self.linear(self.norm(self.conv(x)).mean((2, 3)))


class OwnTensor(Wrapped):
    def forward(self, x):
        return self.network(x - torch.tensor([0.5]))


class LinearNorm(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))


class TwoNorms(nn.Module):
    """One convolution before two BatchNorms."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.linear = nn.Linear(8, 10)

    def forward(self, x):
        return self.linear(torch.cat([self.first(self.conv(x)), self.second(self.conv(1 - x))], 1).mean((2, 3)))


class HiddenBuffer(Wrapped):
    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("shift", torch.zeros(()), persistent=False)

    def forward(self, x):
        return self.network(x + self.shift)


def zero_headed(network):
    network = copy.deepcopy(network)
    nn.init.zeros_(network.linear.weight)
    nn.init.zeros_(network.linear.bias)
    return network


TRAINED = {
    "norm without statistics": lambda n: BareNorm(),
    "tensor made in forward": OwnTensor,
    "linear and norm": lambda n: LinearNorm(),
    "two norms": lambda n: TwoNorms(),
    "non-persistent buffer": HiddenBuffer,
    "head of zeros": zero_headed,
}


@pytest.mark.parametrize("kind", TRAINED)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_what_is_attacked_in_training_stays_the_network(trained, sample, kind, dtype):
    torch.manual_seed(0)
    network, x = TRAINED[kind](trained.target), sample[0]
    twins = AttackCopies(GuidedPair(network), dtype=dtype)
    twins.refresh(x)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    attacked = twins.refresh(x).target
    tolerance = FLOAT32 if dtype is None else BFLOAT16
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        assert attacked is network or difference(network, attacked, x, tolerance) == ""


def test_a_copy_that_training_has_left_behind_is_dropped(trained, sample, caplog, monkeypatch):
    class Warmer(Wrapped):
        temperature = 1.0

        def forward(self, x):
            return self.network(x * self.temperature)

    monkeypatch.setattr(attack_copies, "PROVE_EVERY", 3)
    network, x = Warmer(trained.target), sample[0]
    twins = AttackCopies(GuidedPair(network))
    assert twins.refresh(x).target is not network
    network.temperature = 0.5
    found = [twins.refresh(x).target is network for _ in range(4)]
    assert found == [False, False, True, True] and "logits differ" in caplog.text


def test_one_image_with_a_great_gradient_does_not_hide_the_others(trained, sample):
    class Skew(Wrapped):
        """Masks the gradients of all images but the first, whose own is great."""

        def __init__(self, network, masked):
            super().__init__(network)
            self.masked = masked

        def forward(self, x):
            x = torch.cat([x[:1] * 300, x[1:].detach() if self.masked else x[1:]])
            return self.network(x)

    honest, masked = Skew(trained.target, False), Skew(trained.target, True)
    assert "gradients differ" in difference(masked, honest, sample[0])


def test_buffers_that_a_forward_changes_are_put_back(trained, sample):
    network = Counts(trained.target)
    assert "changes its own calls" in difference(network, copy.deepcopy(network), sample[0])
    assert network.calls == 0


def test_casts_are_left_where_images_come_in_float32():
    network = stir(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)))
    x, twins = torch.rand(4, 1, 8, 8), [FoldedCopy(network), FoldedCopy(network)]
    twins[1].cast(torch.bfloat16, x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(*(twin.twin(x) for twin in twins))
