"""Interactive panels, one file each: compute() -> plain data, draw() -> Figure, and a thin widget class.

In a notebook: `DivergenceExplorer().widget` as the last line of a cell.
"""

from d2rkit.panels.adversarial_image import AdversarialImage
from d2rkit.panels.base import StaticFigure, progress, still
from d2rkit.panels.cag_compare import CagCompare
from d2rkit.panels.controls import Choice, Slider
from d2rkit.panels.divergence_explorer import DivergenceExplorer
from d2rkit.panels.guide_and_target import GuideAndTarget
from d2rkit.panels.logit_scatter import LogitScatter
from d2rkit.panels.panel import Panel
from d2rkit.panels.prediction import Prediction
from d2rkit.panels.quiz import Question, Quiz

__all__ = [
    "AdversarialImage",
    "CagCompare",
    "Choice",
    "DivergenceExplorer",
    "GuideAndTarget",
    "LogitScatter",
    "Panel",
    "Prediction",
    "Question",
    "Quiz",
    "Slider",
    "StaticFigure",
    "progress",
    "still",
]
