"""What tells two versions of a registered function apart, and runs made with them."""

import importlib
import linecache
import pickle
import textwrap
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import d2rkit
from d2rkit.core.source_digest import digest_of
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.run import run
from d2rkit.experiments.slurm import Slurm, submit_slurm
from d2rkit.experiments.sweep import sweep
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.objectives import Loss
from tests.experiments.plugin_files import MINE, forget

pytestmark = pytest.mark.usefixtures("as_before")


PLAIN = """
    def f(x, *, w=1.0):
        # a remark
        return helper(x) + scale * w
"""


def digest(text=PLAIN, **names):
    space = {"__name__": "__main__"} | names
    text = textwrap.dedent(text)
    file = f"<cell {abs(hash(text))}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile(text, file, "exec"), space)
    return digest_of(space["f"])


HELPER = "def helper(x):\n    return x * {}\n"


def test_a_digest_sees_whatever_changes_the_result():
    text = HELPER.format(2) + textwrap.dedent(PLAIN)
    first = digest(text, scale=1)
    assert first == digest(text, scale=1) and len(first) == 12
    marked = text.replace("def f", "@register_it(title='What it is called')\ndef f")
    assert first == digest(marked, scale=1, register_it=lambda title: lambda function: function)
    others = [
        digest(text, scale=2),
        digest(HELPER.format(3) + textwrap.dedent(PLAIN), scale=1),
        digest(text.replace("w=1.0", "w=2.0"), scale=1),
        digest(text, scale=torch.ones(2)),
        digest(text, scale=torch.zeros(2)),
        digest(text, scale={"a": [1, (2, None)]}),
        digest(text, scale={"a": [1, (3, None)]}),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_a_digest_sees_values_in_a_closure_and_weights():
    def make(weight):
        return lambda logits: weight * logits

    torch.manual_seed(0)
    values = [1.0, 2.0, nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))]
    digests = [digest_of(make(value)) for value in values]
    assert len(set(digests)) == len(values)
    assert digest_of(make(1.0)) == digests[0] and digest_of(make(values[2])) == digests[2]


def test_what_has_no_digest_says_so_and_takes_a_version_instead():
    def make(thing):
        def f(logits, y, *, weight=1.0):
            assert thing
            total = weight * F.cross_entropy(logits.target_adv, y)
            return Loss(total, {"ce": total})

        return f

    with pytest.raises(ValueError, match=r"thing is <object .*of which no digest can be made; give version='1'"):
        d2rkit.register_method("mine", make(object()))
    space = {"F": F, "Loss": Loss}
    exec("def f(logits, y):\n    t = F.cross_entropy(logits.target_adv, y)\n    return Loss(t, {'ce': t})", space)
    with pytest.raises(ValueError, match="the source of f cannot be read, so that its versions could"):
        d2rkit.register_method("mine", space["f"])
    assert "mine" not in METHODS
    names = []
    for version in ("1", "2"):
        d2rkit.register_method("mine", make(object()), version=version)
        names.append(Experiment(method="mine").run_name)
    assert names[0] != names[1]


def test_a_package_without_a_file_has_no_digest(tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="bare is a package without a file, of which no digest can be made"):
        digest("def f(x):\n    return bare", bare=importlib.import_module("bare"))


def test_an_experiment_keeps_the_digest_it_was_made_with_and_forgets_that_of_what_it_leaves():
    def register(weight):
        def mine(logits, y):
            total = weight * F.cross_entropy(logits.target_adv, y)
            return Loss(total, {"ce": total})

        d2rkit.register_method("mine", mine)
        return Experiment(method="mine")

    old, new = register(1.0), register(2.0)
    assert old.run_name != new.run_name and replace(old, seed=3).registered == old.registered
    assert replace(old, registered={}) == new and replace(old, method="trades") == Experiment(method="trades")
    assert Experiment.from_dict(old.to_dict()) == old and "registered" not in Experiment(method="trades").to_dict()
    assert new.check() is METHODS["mine"]
    with pytest.raises(ValueError, match="the method mine has another source here"):
        old.check()
    forget()
    with pytest.raises(ValueError, match="the method mine comes from a plugin that is not loaded here; load it with"):
        new.check()
    assert Experiment.from_dict(new.to_dict()).run_name == new.run_name


def test_a_registered_attack_is_part_of_the_method_that_uses_it():
    def register(share):
        @d2rkit.register_attack("half-sign")
        def half_sign(pair, x, y, *, start, guide_share, eps, step_size, steps):
            x_adv = (x + start).requires_grad_(True)
            (grad,) = torch.autograd.grad(F.cross_entropy(pair.target(x_adv), y), x_adv)
            return (x + share * eps * grad.sign()).clamp(0, 1).detach()

        d2rkit.register_method("fast", METHODS["pgd-at"].objective, attack="half-sign", needs_clean=False)
        return Experiment(method="fast")

    one, two = register(0.5), register(0.25)
    assert list(one.registered) == ["attack half-sign", "method fast"]
    assert one.registered["method fast"] == two.registered["method fast"] and one.run_name != two.run_name
    assert replace(one, registered={}) == two and replace(one, seed=1).registered == one.registered


def in_a_notebook(weight="1.0"):
    text = f"""
    @d2rkit.register_method("cell", needs_clean=False)
    def f(logits, y):
        total = {weight} * F.cross_entropy(logits.target_adv, y)
        return Loss(total, {{"ce": total}})
    """
    digest(text, d2rkit=d2rkit, F=F, Loss=Loss)
    settings = {
        "epochs": 1,
        "batch_size": 400,
        "steps": 1,
        "val_steps": 1,
        "padding": 0,
        "attacks": (),
        "target": "cnn-4",
    }
    return Experiment(method="cell", **settings)


def test_a_function_of_a_notebook_runs_here_but_not_in_workers(tmp_path, digits):
    cell = in_a_notebook()
    for refused in (
        lambda: sweep([cell], tmp_path, workers=1, quiet=True),
        lambda: submit_slurm([cell], tmp_path, options=Slurm()),
        lambda: run(cell, tmp_path, device="cpu", count=2),
        lambda: pickle.dumps(cell),
    ):
        with pytest.raises(ValueError, match=r"the method cell was registered in a notebook.*%%writefile mine.py"):
            refused()
    assert not list(tmp_path.iterdir())
    pair = d2rkit.build_pair(cell, digits)
    assert d2rkit.fit(pair, digits, cell, device="cpu").status in ("done", "stuck at chance")
    assert run(cell, tmp_path, device="cpu").result["registered"] == cell.registered


def test_a_state_does_not_go_on_with_an_edited_loss(tmp_path, digits):
    cell = in_a_notebook()
    stopped = d2rkit.fit(
        d2rkit.build_pair(cell, digits), digits, cell, tmp_path, device="cpu", should_stop=lambda: True
    )
    assert stopped.status == "interrupted"
    cell = in_a_notebook("2.0")
    with pytest.raises(ValueError, match=r"resume.pt belongs to another recipe"):
        d2rkit.fit(d2rkit.build_pair(cell, digits), digits, cell, tmp_path, device="cpu")


def test_a_cell_may_be_run_again_but_a_name_of_a_file_is_the_files(files):
    in_a_notebook()
    in_a_notebook()
    d2rkit.load_plugin("mine.py")
    (files / "other.py").write_text(MINE)
    with pytest.raises(ValueError, match=r"the plugin other.py, line \d+: the method 'mine' is taken by .*mine.py"):
        d2rkit.load_plugin("other.py")
