"""What a stranger gets wrong in a file, a table or a command: one sentence, and nothing left behind."""

import pytest
import torch

import d2rkit
from d2rkit.experiments import plugins
from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.presets import PRESETS
from d2rkit.experiments.run import run
from tests.experiments.plugin_files import PAINT, TABLE, command, edited

pytestmark = pytest.mark.usefixtures("as_before")


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
        ('"26/255"', '"1e400"', "eps must be a number, e.g. 0.031 or '8/255', not '1e400'"),
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
