# %% [markdown]
# # Exercise 1: KL and symmetric KL
#
# What you will be able to do:
#
# - write the Kullback–Leibler divergence of two predictions, and its symmetric form, from logits
# - say which of the two distributions weights the sum, and why the order matters
# - keep the numbers finite when a network is very sure
#
# **Time:** about 10 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import matplotlib.pyplot as plt
import torch
from IPython.display import display

from d2rkit.exercises import check, report

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The formula
#
# A network gives logits; softmax makes a distribution of each row. For $p = \mathrm{softmax}(z^p)$ and $q = \mathrm{softmax}(z^q)$
#
# $$\mathrm{KL}(p\,\|\,q) = \sum_{c=1}^{C} p_c\,(\log p_c - \log q_c), \qquad
# \mathrm{KL}_{\mathrm{sym}}(p, q) = \mathrm{KL}(p\,\|\,q) + \mathrm{KL}(q\,\|\,p)$$
#
# (Kullback & Leibler 1951; the sum of both directions is Jeffreys' divergence, 1946). Logits have shape `(B, C)`: `B` examples, `C` classes. Both results have shape `(B,)`, one value per example, in nats (natural logarithm).

# %% [markdown]
# ## Predict first
#
# The guide says $q = (0.98, 0.01, 0.01)$, the target $p = (0.4, 0.3, 0.3)$. Which is larger, $\mathrm{KL}(p\,\|\,q)$ or $\mathrm{KL}(q\,\|\,p)$?
#
# a) $\mathrm{KL}(p\,\|\,q)$, where the unsure target weights the sum, b) $\mathrm{KL}(q\,\|\,p)$, where the sure guide does, c) they are equal.
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "kl-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_kl(p_logits, q_logits):
    """KL(p || q) and KL(p || q) + KL(q || p) from logits (B, C): two tensors of shape (B,)."""
    ### BEGIN SOLUTION
    log_p, log_q = p_logits.log_softmax(1), q_logits.log_softmax(1)
    forward = (log_p.exp() * (log_p - log_q)).sum(1)
    backward = (log_q.exp() * (log_q - log_p)).sum(1)
    return forward, forward + backward
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "kl-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("kl", my_kl)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
if result:
    p, q = torch.tensor([[0.4, 0.3, 0.3]]).log(), torch.tensor([[0.98, 0.01, 0.01]]).log()
    forward, symmetric = my_kl(p, q)
    print(f"KL(p || q) = {forward.item():.3f}, KL(q || p) = {(symmetric - forward).item():.3f}")

    # A target that moves from the guide (left) to the opposite prediction (right).
    guide = torch.tensor([[0.90, 0.05, 0.05]])
    share = torch.linspace(0, 1, 41)[:, None]
    target = (1 - share) * guide + share * torch.tensor([[0.05, 0.90, 0.05]])
    forward, symmetric = my_kl(target.log(), guide.log().expand_as(target))
    fig, ax = plt.subplots(figsize=(5, 3))
    ax.plot(share, forward, "-", label="KL(target || guide)")
    ax.plot(share, symmetric - forward, "--", label="KL(guide || target)")
    ax.plot(share, symmetric, ":", label="sum of both")
    ax.set(xlabel="distance moved from the guide's prediction", ylabel="nats")
    ax.legend()
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# a). $\mathrm{KL}(p\,\|\,q)$ is large where $p$ is clearly above 0 and $q$ is close to 0: the unsure target puts weight 0.6 where the sure guide has 0.02. In the other direction these classes hardly count. So `KL(target || guide)` punishes a target for doubt, `KL(guide || target)` punishes it for missing what the guide believes.

# %% [markdown]
# ## Going further
#
# - Where do the dashed and the solid line meet, apart from 0? Exercise 2 is about that point.
# - Give `torch.nn.functional.kl_div` the same job. In which order does it want its arguments, and which of them as logarithms?
# - The D2R release adds 1e-5 inside one of the logarithms (`d2rkit.methods.divergences.kl(..., smoothing=1e-5)`). When does that change the result?

# %% [markdown]
# ## References
#
# - S. Kullback, R. A. Leibler, *On Information and Sufficiency*, Annals of Mathematical Statistics 22, 1951.
# - H. Jeffreys, *An invariant form for the prior probability in estimation problems*, Proceedings of the Royal Society A 186, 1946.
# - Z. Liu et al., *D2R: dual regularization loss with collaborative adversarial generation for model robustness*, 2025. [arXiv 2506.07056](https://arxiv.org/abs/2506.07056)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "kl-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
