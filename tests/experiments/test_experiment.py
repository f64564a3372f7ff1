import dataclasses
import fcntl
import json

import pytest
import torch

from d2rkit.data.datasets import load_data
from d2rkit.experiments.experiment import Experiment, build_pair, chosen_test, read_run, read_runs
from d2rkit.experiments.run import Interrupted, run
from d2rkit.experiments.run_locks import Busy

TINY = Experiment(
    method="d2r-cag", epochs=2, batch_size=100, lr=0.1, eps=0.2, step_size=0.05, steps=2, padding=0, flip=False,
    val_steps=2, test_images=20, attacks=("clean", "pgd2"),
)  # fmt: skip


def test_a_run_leaves_all_its_files_and_is_not_repeated(tmp_path):
    seen = []
    done = run(TINY, tmp_path, device="cpu", report=lambda fraction, words: seen.append(fraction))
    assert done.folder == tmp_path / TINY.run_name
    names = {p.relative_to(done.folder).as_posix() for p in done.folder.rglob("*") if p.is_file()}
    assert names == {
        "config.json", "history.csv", "last.safetensors", "best.safetensors", "resume.pt", "result.json", "lock",
        "evaluation/clean.npz", "evaluation/pgd2.npz",
    }  # fmt: skip
    assert done.experiment == TINY
    assert done.result["n_test"] == 20 and set(done.result["accuracy"]["best"]) == {"clean", "pgd2"}
    assert done.result["eps_curve"]["pgd20"][0] == done.result["accuracy"]["best"]["clean"]
    assert seen == sorted(seen) and seen[-1] == 1.0
    before = {p: p.stat().st_mtime_ns for p in done.folder.rglob("*")}
    assert run(TINY, tmp_path).result == done.result
    assert before == {p: p.stat().st_mtime_ns for p in done.folder.rglob("*")}
    assert [r.folder for r in read_runs(tmp_path)] == [done.folder]


def test_a_run_cut_off_in_evaluation_goes_on_to_the_same_result(tmp_path):
    whole = run(TINY, tmp_path / "whole", device="cpu").result
    calls = iter(range(10_000))
    evaluating = []

    def report(fraction, words):
        if fraction > 0.5:
            evaluating.append(next(calls))

    with pytest.raises(Interrupted):
        run(TINY, tmp_path / "cut", device="cpu", report=report, should_stop=lambda: len(evaluating) > 1)
    assert not (tmp_path / "cut" / TINY.run_name / "result.json").exists()
    again = run(TINY, tmp_path / "cut", device="cpu").result
    assert again["accuracy"] == whole["accuracy"] and again["eps_curve"] == whole["eps_curve"]


def test_a_run_cut_off_in_training_goes_on_to_the_same_result(tmp_path):
    whole = run(TINY, tmp_path / "whole", device="cpu")
    steps = iter(range(10_000))
    with pytest.raises(Interrupted):
        run(TINY, tmp_path / "cut", device="cpu", should_stop=lambda: next(steps) >= 15)
    again = run(TINY, tmp_path / "cut", device="cpu")
    for name in ("best.safetensors", "last.safetensors"):
        assert (again.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_both_checkpoints_are_evaluated_on_request(tmp_path):
    done = run(dataclasses.replace(TINY, checkpoints=("best", "last")), tmp_path, device="cpu")
    assert set(done.result["accuracy"]) == {"best", "last"}
    assert (done.folder / "evaluation-last" / "pgd2.npz").exists()


def test_a_diverged_run_says_so_and_has_no_accuracy(tmp_path):
    done = run(dataclasses.replace(TINY, lr=1e12), tmp_path, device="cpu")
    assert done.result["status"].startswith("failed: ") and done.result["accuracy"] == {}


def test_two_processes_do_not_work_on_one_run(tmp_path):
    folder = tmp_path / TINY.run_name
    folder.mkdir()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another process"):
            run(TINY, tmp_path, device="cpu")


def test_the_name_follows_from_the_settings_and_only_from_them():
    assert TINY.run_name == dataclasses.replace(TINY).run_name
    others = [dataclasses.replace(TINY, seed=1), dataclasses.replace(TINY, loss={"w_adv": 2.0})]
    assert len({TINY.run_name, *(o.run_name for o in others)}) == 3
    # Options in another order are the same experiment.
    one, two = ({"w_adv": 2.0, "w_ce": 1.0}, {"w_ce": 1.0, "w_adv": 2.0})
    assert dataclasses.replace(TINY, loss=one).run_name == dataclasses.replace(TINY, loss=two).run_name
    assert Experiment.from_dict(json.loads(json.dumps(TINY.to_dict()))) == TINY


def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone():
    data = load_data("digits")
    state = torch.get_rng_state()
    pairs = [build_pair(dataclasses.replace(TINY, seed=seed), data) for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    weights = [p.target.linear.weight for p in pairs]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert build_pair(dataclasses.replace(TINY, method="trades"), data).guide is None


def test_test_images_are_balanced_over_the_classes():
    data = load_data("digits")
    labels = chosen_test(TINY, data).labels
    assert labels.bincount().tolist() == [2] * 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "d2r-cga"}, "did you mean 'd2r-cag'"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"target": "wrn-34"}, "unknown network 'wrn-34'"),
        ({"target": "wrn-11-2"}, "depth must be 6n"),
        ({"loss": {"w_klean": 1.0}}, "did you mean 'w_clean'"),
        ({"loss": {"variant": "symetric"}}, "did you mean 'symmetric'"),
        ({"attacks": ("clean", "pgd")}, "unknown attack 'pgd'"),
        ({"checkpoints": ("worst",)}, "allowed: best, last"),
        ({"test_images": 398}, "more than the 397"),
        ({"eps": 8.0}, "pixel scale"),
        ({"test_eps": 1.5}, "test_eps is in pixel scale"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"subset": "many"}, "not a number of training images"),
    ],
)
def test_impossible_settings_are_named_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words) as caught:
        run(dataclasses.replace(TINY, **changes), tmp_path, device="cpu")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_settings_and_damaged_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown setting 'epoks'"):
        Experiment.from_dict({"epoks": 3})
    with pytest.raises(ValueError, match="does not exist"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        read_run(tmp_path)


def test_a_folder_that_holds_another_experiment_is_left_alone(tmp_path):
    folder = tmp_path / TINY.run_name
    folder.mkdir()
    other = json.dumps(dataclasses.replace(TINY, epochs=3).to_dict())
    (folder / "config.json").write_text(other)
    with pytest.raises(ValueError, match="another experiment"):
        run(TINY, tmp_path, device="cpu")
    assert (folder / "config.json").read_text() == other
