"""The code of a hand-in runs elsewhere: it brings its imports, constants and helper functions."""

import linecache

import torch

from d2rkit.exercises import check
from d2rkit.exercises.source import source_of

NOTEBOOK = '''
import math
import torch.nn.functional as F
from torch import zeros as nothing
from d2rkit.methods.divergences import kl

SHIFT = 1e-8
unused = "secret"


def log(p):
    return inner(p)


def inner(p):
    return (p + SHIFT).log()


def my_kl(p_logits, q_logits):
    """Mine."""
    p, q = F.softmax(p_logits, 1), F.softmax(q_logits, 1)
    d = [(p * (log(p) - log(q))).sum(1) + math.pi * 0 + nothing(5) for _ in "x"][0]
    return d, d + kl(q_logits, p_logits)
'''


def as_in_a_notebook(text, file="<a notebook's cells>"):
    """The names that cells with this text define; inspect finds their source, as it does in a kernel."""
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), space)
    return space


def test_the_text_runs_by_itself():
    text = source_of(as_in_a_notebook(NOTEBOOK)["my_kl"])
    assert "import torch.nn.functional as F" in text and "SHIFT = 1e-08" in text and "unused" not in text
    assert text.index("def inner") < text.index("def log") < text.index("def my_kl")
    space = {}
    exec(text, space)
    p, q = torch.randn(5, 3), torch.randn(5, 3)
    assert torch.equal(space["my_kl"](p, q)[0], as_in_a_notebook(NOTEBOOK)["my_kl"](p, q)[0])
    assert check("kl", as_in_a_notebook(NOTEBOOK)["my_kl"]).code == text


def test_what_has_no_source_has_no_text():
    for thing in (None, 3, print, "text", (), [None, 3], eval("lambda p: p")):
        assert source_of(thing) == ""
