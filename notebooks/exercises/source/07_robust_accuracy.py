# %% [markdown]
# # Exercise 7: robust accuracy with its error bar
#
# What you will be able to do:
#
# - measure robust accuracy in batches, in eval mode, over all images
# - put the standard error beside it
# - say whether a difference of two points means anything on 400 images
#
# **Time:** about 20 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from IPython.display import display

from d2rkit import build_model, load_data
from d2rkit.exercises import check, report
from d2rkit.methods import attacks

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The formula
#
# An image counts as robust if it is classified correctly **before and after** the attack: an attacker may leave it alone. With $r$ robust images out of $n$
#
# $$\hat p = \frac{r}{n}, \qquad \mathrm{SE} = \sqrt{\frac{\hat p\,(1-\hat p)}{n}}$$
#
# (binomial standard error). `attack(model, x, y)` returns adversarial images; work in batches of `batch_size`, where the last batch may be smaller. The network arrives in train mode, is attacked and evaluated in eval mode, and leaves as it came. Return two numbers, shares in [0, 1].

# %% [markdown]
# ## Predict first
#
# Two defences reach 50 % and 53 % on the same 397 test images. The standard error of each is about 2.5 points. And on the 10,000 images of CIFAR-10's test set?
#
# a) 0.1 points, b) 0.5 points, c) 2.5 points as well.
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "robust_accuracy-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_robust_accuracy(model, x, y, attack, batch_size):
    """Robust accuracy and its standard error, two floats in [0, 1]; x: (N, C, H, W) in [0, 1], y: (N,)."""
    ### BEGIN SOLUTION
    was_training = model.training
    model.eval()
    robust = 0
    for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
        x_adv = attack(model, images, labels)
        with torch.no_grad():
            right = (model(images).argmax(1) == labels) & (model(x_adv).argmax(1) == labels)
        robust += right.sum().item()
    model.train(was_training)
    p = robust / len(y)
    return p, math.sqrt(p * (1 - p) / len(y))
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "robust_accuracy-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("robust_accuracy", my_robust_accuracy)
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

    def pgd(model, x, y):
        return attacks.pgd_ce(model, x, y, eps=0.06, step_size=0.015, steps=10)

    sizes = [25, 50, 100, 200, 397]
    measured = [my_robust_accuracy(model, x[:n], y[:n], pgd, 128) for n in sizes]
    for n, (p, error) in zip(sizes, measured, strict=True):
        print(f"n = {n:3}: {100 * p:.1f} ± {100 * error:.1f} %")
    fig, ax = plt.subplots(figsize=(5, 3))
    ax.errorbar(sizes, [p for p, _ in measured], yerr=[error for _, error in measured], fmt="o", capsize=4)
    ax.set(xlabel="test images", ylabel="robust accuracy ± standard error", ylim=(0, 1))
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# b): the error shrinks with $\sqrt{n}$, and $\sqrt{10000/397} \approx 5$. So 50 % against 53 % on 397 images is no news by itself. This bar covers the choice of test images only; another seed of training moves the number too (exercise 9). For two models on the *same* images a paired test (McNemar) sees more than two separate bars.

# %% [markdown]
# ## Going further
#
# - Near 0 % and 100 % the formula gives a bar of 0. Look up Wilson's interval and compare for 0 robust images of 100.
# - `d2rkit.evaluate` keeps one flag per image. Use the flags of two attacks for McNemar's test: which images break under one attack only?
# - Evaluate with the network in train mode on purpose (use `cnn-16`). How far off is the number, and does it depend on the batch size?

# %% [markdown]
# ## References
#
# - L. D. Brown, T. T. Cai, A. DasGupta, *Interval Estimation for a Binomial Proportion*, Statistical Science 16(2), 2001.
# - Q. McNemar, *Note on the sampling error of the difference between correlated proportions or percentages*, Psychometrika 12, 1947.
# - N. Carlini et al., *On Evaluating Adversarial Robustness*, 2019. [arXiv 1902.06705](https://arxiv.org/abs/1902.06705)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "robust_accuracy-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
