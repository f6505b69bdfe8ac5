"""Memory that one step frees serves the next one."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell the C library to keep what this process frees; whether it could be told (glibc only).

    Otherwise it gives arrays of 32 MiB and more back to the system at once, and every step gets them anew, page by
    page, filled with zeros first: 7 % of a pre-training step of the 117M model. The process then holds its peak. For
    steps that always want the same sizes: with changing ones, what is kept has the wrong size and the peak grows.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
