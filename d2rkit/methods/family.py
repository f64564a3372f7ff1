"""D2R's relatives: the objectives of other guided methods, as functions of the same logits.

Written from the papers' formulas; where a paper and its authors' code differ, the docstring says which one this is.
Symbols as in `objectives`: f target, g guide, p = softmax, sg = stop-gradient, KL a batch mean unless said. ValueError
as there. `progress` (the share of training that is over, in [0, 1]) and `class_means` are handed over by the training
loop; they are no options of a recipe, and without them an objective is what it is at the end of training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from d2rkit.core.validation import check_choice, check_number, shown
from d2rkit.methods.divergences import cross_entropy, kl
from d2rkit.methods.objectives import REDUCTIONS, SMOOTHING, Logits, Loss, needed, summed


def rslad(logits: Logits, y: Tensor, *, w_adv: float = 5 / 6, w_clean: float = 1 / 6) -> Loss:
    """w_adv K(sg p_g(x) || p_f(x')) + w_clean K(sg p_g(x) || p_f(x)), Zi et al., ICCV 2021: robust soft labels
    and no other. K is D2R's: a mean over batch and classes, smoothed inside the first logarithm.

    D2R's KL5 is the first term with its arguments exchanged. K(p_g || p_f) weighs classes by the guide: its gradient at
    the target's logits is p_f - p_g, so every class that the guide thinks possible pulls, however sure the target is.
    K(p_f || p_g) weighs them by the target: its gradient is p_f times (log p_f/p_g less its mean), so a class that the
    target has given up pulls no more, while mass where the guide sees none costs without bound. And D2R detaches
    nothing: through KL5 the guide learns the target's predictions as soft labels; here it learns nothing."""
    check_number("w_adv", w_adv)
    check_number("w_clean", w_clean)
    f_clean, f_adv, g_clean = needed(logits, y, "target_clean", "target_adv", "guide_clean")
    soft, classes = g_clean.detach(), g_clean.shape[1]
    return summed(
        {
            "adv": w_adv * kl(soft, f_adv, SMOOTHING).mean() / classes,
            "clean": w_clean * kl(soft, f_clean, SMOOTHING).mean() / classes,
        }
    )


def rslad_online(logits: Logits, y: Tensor, *, w_adv: float = 5 / 6, w_clean: float = 1 / 6, w_ce: float = 1.0) -> Loss:
    """RSLAD beside a guide that trains along on the labels, w_ce CE(g(x), y), and on nothing else (ours): with CAG it
    differs from D2R in the terms alone, so it asks what D2R's terms add to RSLAD's."""
    check_number("w_ce", w_ce)
    parts = rslad(logits, y, w_adv=w_adv, w_clean=w_clean).parts
    (g_clean,) = needed(logits, y, "guide_clean")
    return summed({"ce": w_ce * F.cross_entropy(g_clean, y), **parts})


def peeraid(
    logits: Logits,
    y: Tensor,
    *,
    temperature: float = 5.0,
    g_ce: float = 1.0,
    g_kl: float = 0.1,
    f_ce: float = 0.0,
    f_kl: float = 1.0,
    f_self: float = 1.0,
    reduction: str = "mean",
) -> Loss:
    """A peer trained on the target's own adversarial images (Jung et al., CVPR 2024), with T = temperature and
    p^T = softmax(z / T):

    guide:   g_ce CE(g(x'), y) + g_kl KL(p_f(x') || p_g(x'))
    target:  f_ce CE(f(x'), y) + f_kl T^2 KL(sg p_g^T(x') || p_f^T(x')) + f_self T^2 KL(p_f^T(x) || p_f^T(x'))

    Defaults are those for CIFAR-10; Tiny ImageNet has T 1, g_kl 100 and f 0.035, 35, 20. As in the authors' code, KL is
    a mean over batch and classes (reduction "mean"), and neither f(x') in the guide's term nor f(x) in the last one is
    stopped. Their step forwards f(x') twice, so its BatchNorm statistics move once more than ours."""
    check_choice(reduction, REDUCTIONS, "reduction")
    weights = {"g_ce": g_ce, "g_kl": g_kl, "f_ce": f_ce, "f_kl": f_kl, "f_self": f_self}
    for name, value in weights.items():
        check_number(name, value)
    _check_temperature(temperature)
    f_clean, f_adv, g_adv = needed(logits, y, "target_clean", "target_adv", "guide_adv")
    scale = 1 / g_adv.shape[1] if reduction == "mean" else 1.0
    cool = [z / temperature for z in (f_clean, f_adv, g_adv.detach())]
    return summed(
        {
            "guide_ce": g_ce * F.cross_entropy(g_adv, y),
            "guide_kl": g_kl * scale * kl(f_adv, g_adv).mean(),
            "ce": f_ce * F.cross_entropy(f_adv, y),
            "adv": f_kl * scale * temperature**2 * kl(cool[2], cool[1]).mean(),
            "self": f_self * scale * temperature**2 * kl(cool[0], cool[1]).mean(),
        }
    )


def adaad(logits: Logits, y: Tensor, *, alpha: float = 1.0) -> Loss:
    """alpha KL(sg p_g(x') || p_f(x')) + (1 - alpha) KL(sg p_g(x) || p_f(x)), Huang et al., CVPR 2023: the guide
    is asked about the adversarial images themselves, and the attack (attacks.kl_pair) goes through it."""
    check_number("alpha", alpha, high=1)
    f_clean, f_adv, g_clean, g_adv = needed(logits, y, "target_clean", "target_adv", "guide_clean", "guide_adv")
    return summed(
        {
            "adv": alpha * kl(g_adv.detach(), f_adv).mean(),
            "clean": (1 - alpha) * kl(g_clean.detach(), f_clean).mean(),
        }
    )


def iad(logits: Logits, y: Tensor, *, trust: float = 0.1, begin: float = 0.3, progress: float = 1.0) -> Loss:
    """KL(sg p_g(x) || p_f(x')) + mean_b (1 - a_b) KL(p_f(x) || p_f(x')), a_b = sg p_g(y|x')^trust: IAD-I (Zhu et al.,
    ICLR 2022). Where the guide is wrong about x', the target listens to itself on x, which is not stopped. The
    second term counts once a share `begin` of training is over (60 of 200 epochs in the paper)."""
    check_number("trust", trust)
    check_number("begin", begin, high=1)
    f_clean, f_adv, g_clean, g_adv = needed(logits, y, "target_clean", "target_adv", "guide_clean", "guide_adv")
    unsure = 1 - g_adv.detach().log_softmax(1).gather(1, y[:, None]).squeeze(1).mul(trust).exp()
    begun = 1.0 if progress >= begin else 0.0
    return summed(
        {
            "adv": kl(g_clean.detach(), f_adv).mean(),
            "self": begun * (unsure * kl(f_clean, f_adv)).mean(),
        }
    )


def adr(
    logits: Logits,
    y: Tensor,
    *,
    hot: float = 2.0,
    cool: float = 1.0,
    least: float = 0.7,
    most: float = 0.95,
    progress: float = 1.0,
) -> Loss:
    """CE(f(x'), q) with q = l p + (1 - l) onehot(y), p = sg softmax(g(x) / T), l = clip(m - (max_c p_c - p_y), 0, 1)
    for each image: annealing self-distillation rectification (Wu et al., ICLR 2024). The guide is the target's
    running average. Over training T goes from `hot` to `cool` and m from `least` to `most`, both along half a cosine.
    These four ends are ours, of the size of the paper's: it has others for each data set and network."""
    for name, value in (("hot", hot), ("cool", cool)):
        _check_temperature(value, name)
    for name, value in (("least", least), ("most", most)):
        check_number(name, value, high=1)
    f_adv, g_clean = needed(logits, y, "target_adv", "guide_clean")
    done = (1 - math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2
    p = (g_clean.detach() / (hot + (cool - hot) * done)).softmax(1)
    behind = p.amax(1, keepdim=True) - p.gather(1, y[:, None])
    share = (least + (most - least) * done - behind).clamp(0, 1)
    q = share * p + (1 - share) * torch.zeros_like(p).scatter(1, y[:, None], 1.0)
    return summed({"ce": F.cross_entropy(f_adv, q)})


def ikl(
    logits: Logits,
    y: Tensor,
    *,
    alpha: float = 4.0,
    beta: float = 20.0,
    guided: bool = False,
    class_means: Tensor | None = None,
) -> Loss:
    """Improved KL (Cui et al., NeurIPS 2024). With n = f(x), or n = g(x) if guided (ours), and a = f(x'):

    CE(n, y) + beta 1/4 mean_b sum_jk w_bj w_bk [(n_j - n_k) - (a_j - a_k)]^2 - alpha mean_b sum_c sg p_n,c log p_a,c

    w_b: row y_b of class_means, (C, C): what the network behind n predicted on average for each class in the epoch
    before (None, and in the first epoch: all classes alike). With w = sg p_n, alpha = beta = 1 and n stopped in the one
    or a in the other term, the gradients are exactly those of KL(p_n || p_a): KL is a weighted MSE of differences of
    logits plus a cross-entropy with soft labels. So D2R's MSE and its KL terms are no independent axes."""
    check_number("alpha", alpha)
    check_number("beta", beta)
    if not isinstance(guided, bool):
        raise ValueError(f"guided must be True or False, not {shown(guided)}")
    n, a = needed(logits, y, "guide_clean" if guided else "target_clean", "target_adv")
    if class_means is None:
        weights = torch.full_like(n, 1 / n.shape[1])
    elif class_means.shape != (n.shape[1], n.shape[1]):
        raise ValueError(f"class_means must be (C, C) with C = {n.shape[1]}, not {tuple(class_means.shape)}")
    else:
        weights = class_means.to(n)[y]
    return summed(
        {
            "ce": F.cross_entropy(n, y),
            "mse": beta * weighted_mse(n, a, weights).mean(),
            "soft": alpha * cross_entropy(n.detach(), a).mean(),
        }
    )


def weighted_mse(n: Tensor, a: Tensor, weights: Tensor) -> Tensor:
    """1/4 sum_jk w_j w_k [(n_j - n_k) - (a_j - a_k)]^2 of each example, (B,): half the variance of n - a under w, whose
    rows sum to 1. All three (B, C)."""
    gap = n - a
    return 0.5 * (weights * (gap - (weights * gap).sum(1, keepdim=True)).square()).sum(1)


def dgad(logits: Logits, y: Tensor, *, beta: float = 1.0) -> Loss:
    """1/B [sum over wrong KL(sg s(g(x)) || p_f(x)) + sum over right KL(sg s(g(x')) || p_f(x'))]
    + beta MSE(p_f(x'), p_f(x)), Park & Min, ECCV 2024: clean images where the guide errs on them, adversarial ones
    where it is right. s exchanges the guide's logit of the label with its largest one, so that the label wins. MSE is a
    mean over batch and classes, neither side stopped; the attack is AdaAD's."""
    check_number("beta", beta)
    f_clean, f_adv, g_clean, g_adv = needed(logits, y, "target_clean", "target_adv", "guide_clean", "guide_adv")
    wrong = (g_clean.argmax(1) != y).to(f_adv.dtype)
    clean = kl(label_wins(g_clean.detach(), y), f_clean)
    adversarial = kl(label_wins(g_adv.detach(), y), f_adv)
    return summed(
        {
            "clean": (wrong * clean).mean(),
            "adv": ((1 - wrong) * adversarial).mean(),
            "mse": beta * F.mse_loss(f_adv.softmax(1), f_clean.softmax(1)),
        }
    )


def label_wins(logits: Tensor, y: Tensor) -> Tensor:
    """The logits (B, C) with each row's largest one and that of its label exchanged."""
    top, label = logits.argmax(1, keepdim=True), y[:, None]
    return logits.scatter(1, top, logits.gather(1, label)).scatter(1, label, logits.gather(1, top))


def _check_temperature(value: float, name: str = "temperature") -> None:
    check_number(name, value)
    if value == 0:
        raise ValueError(f"{name} must be above 0, not {shown(value)}")
