"""Whose code is alike: compared as tokens, with names of one's own, comments and layout taken away."""

from __future__ import annotations

import ast
import builtins
import difflib
import io
import keyword
import tokenize
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from d2rkit.exercises.settings import threshold

# The thresholds are those of settings.toml. Copies with other names, comments and layout agree in all tokens, those
# with a line or two more in over 0.95; nine solutions of two exercises that were written differently on purpose agree
# in less than 0.7 (tests/exercises/test_alike.py measures both). Students who follow one hint come closer than those.
MOST = 2000  # tokens that are compared, the first ones: the work grows with their square


@dataclass(frozen=True)
class Alike:
    """Students whose code of an exercise is near-identical to that of one of the others; share: the least similar
    of the pairs found. common: so many that it says nothing about any of them."""

    exercise: str
    students: tuple[str, ...]
    share: float
    common: bool = False


def alike(codes: Sequence[tuple[str, Mapping[str, str]]]) -> tuple[Alike, ...]:
    """codes: student -> code by exercise. Groups of near-identical code, by exercise, the largest first."""
    groups_alike = []
    for exercise in sorted({name for _, own in codes for name in own}):
        known = [(student, tokens(own.get(exercise, ""))) for student, own in codes]
        known = [(student, text) for student, text in known if len(text) >= threshold("alike_tokens")]
        for group, share in _groups(known):
            common = len(known) >= 6 and len(group) > threshold("alike_common") * len(known)
            groups_alike.append(Alike(exercise, tuple(group), share, common))
    return tuple(sorted(groups_alike, key=lambda one: (one.common, -len(one.students), one.exercise)))


def _groups(known: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[list[str], float]]:
    """Connected by a pair above the threshold; with the smallest similarity of the pairs that connect."""
    groups: list[tuple[list[str], float]] = []
    by_text: dict[tuple[str, ...], list[str]] = {}
    for student, text in known:
        by_text.setdefault(text, []).append(student)
    texts = list(by_text)
    parent = list(range(len(texts)))
    least = [1.0] * len(texts)

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, one in enumerate(texts):
        for j in range(i):
            share = similarity(one, texts[j])
            if share >= threshold("alike_share"):
                a, b = root(i), root(j)
                parent[a] = b
                least[b] = min(least[a], least[b], share)
    members: dict[int, list[str]] = {}
    for i, text in enumerate(texts):
        members.setdefault(root(i), []).extend(by_text[text])
    groups = [(sorted(names), least[i]) for i, names in members.items() if len(names) > 1]
    return groups


def similarity(one: Sequence[str], other: Sequence[str]) -> float:
    """Share of tokens in common and in the same order, 0 to 1."""
    if 2 * sum((Counter(one) & Counter(other)).values()) < threshold("alike_share") * (len(one) + len(other)):
        return 0.0  # they cannot reach it in any order
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def tokens(code: str) -> tuple[str, ...]:
    """What a student wrote: without imports, constants, def lines, docstrings, comments and layout. Every name that is
    neither an attribute nor Python's is the same, so that a variable more does not hide a copy. Empty for a text that
    is no Python."""
    try:
        body = _bodies(code)
        read = list(tokenize.generate_tokens(io.StringIO(body).readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return ()
    kept, before = [], ""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING, tokenize.ENDMARKER)
    for token in read:
        if token.type in skipped:
            continue
        text = token.string
        if token.type == tokenize.INDENT:
            text = "INDENT"
        elif token.type == tokenize.DEDENT:
            text = "DEDENT"
        elif token.type == tokenize.NAME and before != "." and not (keyword.iskeyword(text) or hasattr(builtins, text)):
            text = "NAME"
        kept.append(text)
        before = token.string
    return tuple(kept[:MOST])


def _bodies(code: str) -> str:
    """The statements of the functions, one function after the other, in Python's own layout."""
    parts = []
    with warnings.catch_warnings(action="ignore"):  # what Python thinks of a student's text is not for the lecturer
        tree = ast.parse(code)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for inner in ast.walk(node):
                if not isinstance(inner, ast.FunctionDef | ast.ClassDef):
                    continue
                first = inner.body[0]
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    inner.body[0] = ast.Pass()
            parts += [ast.unparse(statement) for statement in node.body]
    return "\n".join(parts) + "\n"
