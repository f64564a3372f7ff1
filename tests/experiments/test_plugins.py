"""A stranger's own loss, network, data set and table at every door of the kit, and what a stranger gets wrong."""

import json
import linecache
import logging
import pickle
import sys
import textwrap
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import d2rkit
from d2rkit.cli import main
from d2rkit.core.source_digest import digest_of
from d2rkit.exercises import check, report
from d2rkit.exercises.checking import Step
from d2rkit.experiments import plugins
from d2rkit.experiments.experiment import Experiment, read_config, read_runs
from d2rkit.experiments.own_presets import read_preset
from d2rkit.experiments.presets import PRESETS, get_preset
from d2rkit.experiments.run import run
from d2rkit.experiments.slurm import Job, Slurm, submit_slurm
from d2rkit.experiments.sweep import sweep
from d2rkit.methods.catalogue import METHODS
from d2rkit.methods.objectives import Logits, Loss
from d2rkit.networks.architectures import build_model
from d2rkit.panels.start_here import StartHere
from d2rkit.planning.synthetic import counts_of
from d2rkit.reporting.export import LOOKS, look

MINE = '''
import torch
import torch.nn.functional as F
from torch import nn

import d2rkit
from d2rkit.methods.divergences import kl

SHARE = 0.5


def pull(logits):
    return kl(logits.guide_clean, logits.target_adv).mean()


@d2rkit.register_method("mine", title="Mine", attack="cag", needs_guide=True, needs_clean=False)
def mine(logits, y, *, weight=4.0):
    """CE(g(x), y) + weight KL(p_g(x) || p_f(x')) + SHARE CE(f(x'), y)"""
    parts = {"guide": F.cross_entropy(logits.guide_clean, y), "pull": weight * pull(logits)}
    parts["adv"] = SHARE * F.cross_entropy(logits.target_adv, y)
    return d2rkit.Loss(sum(parts.values()), parts)


@d2rkit.register_model("tiny")
class Tiny(nn.Sequential):
    def __init__(self, num_classes, image_size, channels):
        convolution = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        super().__init__(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, num_classes))


@d2rkit.register_dataset("quarters")
def quarters(root):
    x = torch.randint(0, 128, (120, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    y = torch.arange(120) % 4
    for label, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        x[y == label, :, row : row + 4, column : column + 4] += 120
    return d2rkit.Split(x[:100], y[:100]), d2rkit.Split(x[100:], y[100:]), ("nw", "ne", "sw", "se"), "drawn in mine.py"


BASE = d2rkit.Experiment(data="quarters", target="tiny", guide="tiny", epochs=1, batch_size=50, eps=0.1, padding=0)
d2rkit.register_preset("quarters-quick", BASE, rows=("mine", "trades"), seeds=(0, 1), title="Quarters")
'''  # 40 lines

PAINT = "x[y == label, :, row : row + 4, column : column + 4] += 120"
TABLE = """
title = "Mine beside TRADES, on quarters"
rows = ["mine", {name = "reference", method = "trades", title = "TRADES, here", lr = 0.2}]
seeds = [0]

[experiment]
data = "quarters"
target = "tiny"
guide = "tiny"
epochs = 1
batch_size = 40
eps = "26/255"
step_size = 0.05
steps = 1
padding = 0
flip = false
val_steps = 1
test_images = 10
attacks = ["clean", "pgd2"]
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a test registers is gone after it; processes that are started find no plugins in the environment."""
    monkeypatch.delenv(plugins.VARIABLE, raising=False)
    tables = (plugins.REGISTERED, plugins.LOADED, *plugins.TABLES.values())
    kept = [dict(table) for table in tables]
    yield
    forget(tables, kept)
    plugins.FAULTS.clear()


