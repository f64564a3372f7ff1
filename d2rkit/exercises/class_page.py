"""The lecturer's page of a class: one offline HTML file, from `class_desk`'s plain data."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING

from d2rkit.exercises.answers import CONFIDENCES, letters, with_unit
from d2rkit.exercises.checking import NOT_YET, PASSED, SYMBOLS
from d2rkit.exercises.settings import threshold
from d2rkit.reporting.html_table import Html, Marked, html_table

if TYPE_CHECKING:
    from d2rkit.exercises.class_desk import ClassDesk, Predicted, Student, StudentExercise

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #5c5c61; --paper: #fff; --line: #d9d9de; --ok: #0072b2;
  --no: #b34700; --fill: #e6f0f7; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ececf0; --soft: #a9a9b2; --paper: #17181b;
  --line: #3b3c42; --ok: #6db6e8; --no: #f09a5b; --fill: #1c3345; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 1280px; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; }
h3 { font-size: 1rem; margin: 0 0 .3rem; } p { margin: .3rem 0; max-width: 52rem; } .soft { color: var(--soft); }
nav a { margin-right: 1.2rem; } a { color: var(--ok); }
table { border-collapse: collapse; } .scroll { overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); }
thead th, thead td { border-bottom: 2px solid var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
.matrix { table-layout: fixed; font-size: 13px; } .matrix th { overflow-wrap: anywhere; }
.matrix th:first-child { width: 9rem; } .matrix td, .matrix thead th { padding: .3rem .4rem; width: 7rem; }
.matrix td { border-left: 1px solid var(--line); overflow-wrap: anywhere; } .matrix b { white-space: nowrap; }
.passed { background: var(--fill); } .passed b { color: var(--ok); } .not b { color: var(--no); }
.matrix .step { display: block; line-height: 1.25; } .matrix [open] summary { margin-bottom: .4rem; }
summary { cursor: pointer; }
.title { font-weight: 400; font-size: 12px; line-height: 1.25; color: var(--soft); display: block; }
.mark { display: inline-block; border: 1px solid var(--no); border-radius: .6em; padding: 0 .45em; font-size: .9em; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; } .card table { width: 100%; }
.bar { display: block; height: .55rem; background: var(--ok); border-radius: 2px; }
.graph { display: block; width: 8rem; margin-top: .35rem; background: var(--line); border-radius: 2px; }
ul { margin: .3rem 0; padding-left: 1.2rem; max-width: 60rem; } li { margin: .2rem 0; }
pre { font-size: 12px; line-height: 1.35; background: var(--fill); padding: .5rem .7rem; margin: .4rem 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.codes { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 1rem; }
.codes > div { min-width: 0; }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 11px; } nav, details.code { display: none; }
  .matrix { font-size: 10px; width: 100%; } .matrix th:first-child, .matrix td, .matrix thead th { width: auto; }
  .matrix tfoot { display: table-row-group; } tr, .card { break-inside: avoid; } h2 { break-after: avoid; }
  .cards { grid-template-columns: 1fr 1fr; } .passed, .bar, .graph { print-color-adjust: exact; } }
"""


def page(desk: ClassDesk) -> str:
    parts = [
        ("short", "In short", _short(desk)),
        ("students", "Students and exercises", _matrix(desk)),
        ("misconceptions", "Commonest misconceptions", _misconceptions(desk)),
        ("predictions", "Predictions, before and after", _predictions(desk)),
        ("alike", "Code that is alike", _alike(desk)),
    ]
    if desk.again:
        parts.append(("again", "Run again", _again(desk)))
    if desk.broken:
        parts.append(("files", "Files that do not count", _broken(desk)))
    links = "".join(f"<a href='#{key}'>{title}</a>" for key, title, _ in parts[1:])
    body = "".join(f"<section id='{key}'><h2>{title}</h2>{content}</section>" for key, title, content in parts)
    count = len(desk.students)
    passed = sum(student.passed for student in desk.students)
    read = f"{count} hand-in{'s' * (count != 1)}, {passed} exercises passed in all"
    read += f", {len(desk.broken)} other file{'s' * (len(desk.broken) != 1)}" if desk.broken else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>The class's hand-ins</title>"
        f"<meta name='viewport' content='width=device-width'><style>{STYLE}</style></head><body><main>"
        f"<h1>The class's hand-ins</h1><p class='soft'>{_t(desk.folder)}: {read}</p><nav>{links}</nav>{body}"
        "</main></body></html>\n"
    )


def _t(text: object) -> str:
    return html.escape(str(text))


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """header: texts; a leading "#" makes a column of numbers. rows: HTML, the first cell being the row's header."""
    columns = ["class='n'" if title.startswith("#") else "" for title in header]
    titles, cells = [title.removeprefix("#") for title in header], ([Html(cell) for cell in row] for row in rows)
    return f"<div class='scroll'>{html_table(titles, cells, columns=columns)}</div>"


