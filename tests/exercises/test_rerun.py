"""Hand-ins run again: what is right stays right, and whatever else a text does is stopped and named."""

import multiprocessing
import subprocess
import sys

import pytest

from d2rkit.exercises import class_desk as module
from d2rkit.exercises import rerun_child
from tests.exercises import a_class

pytestmark = [
    pytest.mark.slow,  # processes
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource limits"),
]
rerun = pytest.importorskip("d2rkit.exercises.rerun")
FIRST = "import torch\n\n\ndef my_kl(p_logits, q_logits):\n"


def kl_that(*lines):
    """A text whose function does something first and is wrong afterwards."""
    return FIRST + "".join(f"    {line}\n" for line in lines) + "    return p_logits, q_logits\n"


def again(code, exercise="kl", **limits):
    return rerun.rerun(exercise, code, rerun.Limits(**{"seconds": 300, **limits}))


def forked(code, folder, exercise="kl"):
    """The same in a process that has imported torch already; without the limits, which are set before Python starts."""
    asked, answer = {"exercise": exercise, "code": code, "plugins": []}, folder / "answer.json"
    process = multiprocessing.get_context("forkserver").Process(target=rerun_child.run, args=(asked, answer))
    process.start()
    process.join(120)
    return rerun._read(answer, process.exitcode, rerun.Limits())


def test_right_and_wrong_solutions_are_what_they_were():
    assert again(a_class.solution("pgd"), "pgd").status == "passed"
    exercise, code, words = a_class.wrong(0)
    outcome = again(code, exercise)
    assert outcome.status == "not yet" and words in outcome.hint and outcome.step


