"""What notebook 12 says beside its panel: five seeds and a control, an attack made again, what its predictions meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from d2rkit.core.validation import nearest
from d2rkit.data.datasets import load_data
from d2rkit.evaluation.evaluate import evaluate
from d2rkit.evaluation.sandwich import Sandwich
from d2rkit.networks.bounds import affine_layers, certified
from d2rkit.panels import base
from d2rkit.panels.certified_sandwich import BOUNDS, TITLES, Judged, Shipped, compute
from d2rkit.reporting.over_seeds import excludes_zero, mean_interval
from d2rkit.training.certified import fit_relu_mlp

SHORT = {"ibp": "interval bounds", "crown": "linear bounds"}


def draw_seeds(facts: Mapping[str, Any]) -> Figure:
    """For each network and seed the span from proven to not broken, at the notebook's eps."""
    made = base.figure(9.4, 3.7)
    ax = base.tidy(made.add_axes((0.15, 0.15, 0.58, 0.74)), f"robust accuracy at ε = {facts['eps255']:.0f}/255", "")
    looks = {"ibp": ("o", base.BLUE, "IBP proves"), "crown": ("D", base.GREEN, "CROWN proves")}
    at = 0
    for name in TITLES:
        for seed in seeds_of(facts):
            flags = flags_of(facts, name, seed)
            low, high = flags["crown"].mean(), flags["survived"].mean()
            ax.plot([low, high], [at, at], color="#B0B0B0", lw=5, solid_capstyle="butt", zorder=1,
                    label="open" if at == 0 else None)  # fmt: skip
            for bound, (mark, colour, label) in looks.items():
                ax.plot(flags[bound].mean(), at, mark, color=colour, ms=6, label=label if at == 0 else None)
            ax.plot(high, at, "x", color=base.RED, ms=8, mew=2, label="AutoAttack leaves" if at == 0 else None)
            at += 1
        at += 1
    count = len(seeds_of(facts))
    ax.set_yticks([(count + 1) * i + (count - 1) / 2 for i in range(len(TITLES))], list(TITLES.values()), fontsize=9)
    ax.set(xlim=(-0.01, 1), ylim=(at - 1, -1))
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.grid(axis="x", color="#E2E2E2", lw=0.8)
    ax.set_axisbelow(True)
    ax.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return made


# -- five seeds -------------------------------------------------------------------------------------------
def seeds_of(facts: Mapping[str, Any]) -> list[int]:
    return sorted({int(name.rpartition("-")[2]) for name in facts["seeds"]})


def flags_of(facts: Mapping[str, Any], name: str, seed: int) -> dict[str, np.ndarray]:
    """survived, ibp, crown: (N,) bool of one network at the notebook's eps."""
    recorded = facts["seeds"][f"{name}-{seed}"]
    return {part: np.array(list(recorded[part])) == "1" for part in ("survived", "ibp", "crown")}


def sandwiches(facts: Mapping[str, Any], name: str, bound: str = "crown") -> list[Sandwich]:
    """One a seed, at the notebook's eps. bound: "ibp" or "crown"; ValueError for another one, or another name."""
    if name not in TITLES:
        raise nearest(name, TITLES, "network")
    if bound not in BOUNDS.values():
        raise nearest(bound, BOUNDS.values(), "bound")
    every = [flags_of(facts, name, seed) for seed in seeds_of(facts)]
    return [Sandwich(flags[bound], flags["survived"], facts["eps255"] / 255) for flags in every]


def seeds_table(facts: Mapping[str, Any]) -> str:
    rows = []
    for name, title in TITLES.items():
        crown, by_ibp = sandwiches(facts, name), sandwiches(facts, name, "ibp")
        shares = ([s.lower for s in by_ibp], [s.lower for s in crown], [s.upper for s in crown])
        row = [mean_words(values) for values in shares]
        row.append(f"{min(s.decided for s in crown):.0%} to {max(s.decided for s in crown):.0%}")
        row.append(str(sum(len(s.contradictions) for s in crown)))
        rows.append((title, *row))
    header = ("training", "IBP proves", "CROWN proves", "AutoAttack leaves", "decided", "contradictions")
    count = len(seeds_of(facts))
    caption = (
        f"{facts['images']} test digits, ε = {facts['eps255']:.0f}/255, {count} seeds: mean ± half of the 95 % interval"
    )
    return base.table(header, rows, caption)


def mean_words(shares: Sequence[float]) -> str:
    """In percent, with half of the interval."""
    found = mean_interval(list(shares))
    return f"{100 * found.difference:.1f} ± {100 * (found.high - found.difference):.1f}"


