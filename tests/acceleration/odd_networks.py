"""Networks that a copy could get wrong: hooks, shared weights, hidden state, masked gradients."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations


def stir(network, seed=0):
    """Weights and statistics as after some training: nothing at its initial 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
                module.running_var.mul_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return network.eval()


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
