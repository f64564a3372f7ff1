# %% [markdown]
# # Exercise 3: FGSM
#
# What you will be able to do:
#
# - take the gradient of a loss with respect to the *image*
# - make an adversarial example with one step, in pixel scale and inside [0, 1]
# - read an accuracy-against-ε curve
#
# **Time:** about 15 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display

from d2rkit import build_model, load_data
from d2rkit.exercises import check, report

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The formula
#
# $$x' = \mathrm{clip}_{[0,1]}\bigl(x + \varepsilon \cdot \mathrm{sign}\,\nabla_x\, \mathrm{CE}(f(x), y)\bigr)$$
#
# (Goodfellow et al. 2015). Images `x` are `(B, C, H, W)` in [0, 1], `y` is `(B,)`. ε is in pixel scale: 8/255 = 0.031 on CIFAR; on 8×8 digits we use 0.15. The network is in eval mode and must not change.

# %% [markdown]
# ## Predict first
#
# A small network reads 95 % of the digits. Every pixel may change by 0.15, in the direction of the sign of the gradient. What is left?
#
# a) about 90 %, b) about half, c) less than 20 %. And if the signs are drawn at random instead?
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "fgsm-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_fgsm(model, x, y, eps):
    """Adversarial images, of x's shape: one step of size eps (pixel scale) up the cross-entropy, cut to [0, 1]."""
    ### BEGIN SOLUTION
    x_adv = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x_adv), y)
    (gradient,) = torch.autograd.grad(loss, x_adv)
    return (x + eps * gradient.sign()).clamp(0, 1)
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "fgsm-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("fgsm", my_fgsm)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
if result:
    data = load_data("digits")
    torch.manual_seed(0)
    model = build_model("mlp-64", 10, image_size=64, channels=1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(100):
        index = torch.randint(len(data.train), (256,))
        loss = F.cross_entropy(model(data.train.pixels(index)), data.train.labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = data.test.pixels(), data.test.labels

    sizes = [0.0, 0.03, 0.06, 0.09, 0.12, 0.15, 0.2]
    curves = {"FGSM": [], "random signs": []}
    for eps in sizes:
        for name, x_adv in (
            ("FGSM", my_fgsm(model, x, y, eps)),
            ("random signs", x + eps * torch.randn_like(x).sign()),
        ):
            curves[name].append((model(x_adv.clamp(0, 1)).argmax(1) == y).float().mean().item())
    for name, values in curves.items():
        print(f"{name:<12}", "  ".join(f"eps {eps}: {value:.0%}" for eps, value in zip(sizes, values, strict=True)))
    fig, ax = plt.subplots(figsize=(5, 3))
    ax.plot(sizes, curves["FGSM"], "o-", label="FGSM")
    ax.plot(sizes, curves["random signs"], "s--", label="random signs")
    ax.set(xlabel="ε (pixel scale)", ylabel="accuracy", ylim=(0, 1))
    ax.legend()
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# c) for the gradient, and a) for random signs: the same distance, another direction. High-dimensional inputs are robust to noise and fragile to a direction chosen on purpose. A single step is the weakest attack in this kit; the next exercise takes more.

# %% [markdown]
# ## Going further
#
# - Evaluation uses FGSM from a random start in the ball (`d2rkit.methods.attacks.fgsm(..., start=...)`). Does the start help or hurt the attacker?
# - Replace the sign by the gradient divided by its L2 length: what must ε be for the same damage?
# - What happens at ε = 0, and why should every evaluation print that number?

# %% [markdown]
# ## References
#
# - I. Goodfellow, J. Shlens, C. Szegedy, *Explaining and Harnessing Adversarial Examples*, ICLR 2015. [arXiv 1412.6572](https://arxiv.org/abs/1412.6572)
# - C. Szegedy et al., *Intriguing properties of neural networks*, ICLR 2014. [arXiv 1312.6199](https://arxiv.org/abs/1312.6199)
# - A. Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018. [arXiv 1706.06083](https://arxiv.org/abs/1706.06083)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "fgsm-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
