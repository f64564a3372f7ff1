"""What the notebooks' predictions are measured by: from results at hand to the answer and a sentence about it.

Each function takes what a cell has just computed and gives keywords for `Prediction.reveal`: actual, words, and where
there is one an interval. No answer is typed into a notebook, so a result that comes out otherwise changes the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2rkit.core.paths import shipped
from d2rkit.evaluation.autoattack import STAGES
from d2rkit.evaluation.evaluate import Evaluation
from d2rkit.evaluation.evaluator import Evaluator
from d2rkit.evaluation.gradient_masking import MaskingCheck
from d2rkit.experiments.experiment import read_run
from d2rkit.methods import divergences
from d2rkit.methods.catalogue import METHODS
from d2rkit.panels import base
from d2rkit.panels import cag_compare as compare
from d2rkit.panels import divergence_explorer as simplex
from d2rkit.panels.adversarial_image import Points
from d2rkit.panels.cag_compare import Comparison, Transfer
from d2rkit.panels.divergence_explorer import Landscape
from d2rkit.panels.guide_and_target import Trained
from d2rkit.panels.logit_scatter import Scatter
from d2rkit.panels.sample_pairs import SamplePair, flags_at_hand
from d2rkit.panels.shares import Share
from d2rkit.panels.table_browser import TableBrowser
from d2rkit.panels.term_ablation import span
from d2rkit.reporting.frame import attack_title
from d2rkit.reporting.significance import bootstrap_difference, mcnemar, paired_table

Answer = dict[str, Any]


def p_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def percent(share: Share, words: str = "") -> Answer:
    """A number in percent with its 95 % interval."""
    return {"actual": round(100 * share.value, 1), "interval": (100 * share.low, 100 * share.high), "words": words}


def compared(first: str, second: str, flags_a: np.ndarray, flags_b: np.ndarray) -> Answer:
    """Which of two networks is right more often on the same images: "first", "second", "same" (McNemar, p < 0.05)."""
    test = mcnemar(flags_a, flags_b)
    a, b = Share.of(flags_a), Share.of(flags_b)
    actual = "same" if test.p >= 0.05 else "first" if a.right > b.right else "second"
    words = (
        f"{first}: {a}, {second}: {b}. Images that only one of the two gets right: {test.a_only} and {test.b_only}, "
        f"{p_words(test.p)} (McNemar)."
    )
    return {"actual": actual, "words": words}


# -- 00 -----------------------------------------------------------------------------------------------------
def fooled_alike(sample: SamplePair, judged: Evaluation) -> Answer:
    """Do images made against the target fool the guide? judged: the target, clean and under pgd20 at sample.eps."""
    if sample.pair.guide is None:
        raise ValueError(f"{sample.title} has no guide that could be fooled")
    evaluator = Evaluator(sample.pair.guide, (sample.images, sample.labels))
    flags = {
        "target": (judged.flags["clean"], judged.flags["pgd20"]),
        "guide": (evaluator.clean, evaluator.transferred(sample.pair.target, 20, sample.eps)),
    }
    shares = {who: tuple(map(Share.of, both)) for who, both in flags.items()}
    lost = {who: clean.value - attacked.value for who, (clean, attacked) in shares.items()}
    ratio = lost["guide"] / max(lost["target"], 1e-9)
    actual = "hardly" if ratio < 0.25 else "less" if ratio < 0.75 else "alike" if ratio < 4 / 3 else "more"
    rows = [(who, *map(str, both), f"{100 * lost[who]:.0f} points") for who, both in shares.items()]
    header = ("", "clean", "on the target's adversarial images", "lost")
    said = f"The guide loses {100 * lost['guide']:.0f} points on images that were made against the target."
    table = base.table(header, rows, f"{len(sample.labels)} test images")
    return {"actual": actual, "words": base.sentence(said) + table}


def defended_words(judged: Mapping[str, Evaluation], attacks: tuple[str, ...]) -> str:
    """A table of several networks, with intervals that hold at 0 and 100 %."""
    rows = [(name, *(str(Share.of(evaluation.flags[a])) for a in attacks)) for name, evaluation in judged.items()]
    return base.table(("", *map(attack_title, attacks)), rows, "Accuracy on the same test images, with 95 % intervals")


# -- 01 -----------------------------------------------------------------------------------------------------
def way_of(data: Landscape) -> Answer:
    """Straight, bent or stuck: how far the target's path leaves the line from its start to its end."""
    chord = data.path[-1] - data.path[0]
    long = float(np.linalg.norm(chord))
    along = (data.path - data.path[0]) @ chord / max(long, 1e-12) ** 2
    off = np.linalg.norm(data.path - data.path[0] - along[:, None] * chord, axis=1).max() / max(long, 1e-12)
    actual = "stuck" if not data.arrived else "straight" if off < 0.02 else "bent"
    words = (
        f"{data.label}: the distance to the guide (total variation) went from {data.distance[0]:.3f} to "
        f"{data.distance[-1]:.3f}; the path leaves the straight line by up to {off:.0%} of its length."
    )
    return {"actual": actual, "words": words}


