import numpy as np
import pytest

from d2rkit.panels import story


def test_every_stage_adds_to_the_picture(sample):
    pieces = [sum(len(ax.get_children()) for ax in story.draw(story.compute(sample, 0, k)).axes) for k in range(1, 6)]
    assert pieces[:2] < pieces[1:3] and pieces[1] < pieces[2] < pieces[3] and len(set(pieces)) == 5


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
    with pytest.raises(ValueError, match="no guide"):
        story.compute(lonely)
    with pytest.raises(ValueError, match="stage 9"):
        story.compute(sample, 0, 9)
