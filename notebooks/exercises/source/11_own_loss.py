# %% [markdown]
# # Exercise 11: a loss of your own
#
# What you will be able to do:
#
# - turn a divergence into a loss that the kit trains, with a weight that can be set from outside
# - decide where gradients flow, and check that they do
# - register the loss, so that it is a row like any other
#
# **Time:** about 30 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display

import d2rkit
from d2rkit import Loss
from d2rkit.exercises import check, report

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The formula
#
# A guide learns the labels; the target, on attacked images, is pulled towards it by the squared Hellinger distance, which is never above 1:
#
# $$L = \underbrace{\mathrm{CE}(g(x), y)}_{\texttt{guide}} + \underbrace{w\,\tfrac1B\sum_b \Bigl(1 - \sum_c \sqrt{p_{f}(x'_b)_c\;\, p_{g}(x_b)_c}\Bigr)}_{\texttt{pull}}$$
#
# In `pull` the guide stands still: the term has no gradient in $g$. The weight $w$ is an argument, 20 by default.
#
# An objective of the kit takes `Logits(target_clean, target_adv, guide_clean, guide_adv)` and labels, and returns `Loss(total, parts)`: the scalar to minimise, and its weighted terms by name.

# %% [markdown]
# ## Predict first
#
# You write $\sqrt{pq}$ as `(p * q).sqrt()` with `p` and `q` from `softmax`. The numbers are right. What can still go wrong in training?
#
# a) nothing, b) it is slower, c) the gradient is infinite where a probability is 0.
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "own_loss-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_loss(logits, y, *, weight=20.0):
    """Loss(total, {"guide", "pull"}), scalars; logits.target_adv and logits.guide_clean are (B, C), y is (B,)."""
    ### BEGIN SOLUTION
    log_f = logits.target_adv.log_softmax(1)
    log_g = logits.guide_clean.detach().log_softmax(1)
    affinity = ((log_f + log_g) / 2).exp().sum(1)
    parts = {"guide": F.cross_entropy(logits.guide_clean, y), "pull": weight * (1 - affinity).mean()}
    return Loss(sum(parts.values()), parts)
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "own_loss-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("own_loss", my_loss)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed. Then your loss is registered and trained for a few epochs on digits.

# %%
if result:
    d2rkit.register_method("mine", my_loss, title="Mine", attack="cag", needs_guide=True, needs_clean=False)
    experiment = d2rkit.Experiment(
        method="mine", target="cnn-8", guide="cnn-8", epochs=6, batch_size=48, lr=0.4, warmup=1.0,
        eps=0.2, step_size=0.1, steps=3, padding=0, flip=False, val_steps=3,
    )  # fmt: skip
    data = d2rkit.load_data("digits")
    pair = d2rkit.build_pair(experiment, data)
    history = d2rkit.fit(pair, data, experiment, device="cpu").history
    print(f"a run of it would be called {experiment.run_name}; edit the loss, and the name is another one")
    fig, ax = plt.subplots(figsize=(5, 2.6))
    epochs = [row["epoch"] for row in history]
    for (column, words), mark in zip({"val_clean": "clean", "val_pgd": "under PGD"}.items(), "os", strict=True):
        ax.plot(epochs, [100 * row[column] for row in history], marker=mark, label=words)
    ax.set(xlabel="epoch", ylabel="accuracy (%)", ylim=(0, 100), title="validation images")
    ax.legend()
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# c). The derivative of $\sqrt u$ at 0 is infinite, and times a derivative of 0 it is `nan`: one sure prediction spoils the whole network, with a loss that looked fine a step before. In logarithms, $\sqrt{pq} = \exp\tfrac12(\log p + \log q)$ has a finite gradient everywhere. That is why the check also tries predictions that are very sure.

# %% [markdown]
# ## Going further
#
# - Let the pull move the guide as well. Who gives way? Look at the guide's clean accuracy.
# - Put the loss into a file and compare it with TRADES and D2R+CAG over three seeds: `docs/your_own.md` shows how, and notebook 09 what to look at.
# - Take another divergence that has no upper bound, such as χ². Which weight gives the same pull near the guide?

# %% [markdown]
# ## References
#
# - E. Hellinger, *Neue Begründung der Theorie quadratischer Formen von unendlichvielen Veränderlichen*, Journal für die reine und angewandte Mathematik 136, 1909.
# - F. Liese, I. Vajda, *On divergences and informations in statistics and information theory*, IEEE Transactions on Information Theory 52, 2006.
# - Z. Liu et al., *D2R: dual regularization loss with collaborative adversarial generation for model robustness*, 2025. [arXiv 2506.07056](https://arxiv.org/abs/2506.07056)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "own_loss-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
