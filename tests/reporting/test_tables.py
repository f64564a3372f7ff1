"""Run folders made by hand -> tables: what is averaged, what is bold, what is missing, and that bytes repeat."""

import math
import re
import shutil
import subprocess
from dataclasses import replace

import pandas as pd
import pytest

from d2rkit.experiments.experiment import Experiment
from d2rkit.experiments.presets import Preset, get_preset
from d2rkit.reporting import published as published_module
from d2rkit.reporting import tables
from d2rkit.reporting.escaping import latex_text, markdown_text
from d2rkit.reporting.frame import eps_words, labels, tidy
from d2rkit.reporting.published import COLUMNS, PUBLISHED_AS, compare, published
from d2rkit.reporting.render import Cell, Table, latex_document, signed, to_html, to_latex, to_markdown
from d2rkit.reporting.tables import pivot, write_table
from tests.synthetic import make_run, preset, runs_of

FILES = ["table.md", "table.csv", "table.tex", "table.html", "runs.csv"]


def cells(table: Table, label: str) -> list[Cell]:
    return next(list(row) for row in table.rows if row[0].text == label)


def test_tidy_has_one_row_for_each_run_and_checkpoint(tmp_path):
    here = preset(checkpoints=("best", "last"))
    frame = tidy(runs_of(here, tmp_path))
    assert len(frame) == 2 * len(here.experiments())
    assert list(frame["method"].unique()) == ["pgd-at", "trades", "d2r-cag"]  # the order of METHODS, not of folders
    first = frame[(frame["method"] == "d2r-cag") & (frame["seed"] == 1)].iloc[0]
    assert first["checkpoint"] == "best" and first["guide"] == "cnn-16" and first["eps"] == 0.2
    assert first["best_epoch"] == 3  # the first highest val_pgd in the history
    assert frame[frame["method"] == "trades"]["guide"].eq("").all()


def test_mean_and_sample_std_over_seeds(tmp_path):
    here = preset(rows=("trades",), seeds=(0, 1, 2))
    runs = [
        make_run(tmp_path, e, {"clean": value, "autoattack": 0.5})
        for e, value in zip(here.experiments(), (0.7, 0.8, 0.9), strict=True)
    ]
    table = pivot(tidy(runs), here)
    assert cells(table, "TRADES")[1].text == "80.0 ± 10.0"  # with n instead of n - 1 it were 8.2
    assert table.numbers["clean_mean"].iloc[0] == pytest.approx(0.8)
    assert table.numbers["clean_std"].iloc[0] == pytest.approx(0.1)
    assert "n = 3 seeds" in table.caption and cells(table, "TRADES")[-1].text == "3"


def test_one_seed_has_no_spread(tmp_path):
    here = preset(seeds=(0,))
    table = pivot(tidy(runs_of(here, tmp_path)), here)
    assert "±" not in "".join(cell.text for row in table.rows for cell in row)
    assert "no spread is known" in table.caption


def test_best_and_all_within_its_std_are_bold(tmp_path):
    here = preset(seeds=(0, 1))
    values = {"pgd-at": (0.58, 0.62), "trades": (0.56, 0.60), "d2r-cag": (0.50, 0.60)}  # std of the best: 0.028
    runs = [make_run(tmp_path, e, {"clean": 0.9, "autoattack": values[e.method][e.seed]}) for e in here.experiments()]
    table = pivot(tidy(runs), here)
    bold = {row[0].text: row[-2].bold for row in table.rows}
    assert bold == {"PGD-AT": True, "TRADES": True, "D2R+CAG (symmetric)": False}
    assert all(row[1].bold for row in table.rows), "equal means are all best"
    assert "all within the best's standard deviation" in table.caption


def test_a_failed_run_is_said_to_have_failed_and_is_never_bold(tmp_path):
    here = preset(seeds=(0, 1))
    runs = []
    for e in here.experiments():
        failed = e.method == "pgd-at" and e.seed == 1
        status = "failed: the loss is not finite in epoch 3, step 2" if failed else "done"
        best = {"clean": 0.99 if e.method == "pgd-at" else 0.9, "autoattack": 0.4}
        runs.append(make_run(tmp_path, e, {} if failed else best, status=status))
    table = pivot(tidy(runs), here)
    row = cells(table, "PGD-AT")
    assert row[0].mark == "a" and not row[1].bold and row[1].text == "99.0"
    assert ("a", "seed 1 failed: the loss is not finite in epoch 3, step 2; it is not part of the mean") in table.notes
    assert (
        "[a] seed 1 failed" in to_markdown(table) and "$^{a}$" in to_latex(table) and "<sup>a</sup>" in to_html(table)
    )


