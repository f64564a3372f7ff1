"""METHODS: the rows of every table. A method is an attack, an objective and a few facts about both."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from d2rkit.core.validation import check_choice, nearest, shown
from d2rkit.methods import attacks, family, objectives
from d2rkit.methods.objectives import Logits, Loss
from d2rkit.methods.pair import GuidedPair, required_guide

TWO_STEP = (("mse", "adv", "reverse"), ("ce", "clean"))  # adversarial distribution first, then the clean one
HANDED = ("progress", "class_means")  # what the training loop gives to objectives that ask for it by name


class PairAttack(NamedTuple):
    """make(pair, x, y, start=, guide_share=, eps=, step_size=, steps=) -> x', with None where images stay as they are.
    with_guide: whether it looks at the guide."""

    make: Callable[..., Tensor] | None
    with_guide: bool = False


def _ce(pair: GuidedPair, x: Tensor, y: Tensor, *, guide_share: float, **budget) -> Tensor:
    return attacks.pgd_ce(pair.target, x, y, **budget)


def _kl_self(pair: GuidedPair, x: Tensor, y: Tensor, *, guide_share: float, **budget) -> Tensor:
    return attacks.kl_self(pair.target, x, **budget)


def _cag(pair: GuidedPair, x: Tensor, y: Tensor, *, guide_share: float, **budget) -> Tensor:
    return attacks.cag(pair.target, required_guide(pair), x, guide_share=guide_share, y=y, **budget)


def _kl_pair(pair: GuidedPair, x: Tensor, y: Tensor, *, guide_share: float, **budget) -> Tensor:
    return attacks.kl_pair(pair.target, required_guide(pair), x, **budget)


PAIR_ATTACKS: dict[str, PairAttack] = {
    "none": PairAttack(None),
    "ce": PairAttack(_ce),
    "kl-self": PairAttack(_kl_self),
    "cag": PairAttack(_cag, with_guide=True),
    "kl-pair": PairAttack(_kl_pair, with_guide=True),
}
GUIDES = ("trained", "frozen", "average")


@dataclass(frozen=True)
class Method:
    """One way to train.

    title: its name in tables. objective: of `objectives` or `family`, called with `options`. attack: what makes x', of
    PAIR_ATTACKS ("none": only clean images). needs_guide: there is a guide beside the target. guide: of GUIDES; it is
    "trained" along by the objective; or "frozen" once it has been trained alone, on images attacked by PGD, for
    guide_warmup epochs; or the running "average" of the target's weights. needs_clean, needs_guide_clean,
    needs_guide_adv: f(x), g(x), g(x') are forwarded. clean_first: f(x) before f(x'), as released. uniform_start: the
    attack starts anywhere in the ball, not within 0.001 of x. awp: gamma of adversarial weight perturbation, or 0.
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
    guide: str = "trained"
    needs_guide_clean: bool = True
    needs_guide_adv: bool = False

    @property
    def attacks_with_guide(self) -> bool:
        return PAIR_ATTACKS[self.attack].with_guide

    @property
    def handed(self) -> tuple[str, ...]:
        """Which of HANDED the objective asks for."""
        return _handed(self.objective)

    def loss(
        self,
        logits: Logits,
        y: Tensor,
        changes: Mapping[str, float | str | bool] | None = None,
        **more: Any,
    ) -> Loss:
        """The objective with this method's options, some of them changed. more: progress and class_means, see
        `family`. What an objective does not ask for it does not get."""
        if changes is not None and not isinstance(changes, Mapping):
            raise ValueError(f"loss options are a dict from name to value, not {shown(changes)}")
        extra = {name: more[name] for name in self.handed if more.get(name) is not None}
        return self.objective(logits, y, **{**self.options, **(changes or {})}, **extra)

    def option(self, name: str, changes: Mapping[str, float | str | bool]) -> float | str | bool:
        """The value of a loss option once `changes` are made; KeyError for one that the objective does not have."""
        default = inspect.signature(self.objective).parameters[name].default
        given = {name: default, **self.options, **changes}
        # D2R's weights are None where they are its variant's.
        return objectives.D2R_WEIGHTS[given["variant"]][name] if given[name] is None else given[name]

    def check_options(self, changes: Mapping[str, float | str | bool]) -> None:
        """ValueError if `changes` names an option that the objective does not have, or gives it an impossible value."""
        signature = inspect.signature(self.objective).parameters.values()
        allowed = [p.name for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in HANDED]
        for name in changes if isinstance(changes, Mapping) else ():
            if name not in allowed:
                raise nearest(name, allowed or ["none"], f"loss option of {self.title}")
        blank = torch.zeros(2, 3)
        try:
            self.loss(Logits(blank, blank, blank, blank), torch.tensor([0, 1]), changes)
        except (TypeError, ArithmeticError, RuntimeError) as error:  # of an objective that checks nothing itself
            raise ValueError(f"{self.title} cannot be computed with {shown(changes)}: {error}") from error

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
        make, with_guide = PAIR_ATTACKS[self.attack]
        if not isinstance(pair, GuidedPair) or (with_guide and pair.guide is None):
            raise ValueError(f"{self.title} attacks a GuidedPair with a guide, not {shown(pair)}")
        if make is None:
            return None
        start = attacks.uniform_start(x, eps, generator) if self.uniform_start else attacks.gaussian_start(x, generator)
        return make(pair, x, y, start=start, guide_share=guide_share, eps=eps, step_size=step_size, steps=steps)

    def forward(self, model: Callable[..., Logits], x: Tensor, x_adv: Tensor | None) -> Logits:
        """The one train-mode forward of a step, in this method's order."""
        return model(
            x if self.needs_clean or self.needs_guide else None, x_adv, clean_first=self.clean_first,
            target_clean=self.needs_clean, guide_clean=self.needs_guide_clean, guide_adv=self.needs_guide_adv,
            guide_still=self.guide != "trained",
        )  # fmt: skip


