"""Keeps the memory that a training step frees for the next one, which asks for as much."""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = (1 << 31) - 1
_LARGE = 1 << 30


def keep_freed_memory() -> None:
    """Tell glibc not to give freed memory back to the system while this process lives.

    By default it gives back what is large, and in the next step the system hands it out again page by page,
    each filled with zeros first: a tenth of the time of training on a CPU. The process stays as large as it
    once was. Does nothing with another C library, or where its settings are given by MALLOC_TRIM_THRESHOLD_
    or MALLOC_MMAP_THRESHOLD_.
    """
    given = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
    if platform.libc_ver()[0] != "glibc" or given:
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
