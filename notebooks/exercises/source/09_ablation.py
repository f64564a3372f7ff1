# %% [markdown]
# # Exercise 9: an ablation to design and to defend
#
# What you will be able to do:
#
# - turn a question into a control, a treatment and seeds
# - compute a paired 95 % interval over seeds
# - claim what the interval allows, and no more
#
# **Time:** about 45 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import math
from statistics import mean, stdev

import matplotlib.pyplot as plt
import torch
from IPython.display import display

from d2rkit.exercises import check, report
from d2rkit.exercises.ablation import T95, trial

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## The design
#
# `trial(setting, seed)` trains a guide–target pair of small MLPs on digits and returns its robust accuracy on the 397 test images at ε = 0.15: the share that withstands PGD-20 *and* C&W-20 (PGD-20 alone flatters these small pairs, see exercise 10). A setting is a dict of what differs from `BASE`: fields of the training recipe (`method`, `steps`, `step_size`, `guide_share`, `weight_decay`, `update`, …) or weights of the loss (`w_clean`, `w_adv`, `w_mse`, `beta`). Examples: `{"method": "d2r"}`, `{"method": "d2r-cag", "w_clean": 0.0}`.
#
# Run control and treatment with the *same* seeds $s_1 \dots s_n$, so that the difference $d_i$ is paired. With $n$ seeds
#
# $$\bar d \pm t_{0.975,\,n-1}\,\frac{\mathrm{sd}(d)}{\sqrt n}$$
#
# is a 95 % interval (Student 1908; `T95[n]` is the quantile, `sd` divides by $n-1$). Claim `"higher"` or `"lower"` if it lies on one side of 0, else `"not shown"`.
#
# Write `my_ablation(trial)`: it chooses two settings that differ in **one** factor and two to ten seeds, calls `trial(setting, seed)` for all, and returns a dict with `control`, `treatment`, `seeds`, `control_scores`, `treatment_scores`, `difference` (mean of treatment − control), `half_width` and `claim`. The check hands it simulated trials whose truth it knows, so the claim has to follow from the numbers.

# %% [markdown]
# ## Predict first
#
# Published standard deviations over seeds are 0.2 to 0.7 points for wide networks. A paper reports one run each, 52.0 % and 52.4 %. Would you expect the order to survive another seed? How many seeds would you want here? Note which factor you want to study and which direction you expect, **before** you run anything.
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "ablation-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def my_ablation(trial):
    """A plan and its outcome; trial(setting, seed) returns robust accuracy, a share in [0, 1]."""
    ### BEGIN SOLUTION
    control, treatment = {"method": "d2r"}, {"method": "d2r-cag"}  # one factor: who gives the attack its soft label
    seeds = [0, 1, 2, 3]
    control_scores = [trial(control, seed) for seed in seeds]
    treatment_scores = [trial(treatment, seed) for seed in seeds]
    differences = [b - a for a, b in zip(control_scores, treatment_scores, strict=True)]
    difference = mean(differences)
    half_width = T95[len(seeds)] * stdev(differences) / math.sqrt(len(seeds))
    claim = "not shown" if abs(difference) <= half_width else "higher" if difference > 0 else "lower"
    return {
        "control": control,
        "treatment": treatment,
        "seeds": seeds,
        "control_scores": control_scores,
        "treatment_scores": treatment_scores,
        "difference": difference,
        "half_width": half_width,
        "claim": claim,
    }
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "ablation-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("ablation", my_ablation)
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
if result:
    outcome = my_ablation(trial)  # now with real training: about a second a run
    before, after = outcome["control_scores"], outcome["treatment_scores"]
    print("control  ", outcome["control"], [f"{score:.3f}" for score in before])
    print("treatment", outcome["treatment"], [f"{score:.3f}" for score in after])
    print(f"difference {outcome['difference']:+.3f} ± {outcome['half_width']:.3f} (95 %): {outcome['claim']}")
    fig, ax = plt.subplots(figsize=(5, 3))
    for seed, a, b in zip(outcome["seeds"], before, after, strict=True):
        ax.plot([0, 1], [a, b], "o-", color="0.4")
        ax.annotate(f"seed {seed}", (1, b), xytext=(6, -3), textcoords="offset points", fontsize=8)
    ax.set(xticks=[0, 1], xticklabels=["control", "treatment"], xlim=(-0.3, 1.5), ylabel="robust accuracy")
    plt.show()

# %% [markdown]
# ## Back to your prediction
#
# With a spread of 0.5 points between seeds, the difference of two single runs has a standard deviation of about 0.7: an order that rests on 0.4 points is close to a coin toss. Few seeds make the interval honest and wide; that "not shown" is a result, too, and says how large an effect could still hide.

# %% [markdown]
# ## Defend it
#
# Two or three sentences, for a reader who doubts you: the question and the direction you expected, why this control is the right one, what the interval says, and what it does *not* say (data set, size of network, attack, number of seeds).

# %% [markdown] nbgrader={"grade": true, "grade_id": "ablation-defence", "locked": false, "points": 10, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Question: does it help D2R if the attack's soft label is the guide's (CAG) rather than the target's own? The control is D2R with the TRADES attack: loss, networks, budget, data and seeds are the same, only the attack's soft label differs. The claim is the one printed above. It holds for MLPs on 8×8 digits at ε = 0.15 under PGD-20 and C&W-20 and says nothing about CIFAR, wide networks or AutoAttack; with four seeds an effect smaller than the half-width can neither be shown nor excluded.
# ### END SOLUTION

# %% [markdown]
# ## Going further
#
# - Add the released form (`d2r-cag-released`) and PGD-AT as further rows. With several comparisons, what happens to the 5 %?
# - How many seeds would show a difference of one point with the spread you measured?
# - Study `guide_share` or `update="two-step"`: both are open questions about the method, not settled facts.

# %% [markdown]
# ## References
#
# - X. Bouthillier et al., *Accounting for Variance in Machine Learning Benchmarks*, MLSys 2021. [arXiv 2103.03098](https://arxiv.org/abs/2103.03098)
# - Student, *The Probable Error of a Mean*, Biometrika 6(1), 1908.
# - L. Rice, E. Wong, J. Z. Kolter, *Overfitting in adversarially robust deep learning*, ICML 2020. [arXiv 2002.11569](https://arxiv.org/abs/2002.11569)
# - T. Pang et al., *Bag of Tricks for Adversarial Training*, ICLR 2021. [arXiv 2010.00467](https://arxiv.org/abs/2010.00467)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "ablation-grade", "locked": true, "points": 10, "schema_version": 3, "solution": false, "task": false}
result.require()
