"""The lines that tests/mutants.py breaks, and the tests that must notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """In `file` the text `old`, which occurs there once, becomes `new`; one of `tests` (pytest node ids) must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _of(file: str, test_file: str, *breaks: tuple[str, str, str, str]) -> list[Mutant]:
    """Mutants of one file: name, old, new, and names of tests in tests/<test_file> with commas between."""
    return [
        Mutant(
            f"{file.split('/')[-1].removesuffix('.py')}: {name}", f"d2rkit/{file}", old, new,
            tuple(f"tests/{test_file}::{test}" for test in tests.split(",")),
        )
        for name, old, new, tests in breaks
    ]  # fmt: skip


# fmt: off
MUTANTS: list[Mutant] = [
    # -- losses ------------------------------------------------------------------------------------------------------
    *_of(
        "methods/divergences.py", "methods/test_divergences.py",
        ("smoothing ignored", "torch.log(p + smoothing) if smoothing", "log_p if smoothing",
         "test_smoothing_is_inside_the_first_logarithm_only"),
        ("reverse is forward", "return kl(q_logits, p_logits)", "return kl(p_logits, q_logits)", "test_by_hand"),
        ("gap is a sum", "- kl(q_logits, p_logits, smoothing)", "+ kl(q_logits, p_logits, smoothing)",
         "test_the_released_gap_is_signed_and_not_a_divergence"),
        ("Jensen-Shannon not halved", "return 0.5 * (log_p.exp()", "return 1.0 * (log_p.exp()", "test_by_hand"),
        ("logit MSE a sum", "(p_logits - q_logits).square().mean(1)", "(p_logits - q_logits).square().sum(1)",
         "test_by_hand"),
    ),
    *_of(
        "methods/objectives.py", "methods/test_objectives.py",
        ("gap without absolute value", "= gap.abs(), w", "= gap, w",
         "test_d2r_released,test_d2r_jeffreys_adv"),
        ("reverse left out", "adversarial = adversarial + reverse", "adversarial = adversarial",
         "test_d2r_jeffreys_adv"),
        ("reduction the other way round", 'if reduction == "mean" else 1', 'if reduction != "mean" else 1',
         "test_batchmean_is_c_times_larger_in_every_kl_term"),
        ("MSE unweighted", '"mse": w["w_mse"] *', '"mse": 1.0 *', "test_d2r_symmetric_with_given_weights"),
        ("KL5 the wrong way", "adversarial = kl(f_adv, g_fixed, SMOOTHING)",
         "adversarial = kl(g_fixed, f_adv, SMOOTHING)", "test_d2r_released"),
        ("detach_guide does nothing", "g_clean.detach() if detach_guide", "g_clean if detach_guide",
         "test_nothing_is_detached_in_d2r_unless_asked"),
        ("TRADES detached", '"adv": beta * kl(f_clean, f_adv)', '"adv": beta * kl(f_clean.detach(), f_adv)',
         "test_trades_does_not_detach_its_clean_side"),
        ("MART's margin against the label", "p_adv.scatter(1, y[:, None], -1.0)", "p_adv", "test_mart"),
        ("MART weighs by x'", "1.0000001 - p_clean.gather", "1.0000001 - p_adv.gather", "test_mart"),
        ("AdaGAT pulls the target", "F.mse_loss(g_clean, f_adv.detach())", "F.mse_loss(g_clean, f_adv)",
         "test_adagat_pulls_the_guide_only"),
    ),
    # -- attacks -----------------------------------------------------------------------------------------------------
    *_of(
        "methods/attacks.py", "methods/test_attacks.py",
        ("descends", "+ step_size * direction", "- step_size * direction", "test_linf_reaches_the_corner"),
        ("one step too few", "for _ in range(steps):", "for _ in range(steps - 1):",
         "test_fgsm_reaches_the_corner_in_one_step"),
        ("leaves [0, 1]", "x + eps).clamp_(0, 1)", "x + eps)",
         "test_perturbations_never_leave_the_ball_nor_the_pixel_range"),
        ("start ignored", "x if start is None else x + start", "x",
         "test_kl_self_leaves_a_random_start_and_ends_on_a_corner"),
        ("margin beside 0", "logits.scatter(1, y[:, None], -torch.inf)", "logits.scatter(1, y[:, None], 0.0)",
         "test_margin_is_positive_where_the_prediction_is_wrong,test_cw_goes_for_the_class_nearest_to_winning"),
        ("CAG asks the target", "logits_of(guide, x).softmax(1)", "logits_of(target, x).softmax(1)",
         "test_cag_of_linear_models_moves_the_target_away_from_the_guide"),
        ("guide_share leaves the target's term", "(1 - guide_share) * F", "1.0 * F",
         "test_cag_with_the_guides_share_alone_attacks_the_guide"),
        ("L2 steps of any length", "else _direction(gradient)", "else gradient",
         "test_a_step_is_of_step_size_however_steep_the_loss"),
        ("half of the ball", "return (2 * torch.rand(", "return (1 * torch.rand(", "test_starts"),
        ("random start ten times larger", "START_SCALE = 0.001", "START_SCALE = 0.01", "test_starts"),
    ),
    *_of(
        "methods/attacks.py", "methods/test_properties.py",
        ("always onto the L2 sphere", ".clamp_max(1)", "", "test_projecting_twice_is_projecting_once_and_moves_least"),
    ),
    *_of(
        "methods/pair.py", "methods/test_pair.py",
        ("clean before adversarial", "adv, clean = self._target(x_adv), self._target(plain)",
         "clean, adv = self._target(plain), self._target(x_adv)", "test_order_of_forwards_is_as_released"),
        ("nothing is frozen", "parameter.requires_grad_(False)", "pass", "test_frozen_thaws_what_was_thawed_only"),
        ("train mode during attacks", "        module.eval()", "        pass",
         "test_eval_mode_puts_every_submodule_back"),
        ("eval mode after attacks", "module.training = True", "pass", "test_eval_mode_puts_every_submodule_back"),
    ),
    *_of(
        "methods/catalogue.py", "methods/test_catalogue.py",
        ("MART forwards x' first", '"ce", clean_first=True, source="Wang', '"ce", source="Wang',
         "test_the_order_of_forwards_is_as_released"),
        ("CAG without labels", "guide_share=guide_share, y=y, **budget", "guide_share=guide_share, **budget",
         "test_guide_share_reaches_cag"),
        ("starts the other way round", "if self.uniform_start else", "if not self.uniform_start else",
         "test_the_attack_is_the_published_one"),
        ("any loss option", "if name not in allowed:", "if False:", "test_unknown_method_and_option_are_refused"),
    ),
    *_of(
        "core/validation.py", "core/test_validation.py",
        ("NaN images", "if not (low >= 0 and high <= 1):", "if low < 0 or high > 1:",
         "test_bad_images_and_labels_are_named"),
        ("labels below 0", "labels.min() >= 0 and labels.max()", "labels.max()",
         "test_bad_images_and_labels_are_named"),
        ("labels out of range", "if low < 0 or high >= classes:", "if low < 0 or high > classes:",
         "test_labels_are_looked_at_on_a_cpu_only"),
        ("logits of two shapes", "shape != first.shape or z.device", "z.device", "test_what_logits_may_be"),
    ),
    # -- a step, several devices, weight perturbation ----------------------------------------------------------------
    *_of(
        "training/step.py", "training/test_step.py",
        ("gradients pile up", "optimizer.zero_grad(set_to_none=True)\n        state.fabric.backward(total)",
         "param_groups\n        state.fabric.backward(total)", "test_gradients_are_of_this_step_alone"),
        ("pieces count as wholes", "weight * len(images) / len(x), number == 0",
         "weight, number == 0", "test_micro_batches_of_one_process_add_up"),
        ("step after every piece", "    if piece.last:\n", "    if True:\n",
         "test_micro_batches_of_one_process_add_up"),
    ),
    *_of(
        "core/devices.py", "core/test_devices.py",
        ("parts count alike", "return part, len(part) * count / len(index)", "return part, 1.0",
         "test_parts_of_a_batch_weigh_as_much_as_their_images"),
        ("mean is a sum", '(result / size() if how == "mean" else result)', "result",
         "test_running_statistics_are_averaged_over_devices"),
        ("statistics not averaged", "buffer.copy_(part.view_as(buffer))", "pass",
         "test_running_statistics_are_averaged_over_devices"),
        ("more pieces than images", "return min(most, least)", "return most",
         "test_no_device_cuts_its_part_into_more_pieces_than_another_has_images"),
    ),
    *_of(
        "core/devices.py", "core/test_devices.py",
        ("each device its own gap", 'part * all_reduce(share * part, "mean").sign()', "part.abs()",
         "test_gradients_of_two_processes_are_those_of_one"),
    ),
    *_of(
        "training/weight_perturbation.py", "training/test_weight_perturbation.py",
        ("biases too", "if w.ndim > 1 and", "if w.ndim > 0 and",
         "test_weights_move_by_gamma_along_the_ascent_and_come_back"),
        ("statistics moved", "buffer.copy_(before)", "pass",
         "test_weights_move_by_gamma_along_the_ascent_and_come_back"),
        ("weights stay away", "w.sub_(move)", "pass", "test_weights_move_by_gamma_along_the_ascent_and_come_back"),
        ("descends", "moves = [gamma * w", "moves = [-gamma * w",
         "test_weights_move_by_gamma_along_the_ascent_and_come_back"),
    ),
    # -- statistics, tables, planning, packing -----------------------------------------------------------------------
    *_of(
        "core/binomial.py", "core/test_binomial.py",
        ("error bar of n - 1", "share * (1 - share) / n)", "share * (1 - share) / (n - 1))",
         "test_elsewhere_it_is_the_binomial_one[1-397]"),
        ("nothing can go wrong", "else 1 / (n + 1)", "else 0.0",
         "test_where_all_or_none_are_right_it_is_as_far_as_wilsons_interval_reaches"),
    ),
    *_of(
        "reporting/significance.py", "reporting/test_significance.py",
        ("p leaves out what was seen", "abs(sums) >= observed", "abs(sums) > observed",
         "test_mcnemar_is_the_exact_binomial_test,test_mcnemar_at_its_ends"),
        ("Holm not monotone", "worst = max(worst, min(", "worst = max(0.0, min(", "test_holm"),
        ("Holm is Bonferroni", "(len(order) - rank) * ", "len(order) * ", "test_holm"),
        ("bootstrap of another level", "[(1 - level) / 2, (1 + level) / 2]", "[1 - level, level]",
         "test_bootstrap_is_the_bootstrap"),
        ("seeds as images", "b).sum(0)  # (N,), in -seeds..seeds\n", "b).ravel()\n",
         "test_several_seeds_flip_the_sign_of_a_whole_image"),
    ),
    *_of(
        "reporting/tables.py", "reporting/test_tables.py",
        ("failed runs are bold", 'where(numbers["n_failed"] == 0)', 'where(numbers["n_failed"] >= 0)',
         "test_a_failed_run_is_said_to_have_failed_and_is_never_bold"),
        ("population deviation", '_std": shares.std(),', '_std": shares.std(ddof=0),',
         "test_mean_and_sample_std_over_seeds"),
        ("only the very best is bold", "means >= means.iloc[at] - (0.0", "means >= means.iloc[at] - 0 * (0.0",
         "test_best_and_all_within_its_std_are_bold"),
        ("stuck runs unsaid", 'elif run["status"] != "done":', "elif False:",
         "test_stuck_runs_and_signs_of_masking_are_footnotes"),
    ),
    *_of(
        "reporting/published.py", "reporting/test_tables.py",
        ("compared across eps", "math.isclose(radius, eps, rel_tol=1e-6)", "math.isclose(radius, eps, rel_tol=0.1)",
         "test_compare_takes_the_same_eps_only"),
    ),
    *_of(
        "planning/cost.py", "planning/test_cost.py",
        ("any number of workers helps", "return max(sum(costs) / workers, max(costs, default=0.0))",
         "return sum(costs) / workers", "test_cells_that_are_done_cost_nothing_and_workers_share_the_rest"),
        ("one checkpoint", "for checkpoint in experiment.checkpoints\n        for",
         "for checkpoint in experiment.checkpoints[:1]\n        for",
         "test_evaluation_is_every_measurement_on_the_images_it_attacks"),
        ("done cells cost", "[cell for cell in self.cells if not cell.done]", "[cell for cell in self.cells]",
         "test_cells_that_are_done_cost_nothing_and_workers_share_the_rest"),
    ),
    *_of(
        "reporting/pack.py", "reporting/test_pack.py",
        ("other content replaced", "copy.exists() and copy.read_bytes() != contents[copy]", "False",
         "test_a_packed_table_is_the_table_and_nothing_is_replaced"),
    ),
    # -- training and resume -----------------------------------------------------------------------------------------
    *_of(
        "training/loop.py", "training/test_resume.py",
        ("generators begin anew", "generator.set_state(", "id(",
         "test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run"),
        ("momentum forgotten", 'self.optimizer.load_state_dict(state["optimizer"])', "pass",
         "test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run"),
        ("an epoch begins anew", "order.split(self.recipe.batch_size)[self.step :]",
         "order.split(self.recipe.batch_size)", "test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run"),
        ("any recipe goes on", "if used[name] != value}", "if False}",
         "test_another_recipe_or_a_damaged_state_is_refused_and_nothing_is_written_over"),
        ("the average is forgotten", 'self.average.load_state_dict(state["average"])', "pass",
         "test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run"),
    ),
    *_of(
        "training/loop.py", "training/test_loop.py",
        ("infinite weights are saved", 'raise NonFinite("a weight is not finite")', "return",
         "test_a_weight_that_overflows_is_not_saved"),
        ("a failed run keeps its last state", "        loop.restore()\n", "        pass\n",
         "test_failure_in_a_later_epoch_keeps_the_epoch_before"),
        ("the guide does not warm up", "self.epoch < self.recipe.guide_warmup\n", "False\n",
         "test_guide_warmup_trains_the_guide_alone"),
    ),
    *_of(
        "training/loop.py", "training/test_epochs.py",
        ("best on clean images", 'better = row["val_pgd"] > self.best', 'better = row["val_clean"] > self.best',
         "test_best_is_chosen_by_pgd_accuracy_where_clean_accuracy_disagrees"),
        ("every epoch in one order", "self.recipe.seed + 7_919 * self.epoch)", "self.recipe.seed)",
         "test_every_epoch_has_an_order_of_its_own"),
        ("batches count alike", "* len(batch)", "* self.recipe.batch_size",
         "test_the_mean_of_an_epoch_is_that_of_its_images"),
    ),
    *_of(
        "training/recipe.py", "training/test_recipe.py",
        ("released schedule starts high", "return recipe.lr * 0.2", "return recipe.lr",
         "test_released_schedule_is_the_one_of_the_release"),
    ),
    *_of(
        "core/files.py", "networks/test_checkpoints.py",
        ("drafts stay", "must not hide why\n            draft.unlink(missing_ok=True)",
         "must not hide why\n            pass",
         "test_a_failed_write_leaves_the_old_file_and_no_draft"),
    ),
    # -- data --------------------------------------------------------------------------------------------------------
    *_of(
        "data/datasets.py", "data/test_datasets.py",
        ("crops of one diagonal", "rows + offsets[0], cols + offsets[1]", "rows + offsets[0], cols + offsets[0]",
         "test_every_augmented_image_is_a_crop_and_every_crop_occurs"),
        ("last crop never drawn", "torch.randint(0, 2 * padding + 1,", "torch.randint(0, 2 * padding,",
         "test_every_augmented_image_is_a_crop_and_every_crop_occurs"),
        ("all are flipped", "generator=generator, device=device) < 0.5", "generator=generator, device=device) < 1.5",
         "test_every_augmented_image_is_a_crop_and_every_crop_occurs"),
    ),
    *_of(
        "data/arrays.py", "data/test_arrays.py",
        ("white is 0.996", ".float().div_(255)", ".float().div_(256)", "test_pixels_are_floats_of_the_chosen_images"),
    ),
    # -- exercise checks ---------------------------------------------------------------------------------------------
    *_of(
        "exercises/checking.py", "exercises/test_checks_losses.py",
        ("everything agrees", "return near.float().mean().item() >= share", "return True",
         "test_kl_mistakes[wrong direction]"),
        ("shapes broadcast", "if tuple(got.shape) != shape:", "if False:", "test_kl_mistakes[sum over everything]"),
    ),
    *_of(
        "exercises/checking.py", "exercises/test_probes.py",
        ("NaN is finite", "if not got.isfinite().all():", "if False:", "test_numbers_that_are_none_are_named"),
    ),
    *_of(
        "exercises/probes.py", "exercises/test_probes.py",
        ("any distance", '"inside the eps-ball", distance <= eps + 1e-5,', '"inside the eps-ball", True,',
         "test_an_attack_keeps_four_promises"),
    ),
    *_of(
        "exercises/kl.py", "exercises/test_checks_losses.py",
        ("a capped KL passes", '"KL of very confident predictions", extreme,',
         '"KL of very confident predictions", torch.tensor([400.0]),',
         "test_kl_mistakes[log of softmax and a little]"),
    ),
    *_of(
        "exercises/probes.py", "exercises/test_checks_attacks.py",
        ("x may change", "moved = not torch.equal(x, untouched)", "moved = False", "test_fgsm_mistakes[in place]"),
    ),
]
# fmt: on