def test_all_seeds_failed(tmp_path):
    here = preset(rows=("trades",), seeds=(0,))
    table = pivot(tidy([make_run(tmp_path, here.experiments()[0], {}, status="failed: x")]), here)
    assert [cell.text for cell in cells(table, "TRADES")[1:3]] == ["failed", "failed"]


def test_stuck_runs_and_signs_of_masking_are_footnotes(tmp_path):
    here = preset(rows=("trades",), seeds=(0,))
    masking = [
        {"name": "more steps", "passed": False, "words": "PGD-20 30%, PGD-100 50%"},
        {"name": "transfer", "passed": True, "words": "fine"},
    ]
    run = make_run(tmp_path, here.experiments()[0], {"clean": 0.1}, status="stuck at chance", masking=masking)
    (_, words), *_ = pivot(tidy([run]), here).notes
    assert "is stuck at chance; it is part of the mean" in words
    assert "gradient masking: more steps (PGD-20 30%, PGD-100 50%)" in words and "fine" not in words


def test_missing_cells_are_the_command_that_fills_them(tmp_path):
    here = preset()
    runs = [run for run in runs_of(here, tmp_path) if (run.experiment.method, run.experiment.seed) not in
            {("d2r-cag", 0), ("d2r-cag", 1), ("trades", 1)}]  # fmt: skip
    table = pivot(tidy(runs), here)
    assert cells(table, "D2R+CAG (symmetric)")[1] == Cell("d2rkit reproduce tiny --rows d2r-cag", code=True)
    assert cells(table, "TRADES")[-1].text == "1 of 2"
    assert table.notes[-1] == ("", "Seeds still to be run, in 1 row(s) above: `d2rkit reproduce tiny`.")
    assert r"\multicolumn{3}{l}{\texttt{d2rkit reproduce tiny -{}-rows d2r-cag}}" in to_latex(table)
    assert 'colspan="3"><code>d2rkit reproduce tiny --rows d2r-cag</code>' in to_html(table)


