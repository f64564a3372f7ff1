# %% [markdown]
# # Exercise 2: where the released gap is blind
#
# What you will be able to do:
#
# - compare the paper's symmetric KL with the absolute gap that the released code minimises
# - build distributions that are far apart although the gap is 0
# - explain why the mean must not come before the absolute value
#
# **Time:** about 15 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import display

from d2rkit.exercises import check, report
from d2rkit.methods.divergences import absolute_gap, kl_gap, symmetric_kl

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The formula
#
# The paper's text asks that target and guide agree in both directions, $\mathrm{KL}_1 + \mathrm{KL}_2$ with $\mathrm{KL}_1 = \mathrm{KL}(p_f(x)\,\|\,p_g(x))$ and $\mathrm{KL}_2 = \mathrm{KL}(p_g(x)\,\|\,p_f(x))$ (Liu et al. 2025). The released code penalises instead
#
# $$\Bigl|\,\tfrac{1}{B}\sum_b \mathrm{KL}_1^{(b)} - \tfrac{1}{B}\sum_b \mathrm{KL}_2^{(b)}\Bigr|,$$
#
# the absolute value of a *batch mean*. Your task is to find two blind spots of it, in probabilities (not logits):
#
# - `pair`: `p` and `q` of shape `(1, C)` with $\mathrm{KL}_{\mathrm{sym}} \ge 1$ and a gap of 0 (to 0.001);
# - `batch`: `p` and `q` of shape `(B, C)`, two examples or more, each with a gap of 0.1 or more in size, whose mean gap is 0.

# %% [markdown]
# ## Predict first
#
# A target trained with the gap alone reaches a gap of exactly 0 on every batch. What do you know about its predictions?
#
# a) they equal the guide's, b) they are as confident as the guide's but may name other classes, c) nothing beyond what the formula says.
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "gap-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_blind_spots():
    """{"pair": (p, q), "batch": (p, q)}, each a tensor of probabilities (B, C)."""
    ### BEGIN SOLUTION
    p, q = torch.tensor([[0.8, 0.1, 0.1]]), torch.tensor([[0.1, 0.8, 0.1]])
    sure, flat = torch.tensor([[0.98, 0.01, 0.01]]), torch.tensor([[0.4, 0.3, 0.3]])
    return {"pair": (p, q), "batch": (torch.cat([sure, flat]), torch.cat([flat, sure]))}
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "gap-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("gap", my_blind_spots)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
if result:
    answer = my_blind_spots()
    for name, (p, q) in answer.items():
        gap, distance = kl_gap(p.log(), q.log()), symmetric_kl(p.log(), q.log())
        print(f"{name}: mean gap {gap.mean().item():+.4f}, symmetric KL {distance.mean().item():.3f}")

    # Near p = q: the sum is of second order, the gap of third order, so it pushes far too late.
    step = torch.logspace(-2, 0, 30)[:, None]
    p = torch.zeros(30, 3)
    q = step * torch.tensor([[1.0, -0.5, -0.5]])
    fig, ax = plt.subplots(figsize=(5, 3))
    ax.loglog(step, symmetric_kl(p, q), "-", label="symmetric KL")
    ax.loglog(step, absolute_gap(p, q), "--", label="|gap|")
    ax.set(xlabel="distance of the logits", ylabel="nats")
    ax.legend()
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# c) is the careful answer, and b) names the most important case: swap two classes of the guide's prediction and both directions of KL stay equal although the answer is wrong. Across a batch even that is not needed: one over-confident example cancels one under-confident example. The sum of both directions has none of these blind spots, but it is much larger, so it needs a smaller weight.

# %% [markdown]
# ## Going further
#
# - Find a pair with gap 0 in which `q` is *not* a permutation of `p`. (Walk along a line between one pair with a positive and one with a negative gap.)
# - Take one small gradient step on the gap at your `batch`, and look at both KL directions. Does one of them grow?
# - Why do one process and two processes minimise different objectives when the absolute value is taken of a batch mean?

# %% [markdown]
# ## References
#
# - Z. Liu et al., *D2R: dual regularization loss with collaborative adversarial generation for model robustness*, 2025. [arXiv 2506.07056](https://arxiv.org/abs/2506.07056)
# - S. Kullback, R. A. Leibler, *On Information and Sufficiency*, Annals of Mathematical Statistics 22, 1951.
# - J. Lin, *Divergence measures based on the Shannon entropy*, IEEE Transactions on Information Theory 37(1), 1991.

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "gap-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