def both_directions(guide: np.ndarray, targets: Mapping[str, np.ndarray]) -> Answer:
    """Which direction of KL is larger for the first of `targets`; points of the simplex."""
    q, rows, seen = torch.from_numpy(guide).log()[None], [], []
    for name, target in targets.items():
        p = torch.from_numpy(target).log()[None]
        values = divergences.kl(p, q).item(), divergences.kl(q, p).item()
        seen.append(values)
        rows.append((name, *(f"{value:.3f}" for value in values)))
    forward, backward = seen[0]
    actual = "same" if np.isclose(forward, backward, rtol=0.05) else "forward" if forward > backward else "backward"
    header = ("target", "KL(target ‖ guide)", "KL(guide ‖ target)")
    return {"actual": actual, "words": base.table(header, rows, "A guide torn between A and B")}


def race(names: Sequence[str], starts: Tensor, guides: Tensor) -> dict[str, np.ndarray]:
    """Distance to the guide (total variation, (N,)) after ten times the panel's steps; name -> distances.
    starts, guides: logits (N, 3)."""
    distances = {}
    for name in names:
        path, _ = simplex.descend(simplex.CHOICES[name][1], starts, guides, steps=10 * simplex.STEPS)
        distances[name] = (0.5 * (path[-1] - guides.softmax(1)).abs().sum(1)).numpy()
    return distances


def arrivals(distances: Mapping[str, np.ndarray], name: str, near: float = 0.02) -> Answer:
    """How many percent of one divergence's starts arrived, beside the others."""
    shares = {which: Share.of(values < near) for which, values in distances.items()}
    rows = [(simplex.CHOICES[which][0], str(share), f"{np.median(distances[which]):.4f}")
            for which, share in shares.items()]  # fmt: skip
    header = ("divergence", "arrived (95 % interval)", "median distance left")
    return percent(shares[name], base.table(header, rows, f"{shares[name].n} random guides and starts"))


# -- 02 -----------------------------------------------------------------------------------------------------
def half_lost(curve: Points, images: int) -> Answer:
    """At which eps, in 1/255, half of the clean accuracy is lost; between two measured radii, which bound it."""
    goal = curve[0][1] / 2
    after = next((i for i, (_, share) in enumerate(curve) if share <= goal), len(curve) - 1)
    (low, above), (high, below) = curve[max(after - 1, 0)], curve[after]
    here = low + (high - low) * ((above - goal) / (above - below) if above > below else 1)
    rest = Share(round(below * images), images)
    words = (
        f"Measured on {images} images: half of the accuracy is lost between ε = {255 * low:g}/255 and "
        f"{255 * high:g}/255, where {rest} is left."
    )
    return {"actual": round(255 * here, 1), "close": max(255 * (high - here), 255 * (here - low)), "words": words}


def at_radius(curves: Mapping[str, Points], name: str, eps: float, images: int, more: str = "") -> Answer:
    """Accuracy of one curve at a measured eps, in percent, beside the others there; more: HTML to add."""
    shares = {who: Share(round(dict(points)[eps] * images), images) for who, points in curves.items()}
    told = "; ".join(f"{who}: {share}" for who, share in shares.items())
    return percent(shares[name], base.sentence(f"At ε = {255 * eps:.0f}/255, of {images} images: {told}.") + more)


