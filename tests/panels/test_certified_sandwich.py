"""The shipped sandwich: its files are of these networks, it holds on five seeds, and its control fails."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2rkit.methods import attacks
from d2rkit.panels import base, certified_sandwich, sandwich_seeds
from d2rkit.panels.certified_sandwich import MOST, TITLES, CertifiedSandwich, compute, load


@pytest.fixture(scope="module")
def shipped():
    return load()


def test_what_is_shipped_is_proven_again(shipped):
    """The flags in the file are those of the shipped weights, and their clean predictions are the file's."""
    for name, judged in shipped.networks.items():
        kept = sandwich_seeds.flags_of(shipped.facts, name, 0)
        for how in ("ibp", "crown"):
            assert np.array_equal(compute(judged, how, shipped.eps).sandwich.proven, kept[how])
        assert np.array_equal(judged.broken > shipped.eps, kept["survived"])
        right = (judged.network(judged.images).argmax(1) == judged.labels).numpy()
        assert np.array_equal(judged.broken > 0, right) and right.sum() == shipped.facts["seeds"][f"{name}-0"]["clean"]
    assert len(shipped.networks["ibp"].labels) >= 100


def test_five_seeds_and_a_control_that_fails(shipped):
    facts = shipped.facts
    assert sandwich_seeds.seeds_of(facts) == [0, 1, 2, 3, 4]
    for bound in ("ibp", "crown"):
        assert all(one.decided >= 0.9 for one in sandwich_seeds.sandwiches(facts, "ibp", bound))
        assert all(not len(one.contradictions) for n in TITLES for one in sandwich_seeds.sandwiches(facts, n, bound))
        text = sandwich_seeds.verdict(facts, "natural", bound)
        assert "which excludes 0" in text and "No digit is both" in text
    assert all(one.lower == 0 and one.upper > 0.5 for one in sandwich_seeds.sandwiches(facts, "natural", "ibp"))


def test_no_attack_of_ours_breaks_a_proven_digit(shipped):
    judged = shipped.networks["pgd-at"]
    for eps in (10 / 255, shipped.eps, 26 / 255):
        proven = torch.from_numpy(compute(judged, "crown", eps).sandwich.proven)
        assert proven.any()
        for attack in (attacks.pgd_ce, attacks.cw):
            adversarial = attack(judged.network, judged.images, judged.labels, eps=eps, step_size=eps / 4, steps=20)
            assert (judged.network(adversarial).argmax(1) == judged.labels)[proven].all()


def test_radii_agree_with_the_proof_at_a_radius(shipped):
    judged = shipped.networks["ibp"]
    for how in ("ibp", "crown"):
        radii = 255 * judged.radii[how]
        assert (radii[judged.broken == 0] == -255).all()
        proven = compute(judged, how, 15 / 255).sandwich.proven
        assert proven[radii >= 15].all() and not proven[radii < 15 - MOST / 128].any()
    assert (judged.radii["ibp"] <= judged.radii["crown"] + MOST / 255 / 128).all()


def test_a_planted_contradiction_reaches_the_panel(shipped):
    judged = shipped.networks["ibp"]
    at = int(np.flatnonzero(compute(judged, "crown", shipped.eps).sandwich.proven)[0])
    broken = judged.broken.copy()
    broken[at] = 3 / 255
    panel = CertifiedSandwich({"ibp": replace(judged, broken=broken)})
    assert f"CONTRADICTION on 1 of them (number {at})" in panel.text.value
    facts = {**shipped.facts, "seeds": {name: dict(facts_of) for name, facts_of in shipped.facts["seeds"].items()}}
    facts["seeds"]["ibp-3"]["survived"] = "0" * len(broken)
    assert "CONTRADICTIONS" in sandwich_seeds.verdict(facts)
    assert "CONTRADICTION" not in CertifiedSandwich(shipped.networks).text.value


def test_panel_moves(shipped):
    panel = CertifiedSandwich(shipped.networks)
    before = panel.text.value
    panel.controls["eps255"].main.value = 26
    assert panel.error == "" and panel.text.value != before
    tight = panel.data.sandwich.lower
    panel.controls["how"].main.value = "ibp"
    assert panel.data.sandwich.lower < tight and panel.error == ""
    panel.controls["network"].main.value = "natural"
    panel.controls["eps255"].main.value = 0
    assert panel.error == "" and panel.data.sandwich.open.sum() == 0
    with pytest.raises(ValueError, match="did you mean 'ibp'"):
        CertifiedSandwich(shipped.networks, network="ibpp")


def test_what_the_notebook_says_comes_from_the_files(shipped):
    assert sandwich_seeds.draw_seeds(shipped.facts).axes
    table = base.plain_text(sandwich_seeds.seeds_table(shipped.facts))
    assert all(title in table for title in TITLES.values()) and "± " in table
    cost = sandwich_seeds.cost_of_proof(shipped.facts)
    clean = [shipped.facts["seeds"][f"{n}-{s}"]["clean"] for n in ("natural", "ibp") for s in range(5)]
    assert cost["actual"] == pytest.approx((sum(clean[:5]) - sum(clean[5:])) / 5)
    assert sandwich_seeds.wide_bread(shipped)["actual"] in TITLES
    assert sandwich_seeds.decided_of(shipped, "ibp", "ibp")["actual"] >= 90
    assert len(sandwich_seeds.by_radius(shipped).split("<tr>")) == len(shipped.facts["radii255"]) + 2
    assert "CROWN proves" in sandwich_seeds.fit_again(epochs=1)


def test_files_that_are_not_there_are_said(tmp_path):
    with pytest.raises(ValueError, match=r"sandwich\.json"):
        certified_sandwich.load(tmp_path)
