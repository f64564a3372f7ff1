# %% [markdown]
# # Exercise 6: the D2R loss
#
# What you will be able to do:
#
# - write the four terms of the D2R loss from three logit tensors
# - see where labels enter, and where they do not
# - choose the reduction knowingly: a mean over classes makes the weights C times smaller
#
# **Time:** about 20 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display

from d2rkit import Logits
from d2rkit.exercises import check, report
from d2rkit.methods.objectives import d2r

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The formula
#
# With $K(p\,\|\,q) = \frac{1}{B\,C}\sum_b\sum_c p_{bc}(\log p_{bc} - \log q_{bc})$, a mean over batch **and** classes,
#
# $$L = \underbrace{\mathrm{CE}(g(x), y)}_{\texttt{ce}} + \underbrace{\mathrm{MSE}(f(x'), g(x))}_{\texttt{mse}}
# + \underbrace{2\,\bigl[K(p_f(x)\,\|\,p_g(x)) + K(p_g(x)\,\|\,p_f(x))\bigr]}_{\texttt{clean}}
# + \underbrace{30\,K(p_f(x')\,\|\,p_g(x))}_{\texttt{adv}}$$
#
# (Liu et al. 2025, the symmetric form of the text; 30 as released, 2 because the sum is far larger than the released gap). MSE is on raw logits. Nothing is detached: every term moves both networks. The release adds 1e-5 inside the first logarithm of $K$; you may leave that out.

# %% [markdown]
# ## Predict first
#
# You train on ten classes and replace the mean over batch and classes by PyTorch's `reduction="batchmean"`, but keep the weights 2 and 30. What have you changed?
#
# a) nothing, b) the learning rate of everything, c) the balance between the KL terms and the other two.
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "d2r_loss-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_d2r(f_clean, f_adv, g_clean, y):
    """The weighted terms {"ce", "mse", "clean", "adv"}, scalars; f(x), f(x'), g(x) are logits (B, C), y is (B,)."""

    ### BEGIN SOLUTION
    def k(p_logits, q_logits):
        log_p, log_q = p_logits.log_softmax(1), q_logits.log_softmax(1)
        return (log_p.exp() * (log_p - log_q)).mean()

    return {
        "ce": F.cross_entropy(g_clean, y),
        "mse": F.mse_loss(f_adv, g_clean),
        "clean": 2 * (k(f_clean, g_clean) + k(g_clean, f_clean)),
        "adv": 30 * k(f_adv, g_clean),
    }
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "d2r_loss-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("d2r_loss", my_d2r)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
if result:
    torch.manual_seed(1)
    f_clean, f_adv, g_clean = (2 * torch.randn(128, 10) for _ in range(3))
    y = torch.randint(10, (128,))
    mine = my_d2r(f_clean, f_adv, g_clean, y)
    kit = d2r(Logits(f_clean, f_adv, g_clean), y, variant="symmetric", w_clean=2.0, w_adv=30.0).parts
    for name in mine:  # two digits: the release adds 1e-5 inside its logarithm, and so does the kit
        print(f"{name:<6} yours {mine[name].item():8.2f}   the kit's {kit[name].item():8.2f}")
    fig, ax = plt.subplots(figsize=(5, 2.4))
    values = [part.item() for part in mine.values()]
    ax.bar_label(ax.barh(list(mine), values), fmt="%.2f", padding=3)
    ax.set(xlabel="weighted term", xlim=(0, 1.2 * max(values)))
    ax.invert_yaxis()
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# c). `batchmean` divides by the batch only, so both KL terms grow by C = 10 while CE and MSE stay: the weights 2 and 30 act like 20 and 300. On CIFAR-100 the same mistake would be a factor of 100. Anyone who reports weights must report the reduction as well.

# %% [markdown]
# ## Going further
#
# - Write TRADES the same way, CE(f(x), y) + 6·batchmean KL(p_f(x) ‖ p_f(x′)), and compare with `d2rkit.methods.objectives.trades`. Which networks do labels reach?
# - Use the released gap (exercise 2) in the clean term. How large must its weight be for the same gradient on f(x)?
# - Detach the guide in every term but CE. Who teaches whom now? (`d2r(..., detach_guide=True)`)

# %% [markdown]
# ## References
#
# - Z. Liu et al., *D2R: dual regularization loss with collaborative adversarial generation for model robustness*, 2025. [arXiv 2506.07056](https://arxiv.org/abs/2506.07056)
# - H. Zhang et al., *Theoretically Principled Trade-off between Robustness and Accuracy* (TRADES), ICML 2019. [arXiv 1901.08573](https://arxiv.org/abs/1901.08573)
# - J. Cui et al., *Learnable Boundary Guided Adversarial Training* (LBGAT), ICCV 2021. [arXiv 2011.11164](https://arxiv.org/abs/2011.11164)
# - G. Hinton, O. Vinyals, J. Dean, *Distilling the Knowledge in a Neural Network*, 2015. [arXiv 1503.02531](https://arxiv.org/abs/1503.02531)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "d2r_loss-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