def survivors(clean: Share, attacked: Share, title: str) -> Answer:
    """Of the images that are right when clean, how many stay right: in percent."""
    words = f"{title}, {clean.n} test images: clean accuracy {clean}, PGD-20 accuracy {attacked}."
    return percent(Share(attacked.right, clean.right), words)


def by_run(control: SamplePair, defended: SamplePair) -> Answer:
    """Clean accuracy of two networks on the same test images, and a table."""
    attacks: tuple[str, ...] = ("clean", "pgd20")
    if defended.experiment and not control.experiment:  # no run to read: both on the images at hand, unattacked
        attacks = ("clean",)
        flags = [flags_at_hand(sample, len(control.labels), attacks) for sample in (control, defended)]
    else:
        flags = [flags_at_hand(sample) for sample in (control, defended)]
    answer = compared("control", "defended", flags[0]["clean"], flags[1]["clean"])
    names = (f"control: {control.title}", f"defended: {defended.title}")
    rows = [(name, *(str(Share.of(each[a])) for a in attacks)) for name, each in zip(names, flags, strict=True)]
    caption = f"Accuracy on {len(flags[0]['clean'])} test images at ε = {255 * defended.eps:.0f}/255"
    header = ("", *map(attack_title, attacks))
    return answer | {"words": base.sentence(answer["words"]) + base.table(header, rows, caption)}


# -- 03 -----------------------------------------------------------------------------------------------------
def cut_off(control: Trained, without: Trained) -> Answer:
    """What the target learns when no label reaches the guide; chance is one of three classes."""
    before, after = control.accuracy["target"], without.accuracy["target"]
    actual = "chance" if after < 0.4 else "worse" if after < before - 0.02 else "learns"
    loss = sum(values[-1] for values in without.history.values())
    words = (
        f"With CE at weight 1 the target is right on {before:.0%} of the points; at weight 0 the target is right on "
        f"{after:.0%} and the guide on {without.accuracy['guide']:.0%}. The total loss then ends at {loss:.4f}."
    )
    return {"actual": actual, "words": words}


def best_row(rows: Mapping[str, np.ndarray], among: Sequence[str]) -> Answer:
    """The setting with the highest mean accuracy under attack over the seeds; rows: of `ablate`."""
    return {"actual": max(among, key=lambda name: rows[name][:, 2].mean())}


def sureness(rows: Mapping[str, np.ndarray], tied: str, alone: str) -> Answer:
    """Is the guide's mean margin larger or smaller when it is tied? On every seed, or there is nothing to say."""
    with_all, detached = rows[tied][:, 3], rows[alone][:, 3]
    actual = "larger" if (with_all > detached).all() else "smaller" if (with_all < detached).all() else "same"
    spans = [span(values, "{:.1f}") for values in (with_all, detached)]
    words = (
        f"The guide's mean margin on {len(with_all)} seeds: {spans[0]} with all terms, {spans[1]} when it is detached."
    )
    return {"actual": actual, "words": words}


def who_sinks(data: Scatter) -> Answer:
    """How far the target's logits lie below the guide's on attacked images, less where they lay on clean ones."""
    sunk = data.target_adv - data.target_clean
    truth = np.zeros(sunk.shape, bool)
    truth[np.arange(len(sunk)), data.labels] = True
    true, others = sunk[truth], sunk[~truth].reshape(len(sunk), -1).mean(1)
    gap = true - others
    error = gap.std(ddof=1) / np.sqrt(len(gap))
    actual = "alike" if abs(gap.mean()) < 1.96 * error else "true" if gap.mean() < 0 else "others"
    words = (
        f"Under attack the logit of the true class moves by {true.mean():+.2f} on average, those of the other classes "
        f"by {others.mean():+.2f}; the difference is {gap.mean():+.2f} ± {1.96 * error:.2f} (95 % interval, "
        f"{len(gap)} images)."
    )
    return {"actual": actual, "words": words.replace("-", "−")}


