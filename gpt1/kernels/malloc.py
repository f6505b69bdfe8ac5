"""Memory that one step frees serves the next one."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # from glibc's malloc.h
MMAP_THRESHOLD_BYTES = 32 << 20  # bytes: the largest array that glibc lets lie beside the others
TRIM_THRESHOLD_BYTES = 512 << 20


def keep_freed_memory() -> bool:
    """Tell the C library to keep what this process frees; whether it could be told (glibc only).

    Otherwise it gives arrays of 32 MiB and more back to the system at once, and every step gets them anew, page by
    page, filled with zeros first: 7 % of a pre-training step of the 117M model. The process then holds its peak. For
    steps that always want the same sizes: with changing ones, what is kept has the wrong size and the peak grows.
    """
    return set_malloc_options((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))


def keep_some_freed_memory() -> bool:
    """The same for steps of changing sizes: at most half a GiB, and no array of 32 MiB or more.

    What runs before this one left between arrays that are still in use is given back first, which the C library does
    not do by itself. Some of it adds up all the same, run after run in one process: oneDNN keeps up to 1,024 compiled
    products, and they lie in between.
    """
    heard = set_malloc_options((M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
    if heard:
        ctypes.CDLL(None).malloc_trim(0)
    return heard


def set_malloc_options(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and all(mallopt(*setting) for setting in settings))
