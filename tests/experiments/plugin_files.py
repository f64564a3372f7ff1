"""A stranger's loss, network, data set and table, for the tests of plugins."""

import sys

from d2rkit.cli import main
from d2rkit.experiments import plugins

MINE = '''
import torch
import torch.nn.functional as F
from torch import nn

import d2rkit
from d2rkit.methods.divergences import kl

SHARE = 0.5


def pull(logits):
    return kl(logits.guide_clean, logits.target_adv).mean()


@d2rkit.register_method("mine", title="Mine", attack="cag", needs_guide=True, needs_clean=False)
def mine(logits, y, *, weight=4.0):
    """CE(g(x), y) + weight KL(p_g(x) || p_f(x')) + SHARE CE(f(x'), y)"""
    parts = {"guide": F.cross_entropy(logits.guide_clean, y), "pull": weight * pull(logits)}
    parts["adv"] = SHARE * F.cross_entropy(logits.target_adv, y)
    return d2rkit.Loss(sum(parts.values()), parts)


@d2rkit.register_model("tiny")
class Tiny(nn.Sequential):
    def __init__(self, num_classes, image_size, channels):
        convolution = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        super().__init__(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))


@d2rkit.register_dataset("quarters")
def quarters(root):
    x = torch.randint(0, 128, (120, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(120) % 4
    for label, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        x[y == label, :, row : row + 4, column : column + 4] += 120
    return d2rkit.Split(x[:100], y[:100]), d2rkit.Split(x[100:], y[100:]), ("nw", "ne", "sw", "se"), "drawn in mine.py"


BASE = d2rkit.Experiment(data="quarters", target="tiny", guide="tiny", epochs=1, batch_size=50, eps=0.1, padding=0)
d2rkit.register_preset("quarters-quick", BASE, rows=("mine", "trades"), seeds=(0, 1), title="Quarters")
'''  # 40 lines


PAINT = "x[y == label, :, row : row + 4, column : column + 4] += 120"


TABLE = """
title = "Mine beside TRADES, on quarters"
rows = ["mine", {name = "reference", method = "trades", title = "TRADES, here", lr = 0.2}]
seeds = [0]

[experiment]
data = "quarters"
target = "tiny"
guide = "tiny"
epochs = 1
batch_size = 40
eps = "26/255"
step_size = 0.05
steps = 1
padding = 0
flip = false
val_steps = 1
test_images = 10
attacks = ["clean", "pgd2"]
"""


def forget(tables=None, kept=None):
    """As in a process that has not loaded anything."""
    if tables is None:
        tables, kept = (plugins.REGISTERED, plugins.LOADED, *plugins.TABLES.values()), [{}, {}]
        own = {key.rpartition(" ")[::2] for key in plugins.REGISTERED}
        kept += [{n: v for n, v in t.items() if (kind, n) not in own} for kind, t in plugins.TABLES.items()]
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


def command(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", ["d2rkit", *line.split()])
    main()


def edited(files, old, new):
    text = (files / "mine.py").read_text()
    assert text.count(old) == 1
    (files / "mine.py").write_text(text.replace(old, new))