# -- 04 -----------------------------------------------------------------------------------------------------
def same_way(data: Comparison, first: str = "ce", second: str = "cag") -> Answer:
    """The cosine between two attacks' changes of one image."""
    names = list(compare.COMPARED)
    i, j = names.index(first), names.index(second)
    cosine, moved = float(data.cosines[i, j]), data.agree[i, j]
    words = (
        f"{compare.COMPARED[first]} and {compare.COMPARED[second]}: cosine {cosine:.2f}, and {moved:.0%} of the pixels "
        "moved the same way. That is one image; section 2 counts."
    )
    return {"actual": round(cosine, 2), "words": words}


def alike(cosines: Mapping[str, np.ndarray], name: str) -> Answer:
    """Mean cosine of one comparison over images with its 95 % interval, and all of them as a table."""
    rows, spans = [], {}
    for what, values in cosines.items():
        error = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
        low, high = spans[what] = tuple(float(np.clip(values.mean() + end, -1, 1)) for end in (-error, error))
        rows.append((what, f"{values.mean():.2f} ({low:.2f} to {high:.2f})", str(Share.of(values < 0))))
    header = ("changes", "mean cosine (95 %)", "opposed: cosine below 0")
    words = base.table(header, rows, f"{len(cosines[name])} images")
    return {"actual": round(float(cosines[name].mean()), 2), "interval": spans[name], "words": words}


def with_the_guide(rows: Mapping[str, Transfer], without: str, mixed: str, images: int) -> Answer:
    """Does CAG make more or fewer images easier for the target when the guide's own gradient is mixed in? On the same
    images: McNemar."""
    before, after = rows[without], rows[mixed]
    test = mcnemar(before.climbs, after.climbs)
    actual = "same" if test.p >= 0.05 else "fewer" if test.a_only > test.b_only else "more"
    words = (
        f"CAG makes {before.raised.counted} images easier for the target; with the guide's gradient mixed in, "
        f"{after.raised.counted}. Images made easier by only one of the two: {test.a_only} and {test.b_only}, "
        f"{p_words(test.p)} (McNemar)."
    )
    return {"actual": actual, "words": base.sentence(words) + compare.transfer_words(rows, images)}


def cag_in_training(attack: str = "autoattack") -> Answer:
    """D2R trained with CAG against D2R trained with self-KL, otherwise alike: the shipped runs of `d2rkit reproduce
    family`, five seeds on the same images, paired."""
    folders = sorted((shipped("results") / "family" / "runs").glob("digits-cnn-16-d2r-*"))
    runs = [run for run in map(read_run, folders) if run.experiment.method in ("d2r", "d2r-cag")]
    (row,) = paired_table(runs, attack, reference="d2r").to_dict("records")
    actual = "no" if row["p"] >= 0.05 else "cag" if row["difference"] > 0 else "self"
    gap, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    cells = [("trained with CAG", f"{100 * row['accuracy']:.1f} %"),
             ("trained with self-KL", f"{100 * row['reference_accuracy']:.1f} %"),
             ("difference, points", f"{gap:+.1f} ({low:+.1f} to {high:+.1f})"),
             ("right only with CAG : right only with self-KL", f"{row['better']} : {row['worse']}"),
             ("two-sided p", p_words(row["p"]))]  # fmt: skip
    caption = f"D2R under {attack_title(attack)}: {row['n']} test images of digits, {row['seeds']} seeds"
    return {"actual": actual, "words": base.table(("", ""), cells, caption)}


# -- 06 -----------------------------------------------------------------------------------------------------
def largest_claim(claims: Mapping[str, tuple[np.ndarray, np.ndarray]], first: str, second: str) -> Answer:
    """By how many points the first attack's accuracy exceeds the second's, at most; with the table of all networks."""
    shares = {name: tuple(map(Share.of, flags)) for name, flags in claims.items()}
    over = {name: round(100 * (one.value - two.value), 1) for name, (one, two) in shares.items()}
    rows = [(name, *map(str, shares[name]), f"{points:.1f}") for name, points in over.items()]
    header = ("network", attack_title(first), attack_title(second), "points apart")
    images = len(next(iter(claims.values()))[0])
    return {
        "actual": max(over.values()),
        "words": base.table(header, rows, f"On {images:,} test images, with 95 % intervals"),
    }


