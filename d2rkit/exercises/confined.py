"""Linux's Landlock: from now on this process changes files below one folder only, whatever language asks for it.

Python's audit hook, which `rerun_child` has besides, says why in words; but it does not see what C and Rust write, and
`torch.save` is enough for that. A kernel without Landlock leaves the hook alone with it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

CREATE, ADD, RESTRICT = 444, 445, 446  # system calls, the same on every processor
NO_NEW_PRIVILEGES = 38
WRITE, REFER, TRUNCATE = 1 << 1, 1 << 13, 1 << 14  # the last two since versions 2 and 3
CHANGES = WRITE | sum(1 << bit for bit in range(4, 13))  # remove and make folders, files, links, sockets, ...


class Rules(ctypes.Structure):
    _fields_ = [("handled", ctypes.c_uint64)]


class Below(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


def version() -> int:
    """Of Landlock in this kernel; 0 where there is none, or it is not allowed."""
    if sys.platform != "linux":
        return 0
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(CREATE, None, 0, 1))


def confine(folder: Path) -> bool:
    """Whether it worked; reading stays free. This thread and those that it starts are bound by it, for good."""
    if not (here := version()):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    rights = CHANGES | (REFER if here >= 2 else 0) | (TRUNCATE if here >= 3 else 0)
    rules = Rules(rights)
    made = libc.syscall(CREATE, ctypes.byref(rules), ctypes.sizeof(rules), 0)
    if made < 0:
        return False
    try:
        allowed = {folder: rights, Path(os.devnull): WRITE}
        for place, may in allowed.items():
            opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
            try:
                below = Below(may, opened)
                if libc.syscall(ADD, made, 1, ctypes.byref(below), 0):
                    return False
            finally:
                os.close(opened)
        return libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and libc.syscall(RESTRICT, made, 0) == 0
    finally:
        with suppress(OSError):
            os.close(made)
