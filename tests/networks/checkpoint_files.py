"""Checkpoints as others write them: a network, its weights below a prefix, a file."""

import torch
from torch import nn

from d2rkit.networks.architectures import build_model


def network(name, classes, size):
    torch.manual_seed(0)
    model = build_model(name, classes, size)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    return model.eval()


def same_function(a, b, size):
    x = torch.rand(2, 3, size, size)
    with torch.no_grad():
        return torch.equal(a.eval()(x), b.eval()(x))


def write(path, content):
    torch.save(content, path)
    return path


def below(prefix, state):
    return {prefix + key: value for key, value in state.items()}