@cache
def _handed(objective: Callable[..., Loss]) -> tuple[str, ...]:
    return tuple(name for name in HANDED if name in inspect.signature(objective).parameters)


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
    "rslad": Method(
        "RSLAD", family.rslad, "cag", needs_guide=True, guide="frozen", source="Zi et al. 2021; guide from scratch"
    ),
    "rslad-online": Method("RSLAD, online guide", family.rslad_online, "cag", needs_guide=True, source="RSLAD's terms"),
    "peeraid": Method(
        "PeerAiD", family.peeraid, "cag", needs_guide=True, needs_guide_clean=False, needs_guide_adv=True,
        source="Jung et al. 2024",
    ),
    "adaad": Method(
        "AdaAD", family.adaad, "kl-pair", needs_guide=True, guide="frozen", needs_guide_adv=True, clean_first=True,
        source="Huang et al. 2023; guide from scratch",
    ),
    "iad": Method(
        "IAD-I", family.iad, "ce", needs_guide=True, guide="frozen", needs_guide_adv=True, clean_first=True,
        source="Zhu et al. 2022; guide from scratch",
    ),
    "dgad": Method(
        "DGAD", family.dgad, "kl-pair", needs_guide=True, guide="frozen", needs_guide_adv=True, clean_first=True,
        source="Park & Min 2024; guide from scratch",
    ),
    "adr": Method(
        "ADR", family.adr, "ce", needs_guide=True, guide="average", needs_clean=False, uniform_start=True,
        source="Wu et al. 2024",
    ),
    "ikl": Method("IKL", family.ikl, clean_first=True, source="Cui et al. 2024"),
    "ikl-guided": Method(
        "IKL, guided", family.ikl, "cag", {"guided": True}, needs_guide=True, needs_clean=False,
        source="IKL with the guide's logits in the place of f(x)",
    ),
}  # fmt: skip


def get_method(name: str) -> Method:
    """METHODS[name], or a ValueError that names the nearest one."""
    check_choice(name, METHODS, "method")
    return METHODS[name]
