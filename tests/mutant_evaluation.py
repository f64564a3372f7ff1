"""More of mutant_list.py: evaluation, AutoAttack, and the copies that attacks go through."""

from __future__ import annotations

from mutant_list import Mutant, _of

# fmt: off
EVALUATION: list[Mutant] = [
    *_of(
        "evaluation/evaluator.py", "evaluation/test_evaluate.py",
        ("wrong images count as robust", "self.budget.steps or steps), self.clean.clone()",
         "self.budget.steps or steps), torch.ones_like(self.clean)", "test_flags_of_a_linear_model_are_known"),
        ("seeds alike", "manual_seed(self.seed * 100_003 + number)", "manual_seed(number)",
         "test_flags_depend_on_the_seed_only"),
    ),
    *_of(
        "evaluation/evaluator.py", "evaluation/test_attack_calls.py",
        ("the copy has the last word", "robust[index] = self.judge(adversarial, labels)",
         "robust[index] = correct(self.attacked, adversarial, labels, self.batch_size)",
         "test_the_network_has_the_last_word_on_every_image"),
        ("smaller steps", "step_size=eps / 4, steps=steps, start=start",
         "step_size=eps / 5, steps=steps, start=start", "test_attacks_are_told_starts_and_losses"),
        ("batches start alike", "manual_seed(self.seed * 100_003 + number)", "manual_seed(self.seed * 100_003)",
         "test_attacks_are_told_starts_and_losses"),
        ("C&W is PGD", 'attacks.pgd_ce if kind == "pgd" else attacks.cw', "attacks.pgd_ce",
         "test_attacks_are_told_starts_and_losses"),
    ),
    *_of(
        "evaluation/flag_store.py", "evaluation/test_evaluate.py",
        ("flags of anything are taken", "str(fact[()]) != str(np.asarray(value)[()])", "False",
         "test_flags_of_something_else_are_refused_and_stay"),
        ("batches of another size go on", "next_batch = 0  # other", "pass  # other",
         "test_autoattack_goes_on_where_it_was_cut_off"),
    ),
    *_of(
        "evaluation/flag_store.py", "evaluation/test_anytime.py",
        ("previews of other batches are kept", "bound, previewed = None, 0  # previews", "pass  # previews",
         "test_other_batches_forget_the_previews"),
    ),
    *_of(
        "evaluation/autoattack/anytime.py", "evaluation/test_anytime.py",
        ("bounds are rounded down", "{-(-1000 * int(flags.sum()) // len(flags)) / 10:.1f}",
         "{1000 * int(flags.sum()) // len(flags) / 10:.1f}", "test_a_bound_in_words_is_rounded_up"),
        ("no preview is left", "max(0, done - number * batches), batches, at_once", "batches, batches, at_once",
         "test_previews_of_a_group_take_its_batches_at_once"),
    ),
    *_of(
        "evaluation/autoattack/__init__.py", "evaluation/test_autoattack.py",
        ("the copy has the last word", "return ~correct(model, adversarial,",
         "return ~correct(through, adversarial,", "test_the_network_has_the_last_word_on_every_image"),
        ("fooled images stay robust", "flags[chosen[fooled]] = False", "pass", "test_four_classes_work"),
        ("begins each attack anew", "range(state.next_batch, len(survivors)", "range(0, len(survivors)",
         "test_cut_off_and_resumed_ends_with_the_same_flags"),
        ("two images are a sign", "max(SQUARE_GAIN * count, 2)", "max(SQUARE_GAIN * count, 1)",
         "test_square_beating_the_gradient_attacks_is_a_warning"),
        ("global generators move", "random.setstate(python)", "pass",
         "test_the_forked_generators_come_back_after_an_error"),
    ),
    *_of(
        "evaluation/autoattack/upstream.py", "evaluation/test_autoattack.py",
        ("more targets than classes", "n_target_classes, settings.classes - 1,", "n_target_classes, settings.classes,",
         "test_four_classes_work"),
    ),
    *_of(
        "evaluation/autoattack/upstream.py", "evaluation/test_upstream.py",
        ("no change is told", "!= digest:", "!= now:", "test_a_change_upstream_is_one_sentence"),
        ("attributes are set in vain", "if not hasattr(owner, name):", "if False:",
         "test_what_the_package_no_longer_reads_is_not_set"),
    ),
    *_of(
        "evaluation/autoattack/auto_pgd.py", "evaluation/test_auto_pgd.py",
        ("fooled images are computed", "self.left = self.left[right] if len(right)",
         "self.left = self.left if len(right)", "test_images_left_out_look_right_and_have_no_gradient"),
    ),
    *_of(
        "evaluation/autoattack/fast_adaptive_boundary.py", "evaluation/test_fast_adaptive_boundary.py",
        ("rooms beyond the pixel range", "room = (way / 2 + 0.5 - points).abs_()",
         "room = (way / 2 + 0.6 - points).abs_()", "test_steps_to_the_boundary_are_the_packages_and_the_smallest"),
        ("found beyond eps", "& (distance <= eps))", "& (distance <= 2 * eps))",
         "test_the_same_images_as_class_after_class[1-Linf-0.25]"),
    ),
    *_of(
        "evaluation/autoattack/square.py", "evaluation/test_square.py",
        ("squares that gain nothing are kept", "better = scores < margin", "better = scores <= margin",
         "test_a_square_that_changes_no_logit_is_not_kept"),
    ),
    *_of(
        "acceleration/folding.py", "acceleration/test_folding.py",
        ("means of BatchNorm unscaled", "- mean * scale", "- mean",
         "test_a_norm_without_weights_of_its_own_is_one_multiply_add_too"),
        ("means of BatchNorm added", "FOREACH._foreach_neg_(shifts)", "pass",
         "test_logits_and_gradients_are_equal_to_rounding"),
    ),
    *_of(
        "acceleration/attack_copies.py", "acceleration/test_attack_copies.py",
        ("hooks are not looked for", "if any(not is_layout_hook(hook) for kind", "if False and any(0 for kind",
         "test_a_hook_is_named_even_where_it_does_nothing_yet"),
        ("logits are not compared", "if not gap <= tolerance.logits * scale:", "if False:",
         "test_a_copy_that_differs_in_logits_gradient_or_far_from_the_images_is_found_out"),
        ("gradients are not compared", "if not (share.median() <= tolerance.gradient and", "if not (True and",
         "test_a_copy_that_differs_in_logits_gradient_or_far_from_the_images_is_found_out"),
        ("proven once", "if self.steps and self.steps % PROVE_EVERY == 0:", "if False:",
         "test_a_copy_that_training_has_left_behind_is_dropped"),
    ),
    *_of(
        "evaluation/gradient_masking.py", "evaluation/test_gradient_masking.py",
        ("AutoAttack is not held against PGD", "standard >= best - HONEST_GAP - noise", "True",
         "test_fake_defences_are_found_out"),
        ("probabilities pass", 'MaskingCheck("outputs", not probable,', 'MaskingCheck("outputs", True,',
         "test_fake_defences_are_found_out"),
    ),
]
# fmt: on