def test_the_lecturers_words_hold_there_too(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_text('[steps]\n"returns two results" = "zwei Ergebnisse"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2RKIT_EXERCISES", "own.toml")  # the other process works in another folder
    assert again(FIRST + "    return None\n").step == "zwei Ergebnisse"


def test_an_endless_loop_ends():
    outcome = again(kl_that("while True:", "    pass"), seconds=12)
    assert outcome.status == "stopped" and "12 s" in outcome.hint


@pytest.mark.parametrize(("seconds", "said"), [(0.1, ""), (60, "it did not end within 1 s")])
def test_a_slow_start_is_not_held_against_the_student(seconds, said, tmp_path):
    answer = tmp_path / "answer.json"
    late = f"import time; time.sleep(2); open({str(answer)!r}, 'w'); time.sleep({seconds})"
    process = subprocess.Popen([sys.executable, "-c", late])
    try:
        assert rerun._watch(process, answer, rerun.Limits(seconds=1)) == said
    finally:
        process.kill()
        process.wait()


def test_memory_is_limited():
    outcome = again(kl_that("torch.zeros(2**40)"))
    assert outcome.status == "not yet" and "memory" in outcome.hint
    outcome = again(kl_that("x = bytearray(2**34)"), memory=6000)
    assert outcome.status != "passed" and "MemoryError" in outcome.hint


def test_a_write_outside_is_refused_in_a_process_of_its_own(tmp_path):
    outcome = again(kl_that(f"open({str(tmp_path / 'target')!r}, 'w').write('x')"))
    assert outcome.status == "not yet" and "a solution writes no files" in outcome.hint
    assert not (tmp_path / "target").exists()


def test_many_files_are_too_much_as_one_large_one_is():
    lines = ["for i in range(2000):", "    open(f'part{i}', 'wb').write(bytes(2**24 - 1))", "import time"]
    outcome = again(kl_that(*lines, "time.sleep(100)"))
    assert outcome.status == "stopped" and "MiB" in outcome.hint


def test_an_exercise_that_is_not_here_accuses_nobody(tmp_path):
    outcome = forked(FIRST + "    return 1\n", tmp_path, exercise="mine")
    assert "mine" in outcome.hint and "exercise" in outcome.status
    assert not module.StudentExercise("passed", again=outcome).differs
    assert module.StudentExercise("passed", again=rerun.Again("stopped")).differs


@pytest.mark.parametrize("text", ["[" * 100_000, '{"status": "great", "step": "", "hint": ""}', "[]", "3"])
def test_an_answer_that_the_text_wrote_is_none(text, tmp_path):
    (tmp_path / "answer.json").write_text(text)
    assert rerun._read(tmp_path / "answer.json", 0, rerun.Limits()).status == "stopped"
    long = '{"status": "not yet", "step": "", "hint": "%s"}' % ("x" * 10**6)
    (tmp_path / "answer.json").write_text(long)
    assert len(rerun._read(tmp_path / "answer.json", 0, rerun.Limits()).hint) < 10_000


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["import socket", "socket.create_connection(('127.0.0.1', 9), 1)"], "no network"),
        (["import urllib.request", "urllib.request.urlopen('http://127.0.0.1:9')"], "no network"),
        (["import subprocess", "subprocess.run(['touch', '{target}'])"], "no other programs"),
        (["import os", "os.system('touch {target}')"], "no other programs"),
        (["open('{target}', 'w').write('x')"], "writes no files"),
        (["import os", "os.remove('{victim}')"], "changes no files"),
        (["import shutil", "shutil.rmtree('{folder}')"], "changes no files"),
        (["import pathlib", "pathlib.Path('{victim}').write_text('x')"], "writes no files"),
    ],
)
def test_plain_attempts_are_refused(lines, words, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (own := tmp_path / "own").mkdir()
    names = {"target": tmp_path / "target", "victim": victim, "folder": tmp_path}
    outcome = forked(kl_that(*(line.format(**names) for line in lines)), own)
    assert outcome.status == "not yet" and words in outcome.hint
    assert victim.read_text() == "precious" and not names["target"].exists()


@pytest.mark.skipif(not rerun.without_network(), reason="this machine gives no network of its own")
def test_the_process_has_no_network_even_without_the_guard():
    look = "print(open('/proc/net/dev').read().count(':'))"
    alone = subprocess.run([*rerun.without_network(), sys.executable, "-c", look], capture_output=True, text=True)
    assert alone.stdout.split() == ["1"]  # the loopback, which is down


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def my_kl(", "does not run"),
        ("x = 1", "no function"),
        ("raise SystemExit\n\ndef my_kl(p, q): pass", "does not run"),
        ("import os\nos._exit(0)\n\ndef my_kl(p, q): pass", "without an answer"),
        ("print('hello')\n" + FIRST + "    return helper(p_logits)\n", "NameError"),
    ],
)
def test_what_does_not_run_is_named(code, words, tmp_path):
    outcome = forked(code, tmp_path)
    assert outcome.status != "passed" and words in outcome.hint and "Traceback" not in outcome.hint


def test_limits_that_make_no_sense_are_refused():
    for limits in ({"seconds": 0}, {"memory": 100}):
        with pytest.raises(ValueError, match="must"):
            rerun.Limits(**limits).check()


def test_data_sets_are_looked_for_where_the_lecturer_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D2RKIT_DATA", "sets")  # a relative path: the check runs elsewhere
    outcome = again(kl_that("import os", "raise ValueError(os.environ['D2RKIT_DATA'])"))
    assert f"ValueError: {tmp_path / 'sets'}" in outcome.hint


@pytest.mark.thorough
def test_an_edited_status_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("D2RKIT_ANSWERS", str(tmp_path / "answers"))
    (tmp_path / "handins").mkdir()
    a_class.hand_in(tmp_path / "handins", 0)
    file = next((tmp_path / "handins").iterdir())
    file.write_text(file.read_text(encoding="utf-8").replace('"not yet"', '"passed"'), encoding="utf-8")
    said = []
    desk = module.class_desk(tmp_path / "handins", rerun.Limits(300), report=lambda done, what: said.append(done))
    differ = {name for name, cell in desk.students[0].cells.items() if cell.differs}
    assert differ == {"kl", "fgsm"} and desk.again and said == sorted(said) and said[-1] == 1
    assert "2 did not do what was handed in" in desk.html() and "again: not yet" in desk.html()
    assert "direction is wrong" in desk.csv()
