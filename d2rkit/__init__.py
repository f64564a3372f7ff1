"""d2rkit: guide-target adversarial training with the D2R loss and collaborative adversarial generation.

A reader's table of contents:

    data          load_data -> ImageData(train, val, test)
    methods       .divergences  (B, C), (B, C) -> (B,)
                  .objectives   (Logits, y) -> Loss(total, parts): d2r, trades, mart, lbgat, adagat, pgd_at
                  .family       the same for D2R's relatives: rslad, peeraid, adaad, iad, dgad, adr, ikl
                  .attacks      pgd and, over it, fgsm, pgd_ce, cw, kl_self, cag, kl_pair
                  .catalogue    METHODS: the rows of every table
    networks      build_model, load_released
    training      Recipe, fit
    evaluation    evaluate -> Evaluation(flags)
    experiments   Experiment, run -> a run folder; presets, sweeps, status
                  .plugins      register_method, _model, _dataset, _attack, _preset: your own beside the kit's
    planning      what a table costs
    reporting     tables, paired tests, figures
    core, acceleration, panels, exercises, cli

Divergences and objectives are functions of logits; to look at one takes no network:

>>> import torch
>>> from d2rkit.methods.divergences import kl
>>> certain, torn = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
>>> print(f"{kl(torn, certain).item():.4f} {kl(certain, torn).item():.4f}")  # KL(first ‖ second)
0.4338 0.3278
"""

from importlib.metadata import PackageNotFoundError, version

from d2rkit.core import starting  # noqa: F401  (first: for Ctrl-C during the imports below)
from d2rkit.data.arrays import Split
from d2rkit.data.datasets import ImageData, load_data
from d2rkit.evaluation.evaluate import Evaluation, evaluate
from d2rkit.exercises import register_exercise
from d2rkit.experiments import plugins
from d2rkit.experiments.experiment import Experiment, Run, build_pair, read_run, read_runs
from d2rkit.experiments.own_presets import read_preset, register_preset
from d2rkit.experiments.plugins import load_plugin, register_attack, register_dataset, register_method, register_model
from d2rkit.experiments.presets import Preset, get_preset
from d2rkit.experiments.run import run
from d2rkit.methods.catalogue import METHODS, Method
from d2rkit.methods.objectives import Logits, Loss
from d2rkit.methods.pair import GuidedPair
from d2rkit.networks.architectures import build_model
from d2rkit.networks.loading import load_released
from d2rkit.training.loop import Fit, fit
from d2rkit.training.recipe import Recipe

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
    "__version__",
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

try:
    __version__ = version("d2rkit")
except PackageNotFoundError:  # a copy on the path that was never installed
    __version__ = "unknown"

plugins.load_installed()