def verdict(facts: Mapping[str, Any], control: str = "natural", bound: str = "ibp") -> str:
    """Does interval training close the gap, against a control of the same size, on all seeds together?"""
    trained, other = sandwiches(facts, "ibp", bound), sandwiches(facts, control, bound)
    ours, theirs = ([100 * float(one.open.mean()) for one in each] for each in (trained, other))
    gap = mean_interval([b - a for a, b in zip(ours, theirs, strict=True)])
    least, clash = min(s.decided for s in trained), sum(len(s.contradictions) for s in (*trained, *other))
    means = mean_interval(ours).difference, mean_interval(theirs).difference
    return (
        f"By {SHORT[bound]}, {means[0]:.1f} % of the digits are open after interval training and {means[1]:.1f} % with "
        f"{TITLES[control]}: a difference of {gap.difference:.1f} points (95 % interval over {len(trained)} seeds "
        f"{gap.low:.1f} to {gap.high:.1f}), which {'excludes' if excludes_zero(gap) else 'does not exclude'} 0. "
        f"After interval training at least {least:.0%} of the digits are decided on every seed. "
        + (f"CONTRADICTIONS: {clash}." if clash else "No digit is both proven and broken.")
    )


def attack_again(judged: Judged, eps: float) -> Sandwich:
    """AutoAttack here and now, whatever the files say, against CROWN's proofs (some seconds)."""
    flags = evaluate(judged.network, (judged.images, judged.labels), "autoattack", eps).flags["autoattack"]
    proven = certified(judged.layers, judged.images, judged.labels, eps)
    return Sandwich(proven.numpy(), flags.numpy(), eps)


# -- what came out, for the notebook's predictions --------------------------------------------------------------
def at_eps(shipped: Shipped, name: str, bound: str = "crown") -> Sandwich:
    """Seed 0 at the notebook's eps."""
    return compute(shipped.networks[name], bound, shipped.eps).sandwich


def proven_of(shipped: Shipped, name: str, bound: str = "crown") -> dict[str, Any]:
    sandwich = at_eps(shipped, name, bound)
    return {"actual": int(sandwich.proven.sum()), "words": f"{TITLES[name]}. {sandwich.report()}"}


def decided_of(shipped: Shipped, name: str, bound: str = "crown") -> dict[str, Any]:
    sandwich = at_eps(shipped, name, bound)
    return {"actual": int((~sandwich.open).sum()), "words": f"{TITLES[name]}. {sandwich.report()}"}


def by_radius(shipped: Shipped) -> str:
    """HTML: of each network what linear bounds prove and AutoAttack leaves, at every radius that was attacked."""
    rows = []
    for radius in shipped.facts["radii255"]:
        each = [compute(judged, "crown", radius / 255).sandwich for judged in shipped.networks.values()]
        rows.append((f"{radius}/255", *(f"{int(one.proven.sum())} to {int(one.survived.sum())}" for one in each)))
    header = ("ε", *(TITLES[name] for name in shipped.networks))
    return base.table(header, rows, f"Robust digits of {shipped.facts['images']}: proven (CROWN) to not broken, seed 0")


def wide_bread(shipped: Shipped, radius255: int = 26, more: str = "") -> dict[str, Any]:
    """At a large radius: of which network does CROWN prove most? A key of TITLES, the first one of equals. more: HTML
    to add."""
    by_network = {name: compute(judged, "crown", radius255 / 255).sandwich for name, judged in shipped.networks.items()}
    words = " ".join(
        f"{TITLES[name]}: proven {int(s.proven.sum())}, left {int(s.survived.sum())}." for name, s in by_network.items()
    )
    return {"actual": max(by_network, key=lambda name: by_network[name].lower), "words": base.sentence(words) + more}


def cost_of_proof(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Clean accuracy of the networks without a defence less that of interval training, in points, paired by seed."""
    clean = {name: [facts["seeds"][f"{name}-{seed}"]["clean"] for seed in seeds_of(facts)] for name in TITLES}
    n = facts["images"] / 100
    cost = mean_interval([(a - b) / n for a, b in zip(clean["natural"], clean["ibp"], strict=True)])
    listed = [
        f"{TITLES[name]} {', '.join(f'{value / n:.0f}' for value in values)}, mean "
        f"{mean_words([value / facts['images'] for value in values])}"
        for name, values in clean.items()
    ]
    words = f"Clean accuracy in %, seed by seed, and half of the 95 % interval: {'; '.join(listed)}."
    return {"actual": cost.difference, "interval": (cost.low, cost.high), "words": words}


def fit_again(radius255: float = 20, epochs: int = 5, seed: int = 0) -> str:
    """Interval training here and now (`epochs` epochs, half a second each) and what it proves at half, once and twice
    its radius, on the test digits that the notebook uses."""
    digits = load_data("digits")
    network = fit_relu_mlp(digits.train, "ibp", radius255 / 255, seed, epochs=epochs)
    x, y = digits.test.pixels()[:100], digits.test.labels[:100]
    layers, right = affine_layers(network, x.shape[1:]), float((network(x).argmax(1) == y).float().mean())
    shares = [certified(layers, x, y, factor * radius255 / 255).double().mean().item() for factor in (0.5, 1, 2)]
    told = ", ".join(
        f"{share:.0%} at {factor * radius255:g}/255" for share, factor in zip(shares, (0.5, 1, 2), strict=True)
    )
    return f"{epochs} epochs at ε = {radius255:g}/255: clean {right:.0%}; CROWN proves {told}."
