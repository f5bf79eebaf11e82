"""Freed memory stays with the process once it is asked to, and only then."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import sys, torch
from facekit.train.memory import keep_freed_memory
def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) // 1024
if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
tensor = torch.ones(200 << 20, dtype=torch.uint8)
del tensor
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
@pytest.mark.parametrize("how", ["keep", "leave"])
def test_what_is_freed_stays_where_it_is_asked_for(how: str) -> None:
    told = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, check=True)
    assert (int(told.stdout) > 150) == (how == "keep"), told.stdout  # MiB