def forget(tables=None, kept=None):
    """As in a process that has not loaded anything."""
    if tables is None:
        tables, kept = (plugins.REGISTERED, plugins.LOADED, *plugins.TABLES.values()), [{}, {}]
        own = {key.rpartition(" ")[::2] for key in plugins.REGISTERED}
        kept += [{n: v for n, v in t.items() if (kind, n) not in own} for kind, t in plugins.TABLES.items()]
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """mine.py and mine.toml in the current folder."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine.toml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(monkeypatch, line):
    monkeypatch.setattr(sys, "argv", ["d2rkit", *line.split()])
    main()


def edited(files, old, new):
    text = (files / "mine.py").read_text()
    assert text.count(old) == 1
    (files / "mine.py").write_text(text.replace(old, new))


def test_a_stranger_fills_a_table_with_two_workers_and_an_edited_loss_is_another_row(files, monkeypatch, capsys):
    assert MINE.count("\n") <= 42
    line = "reproduce mine.toml --plugin mine.py --workers {} --runs runs --results results"
    command(monkeypatch, line.format(2))
    assert "Mine beside TRADES, on quarters: 2 runs" in capsys.readouterr().out
    (first,) = (files / "runs").glob("quarters-tiny-mine-s0-*")
    digests = json.loads((first / "result.json").read_text())["registered"]
    assert set(digests) == {"method mine", "network tiny", "data set quarters"}
    assert digests == read_config(first).registered == {key: plugins.REGISTERED[key].digest for key in digests}
    tables = {name: (files / "results" / f"table.{name}").read_text() for name in ("md", "tex", "html", "csv")}
    assert all("Mine" in text and "TRADES, here" in text for text in tables.values())
    assert "`d2rkit reproduce mine.toml --plugin mine.py`" in tables["md"]
    assert (files / "results" / "robustness-against-eps.pdf").stat().st_size > 1_000

    command(monkeypatch, f"verify {first} --plugin mine.py")
    assert "best: confirmed: Clean" in capsys.readouterr().out
    weights = f"{first}/best.safetensors --key target --network tiny --data quarters --attacks clean --no-masking"
    command(monkeypatch, f"evaluate {weights} --plugin mine.py --runs flags")
    assert "judged in IEEE float32 on 20 test images" in capsys.readouterr().out

    forget()  # the next command is another process
    edited(files, "weight=4.0", "weight=5.0")
    command(monkeypatch, line.format(0))
    runs = read_runs(files / "runs")
    mine = [r for r in runs if r.experiment.method == "mine"]
    assert len(runs) == 3 and len({r.experiment.registered["method mine"] for r in mine}) == 2
    for name in tables:
        rows = (files / "results" / f"table.{name}").read_text()
        assert all(rows.count(r.experiment.registered["method mine"][:6]) for r in mine), name
    figure = json.loads((files / "results" / "training-curves.json").read_text())
    assert {r.folder.name for r in runs} == set(figure["runs"])
    assert len(mine[0].history) == 1 and mine[0].history[0]["loss_pull"] > 0


def test_plan_tune_and_status_take_a_table_of_ones_own(files, monkeypatch, capsys):
    base = "mine.toml --plugin mine.py --runs runs"
    command(monkeypatch, f"status {base}")
    assert "the rest: d2rkit sweep mine.toml --runs runs --plugin mine.py" in capsys.readouterr().out
    command(monkeypatch, f"tune {base} --rates 0.1 --rows mine --subset 50 --epochs 1 --workers 1 --results r")
    assert "mine" in (files / "r" / "learning_rates.csv").read_text()
    command(monkeypatch, f"plan {base} --rows mine --steps 1 --workers 0")
    assert "reproduce mine.toml --rows mine" in capsys.readouterr().out
    assert get_preset("quarters-quick").command == "d2rkit reproduce quarters-quick --plugin mine.py"
    counts = counts_of(get_preset("quarters-quick").base)
    assert (counts.train, counts.val, counts.test) == (80, 20, 20)
    assert StartHere("quarters", "quarters-quick", "mine").experiment.method == "mine"


def test_a_registered_method_looks_like_no_other(files):
    d2rkit.load_plugin("mine.py")
    plugins.register_method("other", METHODS["mine"].objective, needs_guide=True, version="1")
    taken = [(each.marker, each.dashes) for each in LOOKS.values()]
    mine, other = look("mine"), look("other")
    assert mine.color not in {each.color for each in LOOKS.values()} and (mine.marker, mine.dashes) not in taken
    assert (mine.color, mine.marker, mine.dashes) != (other.color, other.marker, other.dashes)
    forget()
    assert look("mine").color not in {each.color for each in LOOKS.values()} and look("mine") == look("mine")


# -- digests ---------------------------------------------------------------------------------------------------
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


# -- workers ---------------------------------------------------------------------------------------------------
def test_a_worker_loads_the_file_that_an_experiment_brings_and_none_that_has_changed(files):
    d2rkit.load_plugin("mine.py")
    cell = read_preset("mine.toml").experiments()[0]
    sent = pickle.dumps(Job(cell, files, "cpu", None, 1))
    forget()
    found = pickle.loads(sent).experiment
    assert found == cell and found.check() is METHODS["mine"]
    forget()
    edited(files, "SHARE = 0.5", "SHARE = 0.6")
    found = pickle.loads(sent).experiment
    assert found == cell and "mine" not in METHODS
    with pytest.raises(ValueError, match=r"quarters comes from .*mine.py has changed since this run was asked"):
        found.check()


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


# -- files -----------------------------------------------------------------------------------------------------
def test_a_file_is_run_again_only_if_it_has_changed_and_then_in_its_own_place(files):
    d2rkit.load_plugin("mine.py")
    first, build = METHODS["mine"], plugins.MODELS["tiny"]
    d2rkit.load_plugin(files / "mine.py")
    assert METHODS["mine"] is first
    edited(files, '@d2rkit.register_model("tiny")', '@d2rkit.register_model("small")')
    edited(files, 'target="tiny", guide="tiny"', 'target="small", guide="small"')
    d2rkit.load_plugin("mine.py")
    assert "tiny" not in plugins.MODELS and plugins.MODELS["small"] is not build
    assert isinstance(build_model("small", 2, 8, 1), nn.Sequential) and Experiment(method="mine").check()


def test_plugins_of_the_environment_and_of_packages(files, monkeypatch, caplog):
    monkeypatch.setenv(plugins.VARIABLE, "mine.py:gone.py")
    (files / "their_package.py").write_text(
        MINE.replace("mine", "theirs").replace("quarters", "their").replace('"tiny"', '"slim"')
    )
    (files / "broken_package.py").write_text("import d2rkit\nd2rkit.register_method('half', lambda: 0)")
    monkeypatch.syspath_prepend(str(files))
    points = [EntryPoint(n, f"{n}_package", plugins.GROUP) for n in ("their", "broken")]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == "d2rkit.plugins" else [])
    with caplog.at_level(logging.WARNING, "d2rkit"):
        plugins.load_installed()
    assert {"mine", "theirs"} <= METHODS.keys() and "half" not in METHODS
    assert "the plugin broken_package is left out: the objective of method 'half' fails" in caplog.text
    assert plugins.FAULTS == ["the plugin gone.py does not exist or is not a file"]
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "status quick")
    assert caught.value.code == 2


LOSS = "import d2rkit, torch\nfrom d2rkit import *\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = (", "the plugin bad.py, line 1: SyntaxError: '(' was never closed"),
        ("x = 1\nraise RuntimeError('no\\nway')", "the plugin bad.py, line 2: RuntimeError: no way"),
        ("import sys\nsys.exit(3)", "the plugin bad.py, line 2: SystemExit: 3"),
        ("x = '\0'", "the plugin bad.py"),
        ("register_method('trades', METHODS['mart'].objective)", "the method 'trades' is the kit's own"),
        ("register_method('Mine', METHODS['mart'].objective)", "a method is named with small letters"),
        ("register_method('mine', METHODS['mart'].objective, need_guide=True)", "did you mean 'needs_guide'?"),
        (
            "register_method('mine', METHODS['mart'].objective, attack='cga')",
            "unknown attack 'cga' (did you mean 'cag'?)",
        ),
        ("register_method('mine', METHODS['mart'].objective, attack='cag')", "takes needs_guide=True"),
        ("register_method('mine', METHODS['mart'].objective, awp='much')", "awp must be like 0.0, not 'much'"),
        ("register_method('mine', lambda y: y)", "fails on a batch of four examples: TypeError"),
        ("register_method('mine', lambda z, y: z.target_adv.sum())", "must return Loss(total, parts)"),
        ("register_method('mine', lambda z, y: Loss(z[1].sum(), {'a': z[0].sum()}))", "do not sum to its total"),
        ("register_method('mine', lambda z, y: Loss(z[1].sum(1), {'a': z[1].sum(1)}))", "must return finite scalars"),
        ("register_method('mine', lambda z, y: Loss(torch.ones(()), {'a': torch.ones(())}))", "has no gradient"),
        ("register_model('wrn-10-2', lambda c, s, n: None)", "the network 'wrn-10-2' is the kit's own"),
        ("register_model('net', lambda c: None)", "the network 'net' must be a function of 3 argument(s)"),
        ("register_dataset('cifar10', lambda root: None)", "the data set 'cifar10' is the kit's own"),
        ("register_dataset('mine', lambda: None)", "the data set 'mine' must be a function of 1 argument(s)"),
        ("register_attack('mine', lambda pair, x, y: x)", "the attack 'mine' failed: TypeError"),
        ("register_attack('mine', lambda pair, x, y, **k: x + 1)", "left the ball of radius eps"),
        ("register_preset('quick', Experiment(), rows=('mart',))", "the preset 'quick' is the kit's own"),
        ("register_preset('own', Experiment(), rows=('marts',))", "unknown method 'marts' (did you mean 'mart'?)"),
        ("register_preset('own', Experiment(), rows=())", "needs at least one row"),
        ("register_exercise('kl', lambda s: [], reference=0)", "the exercise 'kl' is the kit's own"),
        (
            "exec('def f(z, y): return METHODS[chr(109)]')\nregister_model('n', eval('lambda a, b, c: 0'))",
            "cannot be read",
        ),
    ],
)
def test_a_bad_file_gets_one_sentence_and_leaves_nothing_behind(files, text, sentence, monkeypatch, capsys):
    before = {kind: dict(table) for kind, table in plugins.TABLES.items()}
    kept = "" if "quick" in text or text[-1] == "(" else "register_method('fine', METHODS['mart'].objective)\n"
    (files / "bad.py").write_text(text if text[0] in "xi" else f"{LOSS}{kept}{text}")
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "train --method fine --plugin=bad.py --runs runs")
    said = capsys.readouterr().err
    assert caught.value.code == 2 and sentence in said and said.count("\n") == 1 and "Traceback" not in said, said
    assert not (files / "runs").exists() and before == plugins.TABLES


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("train --plugin", "--plugin needs a file"),
        ("train --plugin gone.py", "the plugin gone.py does not exist or is not a file"),
        ("train --plugin mine.py --method mime", "unknown method 'mime' (did you mean 'mine'?)"),
        ("train --plugin mine.py --method mine --target tiny --loss weight x", "Mine cannot be computed with"),
        ("train --plugin mine.py --target tinny", "unknown network 'tinny' (did you mean 'tiny'?)"),
        ("data quarter --plugin mine.py", "unknown data set 'quarter' (did you mean 'quarters'?)"),
        ("reproduce quarters-quik --plugin mine.py", "unknown preset 'quarters-quik' (did you mean 'quarters-quick'?)"),
        ("reproduce mine.toml", "mine.toml: unknown method 'mine'"),
        ("reproduce gone.toml", "the table gone.toml does not exist"),
    ],
)
def test_bad_words_get_one_sentence(files, line, sentence, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, line)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and sentence in said and said.count("\n") == 1 and "Traceback" not in said, said


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("title =", "title", "cannot be read as TOML"),
        ("title =", "titel =", "unknown key of a table 'titel' (did you mean 'title'?)"),
        ('title = "Mine beside TRADES, on quarters"', 'title = "a\\nb"', "a title must be a line of text"),
        ('"mine",', '"mime",', "unknown method 'mime' (did you mean 'mine'?)"),
        ('"mine",', '"mine", "mine",', "the row 'mine' is there twice"),
        ('"mine",', "3,", "a row is named with small letters"),
        ("lr = 0.2", "lrr = 0.2", "unknown setting 'lrr' (did you mean 'lr'?)"),
        ("lr = 0.2", "lr = -1", "lr must be above 0, not -1"),
        ("seeds = [0]", "seeds = [0, 0]", "the seed 0 is there twice"),
        ("seeds = [0]", "seeds = []", "needs at least one row and one seed"),
        ("seeds = [0]", 'seeds = ["0"]', "seeds must be whole numbers"),
        ("seeds = [0]", "seeds = 3", "seeds must be a list, not 3"),
        ('"26/255"', '"26/0"', "eps must be a number, e.g. 0.031 or '8/255', not '26/0'"),
        ('"26/255"', "true", "eps must be like"),
        ("epochs = 1", "registered = {}", "unknown setting 'registered'"),
    ],
)
def test_a_bad_table_gets_one_sentence(files, old, new, sentence, monkeypatch, capsys):
    assert old in TABLE
    (files / "mine.toml").write_text(TABLE.replace(old, new, 1))
    with pytest.raises(SystemExit) as caught:
        command(monkeypatch, "sweep mine.toml --plugin mine.py --runs runs --workers 0")
    said = capsys.readouterr().err
    assert caught.value.code == 2 and sentence in said and said.count("\n") == 1 and "mine.toml" in said, said
    assert not (files / "runs").exists() and "mine" not in PRESETS


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("nn.Linear(32, num_classes)", "nn.Linear(32, 7)", "must return logits of shape (2, 4), not a Tensor"),
        ("nn.Conv2d(channels, 8", "nn.Conv2d(3, 8", "a network fails on images of shape (2, 1, 8, 8): RuntimeError"),
        ("convolution = ", "convolution = channels[0], ", "the network 'tiny' failed: TypeError"),
        ("y = torch.arange(120) % 4", "y = torch.arange(120) % 5", "labels of train must lie in 0..3"),
        (PAINT, "x = x.int()", "images of train must be uint8"),
        (
            "x[y == label, :, row : row + 4, column : column + 4] += 120",
            "x = x[..., 1:]",
            "images of train must be square",
        ),
        (
            "x[y == label, :, row : row + 4, column : column + 4] += 120",
            "x.gone()",
            "the data set 'quarters' failed: AttributeError",
        ),
        ('("nw", "ne", "sw", "se")', '("nw",)', "needs two classes or more"),
        ('"se")', '"se")[:3]', "labels of train must lie in 0..2"),
        (
            "y = torch.arange(120) % 4",
            "return 3",
            "must be loaded as (train Split, test Split, class names",
        ),
    ],
)
def test_what_only_a_run_can_find_leaves_no_run_folder(files, old, new, sentence, monkeypatch, capsys):
    edited(files, old, new)
    with pytest.raises(SystemExit) as caught:
        command(
            monkeypatch, "train --method mine --data quarters --target tiny --guide tiny --plugin mine.py --runs runs"
        )
    said = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and sentence in said[-1] and not any("Traceback" in line for line in said), said
    assert not (files / "runs").exists()


def test_autoattack_on_too_few_classes_is_refused_before_a_run(tmp_path):
    split = d2rkit.Split(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 2)
    d2rkit.register_dataset("two", lambda root: (split, split, ("a", "b"), "nothing"))
    with pytest.raises(ValueError, match="AutoAttack needs at least 4 classes, and two has 2: leave it out of attacks"):
        run(Experiment(data="two", target="cnn-4", guide="cnn-4", epochs=1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_load_data_does_not_change_the_arrays_that_a_loader_keeps(files):
    kept = torch.arange(640, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(10, 1, 8, 8)
    split = d2rkit.Split(kept, torch.arange(10) % 2)
    d2rkit.register_dataset("kept", lambda root: (split, split, ("a", "b"), "kept"))
    before = kept.clone()
    data = d2rkit.load_data("kept", subset=8)
    assert (len(data.train), len(data.val), len(data.test), data.num_classes) == (7, 1, 10, 2)
    d2rkit.load_data("kept")
    assert torch.equal(kept, before)


def test_an_exercise_of_ones_own_is_checked_and_reported():
    @d2rkit.register_exercise("double", title="Twice", reference=lambda x: 2 * x)
    def probe(solution):
        found = solution(2)
        yield Step("twice two", found == 4, str(found), "4", "add it to itself")

    assert check("double", lambda x: x + x) and not check("double", lambda x: x)
    assert "double" in report().exercises
    with pytest.raises(ValueError, match="the reference of exercise 'triple' does not pass"):
        d2rkit.register_exercise("triple", probe, reference=lambda x: 3 * x)


def test_the_public_names_are_all_there_and_say_what_they_do():
    for name in d2rkit.__all__:
        assert getattr(d2rkit, name).__doc__, name
    assert Logits.__doc__ and Path(d2rkit.__file__).exists()
