"""RobustBench's files as published rows, and a run as one of its entries. The entries here are made up, in its form."""

import json
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from d2rkit.cli.robustbench import claim_command, leaderboard
from d2rkit.experiments.experiment import read_runs
from d2rkit.methods.catalogue import METHODS
from d2rkit.reporting.published import FILE
from d2rkit.reporting.robustbench import claim, entry, our_name, read_leaderboard, their_name

SMALL = Path(__file__).parents[2] / "data" / "results" / "small" / "runs"
ENTRY = {
    "link": "https://example.org/paper", "name": "A Paper", "authors": "A. Author, B. Author", "additional_data": False,
    "number_forward_passes": 1, "dataset": "cifar10", "venue": "ICML 2030", "architecture": "WideResNet-34-10",
    "eps": "8/255", "clean_acc": "85.00", "reported": "56.00", "autoattack_acc": "53.00",
}  # fmt: skip
NETWORKS = ("WideResNet-34-10", "WideResNet-28-10", "PreActResNet-18", "ResNet-18", "XCiT-S12", "ResNet-152 + WRN")
ODD = {  # name: changes of ENTRY, or the file's whole content, and what is said of it
    "eps_word": ({"eps": "eight"}, "eps is 'eight', not a radius in pixel scale"),
    "eps_zero": ({"eps": "8/0"}, "not a radius"),
    "eps_pixels": ({"eps": "8"}, "not a radius"),
    "no_clean": ({"clean_acc": ""}, "it lacks clean_acc"),
    "too_much": ({"autoattack_acc": "153"}, "autoattack_acc is '153', not a percentage"),
    "nan": ({"external": "nan"}, "external is 'nan', not a percentage"),
    "a_list": ("[1, 2]", "it holds no entry"),
    "cut_off": ('{"dataset": "cif', "is damaged"),
}


@pytest.fixture
def copy_of_theirs(tmp_path):
    """Two dozen entries in their folders, some of other threats, some that are none."""
    root = tmp_path / "theirs"
    for threat, count in (("Linf", 12), ("L2", 3), ("corruptions", 2)):
        folder = root / "model_info" / "cifar10" / threat
        folder.mkdir(parents=True)
        for i in range(count):
            numbers = {"clean_acc": f"{80 + i}.5", "autoattack_acc": f"{50 + i}.25", "architecture": NETWORKS[i % 6]}
            changes = {"additional_data": i % 2 == 1} | ({"external": "48.1", "unreliable": True} if i == 11 else {})
            (folder / f"Author20{i:02}_{threat}.json").write_text(json.dumps(ENTRY | numbers | changes))
    for name, (change, _) in ODD.items():
        text = change if isinstance(change, str) else json.dumps(ENTRY | change)
        (root / "model_info" / "cifar10" / "Linf" / f"odd_{name}.json").write_text(text)
    return root


def test_entries_become_published_rows_and_odd_files_are_named(copy_of_theirs):
    entries = read_leaderboard(copy_of_theirs)
    frame = entries.frame
    assert len(frame) == 12 and frame["method"].str.endswith("_Linf").all()
    assert frame["autoattack"].tolist() == sorted(frame["autoattack"], reverse=True)
    best = frame.iloc[0]
    assert (best["method"], best["autoattack"], best["external"], best["unreliable"]) == (
        "Author2011_Linf",
        61.25,
        48.1,
        True,
    )
    assert frame["external"].isna().sum() == 11 and not frame["unreliable"].iloc[1:].any()
    assert set(frame["target"]) == {
        "wrn-34-10",
        "wrn-28-10",
        "preactresnet18",
        "resnet18",
        "XCiT-S12",
        "ResNet-152 + WRN",
    }
    assert best["source"] == "RobustBench model_info Author2011_Linf; A Paper, ICML 2030"
    assert len(entries.left_out) == len(ODD)
    for name, (_, says) in ODD.items():
        (words,) = [w for w in entries.left_out if w.startswith(f"odd_{name}.json was left out: ")]
        assert says in words


def test_a_folder_of_another_threat_model_has_no_linf_entries(copy_of_theirs):
    with pytest.raises(ValueError, match="no Linf entry"):
        read_leaderboard(copy_of_theirs / "model_info" / "cifar10" / "L2")


def test_numbers_that_are_not_there_are_nan():
    assert math.isnan(entry("x", ENTRY | {"autoattack_acc": None})["autoattack"])
    assert math.isnan(entry("x", ENTRY | {"external": "-"})["external"])


