# %% [markdown]
# # Exercise 4: PGD with projection
#
# What you will be able to do:
#
# - write projected gradient ascent, the attack behind most adversarial training
# - project into the ε-ball and into [0, 1]
# - attack in eval mode and return the network in its original mode
#
# **Time:** about 20 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

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
# $$x_0 = x, \qquad x_{t+1} = \Pi\bigl(x_t + \alpha\,\mathrm{sign}\,\nabla_{x_t}\mathrm{CE}(f(x_t), y)\bigr), \qquad
# \Pi(z) = \mathrm{clip}_{[0,1]}\bigl(\min(\max(z,\; x-\varepsilon),\; x+\varepsilon)\bigr)$$
#
# (Madry et al. 2018). ε is the radius of the ball around the **clean** image, α the step size, both in pixel scale.
#
# The network arrives in train mode, as in a training loop. Attack in eval mode (`model.eval()`): in train mode BatchNorm looks at the other images of the batch and moves its statistics. Put it back afterwards. Start at `x` itself, so that your result can be compared.

# %% [markdown]
# ## Predict first
#
# Same ε = 0.15, network and digits as in exercise 3. FGSM takes one step of 0.15, PGD ten steps of 0.03. Whose images are farther from the clean ones, and who fools the network more often?
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "pgd-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_pgd(model, x, y, eps, step_size, steps):
    """Adversarial images: `steps` steps of `step_size` up the cross-entropy, inside the eps-ball around x and [0, 1]."""
    ### BEGIN SOLUTION
    was_training = model.training
    model.eval()
    x_adv = x.clone()
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
        x_adv = x_adv.detach() + step_size * gradient.sign()
        x_adv = torch.minimum(torch.maximum(x_adv, x - eps), x + eps).clamp(0, 1)
    model.train(was_training)
    return x_adv.detach()
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "pgd-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("pgd", my_pgd)
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

    model.eval()
    for words, step_size, steps in (("FGSM", 0.15, 1), ("PGD, 10 steps", 0.03, 10), ("PGD, 40 steps", 0.01, 40)):
        x_adv = my_pgd(model, x, y, 0.15, step_size, steps)
        left = (model(x_adv).argmax(1) == y).float().mean().item()
        moved = (x_adv - x).abs()
        print(f"{words:<14} accuracy {left:6.1%}   largest change {moved.max():.3f}   mean change {moved.mean():.3f}")
    fig, axes = plt.subplots(1, 3, figsize=(6, 2.2))
    change = (x_adv - x)[0, 0]
    for ax, title, image, options in (
        (axes[0], f"clean: {y[0]}", x[0, 0], {"cmap": "gray", "vmin": 0, "vmax": 1}),
        (axes[1], "change, −0.15 to 0.15", change, {"cmap": "PuOr", "vmin": -0.15, "vmax": 0.15}),
        (axes[2], f"attacked: read as {model(x_adv[:1]).argmax().item()}", x_adv[0, 0].clamp(0, 1), {"cmap": "gray"}),
    ):
        ax.imshow(image, **options)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# Both use the whole ball: the largest change is ε for each. PGD fools the network at least as often, because it corrects its direction on the way. The mean change is about the same too, which shows that distance is not strength. On this undefended network a single step already does nearly all the damage; on a network trained to withstand one step, the difference matters.

# %% [markdown]
# ## Going further
#
# - Add a random start inside the ball (`d2rkit.methods.attacks.uniform_start`) and restarts. How much does each help, and what does it cost?
# - Replace the sign and the projection for the L2 ball; compare with `d2rkit.methods.attacks.pgd(..., norm="l2")`.
# - Leave the network in train mode during the attack on purpose and watch its BatchNorm statistics (use a network that has some: `cnn-16`).

# %% [markdown]
# ## References
#
# - A. Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018. [arXiv 1706.06083](https://arxiv.org/abs/1706.06083)
# - A. Kurakin, I. Goodfellow, S. Bengio, *Adversarial examples in the physical world*, 2016. [arXiv 1607.02533](https://arxiv.org/abs/1607.02533)
# - S. Ioffe, C. Szegedy, *Batch Normalization*, ICML 2015. [arXiv 1502.03167](https://arxiv.org/abs/1502.03167)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "pgd-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
