"""Freed memory is reused: the arrays of a second step cause no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS_THE_SECOND_TIME = """
import resource, sys
import numpy as np
from gpt1.kernels import malloc
size, *keep = sys.argv[1:]
for name in keep:
    assert getattr(malloc, name)()
def arrays():
    return [np.ones(int(size) << 17) for _ in range(128 // int(size))]  # 128 MiB, freed at once
arrays()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
arrays()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only for glibc")
@pytest.mark.parametrize(("keep", "mib"), [("keep_freed_memory", 128), ("keep_some_freed_memory", 16)])
def test_arrays_of_the_same_size_are_reused_without_page_faults(keep: str, mib: int):
    def count_page_faults(*arguments: str) -> int:
        command = [sys.executable, "-c", FAULTS_THE_SECOND_TIME, str(mib), *arguments]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert count_page_faults(keep) * 10 < count_page_faults()


LEFT_BETWEEN_ARRAYS_IN_USE = """
import numpy as np
from gpt1.kernels.malloc import keep_some_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 >> 20
assert keep_some_freed_memory()
freed, used = [], []
for _ in range(32):
    freed.append(np.ones(16 << 17))  # 16 MiB
    used.append(np.ones(1 << 10))
del freed
before = resident()
assert keep_some_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only for glibc")
def test_free_memory_between_arrays_in_use_is_returned():
    command = [sys.executable, "-c", LEFT_BETWEEN_ARRAYS_IN_USE]
    mib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert mib > 400  # of 512
