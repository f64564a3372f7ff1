"""d2rkit: guide-target adversarial training with the D2R loss and collaborative adversarial generation.

A reader's table of contents:

    data         load_data -> ImageData(train, val, test)
    models       build_model, load_released
    divergences  (B, C), (B, C) -> (B,)
    objectives   (Logits, y) -> Loss(total, parts): d2r, trades, mart, lbgat, adagat, pgd_at
    family       the same for D2R's relatives: rslad, peeraid, adaad, iad, dgad, adr, ikl
    attacks      pgd and, over it, fgsm, pgd_ce, cw, kl_self, cag, kl_pair
    methods      METHODS: the rows of every table
    training     Recipe, fit
    evaluation   evaluate -> Evaluation(flags)
    experiment   Experiment, run -> a run folder
    presets, sweep, tables, figures, panels, exercises
    plugins      register_method, _model, _dataset, _attack, _preset, _exercise: your own beside the kit's

Divergences and objectives are functions of logits; to look at one takes no network:

>>> import torch
>>> from d2rkit.divergences import kl
>>> certain, torn = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
>>> print(f"{kl(torn, certain).item():.4f} {kl(certain, torn).item():.4f}")  # KL(first ‖ second)
0.4338 0.3278
"""

from d2rkit import plugins
from d2rkit.arrays import Split
from d2rkit.data import ImageData, load_data
from d2rkit.evaluation import Evaluation, evaluate
from d2rkit.exercises import register_exercise
from d2rkit.experiment import Experiment, Run, build_pair, read_run, read_runs
from d2rkit.methods import METHODS, Method
from d2rkit.models import build_model, load_released
from d2rkit.objectives import Logits, Loss
from d2rkit.own_presets import read_preset, register_preset
from d2rkit.pair import GuidedPair
from d2rkit.plugins import load_plugin, register_attack, register_dataset, register_method, register_model
from d2rkit.presets import Preset, get_preset
from d2rkit.recipe import Recipe
from d2rkit.running import run
from d2rkit.training import Fit, fit

__all__ = [
    "METHODS",
    "Evaluation",
    "Experiment",
    "Fit",
    "GuidedPair",
    "ImageData",
    "Logits",
    "Loss",
    "Method",
    "Preset",
    "Recipe",
    "Run",
    "Split",
    "build_model",
    "build_pair",
    "evaluate",
    "fit",
    "get_preset",
    "load_data",
    "load_plugin",
    "load_released",
    "read_preset",
    "read_run",
    "read_runs",
    "register_attack",
    "register_dataset",
    "register_exercise",
    "register_method",
    "register_model",
    "register_preset",
    "run",
]

plugins.load_installed()
