"""Settings of glibc's malloc, so that memory freed by one step is reused by the next."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # from glibc's malloc.h
MMAP_THRESHOLD_BYTES = 32 << 20  # the largest value that glibc accepts
TRIM_THRESHOLD_BYTES = 512 << 20


def keep_freed_memory() -> bool:
    """Keep all memory that this process frees, for steps that always allocate the same sizes.

    By default, glibc returns arrays of 32 MiB and more to the system immediately, and every step gets them again page
    by page, filled with zeros: 7% of a pre-training step of the 117M model. The process keeps its peak memory. With
    changing sizes the kept memory does not fit, and the peak grows.

    Returns:
        Whether the setting was applied (glibc only).
    """
    return set_malloc_options((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1))


def keep_some_freed_memory() -> bool:
    """Keep at most 512 MiB of freed memory, and no array of 32 MiB or more, for steps of changing sizes.

    First returns the memory of earlier runs that is free between arrays in use, which glibc does not do by itself. Some
    still accumulates over runs in one process, because oneDNN keeps up to 1,024 compiled kernels.

    Returns:
        Whether the setting was applied (glibc only).
    """
    applied = set_malloc_options((M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES), (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES))
    if applied:
        ctypes.CDLL(None).malloc_trim(0)
    return applied


def set_malloc_options(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and all(mallopt(*setting) for setting in settings))