def test_a_folder_without_entries_is_said(tmp_path):
    with pytest.raises(ValueError, match="no Linf entry of RobustBench"):
        read_leaderboard(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        read_leaderboard(FILE)


def test_the_command_filters_and_saves_with_the_columns_of_published_csv(copy_of_theirs, tmp_path, capsys):
    leaderboard(str(copy_of_theirs), network="wrn-34-10", extra_data=False)
    said = capsys.readouterr()
    assert "Author2000_Linf" in said.out and "Author2001" not in said.out and "odd_a_list.json" in said.err
    new = tmp_path / "rows.csv"
    leaderboard(str(copy_of_theirs), output=str(new))
    header = new.read_text().splitlines()[0].split(",")
    assert len(new.read_text().splitlines()) == 13
    assert {"dataset", "target", "method", "eps", "clean", "autoattack", "source"} <= {*header} & {
        *FILE.read_text().splitlines()[0].split(",")
    }
    with pytest.raises(ValueError, match="is there already"):
        leaderboard(str(copy_of_theirs), output=str(new))


def test_a_network_is_found_by_either_name_and_the_numbers_owner_is_said(copy_of_theirs, capsys):
    said = []
    for network in ("wrn-34-10", "WideResNet-34-10"):
        leaderboard(str(copy_of_theirs), data="cifar10", network=network)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "Author2000_Linf" in said[0]
    assert "RobustBench's published numbers, in percent; none was measured here" in said[0]


def test_a_choice_that_leaves_no_entry_is_said(copy_of_theirs):
    with pytest.raises(ValueError, match="no entry of the network 'wrn-99-9' there; there are ResNet-152") as raised:
        leaderboard(str(copy_of_theirs), network="wrn-99-9")
    assert all(our_name(network) in str(raised.value) for network in NETWORKS)
    other = copy_of_theirs / "model_info" / "cifar100" / "Linf"
    other.mkdir(parents=True)
    content = ENTRY | {"dataset": "cifar100", "architecture": "ResNet-18", "additional_data": True}
    (other / "Author2030.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no entry of the network 'wrn-34-10' there; there are resnet18"):
        leaderboard(str(copy_of_theirs), data="cifar100", network="wrn-34-10")
    with pytest.raises(ValueError, match="no entry without additional data of the data set 'cifar100' there"):
        leaderboard(str(copy_of_theirs), data="cifar100", extra_data=False)
    with pytest.raises(ValueError, match="every entry there was trained with additional data"):
        leaderboard(str(other), extra_data=False)


@pytest.mark.parametrize("network", ["wrn-34-10", "preactresnet18", "resnet18", "cnn-8"])
def test_names_of_networks_go_there_and_back(network):
    assert our_name(their_name(network)) == network


def test_a_claim_is_an_entry_with_the_runs_own_numbers(tmp_path, capsys):
    run = next(r for r in read_runs(SMALL) if r.experiment.method == "trades")
    content, why_not = claim(run, authors="A", venue="V", link="L")
    assert content.keys() - {"footnote", "unreliable"} == ENTRY.keys()
    row = entry("mine", content)
    ours = run.result["accuracy"]["best"]
    assert (row["clean"], row["autoattack"]) == pytest.approx((100 * ours["clean"], 100 * ours["autoattack"]))
    assert (row["target"], row["eps"], row["dataset"]) == ("wrn-10-1", "8/255", "cifar10")
    assert why_not == ("RobustBench ranks numbers on all 10000 test images, and this one is of 500",)
    assert "500 test images" in content["footnote"] and "Trained on 10k images" in content["footnote"]
    new = tmp_path / "claim.json"
    claim_command(str(run.folder), output=str(new))
    assert "authors, venue, link are for you to fill in" in capsys.readouterr().out
    assert read_leaderboard(tmp_path).frame["autoattack"].tolist() == [row["autoattack"]]
    with pytest.raises(ValueError, match="is there already"):
        claim_command(str(run.folder), output=str(new))


def test_a_claim_of_a_method_whose_plugin_is_not_loaded_has_its_name():
    run = next(r for r in read_runs(SMALL) if r.experiment.method == "trades")
    with patch.dict(METHODS):  # which puts it back in its place; the order of METHODS is that of tables
        del METHODS["trades"]
        assert claim(run)[0]["name"] == "trades"


@pytest.mark.parametrize("eps", ["1e-999999999", "1e999999999", "nan", "2"])
def test_an_impossible_radius_is_no_entry(eps):
    with pytest.raises(ValueError, match="not a radius in pixel scale"):
        entry("x", ENTRY | {"eps": eps})


def test_a_claim_says_what_is_wrong_with_the_run():
    run = next(r for r in read_runs(SMALL) if r.experiment.method == "trades")
    masked = [{"name": "noise", "passed": False, "words": "two clean passes differ"}]
    flagged = type(run)(run.folder, run.experiment, run.result | {"masking": masked, "n_test": 10_000})
    content, why_not = claim(flagged, authors="A", venue="V", link="L")
    assert content["unreliable"] and "two clean passes differ" in content["footnote"]
    assert why_not == ("there are signs of gradient masking, so AutoAttack's number is an upper bound",)
    with pytest.raises(ValueError, match="no accuracy of clean and autoattack at checkpoint 'last'"):
        claim(run, checkpoint="last")
    elsewhere = replace(run.experiment, data="digits")
    assert "not digits" in claim(type(run)(run.folder, elsewhere, run.result), authors="A", venue="V", link="L")[1][0]
    wide = type(run)(run.folder, replace(run.experiment, test_eps=0.2), run.result)
    assert "at eps 8/255, and this one is at 0.2" in claim(wide, authors="A", venue="V", link="L")[1][-1]
    warned = type(run)(run.folder, run.experiment, run.result | {"autoattack_warnings": {"best": ["Square alone"]}})
    content, why_not = claim(warned, authors="A", venue="V", link="L")
    assert content["unreliable"] and "Square alone" in content["footnote"] and "upper bound" in why_not[-1]