def test_a_table_of_nothing_is_all_commands(tmp_path):
    files = write_table(get_preset("quick"), [], tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert [f.name for f in files] == FILES
    for method in get_preset("quick").rows:
        assert f"`d2rkit reproduce quick --rows {method}`" in text
    assert "nothing has been run yet" in text


@pytest.mark.parametrize(
    "change", [{"test_eps": 0.1}, {"subset": "500"}, {"target": "cnn-8"}, {"data": "cifar10"}, {"test_images": 40}]
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, change):
    base = preset().base
    n = {"test_images": 40}.get(next(iter(change)), 100)
    runs = [
        make_run(tmp_path, base, {"clean": 0.9}),
        make_run(tmp_path, replace(base, seed=1, **change), {"clean": 0.5}, n=n),
    ]
    with pytest.raises(ValueError, match="do not belong in one table"):
        pivot(tidy(runs))


def test_settings_of_one_method_are_rows_of_their_own(tmp_path):
    base = replace(preset().base, method="d2r-cag")
    runs = [
        make_run(tmp_path, replace(base, seed=seed, loss=loss), {"clean": value})
        for seed in (0, 1)
        for loss, value in (({}, 0.9), ({"w_clean": 0.5}, 0.5))
    ]
    table = pivot(tidy(runs))
    assert {row[0].text: row[1].text for row in table.rows} == {
        "D2R+CAG (symmetric), w_clean as the method has it": "90.0 ± 0.0",
        "D2R+CAG (symmetric), w_clean 0.5": "50.0 ± 0.0",
    }


def test_labels_do_not_mention_what_does_not_differ():
    base = Experiment(method="trades")
    assert labels([base, replace(base, seed=1), replace(base, method="mart", lr=0.5)]) == ["TRADES", "TRADES", "MART"]
    assert labels([base, replace(base, lr=0.5)]) == ["TRADES, lr 0.1", "TRADES, lr 0.5"]


@pytest.mark.parametrize(("eps", "words"), [(8 / 255, "8/255"), (0.2, "0.2"), (0.1, "0.1"), (2 / 255, "2/255")])
def test_eps_in_words(eps, words):
    assert eps_words(eps) == words


def test_0031_is_not_8_255():
    assert eps_words(0.031) == "0.031 (a little below 8/255 = 0.0314)"


def test_files_repeat_byte_for_byte_whatever_the_order_of_runs(tmp_path):
    here = preset()
    runs = runs_of(here, tmp_path / "runs")
    first = write_table(here, runs, tmp_path / "a")
    second = write_table(here, runs[::-1], tmp_path / "b")
    assert [f.name for f in first] == [*FILES, "paired.csv"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_runs_of_other_tables_are_left_out(tmp_path):
    here = preset()
    runs = runs_of(here, tmp_path / "runs")
    stranger = make_run(tmp_path / "runs", replace(here.base, test_eps=0.1, method="trades"), {"clean": 0.12})
    assert pivot(tidy([*runs, stranger]), here).rows == pivot(tidy(runs), here).rows
    write_table(here, runs, tmp_path / "a")
    write_table(here, [*runs, stranger], tmp_path / "b")
    assert (tmp_path / "a" / "table.md").read_bytes() == (tmp_path / "b" / "table.md").read_bytes()


def test_csv_keeps_every_digit(tmp_path):
    here = preset(rows=("trades",), seeds=(0, 1, 2))
    runs = runs_of(here, tmp_path / "runs")
    write_table(here, runs, tmp_path)
    read = pd.read_csv(tmp_path / "table.csv", float_precision="round_trip")
    assert read["autoattack_mean"].iloc[0] == tidy(runs)["autoattack"].mean()
    assert read["autoattack_std"].iloc[0] == tidy(runs)["autoattack"].std()


def test_both_checkpoints_are_shown(tmp_path):
    here = preset(checkpoints=("best", "last"))
    write_table(here, runs_of(here, tmp_path / "runs"), tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "weights chosen on validation images" in text and "weights of the last epoch" in text
    assert set(pd.read_csv(tmp_path / "table.csv")["checkpoint"]) == {"best", "last"}


def test_latex_escapes_what_latex_reserves():
    assert latex_text("50 % of A_b & #1 {β} ~^\\ −1") == (
        r"50 \% of A\_b \& \#1 \{$\beta$\} \textasciitilde{}\textasciicircum{}\textbackslash{} $-$1"
    )
    assert latex_text("`a --b_c`") == r"\texttt{a -{}-b\_c}"


def test_latex_has_greek_letters_and_arrows_and_only_the_rest_is_a_question_mark():
    assert latex_text("μ, α → Λ‖x‖ ≈ é") == r"$\mu$, $\alpha$ $\to$ $\Lambda$$\|$x$\|$ $\approx$ é"
    assert latex_text("“q” ₁ 日") == "``q'' 1 [U+65E5]"
    assert latex_text("|KL1|") == r"\textbar{}KL1\textbar{}"  # a bare | is a dash in LaTeX's own encoding
    assert latex_text("a\nb\x1b[31m") == "a b [31m"


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("w_clean 2 * 3 = 6, C&W, p < 0.1", r"w_clean 2 \* 3 = 6, C&W, p < 0.1"),
        ("<script>_x_</script> &lt;", r"\<script>\_x\_\</script> \&lt;"),
        ("[a](javascript:b)", r"[a\](javascript:b)"),
        ("# no heading", r"\# no heading"),
        ("`a_b <c> *d*` *e*", r"`a_b <c> *d*` \*e\*"),
        ("two\nlines", "two lines"),
    ],
)
def test_markdown_escapes_what_would_be_more_than_text(text, safe):
    assert markdown_text(text) == safe


def test_names_of_ones_own_are_safe_everywhere(tmp_path):
    name = "my_table & <b>50%</b> | #1 {μ} $x$\\"
    here = replace(preset(), name=name, title=name, command=f"d2rkit reproduce '{name}'", titles={"trades": name})
    runs = [run for run in runs_of(here, tmp_path / "runs") if run.experiment.method != "d2r-cag"]
    write_table(here, runs, tmp_path)
    markdown, latex, page = ((tmp_path / f"table.{kind}").read_text(encoding="utf-8") for kind in ("md", "tex", "html"))
    assert "<b>" not in page and "<b>" not in re.sub("`[^`]+`", "", markdown).replace(r"\<b>", "")
    labels = re.findall(r"\\label{(.*)}", latex)
    assert labels and all(re.fullmatch(r"tab:[\w.-]+", label) for label in labels)
    assert r"my\_table \& \textless{}b\textgreater{}50\%" in latex and "[U+" not in latex
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} <= {5, 8}


def test_html_escapes():
    table = Table("t", "a < b & c", ("x<", "y"), ((Cell("<script>"), Cell("1")),))
    assert "<script>" not in to_html(table) and "a &lt; b &amp; c" in to_html(table)


