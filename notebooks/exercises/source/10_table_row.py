# %% [markdown]
# # Exercise 10: reproduce one row of the table and export it
#
# What you will be able to do:
#
# - train a guide–target pair and measure it with one flag per image
# - derive every printed number from the flags
# - export a row that Markdown, LaTeX and a spreadsheet read without repair
#
# **Time:** about 40 minutes. **Needs:** a laptop, no GPU, no network. Every cell runs in seconds.

# %%
import csv
import io
import re

import torch
from IPython.display import display

from d2rkit import GuidedPair, Recipe, build_model, evaluate, fit, load_data
from d2rkit.exercises import check, report
from d2rkit.exercises.ablation import BASE, EPS

torch.manual_seed(0)
torch.set_num_threads(1)  # tiny networks are fastest with one thread

# %% [markdown]
# ## What is asked
#
# Two functions.
#
# 1. `train_and_evaluate()` trains a pair of `mlp-64` networks (10 classes, `image_size=64`, `channels=1`) on digits with `Recipe(**BASE)` and returns `evaluate(...)` of it on the test images: attacks `clean`, `fgsm`, `pgd20`, `cw20` at ε = `EPS`. `evaluation.flags[attack]` is a `(N,)` tensor, true where an image is still right.
# 2. `export_row(method, evaluation)` returns `{"markdown": …, "latex": …, "csv": …}`. All numbers follow from the flags: accuracy $100\,\hat p$ and standard error $100\sqrt{\hat p(1-\hat p)/n}$, in percent with one decimal, attacks in the order of `evaluation.flags`.
#
# | format | row |
# |---|---|
# | markdown | `\| D2R+CAG \| 0.1500 \| 85.1 ± 1.8 \| … \|` |
# | latex | `D2R+CAG & 0.1500 & 85.1 $\pm$ 1.8 & … \\` |
# | csv | two lines: `method,eps,clean,clean_se,fgsm,fgsm_se,…` and `D2R+CAG,0.1500,85.1,1.8,…` |
#
# The check also tries another evaluation and a method called `R&D, 50%_v2`.

# %% [markdown]
# ## Predict first
#
# Published tables give FGSM, PGD-20 and C&W. In which order do you expect the four accuracies of one model, and may the order ever be violated? The pair here is trained for a second or two on 1,200 images of 8×8 pixels: which of the published numbers may you compare it with?
#
# Write your answer down before you continue; you will come back to it.


# %% nbgrader={"grade": false, "grade_id": "table_row-solution", "locked": false, "schema_version": 3, "solution": true, "task": false}
def train_and_evaluate():
    """A trained pair's Evaluation on the 397 test digits: clean, fgsm, pgd20, cw20 at eps = EPS (pixel scale)."""
    ### BEGIN SOLUTION
    torch.manual_seed(0)
    data = load_data("digits")
    target, guide = (build_model("mlp-64", 10, image_size=64, channels=1) for _ in range(2))
    pair = GuidedPair(target, guide)
    fit(pair, data, Recipe(**BASE), device="cpu")
    return evaluate(pair, data.test, ("clean", "fgsm", "pgd20", "cw20"), EPS)
    ### END SOLUTION


def export_row(method, evaluation):
    """{"markdown": str, "latex": str, "csv": str}: accuracy and standard error in percent, one decimal."""
    ### BEGIN SOLUTION
    n = len(evaluation.flags["clean"])
    shares = [flags.float().mean().item() for flags in evaluation.flags.values()]
    cells = [(100 * p, 100 * (p * (1 - p) / n) ** 0.5) for p in shares]
    eps = f"{evaluation.eps:.4f}"
    escaped = re.sub(r"([&%_#$])", r"\\\1", method)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", "eps", *[c for name in evaluation.flags for c in (name, f"{name}_se")]])
    writer.writerow([method, eps, *[f"{value:.1f}" for cell in cells for value in cell]])
    return {
        "markdown": "| " + " | ".join([method, eps, *[f"{a:.1f} ± {s:.1f}" for a, s in cells]]) + " |",
        "latex": " & ".join([escaped, eps, *[rf"{a:.1f} $\pm$ {s:.1f}" for a, s in cells]]) + r" \\",
        "csv": out.getvalue(),
    }
    ### END SOLUTION


# %% [markdown]
# ## Check
#
# The check reports what it got and what it expected, and gives a hint. Change your cell, run it, and run this one again, as often as you like.

# %% nbgrader={"grade": false, "grade_id": "table_row-check", "locked": true, "schema_version": 3, "solution": false, "task": false}
result = check("table_row", (train_and_evaluate, export_row))
display(result)

# %% [markdown]
# ## See it at work
#
# This cell waits until the check has passed.

# %%
if result:
    row = export_row("D2R+CAG", train_and_evaluate())
    for name, text in row.items():
        print(f"{name}:\n{text}\n")

# %% [markdown]
# ## Back to your prediction
#
# Clean ≥ FGSM ≥ PGD-20 almost always, and PGD above FGSM is a warning. In published tables C&W-20 is a point or two below PGD-20. Here it is far below: this small pair is unsure of itself, so cross-entropy is a poor guide for the attacker, and the "margin loss" check of exercise 8 speaks. The honest number of a row is its lowest column, and AutoAttack may lower it further. None of the published CIFAR numbers may stand beside a digits row as if they were comparable: data, ε and networks differ. Print them only in their own table, with their source.

# %% [markdown]
# ## Going further
#
# - Add `autoattack` to the attacks (about half a minute on this network) and let `export_row` find the new column by itself.
# - Add rows for `trades` and `pgd-at` with three seeds each, and print mean and spread over seeds beside the binomial error. Which is larger?
# - One line changes the data: `load_data("cifar10", subset="10k")` and networks for 32×32 pixels. What has to change in the recipe?

# %% [markdown]
# ## References
#
# - Z. Liu et al., *D2R: dual regularization loss with collaborative adversarial generation for model robustness*, 2025. [arXiv 2506.07056](https://arxiv.org/abs/2506.07056)
# - F. Croce et al., *RobustBench: a standardized adversarial robustness benchmark*, NeurIPS 2021 Datasets and Benchmarks. [arXiv 2010.09670](https://arxiv.org/abs/2010.09670)
# - F. Croce, M. Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks* (AutoAttack), ICML 2020. [arXiv 2003.01690](https://arxiv.org/abs/2003.01690)
# - J. Pineau et al., *Improving Reproducibility in Machine Learning Research*, JMLR 22, 2021. [arXiv 2003.12206](https://arxiv.org/abs/2003.12206)

# %% [markdown]
# ## Hand in
#
# `handin.json` is saved next to this notebook and collects all eleven exercises. The last cell is for graders: it stays silent once the check has passed.

# %%
display(report().save("handin.json"))

# %% nbgrader={"grade": true, "grade_id": "table_row-grade", "locked": true, "points": 20, "schema_version": 3, "solution": false, "task": false}
result.require()