# -- what to know five minutes before the class ---------------------------------------------------------------
def _short(desk: ClassDesk) -> str:
    """What to talk about, and with whom; every line only where there is something to say."""
    count = len(desk.students)
    lines = [
        f"<b>{_t(one.exercise)}</b>: {len(one.students)} of {count} were left with “{_t(one.hint)}”"
        for one in desk.misconceptions[:3]
        if len(one.students) > 1
    ]
    idle = [s.name for s in desk.students if not s.tried]
    lines += [f"Handed in without an attempt: {_t(', '.join(idle))}"] if idle else []
    lines += [f"The same hand-in under several names: {_t(', '.join(names))}" for names in desk.copies]
    alike = [f"{one.exercise} ({', '.join(one.students)})" for one in desk.alike if not one.common]
    lines += [f"Code that is alike: {_t('; '.join(alike))}"] if alike else []
    differ = [(s.name, name) for s in desk.students for name, cell in s.cells.items() if cell.differs]
    lines += (
        [f"Rerun differs from the hand-in: {_t(', '.join(f'{who} ({what})' for who, what in differ))}"]
        if differ
        else []
    )
    unread = len(desk.broken)
    lines += [f"<a href='#files'>{unread} file{'s do' if unread != 1 else ' does'} not count</a>"] if unread else []
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>" if lines else "<p>Nothing stands out.</p>"


def _codes(desk: ClassDesk, exercise: str, names: Sequence[str], words: str) -> str:
    """The code of these students side by side, on a click; empty where there is none."""
    texts = [(s.name, s.cells[exercise].code) for s in desk.students if s.name in names and exercise in s.cells]
    each = "".join(f"<div>{_t(name)}<pre>{_t(text.strip())}</pre></div>" for name, text in texts if text.strip())
    return f"<details class='code'><summary>{words}</summary><div class='codes'>{each}</div></details>" if each else ""


# -- students × exercises -----------------------------------------------------------------------------------
def _matrix(desk: ClassDesk) -> str:
    marked = {(one.exercise, name) for one in desk.alike if not one.common for name in one.students}
    begun = [name for name in desk.exercises if any(s.cells[name].begun for s in desk.students if name in s.cells)]
    passed = Counter(name for s in desk.students for name, cell in s.cells.items() if cell.status == PASSED)
    count = len(desk.students)
    table = html_table(
        ("student", *(Html(_named(desk, name)) for name in begun)),
        [_row(student, begun, marked) for student in desk.students],
        attributes="class='matrix'", foot=("all", *(f"{passed[name]} of {count} passed" for name in begun)),
    )  # fmt: skip
    rest = ", ".join(
        f"<span title='{_t(desk.titles.get(name, name))}'>{_t(name)}</span>"
        for name in desk.exercises
        if name not in begun
    )
    return (
        "<p class='soft'>✔ passed, ✘ not yet, with the step at which the last check stopped and, on a click, its hint; "
        f"… not yet written; 3×: three attempts.{f' Nobody has begun {rest}.' if rest else ''}</p>"
        f"<div class='scroll'>{table}</div>"
    )


def _named(desk: ClassDesk, name: str) -> str:
    """An exercise by its name for `check`, and its title."""
    heading = desk.titles.get(name, "")
    named = _t(name).replace("_", "_<wbr>")
    return named if heading in ("", name) else f"{named} <span class='title'>{_t(heading)}</span>"


def _row(student: Student, exercises: Sequence[str], marked: set[tuple[str, str]]) -> list[Marked]:
    cells = [_cell(student.cells.get(name), (name, student.name) in marked) for name in exercises]
    return [Marked(student.name, f"title='{_t(student.file)}'"), *cells]


def _cell(cell: StudentExercise | None, marked: bool) -> Marked:
    if cell is None:
        return Marked(Html("<span class='soft'>–</span>"), "")
    kind = {"passed": "passed", NOT_YET: "not"}.get(cell.status, "")
    tries = f" <span class='soft'>{cell.attempts}×</span>" if cell.attempts > 1 else ""
    words = f"<b>{SYMBOLS[cell.status]} {_t(cell.status)}</b>{tries}"
    words = words if kind else "<span class='soft' title='not yet written'>…</span>"
    if cell.hint:
        step = f"<span class='step'>{_t(cell.step)}</span>" if cell.step else ""
        words = f"<details><summary>{words}{step}</summary>{_t(cell.hint)}</details>"
    words += " <span class='mark'>alike</span>" if marked else ""
    words += f" <span class='mark'>again: {_t(cell.again.status)}</span>" if cell.again and cell.differs else ""
    return Marked(Html(words), f"class='{kind}'")


