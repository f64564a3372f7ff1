"""Schedules and generators; what settings are refused is tested with fit(), in test_training."""

import json

import pytest

from d2rkit.experiments.experiment import Experiment
from d2rkit.networks.checkpoints import load_resume
from d2rkit.training.loop import fit
from d2rkit.training.recipe import Recipe, generator_for, learning_rate
from tests.conftest import make_pair
from tests.training.test_loop import same_weights, without_seconds


def test_released_schedule_is_the_one_of_the_release():
    recipe = Recipe(schedule="released", epochs=100, lr=0.1)
    expected = [0.02] + 74 * [0.1] + 15 * [0.01] + 10 * [0.001]
    assert [learning_rate(recipe, epoch) for epoch in range(100)] == pytest.approx(expected)
    assert [learning_rate(recipe, epoch + 0.99) for epoch in range(100)] == pytest.approx(expected)


def test_cosine_schedule_warms_up_and_ends_at_zero():
    recipe = Recipe(schedule="cosine", epochs=10, warmup=2.0, lr=0.4)
    assert [learning_rate(recipe, e) for e in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.2, 0.4, 0.2, 0])
    assert learning_rate(Recipe(epochs=10, lr=0.4), 0) == 0.4
    assert learning_rate(Recipe(schedule="constant", lr=0.3), 55) == 0.3


def test_each_purpose_has_a_generator_of_its_own():
    seeds = [generator_for(p, s).initial_seed() for p in ("init", "shuffle", "augment", "attack") for s in range(5)]
    assert len(set(seeds)) == 20
    assert generator_for("attack", 0).initial_seed() == generator_for("attack", 0).initial_seed()


def test_an_experiment_is_a_recipe_and_trains_as_its_recipe_does(few_digits, tmp_path):
    settings = {"epochs": 1, "batch_size": 80, "eps": 0.1, "step_size": 0.05, "steps": 1, "loss": {"w_clean": 1.0}}
    recipe = Recipe(**settings)
    experiment = Experiment(**settings, data="cifar10", target="cnn-4", test_images=40, attacks=(), checkpoints=())
    fits = []
    for how, folder in ((recipe, tmp_path / "recipe"), (experiment, tmp_path / "both"), (recipe, tmp_path / "both")):
        pair = make_pair()
        fits.append((pair, fit(pair, few_digits, how, folder, device="cpu")))
        assert json.loads(load_resume(folder / "resume.pt")["recipe"]) == settings
    (first, alone), (second, whole), (third, gone_on) = fits
    assert same_weights(first, second) and same_weights(first, third)
    assert without_seconds(alone.history) == without_seconds(whole.history) and gone_on.history == whole.history


def test_equal_experiments_are_one_key_whatever_the_order_of_their_options():
    options = {"w_adv": 3.0, "w_mse": 0.5}
    one, other = (Experiment(seed=1, loss=dict(each)) for each in (options.items(), reversed(options.items())))
    assert hash(one) == hash(other) and len({one, other, Experiment(seed=2, loss=options)}) == 2
    assert hash(Recipe(loss=options)) != hash(Recipe())
