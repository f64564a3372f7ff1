"""Every command with hostile values of some options, up to where its work begins: a documented exit code, and one
sentence for what is refused. Hostile words that are refused whatever else is asked: test_doors.py."""

import os
import random
import signal
import sys

import pytest

from d2rkit.cli import main
from d2rkit.networks.checkpoints import save_weights
from tests.conftest import make_pair

NUMBERS = (
    "-5", "0", "1", "2", "1.5", "-1", "nan", "inf", "-inf", "1e999", "0,031", "8/255", "8/0", "", "x", "../x", "99999",
    "9" * 30, "9" * 5_000, "0x10", "٣", "--", "True", "1 2",
)  # fmt: skip
WORDS = ("", "../x", "quik", "a\nb", "\x1b[31m", "\udcff", "*", "-", "--x", "x" * 5_000, "²", "%s{0}", "quick", "clean")
PLACES = ("{file}", "{file}/x", "{folder}", "{folder}/no/where", "~", "", "/dev/null", "x" * 5_000, "\udcff/x", "a\nb")
COUNT = int(os.environ.get("D2RKIT_COMMAND_LINES", "200"))  # of some 2,700; all of them take ten minutes
TRAIN = (
    "seed", "epochs", "batch-size", "micro-batch", "lr", "warmup", "momentum", "weight-decay", "eps", "step-size",
    "steps", "guide-share", "guide-warmup", "awp-warmup", "padding", "ema", "val-steps", "test-images", "test-eps",
    "devices",
)  # fmt: skip
HERE = {"runs": PLACES, "data-root": PLACES, "device": (*WORDS, "cpu", "tpu", "cuda:99", "mps")}
CHANGES = {"precision": WORDS, "micro-batch": NUMBERS, "speed": WORDS}
SPREAD = {"workers": NUMBERS, "threads": NUMBERS, "seeds": NUMBERS, "rows": WORDS}

# What each command takes: words that it needs, and the hostile values of each option.
COMMANDS = {
    ("doctor",): {},
    ("data", "digits"): {"subset": (*NUMBERS, *WORDS), "data-root": PLACES},
    ("plan", "quick"): SPREAD | CHANGES | HERE | dict.fromkeys(("clean", "robust", "steps"), NUMBERS),
    ("reproduce", "quick"): SPREAD | CHANGES | HERE | {"devices": NUMBERS, "results": PLACES},
    ("reproduce", "quick", "--dry-run"): SPREAD | HERE | {"batch": NUMBERS, "results": PLACES},
    ("sweep", "quick"): SPREAD | CHANGES | HERE | {"cell": NUMBERS, "devices": NUMBERS, "executor": WORDS},
    ("sweep", "quick", "--executor", "slurm"): {
        f"slurm.{name}": NUMBERS for name in ("minutes", "gpus", "cpus", "at-once", "requeues", "extra")
    },
    ("status", "quick"): {"rows": WORDS, "seeds": NUMBERS} | CHANGES | HERE,
    ("tune", "quick"): {"rates": NUMBERS, "subset": (*NUMBERS, *WORDS), "epochs": NUMBERS, "results": PLACES} | HERE,
    ("table", "quick"): {"results": PLACES} | CHANGES | HERE,
    ("pack", "quick", "{folder}/packed"): {"weights": PLACES} | HERE,
    ("train",): dict.fromkeys(TRAIN, NUMBERS)
    | dict.fromkeys(("method", "schedule", "loss", "update", "precision", "speed", "data", "subset"), WORDS)
    | dict.fromkeys(("target", "guide", "attacks", "checkpoints"), WORDS) | HERE,
    ("evaluate", "{folder}/pair.safetensors", "--data", "digits", "--attacks", "clean", "--test-images", "20"): {
        "eps": NUMBERS, "seed": NUMBERS, "test-images": NUMBERS, "batch-size": NUMBERS, "network": WORDS,
        "attacks": WORDS,
    } | HERE,
    ("lab",): {"port": NUMBERS},
    ("verify", "{folder}"): HERE,
}  # fmt: skip
FIRST = {
    "data": WORDS,
    "plan": WORDS,
    "sweep": WORDS,
    "status": WORDS,
    "table": WORDS,
    "lab": WORDS,
    "evaluate": PLACES,
    "verify": PLACES,
}


def reached(*args, **more):
    """In place of the work itself: what is asked of the values has been asked by then."""
    raise ValueError("the work itself was reached")


@pytest.fixture
def doors(tmp_path, monkeypatch):
    """A function from a command line to its exit code; whatever would take long is cut off where it begins."""
    for name in (
        "d2rkit.experiments.run._work", "d2rkit.experiments.run.launch", "d2rkit.experiments.sweep._with_workers",
        "d2rkit.cli.planning.measure", "d2rkit.planning.dry_run._each",
        "d2rkit.cli.jobs.submit_slurm", "d2rkit.cli.runs.bfloat16_pace",
        "d2rkit.data.tiny_imagenet._download", "subprocess.call",
    ):  # fmt: skip
        monkeypatch.setattr(name, reached, raising=False)
    for kind in ("runs", "data", "results"):
        monkeypatch.setenv(f"D2RKIT_{kind.upper()}", str(tmp_path / kind))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    places = {"file": tmp_path / "file", "folder": tmp_path / "folder"}
    places["folder"].mkdir()
    places["file"].write_text("")
    save_weights(places["folder"] / "pair.safetensors", make_pair().target, None)

    def call(words):
        for name, place in places.items():
            words = [word.replace(f"{{{name}}}", str(place)) for word in words]
        monkeypatch.setattr(sys, "argv", ["d2rkit", *words])
        try:
            main()
        except SystemExit as end:
            return end.code or 0
        return 0

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def lines():
    """All commands with one hostile value each, and with three at once, in an order that is the same each time."""
    rng = random.Random(0)
    every = [[*words, f"--{name}", value] for words, options in COMMANDS.items() for name, values in options.items()
             for value in values]  # fmt: skip
    every += [[command, value] for command, values in FIRST.items() for value in values]
    for words, options in COMMANDS.items():
        for _ in range(10 if options else 1):
            chosen = rng.sample(sorted(options), min(3, len(options)))
            every.append([*words, *(part for name in chosen for part in (f"--{name}", rng.choice(options[name])))])
    rng.shuffle(every)
    return every


def fault(code, out, err, reports):
    """What is wrong with how a command ended, in words; "" if nothing is."""
    sentences = [line for line in err.splitlines() if line.startswith("d2rkit: ")]
    if code not in (0, 1, 2, 3) or reports or "Traceback" in out + err or "\x1b" in err:
        return f"code {code}: {err} {[report.read_text() for report in reports]}"
    if (code and not sentences) or (code == 2 and len(sentences) != 1):
        return f"code {code} with {len(sentences)} sentences: {err}"
    return ""


def test_hostile_command_lines_end_in_a_sentence_and_a_documented_code(doors, tmp_path, capfd):
    faults = {}
    for words in lines()[:COUNT]:
        code = doors(words)
        told = capfd.readouterr()
        reports = list(tmp_path.rglob("d2rkit-error*"))
        if wrong := fault(code, told.out, told.err, reports):
            faults[" ".join(words)[:200]] = wrong
        for report in reports:
            report.unlink()
    assert not faults, "\n\n".join(f"{words!r}\n  {wrong}" for words, wrong in faults.items())
