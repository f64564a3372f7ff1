# %% [markdown]
# # Exercise 8: find the masked model
#
# What you will be able to do:
#
# - tell robustness from masked gradients
# - use an attack that does not rely on what the defence broke
# - support an accusation with numbers, controls included
#
# **Time:** about 30 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import torch
import torch.nn.functional as F
from IPython.display import display

from d2rkit import evaluate
from d2rkit.exercises import check, report
from d2rkit.exercises.masked_model import suspects
from d2rkit.methods import attacks

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The case
#
# Three models read digits equally well. One has no defence, one was trained adversarially, and one **only looks robust**: its gradients are masked (Athalye et al. 2018). Robust accuracy is
#
# $$\min_{\text{attacks } A}\ \frac1n \sum_i \mathbb{1}\bigl[f(A(x_i)) = y_i\bigr],$$
#
# so every attack gives an *upper* bound and the strongest attack counts. PGD on cross-entropy is one attack. Others need no gradient of cross-entropy: the margin loss (`attacks.cw`, Carlini & Wagner 2017), or images made against *another* model (transfer).
#
# Write `find_masked(models, x, y, eps)`. `models` maps names to networks in eval mode. Return a dict: `masked`, the name; `pgd`, the PGD-20 accuracy of every model; `stronger`, the accuracy of every model under the best other attack you have. The check deals the names anew, so decide from numbers, not by hand.

# %% [markdown]
# ## Predict first
#
# PGD-20 accuracy is 2 % for one model, 65 % for another and 95 % for the third. Which one would you buy? Which number would you want to see first?
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "masked_model-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def find_masked(models, x, y, eps):
    """{"masked": name, "pgd": {name: accuracy}, "stronger": {name: accuracy}}; x: (N, 1, 8, 8), eps in pixel scale."""
    ### BEGIN SOLUTION
    pgd, stronger = {}, {}
    for name, model in models.items():
        measured = evaluate(model, (x, y), ("pgd20", "cw20"), eps)
        pgd[name], stronger[name] = measured.accuracy("pgd20"), measured.accuracy("cw20")
        for other in models.values():  # transfer: images made against each model
            x_adv = attacks.pgd_ce(other, x, y, eps=eps, step_size=eps / 4, steps=20)
            with torch.no_grad():
                accuracy = (model(x_adv).argmax(1) == y).float().mean().item()
            stronger[name] = min(stronger[name], accuracy)
    masked = max(models, key=lambda name: pgd[name] - stronger[name])
    return {"masked": masked, "pgd": pgd, "stronger": stronger}
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "masked_model-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("masked_model", find_masked)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
case = suspects()
print(f"{len(case.y)} digits, eps = {case.eps}, models: {', '.join(case.models)}")
if result:
    found = find_masked(*case)
    for name in case.models:
        print(f"{name:<6} PGD-20 {found['pgd'][name]:6.1%}   stronger {found['stronger'][name]:6.1%}")
    print("masked:", found["masked"])
    model = case.models[found["masked"]]
    x = case.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), case.y, reduction="sum"), x)
    silent = (gradient.flatten(1).abs().amax(1) == 0).float().mean().item()
    print(f"images on which its cross-entropy has no gradient at all: {silent:.0%}")

# %% [markdown]
# ## Back to your prediction
#
# The 95 % fall to about 12 % under the margin loss: the model's logits are so large that softmax is exactly 0 or 1 in float32, cross-entropy has no slope, and PGD stays where it started. The honest 65 % hardly move. A number that looks too good deserves the checks first: a larger ε must reach 0, more steps must not help the defender, the margin loss must not beat cross-entropy by far, and transfer must not beat the model's own gradient.

# %% [markdown]
# ## Going further
#
# - Run the kit's checks on each model: `d2rkit.evaluation.gradient_masking.masking_checks(model, (case.x, case.y), case.eps)`. Which of them speak?
# - Repair PGD: divide the masked model's logits by a constant before cross-entropy. Why is that fair?
# - Run `evaluate(model, (case.x, case.y), ("autoattack",), case.eps)` and read its warnings. Which of its four attacks breaks the masked model?

# %% [markdown]
# ## References
#
# - A. Athalye, N. Carlini, D. Wagner, *Obfuscated Gradients Give a False Sense of Security*, ICML 2018. [arXiv 1802.00420](https://arxiv.org/abs/1802.00420)
# - N. Carlini, D. Wagner, *Towards Evaluating the Robustness of Neural Networks*, IEEE S&P 2017. [arXiv 1608.04644](https://arxiv.org/abs/1608.04644)
# - N. Carlini et al., *On Evaluating Adversarial Robustness*, 2019. [arXiv 1902.06705](https://arxiv.org/abs/1902.06705)
# - F. Croce, M. Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks* (AutoAttack), ICML 2020. [arXiv 2003.01690](https://arxiv.org/abs/2003.01690)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "masked_model-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
