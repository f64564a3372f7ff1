"""More of mutant_list.py: D2R's relatives, guides that are not trained along, and class means."""

from __future__ import annotations

from mutant_list import Mutant, _of

FORMULA, FLOW = "test_loss_and_gradients_are_those_of_the_formula", "test_every_term_trains_what_it_should"

FAMILY: list[Mutant] = [
    *_of(
        "methods/family.py", "methods/test_family.py",
        ("RSLAD with KL5's arguments", "kl(soft, f_adv, SMOOTHING)", "kl(f_adv, soft, SMOOTHING)", FORMULA),
        ("RSLAD trains its guide", "soft, classes = g_clean.detach(), g", "soft, classes = g_clean, g", FLOW),
        ("PeerAiD's temperature once", "temperature**2 * kl(cool[2]", "temperature * kl(cool[2]", FORMULA),
        ("PeerAiD stops the target", '"guide_kl": g_kl * scale * kl(f_adv, g_adv)',
         '"guide_kl": g_kl * scale * kl(f_adv.detach(), g_adv)', FLOW),
        ("AdaAD asks about x", "kl(g_adv.detach(), f_adv).mean(),", "kl(g_clean.detach(), f_adv).mean(),", FORMULA),
        ("IAD-I trusts what is likely wrong", "unsure = 1 - g_adv", "unsure = g_adv", FORMULA),
        ("IAD-I begins at once", "1.0 if progress >= begin else 0.0", "1.0", FORMULA),
        ("ADR trusts beyond the bounds", ".clamp(0, 1)", "", FORMULA),
        ("ADR does not cool", "(cool - hot) * done", "(cool - hot)", FORMULA),
        ("IKL stops nothing", "cross_entropy(n.detach(), a)", "cross_entropy(n, a)", FLOW),
        ("IKL weighs by the image", "class_means.to(n)[y]", "n.softmax(1).detach()", FORMULA),
        ("a variance, not half of it", "return 0.5 * (weights", "return (weights",
         "test_kl_is_a_weighted_mse_of_differences_plus_a_soft_cross_entropy"),
        ("DGAD the other way round", "(g_clean.argmax(1) != y)", "(g_clean.argmax(1) == y)", FORMULA),
        ("DGAD swaps nothing", "return logits.scatter(1, top", "return logits  # (1, top", FORMULA),
    ),
    *_of(
        "methods/attacks.py", "training/test_guides.py",
        ("AdaAD's attack stops the guide", "(log_p.exp() * (log_p - log_q)).sum()",
         "(log_p.detach().exp() * (log_p.detach() - log_q)).sum()",
         "test_the_attack_through_both_is_the_formulas"),
    ),
    *_of(
        "methods/pair.py", "methods/test_family.py",
        ("a frozen guide keeps statistics", "with torch.no_grad(), eval_mode(module):", "with torch.no_grad():",
         "test_a_guide_at_rest_learns_nothing_and_keeps_its_statistics"),
        ("f(x) is always made", "plain = x if target_clean else None", "plain = x",
         "test_a_step_forwards_what_a_method_asks_for_and_no_more"),
    ),
    *_of(
        "training/guides.py", "training/test_guides.py",
        ("a random guide may be frozen", "and not recipe.guide_warmup:", "and False:",
         "test_a_guide_drawn_at_random_is_not_frozen"),
        ("a guide to be frozen sees clean images", '    if method.guide != "frozen":\n        return x\n',
         "    return x\n", "test_a_guide_to_be_frozen_is_trained_on_attacked_images"),
        ("the average stands still", "blend(required_guide(self.pair), self.pair.target, decay_at(step))", "pass",
         "test_adrs_guide_is_the_average_of_its_target"),
        ("the average starts anywhere", "required_guide(pair).load_state_dict(pair.target.state_dict())", "pass",
         "test_adrs_guide_is_the_average_of_its_target"),
        ("class means pile up", "self.sums = torch.zeros_like(self.sums)", "pass",
         "test_a_class_without_an_image_keeps_its_means"),
        ("class means never used", '({"class_means": self.means} if self.counts_classes else {})', "{}",
         "test_class_means_are_the_last_epochs_predictions"),
    ),
    *_of(
        "training/loop.py", "training/test_resume.py",
        ("class means are forgotten", 'self.beside.load(state.get("beside", {}))', "pass",
         "test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run"),
    ),
]  # fmt: skip
