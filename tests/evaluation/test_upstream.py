"""The installed pyautoattack is the one that the kit was written against; if not, a sentence says where it differs."""

import hashlib
import inspect
import re

import pytest
import torch
from pyautoattack import AutoAttack, fab_base, fab_projections
from pyautoattack.fab_pt import FABAttack_PT

from d2rkit.evaluation.autoattack.upstream import SOURCES, changes, put, with_names


def test_canary():
    assert not (changed := changes()), " ".join(changed)


def other(points_to_project, w_hyperplane, b_hyperplane):
    return points_to_project


def test_a_change_upstream_is_one_sentence(monkeypatch):
    monkeypatch.setattr(fab_projections, "projection_linf", other)
    digest = hashlib.sha256(inspect.getsource(other).encode()).hexdigest()[:12]
    assert changes() == [
        "pyautoattack's fab_projections.projection_linf, which is replaced: it sorts every pixel, has changed: "
        f"its source has the digest {digest}."
    ]


def test_what_is_gone_upstream_is_one_sentence(monkeypatch):
    monkeypatch.delattr(FABAttack_PT, "_get_predicted_label")
    monkeypatch.delattr(fab_base.FABAttack, "_get_predicted_label")
    (change,) = changes()
    assert change == (
        "pyautoattack has no fab_pt.FABAttack_PT._get_predicted_label any more, which is replaced where the labels are "
        "known."
    )


def test_a_file_that_is_gone_upstream_is_one_sentence(monkeypatch):
    monkeypatch.setattr("pyautoattack.__file__", __file__)
    assert changes() == [
        "pyautoattack carries no examples/model_test.pt any more, the undefended network of panels/sample_pairs.py."
    ]


def test_an_attribute_that_was_renamed_upstream_is_one_sentence(monkeypatch):
    make = AutoAttack.__init__

    def renamed(self, *args, **kwargs):
        make(self, *args, **kwargs)
        self.square.queries = self.square.__dict__.pop("n_queries")

    monkeypatch.setattr(AutoAttack, "__init__", renamed)
    monkeypatch.setitem(
        SOURCES,
        "autoattack.AutoAttack.__init__",
        (hashlib.sha256(inspect.getsource(renamed).encode()).hexdigest()[:12], ""),
    )
    assert changes() == ["pyautoattack's square has no n_queries any more."]


def test_what_the_package_no_longer_reads_is_not_set():
    attack = AutoAttack(torch.nn.Identity(), device="cpu")
    put(attack.square, n_queries=7)
    assert attack.square.n_queries == 7
    with pytest.raises(
        ImportError, match=r"^pyautoattack's SquareAttack has no queries: d2rkit needs pyautoattack 0.2$"
    ):
        put(attack.square, queries=7)


def test_other_names_reach_one_copy_of_the_loop_alone():
    def loop(x):
        return re.escape(x)

    loop = type(loop)(loop.__code__, {"re": re})
    assert with_names(loop, re=type("Other", (), {"escape": staticmethod(str.upper)}))("a.") == "A."
    assert loop("a.") == "a\\."
    with pytest.raises(ImportError, match=r"^pyautoattack lacks projection_linf"):
        with_names(loop, projection_linf=other)
