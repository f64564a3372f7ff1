"""Schedules and generators; what settings are refused is tested with fit(), in test_training."""

import pytest

from d2rkit.recipe import Recipe, generator_for, learning_rate


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