def _misconceptions(desk: ClassDesk) -> str:
    if not desk.misconceptions:
        return "<p>Nobody is stuck at a hint.</p>"
    rows = [
        (_named(desk, one.exercise), str(len(one.students)), _t(one.step or "–"),
         _t(one.hint) + _codes(desk, one.exercise, one.students[:1], "an example"), _t(", ".join(one.students)))
        for one in desk.misconceptions
    ]  # fmt: skip
    return _table(("exercise", "#students", "step", "hint", "who"), rows)


# -- predictions ------------------------------------------------------------------------------------------
def _predictions(desk: ClassDesk) -> str:
    if not desk.predictions:
        return "<p>No predictions were handed in.</p>"
    return f"<div class='cards'>{''.join(_card(one) for one in desk.predictions)}</div>"


def _card(one: Predicted) -> str:
    right, known = one.right
    facts = [f"{len(one.given)} answered"]
    facts += [f"{right} of {known} {'right at the first try' if one.kind == 'quiz' else 'right'}"] if known else []
    facts += [f"{one.unseen} looked without predicting"] if one.unseen else []
    late = sum(bool(entry.get("late")) for _, entry in one.given)
    facts += [f"{late} predicted after looking"] if late else []
    body = (_numbers(one) if one.kind == "number" else _choices(one)) + _sure(one) if one.given else ""
    heading = f"<h3>{_t(one.name)} <span class='soft'>{_t(one.question)}</span></h3>"
    return f"<div class='card'>{heading}{body}<p class='soft'>{'; '.join(facts)}</p></div>"


def _choices(one: Predicted) -> str:
    options = one.given[0][1]["options"]
    counts = Counter(entry["answer"] for _, entry in one.given)
    rows = []
    for key, letter in letters(options).items():
        share = counts[key] / len(one.given)
        bar = f"<span class='graph'><span class='bar' style='width:{100 * share:.0f}%'></span></span>"
        came = f"✔ {'right' if one.kind == 'quiz' else 'came out'}" if one.came[key] else ""
        came += f" ({one.came[key]} of {one.came.total()})" if one.came[key] and len(one.came) > 1 else ""
        rows.append((f"{letter}) {_t(options[key])}", str(counts[key]), bar, came))
    return _table(("option", "#before", "", "after"), rows)


def _numbers(one: Predicted) -> str:
    unit = one.given[0][1]["unit"]
    said = sorted(entry["answer"] for _, entry in one.given)
    rows = [("predicted (median)", with_unit(median(said), unit))]
    rows.append(("predicted (range)", f"{with_unit(said[0], unit)} – {with_unit(said[-1], unit)}"))
    if one.came:
        came = sorted(one.came.elements())
        rows.append(("came out (median)", with_unit(median(came), unit)))
        off = sorted(abs(e["answer"] - e["actual"]) for _, e in one.given if "actual" in e)
        rows.append(("off by (median)", with_unit(median(off), "percentage points" if unit == "%" else unit)))
    return _table(("before and after", "#number"), [(_t(a), _t(b)) for a, b in rows])


def _sure(one: Predicted) -> str:
    """How often each confidence was right: a calibrated class is right more often where it is surer."""
    parts = []
    for word in CONFIDENCES:
        known = [bool(e["right"]) for _, e in one.given if e.get("confidence") == word and "right" in e]
        parts += [f"{word}: {sum(known)} of {len(known)} right"] if known else []
    return f"<p>{'; '.join(parts)}</p>" if parts else ""


# -- the rest ---------------------------------------------------------------------------------------------
def _alike(desk: ClassDesk) -> str:
    share, least = threshold("alike_share"), threshold("alike_tokens")
    about = (
        f"<p class='soft'>Compared without names of one's own, comments and layout: at least {share:.0%} of the "
        f"tokens agree, and there are at least {least:.0f} of them. A reason to ask, not a proof: short exercises have "
        "few right forms.</p>"
    )
    if not desk.alike:
        return about + "<p>No two are.</p>"
    rows = [
        (_t(one.exercise), f"{one.share:.0%}",
         _t(", ".join(one.students)) + _codes(desk, one.exercise, one.students, "side by side"),
         "too common to mark anybody" if one.common else "marked above")
        for one in desk.alike
    ]  # fmt: skip
    return about + _table(("exercise", "#agree", "whose", ""), rows)


def _again(desk: ClassDesk) -> str:
    cells = [(s, name, cell) for s in desk.students for name, cell in s.cells.items() if cell.again]
    differ = [(s, name, cell) for s, name, cell in cells if cell.differs]
    said = f"<p>{len(cells)} solutions were run again; {len(differ)} did not do what was handed in.</p>"
    rows = [
        (_t(s.name), _t(name), _t(c.status), _t(c.again.status), _t(c.again.hint)) for s, name, c in differ if c.again
    ]
    return said + (_table(("student", "exercise", "handed in", "run again", "why"), rows) if rows else "")


def _broken(desk: ClassDesk) -> str:
    return _table(("file", "what is wrong"), [(_t(file), _t(words)) for file, words in desk.broken.items()])
