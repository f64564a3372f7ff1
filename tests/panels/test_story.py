from itertools import pairwise

import numpy as np
import pytest

from d2rkit.panels import base, story


def test_every_stage_adds_to_the_picture(sample):
    pieces = [sum(len(ax.get_children()) for ax in story.draw(story.compute(sample, 0, k)).axes) for k in range(1, 6)]
    assert pieces[:2] < pieces[1:3] and pieces[1] < pieces[2] < pieces[3] and len(set(pieces)) == 5


def test_every_moment_differs_from_the_one_before(sample):
    pictures = [base.to_png(story.draw(story.compute(sample, 0, *moment)))[0] for moment in story.MOMENTS]
    assert len(set(pictures)) == len(story.MOMENTS)
    assert {stage for stage, _ in story.MOMENTS} == set(range(1, len(story.STAGES) + 1))
    assert list(story.MOMENTS) == sorted(story.MOMENTS)


def test_the_attack_climbs_step_by_step_within_its_ball(sample):
    taken = [story.compute(sample, 2, 2, part) for stage, part in story.MOMENTS if stage == 2]
    start, end = taken[0].kl[0], taken[0].kl[2]
    assert taken[0].kl[1] == start and taken[-1].kl[1] == end and all(t.kl[::2] == (start, end) for t in taken)
    assert end > start and all(a.kl[1] < b.kl[1] + 1e-3 for a, b in pairwise(taken))
    assert all(np.abs(each.adversarial - each.clean).max() <= sample.eps + 1e-6 for each in taken)
    assert "after 3 of 10 steps" in story.words(taken[3]) and f"is {taken[3].kl[1]:.2f}, at the start" in story.words(
        taken[3]
    )


def test_what_it_shows_is_real(sample):
    data = story.compute(sample, 2)
    assert 0 < np.abs(data.adversarial - data.clean).max() <= sample.eps + 1e-6
    assert set(data.says) == {"f(x′)", "f(x)", "g(x)"} and all(p.sum() == pytest.approx(1) for p in data.says.values())
    assert "f(x′)" not in story.words(story.compute(sample, 2, 1)), "x′ is not there yet"


def test_the_panel_and_a_target_alone(sample, lonely):
    panel = story.story_of(sample)
    first = panel.picture.value
    panel.controls["stage"].main.value = 5
    assert panel.error == "" and panel.picture.value != first and ">5. The gradients" in panel.text.value
    assert "no guide" in story.story_of(lonely).static(stage=5).value
    scrub = panel.scrub
    assert scrub.slider.value == len(story.MOMENTS), "it follows the stage"
    scrub.play.value = 5
    assert panel.settings["stage"] == 2 and "after 2 of 10 steps" in panel.text.value and panel.error == ""
    panel.controls["stage"].main.value = 3
    panel.controls["stage"].main.value = 2
    assert "after 10 of 10 steps" in panel.text.value and story.MOMENTS[scrub.field.value - 1] == (2, 10)
    panel.reset.click()
    assert panel.settings["stage"] == 1 and story.MOMENTS[scrub.slider.value - 1] == (1, 1)
    with pytest.raises(ValueError, match="no guide"):
        story.compute(lonely)
    with pytest.raises(ValueError, match="stage 9"):
        story.compute(sample, 0, 9)
