"""METHODS: the rows of every table. A method is an attack, an objective and a few facts about both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from d2rkit import attacks, objectives
from d2rkit.border import check_choice, nearest, shown
from d2rkit.objectives import Logits, Loss
from d2rkit.pair import GuidedPair

ATTACKS = ("none", "ce", "kl-self", "cag")
TWO_STEP = (("mse", "adv", "reverse"), ("ce", "clean"))  # adversarial distribution first, then the clean one


@dataclass(frozen=True)
class Method:
    """One way to train.

    title: its name in tables. objective: of `objectives`, called with `options`. attack: what makes x'
    ("none": only clean images). needs_guide: a guide trains beside the target. needs_clean: f(x) is
    forwarded too. clean_first: f(x) before f(x'), as released. uniform_start: the attack starts anywhere
    in the ball, not within 0.001 of x. awp: gamma of adversarial weight perturbation, 0 for none.
    """

    title: str
    objective: Callable[..., Loss]
    attack: str = "kl-self"
    options: Mapping[str, float | str | bool] = field(default_factory=dict)
    needs_guide: bool = False
    needs_clean: bool = True
    clean_first: bool = False
    uniform_start: bool = False
    awp: float = 0.0
    source: str = ""

    def loss(
        self,
        logits: Logits,
        y: Tensor,
        changes: Mapping[str, float | str | bool] | None = None,
        gathered: Callable[[Tensor], Tensor] | None = None,
    ) -> Loss:
        """The objective with this method's options, some of them changed. gathered: for a batch spread over several
        devices, see objectives.d2r; the other objectives are means, which need no such help."""
        if changes is not None and not isinstance(changes, Mapping):
            raise ValueError(f"loss options are a dict from name to value, not {shown(changes)}")
        extra = {"gathered": gathered} if gathered and self.objective is objectives.d2r else {}
        return self.objective(logits, y, **{**self.options, **(changes or {})}, **extra)

    def check_options(self, changes: Mapping[str, float | str | bool]) -> None:
        """ValueError if `changes` names an option that the objective does not have, or gives it an impossible value."""
        signature = inspect.signature(self.objective).parameters.values()
        allowed = [p.name for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name != "gathered"]
        for name in changes if isinstance(changes, Mapping) else ():
            if name not in allowed:
                raise nearest(name, allowed or ["none"], f"loss option of {self.title}")
        blank = torch.zeros(2, 3)
        self.loss(Logits(blank, blank, blank), torch.tensor([0, 1]), changes)

    def perturb(
        self,
        pair: GuidedPair,
        x: Tensor,
        y: Tensor,
        *,
        eps: float,
        step_size: float,
        steps: int,
        guide_share: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor | None:
        """x' for a batch x: (B, C, H, W) in [0, 1], y: (B,) int64; None for natural training. ValueError where the pair
        lacks the guide that the attack needs, or for settings no attack has (see `attacks`)."""
        if not isinstance(pair, GuidedPair) or (self.attack == "cag" and pair.guide is None):
            raise ValueError(f"{self.title} attacks a GuidedPair with a guide, not {shown(pair)}")
        if self.attack == "none":
            return None
        budget = {"eps": eps, "step_size": step_size, "steps": steps}
        start = attacks.uniform_start(x, eps, generator) if self.uniform_start else attacks.gaussian_start(x, generator)
        if self.attack == "ce":
            return attacks.pgd_ce(pair.target, x, y, start=start, **budget)
        if self.attack == "kl-self":
            return attacks.kl_self(pair.target, x, start=start, **budget)
        return attacks.cag(pair.target, pair.guide, x, start=start, guide_share=guide_share, y=y, **budget)

    def forward(self, model: Callable[..., Logits], x: Tensor, x_adv: Tensor | None) -> Logits:
        """The one train-mode forward of a step, in this method's order."""
        return model(x if self.needs_clean or self.needs_guide else None, x_adv, clean_first=self.clean_first)


AWP = "Wu et al. 2020"


def _d2r(title: str, variant: str, attack: str = "cag", **facts) -> Method:
    return Method(
        title, objectives.d2r, attack, {"variant": variant}, needs_guide=True, source="arXiv 2506.07056", **facts
    )


METHODS: dict[str, Method] = {
    "natural": Method("Natural", objectives.natural, "none", source="no defence"),
    "pgd-at": Method(
        "PGD-AT", objectives.pgd_at, "ce", needs_clean=False, uniform_start=True, source="Madry et al. 2018"
    ),
    "trades": Method("TRADES", objectives.trades, clean_first=True, source="Zhang et al. 2019"),
    "mart": Method("MART", objectives.mart, "ce", clean_first=True, source="Wang et al. 2020"),
    "lbgat0": Method(
        "LBGAT (β=0)", objectives.lbgat, options={"beta": 0.0}, needs_guide=True, source="Cui et al. 2021"
    ),
    "lbgat6": Method(
        "LBGAT (β=6)", objectives.lbgat, options={"beta": 6.0}, needs_guide=True, source="Cui et al. 2021"
    ),
    "adagat": Method("AdaGAT", objectives.adagat, needs_guide=True, source="LBGAT with a guide drawn to the target"),
    "d2r": _d2r("D2R without CAG", "symmetric", "kl-self"),
    "d2r-cag": _d2r("D2R+CAG (symmetric)", "symmetric"),
    "d2r-cag-released": _d2r("D2R+CAG (released)", "released"),
    "d2r-cag-jeffreys": _d2r("D2R+CAG (Jeffreys, adversarial)", "jeffreys-adv"),
    "pgd-at-awp": Method(
        "PGD-AT-AWP", objectives.pgd_at, "ce", needs_clean=False, uniform_start=True, awp=1e-2, source=AWP
    ),
    "trades-awp": Method("TRADES-AWP", objectives.trades, clean_first=True, awp=5e-3, source=AWP),
    "d2r-cag-awp": _d2r("D2R+CAG-AWP (symmetric)", "symmetric", awp=5e-3),
}


def get_method(name: str) -> Method:
    """METHODS[name], or a ValueError that names the nearest one."""
    check_choice(name, METHODS, "method")
    return METHODS[name]