def broken_by(judged: Mapping[str, Evaluation], name: str, attacks: Sequence[str]) -> Answer:
    """The part of AutoAttack that turned most of one model's images wrong, with the tables of all of them."""
    rows, parts = [], []
    for model, evaluation in judged.items():
        rows.append((model, *(str(Share.of(evaluation.flags[a])) for a in attacks)))
        left = (Share.of(evaluation.details[stage]).percent for stage in STAGES)
        parts.append((model, *left, evaluation.warnings[-1] if evaluation.warnings else "–"))
    right = [int(judged[name].details[stage].sum()) for stage in ("clean", *STAGES)]
    fell = dict(zip(STAGES, -np.diff(right), strict=True))
    images = f"{len(judged[name].flags['clean'])} test images"
    header = ("model", *map(attack_title, attacks))
    words = base.table(header, rows, f"Accuracy on {images}, with 95 % intervals")
    words += base.table(("model", *STAGES, "AutoAttack's own warning"), parts, "Right after each part of AutoAttack")
    return {"actual": max(fell, key=lambda stage: fell[stage]), "words": words}


def passed(checked: Mapping[str, Sequence[MaskingCheck]], name: str, images: int) -> Answer:
    """How many checks of masked gradients one model passes, with all models' checks."""
    header = ("model", *(check.name for check in checked[name]))
    rows = [(model, *("✓ passed" if c.passed else "✗ FAILED" for c in checks)) for model, checks in checked.items()]
    missed = [(f"{model}, {c.name}", c.words) for model, checks in checked.items() for c in checks if not c.passed]
    words = base.table(header, rows, f"Checks of masked gradients, {images} test images")
    words += base.table(("not passed", "what was seen"), missed, "Where a check was not passed")
    return {"actual": sum(check.passed for check in checked[name]), "words": words}


def on_few_and_many(worst: Mapping[tuple[int, str], np.ndarray], first: str, second: str, seed: int) -> Answer:
    """Two networks on fewer and on more images: (images, name) -> flags. The answer is that of the most."""
    counts, rows = sorted({count for count, _ in worst}), []
    for count in counts:
        a, b = worst[count, first], worst[count, second]
        test, gap = mcnemar(a, b), bootstrap_difference(a, b, seed)
        difference = f"{100 * gap.difference:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        shares = str(Share.of(a)), str(Share.of(b))
        rows.append((f"{count} images", *shares, difference, f"{test.a_only} : {test.b_only}", p_words(test.p)))
    header = ("", first, second, "difference, points (95 %)", f"only {first} : only {second}", "McNemar")
    answer = compared(first, second, worst[counts[-1], first], worst[counts[-1], second])
    return {"actual": answer["actual"], "words": base.table(header, rows, "The worse of PGD-20 and C&W-20")}


# -- 07 -----------------------------------------------------------------------------------------------------
def published_span(browser: TableBrowser, method: str, attack: str = "autoattack") -> Answer:
    """Points between the lowest and the highest published accuracy of a method at the browser's setting."""
    data = browser.compute(**{**browser.opening, "attack": attack})
    label = METHODS[method].title
    entries = [entry for entry in data.entries if entry.label == label and attack in entry.published]
    numbers = {entry.source: entry.published[attack][0] for entry in entries}
    if not numbers:
        raise ValueError(f"nothing is published for {label} under {attack} at {data.setting.title}")
    low, high = min(numbers.values()), max(numbers.values())
    rows = [(f"{value:.1f} %", source) for source, value in sorted(numbers.items(), key=lambda item: item[1])]
    caption = f"{label}, {data.setting.title}: {len(rows)} sources"
    return {"actual": round(high - low, 1), "words": base.table((attack_title(attack), "source"), rows, caption)}
