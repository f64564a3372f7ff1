"""What a solution writes by way of C or Rust passes Python's guard; the kernel refuses it."""

import multiprocessing
import sys

import pytest

pytestmark = [
    pytest.mark.slow,  # processes
    pytest.mark.skipif(sys.platform != "linux", reason="Landlock is Linux's"),
]
confined = pytest.importorskip("d2rkit.exercises.confined")
ESCAPES = {
    "torch": "import torch; torch.save(torch.zeros(3), {target!r})",
    "safetensors": "import torch, safetensors.torch as s; s.save_file({{'a': torch.zeros(3)}}, {target!r})",
    "sqlite": "import sqlite3; sqlite3.connect({target!r}).execute('create table t (x)')",
    "ctypes": "import ctypes; ctypes.CDLL(None).unlink({victim!r}.encode())",
    "truncating": "import os; os.open({victim!r}, os.O_RDONLY | os.O_TRUNC)",
    "folder": "import ctypes; ctypes.CDLL(None).rmdir({empty!r}.encode())",
}


def confine_and(code, folder, answer):
    from pathlib import Path

    from d2rkit.exercises.rerun_child import guard

    guard(Path(folder), Path(folder) / "answer.json")
    try:
        exec(code, {})
        answer.put("done")
    except BaseException as error:
        answer.put(type(error).__name__)


def tried(code, folder):
    context = multiprocessing.get_context("forkserver")
    answer = context.SimpleQueue()
    process = context.Process(target=confine_and, args=(code, str(folder), answer))
    process.start()
    process.join(120)
    return answer.get()


@pytest.mark.skipif(not confined.version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("way", list(ESCAPES))
def test_the_kernel_refuses_what_the_guard_does_not_see(way, tmp_path):
    (own := tmp_path / "own").mkdir()
    (empty := tmp_path / "empty").mkdir()
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_text("precious")
    tried(ESCAPES[way].format(target=str(target), victim=str(victim), empty=str(empty)), own)
    assert victim.read_text() == "precious" and not target.exists() and empty.is_dir()


@pytest.mark.parametrize("code", ["open({target!r}, 'w').write('x')", ESCAPES["torch"]])
def test_within_its_own_folder_a_solution_may_write(code, tmp_path):
    assert tried(code.format(target=str(tmp_path / "mine")), tmp_path) == "done"
    assert (tmp_path / "mine").exists()
