# %% [markdown]
# # Exercise 5: collaborative adversarial generation
#
# What you will be able to do:
#
# - attack a target with the guide's prediction as the soft label
# - tell CAG from the TRADES attack and from PGD on labels
# - save forwards: compute what is constant once
#
# **Time:** about 20 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import torch
import torch.nn.functional as F
from IPython.display import display

from d2rkit import build_model
from d2rkit.exercises import check, report
from d2rkit.methods import attacks

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The formula
#
# $$x'_0 = x + \text{start}, \qquad x'_{t+1} = \Pi\bigl(x'_t + \alpha\,\mathrm{sign}\,\nabla_{x'_t}\,\mathrm{KL}(p_g(x)\,\|\,p_f(x'_t))\bigr)$$
#
# (CAG, Liu et al. 2025; $f$ target, $g$ guide; $\Pi$ as in exercise 4). It is the TRADES attack with the guide's clean prediction $p_g(x)$ in place of the target's $p_f(x)$. No gradient flows through the guide, and $p_g(x)$ does not depend on $x'$, so it is computed **once**.
#
# In training `start` is 0.001·N(0, I); here it is given. Both networks arrive in train mode, attack in eval mode and leave in train mode.

# %% [markdown]
# ## Predict first
#
# The TRADES attack climbs $\mathrm{KL}(p_f(x)\,\|\,p_f(x'))$. What is its gradient at $x' = x$ exactly? And what is CAG's, when guide and target disagree? Which of the two therefore *needs* a random start?
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "cag-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_cag(target, guide, x, eps, step_size, steps, start):
    """Adversarial images for `target`, with the guide's clean prediction as the soft label; x, start: (B, C, H, W)."""
    ### BEGIN SOLUTION
    modes = target.training, guide.training
    target.eval()
    guide.eval()
    with torch.no_grad():
        p_guide = guide(x).softmax(1)
    x_adv = x + start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        log_target = target(x_adv).log_softmax(1)
        divergence = F.kl_div(log_target, p_guide, reduction="sum")  # KL(p_guide || p_target)
        (gradient,) = torch.autograd.grad(divergence, x_adv)
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    target.train(modes[0])
    guide.train(modes[1])
    return x_adv.detach()
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "cag-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("cag", my_cag)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
if result:
    torch.manual_seed(1)
    target, guide = build_model("cnn-8", 10, 8, channels=1), build_model("cnn-8", 10, 8, channels=1)
    x, nowhere = torch.rand(16, 1, 8, 8), torch.zeros(16, 1, 8, 8)
    budget = {"eps": 0.1, "step_size": 0.025, "steps": 10}
    found = {
        "CAG": my_cag(target, guide, x, **budget, start=nowhere),
        "CAG, tiny start": my_cag(target, guide, x, **budget, start=0.001 * torch.randn_like(x)),
        "TRADES, no start": attacks.kl_self(target, x, **budget, start=nowhere),
        "TRADES, tiny start": attacks.kl_self(target, x, **budget),
    }
    direction = {name: (x_adv - x).flatten(1) for name, x_adv in found.items()}
    for name, change in direction.items():
        alike = F.cosine_similarity(change, direction["CAG"]).mean().item()
        print(f"{name:<18} largest change {change.abs().max():.3f}   cosine with CAG {alike:+.2f}")

# %% [markdown]
# ## Back to your prediction
#
# At $x' = x$ the TRADES divergence is 0, its smallest value, so the gradient is 0 up to rounding, and the sign of rounding noise is a random step: it needs the random start. (The row "TRADES, no start" moves all the same, for that reason only.) CAG's divergence is already above 0 where guide and target differ, so it has a direction from the first step on: away from the guide's prediction.

# %% [markdown]
# ## Going further
#
# - `d2rkit.methods.attacks.cag(..., guide_share=0.5)` lets the guide see x′ too. Compare its images with yours: cosine, and accuracy of target *and* guide.
# - Count the forwards of the guide in the released form (once per step) and in yours. What share of a training step does that save if both networks cost the same?
# - Notebook 04 draws the three attacks' paths in the guide–target plane.

# %% [markdown]
# ## References
#
# - Z. Liu et al., *D2R: dual regularization loss with collaborative adversarial generation for model robustness*, 2025. [arXiv 2506.07056](https://arxiv.org/abs/2506.07056)
# - H. Zhang et al., *Theoretically Principled Trade-off between Robustness and Accuracy* (TRADES), ICML 2019. [arXiv 1901.08573](https://arxiv.org/abs/1901.08573)
# - J. Cui et al., *Learnable Boundary Guided Adversarial Training* (LBGAT), ICCV 2021. [arXiv 2011.11164](https://arxiv.org/abs/2011.11164)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "cag-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
