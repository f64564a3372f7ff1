"""Thirty-two made-up hand-ins: the solutions of the notebooks with known mistakes, checked as students do."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

from d2rkit.exercises import answers, check, report
from d2rkit.exercises.build import BEGIN, END, FOLDER
from d2rkit.exercises.handin import forget

# exercise, what is replaced, by what, words of the hint that knows this mistake
MISTAKES = [
    ("kl", "(log_p.exp() * (log_p - log_q))", "(log_q.exp() * (log_q - log_p))", "direction is wrong"),
    ("kl", ".sum(1)", ".mean(1)", "wrong axis or is a mean"),
    ("kl", "log_softmax(1)", "log_softmax(0)", "softmax runs over the wrong axis"),
    ("kl", "forward + backward", "(forward + backward) / 2", "that is half of it"),
    ("kl", "forward + backward", "(forward - backward).abs()", "difference of the two directions"),
    ("kl", "log_softmax(1)", "softmax(1).log()", "use log_softmax instead"),
    ("kl", "return forward, forward + backward", "forward + backward", "`return` missing"),
    ("fgsm", ".clamp(0, 1)", "", "clamp the result"),
    ("fgsm", "x + eps", "x - eps", "climbs"),
    ("fgsm", "gradient.sign()", "gradient", "sign"),
    ("fgsm", "eps * gradient", "eps / 255 * gradient", "scale"),
    ("fgsm", "x.clone().requires_grad_()", "x", "your code stopped"),
    ("pgd", "torch.minimum(torch.maximum(x_adv, x - eps), x + eps)", "x_adv", "project"),
    ("pgd", "    model.eval()\n", "", "train mode"),
    ("pgd", "    model.train(was_training)\n", "", "put it back"),
    ("pgd", "+ step_size", "- step_size", "climbs"),
    ("pgd", "range(steps)", "range(steps - 1)", "one step is missing"),
    ("pgd", "step_size * gradient", "eps * gradient", "step_size"),
    ("cag", "    target.eval()\n", "", "train mode"),
    ("cag", "x_adv = x + start", "x_adv = x.clone()", "start"),
    ("cag", "F.kl_div(log_target, p_guide", "F.kl_div(p_guide.log(), log_target.exp()", "direction"),
    ("d2r_loss", "F.cross_entropy(g_clean", "F.cross_entropy(f_clean", "target's cross-entropy"),
    ("d2r_loss", "30 * k(f_adv, g_clean)", "30 * k(g_clean, f_adv)", "direction is wrong"),
    ("d2r_loss", ".mean()", ".sum(1).mean()", "wrong axis"),
    ("d2r_loss", "(k(f_clean, g_clean) + k(g_clean, f_clean))", "k(f_clean, g_clean)", "one direction"),
    ("robust_accuracy", "(model(images).argmax(1) == labels) & ", "", "wrong already"),
    ("robust_accuracy", "(1 - p) / len(y)", "(1 - p)", "standard deviation"),
    ("ablation", "T95[len(seeds)]", "1.96", "Student's t"),
    ("ablation", "[0, 1, 2, 3]", "[3, 3, 3, 3]", "same seed"),
    ("own_loss", "guide_clean.detach()", "guide_clean", "detach the guide"),
    ("own_loss", "(1 - affinity)", "affinity", "1 minus it"),
    ("gap", '"pair": (p, q)', '"pair": (p, p)', "far apart"),
]
NAMES = [f"Student {number:02d}" for number in range(1, len(MISTAKES) + 1)]
BY_EXERCISE = ("kl", "fgsm", "pgd", "d2r_loss")
OPTIONS = {"none": "nothing", "rate": "the learning rate", "balance": "the balance of the terms"}
QUESTION = {"kind": "choice", "question": "What does batchmean change?", "options": OPTIONS}
NUMBER = {"kind": "number", "question": "At which share of ε is half lost?", "unit": "%"}
QUIZ = {"kind": "quiz", "question": "Whom do labels reach?", "options": {"a": "the target", "b": "the guide"}}


def solution(exercise: str) -> str:
    """The notebook's own: its imports and the solved function, as a student's text."""
    (source,) = (FOLDER / "source").glob(f"??_{exercise}.py")
    text = source.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r'# %% nbgrader=[^\n]*"solution": true[^\n]*\n(.*?)\n# %%', text, re.S))
    imports = re.findall(r"^(?:import|from) .*$", text, re.M)
    return "\n".join([*imports, "", *(line for line in code.split("\n") if line.strip() not in (BEGIN, END))]) + "\n"


def as_in_a_notebook(text: str, file: str) -> object:
    """The last function that a cell with this text defines; inspect finds its source, as it does in a kernel."""
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), space)
    return space[re.findall(r"^def (\w+)", text, re.M)[-1]]


def wrong(number: int) -> tuple[str, str, str]:
    """Exercise, code and the words of the hint."""
    exercise, old, new, words = MISTAKES[number % len(MISTAKES)]
    right = solution(exercise)
    assert old in right
    return exercise, right.replace(old, new), words


def hand_in(folder: Path, number: int) -> dict[str, str]:
    """Write one student's file; the exercises with a mistake and the words of the hints that know them."""
    forget()
    truth: dict[str, str] = {}
    for each in (number, number + 7):
        exercise, code, words = wrong(each)
        if exercise not in truth:
            truth[exercise] = words
            check(exercise, as_in_a_notebook(code, f"<cell of {number}: {exercise}>"))
    other = next(name for name in BY_EXERCISE[number % 4 :] + BY_EXERCISE if name not in truth)
    check(other, as_in_a_notebook(solution(other), f"<cell of {number}: {other}>"))
    name, sure = NAMES[number], answers.CONFIDENCES[number % 3]
    predict(number, sure)
    report(name).save(folder / f"{name.lower().replace(' ', '-')}.json")
    forget()
    return truth


def predict(number: int, sure: str) -> None:
    """Answers to three questions; surer students are right more often."""
    right = number % 6 < 2 * answers.CONFIDENCES.index(sure) + 1
    common = {"confidence": sure, "when": "2026-01-02"}
    answers.store("06/batchmean", **QUESTION, **common, answer="balance" if right else ("none", "rate")[number % 2],
                  actual="balance", right=right)  # fmt: skip
    said = 30.0 + 2 * number
    answers.store("02/half", **NUMBER, **common, answer=said, actual=52.5, right=abs(said - 52.5) <= 5)
    first = "ba"[number % 4 == 0]
    answers.store("03/quiz-1", **QUIZ, when="2026-01-02", answer=first, actual="b", right=first == "b", tries=[first])
