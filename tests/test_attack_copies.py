"""What attacks go through is the network that is judged, whatever the network is made of."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from d2rkit.attack_copies import attack_copy, difference
from d2rkit.evaluation import evaluate
from d2rkit.models import build_model
from tests.test_folding import stir


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

    class DiffersFar(Wrapped):
        def forward(self, x):
            return self.network(x) + (x.amax((1, 2, 3)) > 0.95).float()[:, None]

    class DiffersAlone(Wrapped):
        def forward(self, x):
            return self.network(x) + (len(x) == 1)

    network, quiet = trained.target, x * 0.93
    assert difference(network, copy.deepcopy(network), x) == ""
    assert "logits differ" in difference(network, Louder(network), x)
    assert "gradients differ by 100.0% on the first batch" in difference(network, Masks(network), x)
    assert "on the corners" in difference(network, DiffersFar(network), quiet)
    assert "on one image" in difference(network, DiffersAlone(network), x)
    assert "copy fails" in difference(network, build_model("cnn-4", 10, 8, 3), x)
    assert "instead of (80, 10)" in difference(network, build_model("cnn-4", 7, 8, 1), x)


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