def test_latex_compiles(tmp_path):
    """With pdflatex where it is installed; the structure in any case."""
    here = preset()
    runs = runs_of(here, tmp_path / "runs")[:-2]
    everything = pivot(tidy(runs), here)
    odd = Table(
        "odd", "% & # _ { } ~ ^ \\ ± − β ε ∞ 日", ("A_b", "C&W"), ((Cell("β_1", mark="a"), Cell("50 %", bold=True)),)
    )
    files = write_table(here, runs, tmp_path)
    tex = latex_document(everything, odd).replace("\\end{document}", f"\\input{{{files[2].stem}}}\n\\end{{document}}")
    for word in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}", r"\end{tabular}"):
        assert tex.count(word) == 2
    assert all(row.rstrip().endswith(r"\\") for row in to_latex(everything).splitlines() if " & " in row)
    (tmp_path / "page.tex").write_text(tex)
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed: only the structure was checked")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:].decode(errors="replace")
    assert b"Overfull" not in done.stdout


# -- published numbers ------------------------------------------------------------------------------------
def cifar(method: str, seed: int = 0, **changes) -> Experiment:
    return Experiment(data="cifar10", target="wrn-34-10", guide="resnet18-guide", method=method, seed=seed, **changes)


def test_published_numbers_are_whole():
    known = published()
    assert {"dataset", "target", "method", "eps", "source", *COLUMNS.values()} <= set(known.columns)
    assert known["source"].notna().all() and set(PUBLISHED_AS.values()) <= set(known["method"])
    unstated = known[known["radius"].isna()]
    assert len(unstated) and unstated[list(COLUMNS.values())].isna().all(axis=None), "unsourced numbers stay in notes"


def test_published_numbers_that_are_missing_or_damaged_are_named(tmp_path, monkeypatch):
    file = tmp_path / "published.csv"
    monkeypatch.setattr(published_module, "FILE", file)
    for text in (None, "", "dataset,eps\ncifar10,8/0\n", "dataset\ncifar10\n"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(ValueError, match=r"published\.csv cannot be read as the table of published numbers"):
            published()


def test_compare_takes_the_same_eps_only(tmp_path):
    ours = {"clean": 0.85, "autoattack": 0.54}
    comparison = compare(tidy([make_run(tmp_path, cifar("trades"), ours, n=10_000)]), "cifar10", "wrn-34-10")
    assert set(comparison.frame["eps"]) == {"8/255"} and len(comparison.frame["source"].unique()) == 2
    row = comparison.frame[(comparison.frame["published"] == 53.37)].iloc[0]
    assert row["difference"] == pytest.approx(54.0 - 53.37) and row["attack"] == "autoattack" and "DAT" in row["source"]
    assert any("published at ε = 0.031" in note and "ours at ε = 8/255" in note for note in comparison.notes)
    other = compare(tidy([make_run(tmp_path, cifar("trades", eps=0.031), ours, n=10_000)]), "cifar10", "wrn-34-10")
    assert set(other.frame["eps"]) == {"0.031"} and 53.08 in set(other.frame["published"])


def test_an_unstated_number_is_only_a_note(tmp_path):
    comparison = compare(
        tidy([make_run(tmp_path, cifar("d2r-cag"), {"autoattack": 0.5}, n=10_000)]), "cifar10", "wrn-34-10"
    )
    assert comparison.frame.empty and len(comparison.notes) == 1 and "attack and eps not stated" in comparison.notes[0]


@pytest.mark.parametrize(
    ("experiment", "words"),
    [
        (Experiment(method="trades", target="cnn-16"), "no numbers on digits"),
        (cifar("trades", subset="10k"), "10k training images"),
        (replace(cifar("trades"), target="wrn-10-2"), "no numbers of a wrn-10-2 on cifar10"),
    ],
)
def test_classroom_runs_are_not_compared(tmp_path, experiment, words):
    run = make_run(tmp_path, experiment, {"clean": 0.9})
    comparison = compare(tidy([run]), experiment.data, experiment.target)
    assert comparison.frame.empty and words in comparison.notes[0]
    text = to_markdown(tables.comparison_table(comparison))
    assert "Nothing published is comparable" in text and "|" not in text


def test_the_table_says_what_stands_beside_published_numbers(tmp_path):
    base = cifar("trades", attacks=("clean", "autoattack"))
    here = Preset("big", "CIFAR-10", "d2rkit reproduce big", "", "", base, ("trades",), (0,))
    write_table(here, [make_run(tmp_path / "runs", base, {"clean": 0.85, "autoattack": 0.54}, n=10_000)], tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| AutoAttack | 8/255 |" in " ".join(text.split()) and "53.4 ± 0.5" in text and "+0.6" in text
    assert math.isclose(pd.read_csv(tmp_path / "published.csv")["difference"].iloc[-1], 54 - 53.37, abs_tol=1e-9)


def test_differences_have_a_true_minus_and_no_negative_zero():
    assert [signed(points) for points in (1.26, -2.0, -0.04, 0.0)] == ["+1.3", "−2.0", "+0.0", "+0.0"]
