"""Freed memory is kept: a step's large arrays cost no page fault the second time."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS_OF_A_SECOND_ARRAY = """
import resource, sys
import numpy as np
from gpt1.kernels.memory import keep_freed_memory
if "keep" in sys.argv:
    assert keep_freed_memory()
np.ones(16 << 20)  # 128 MiB, freed at once
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_an_array_of_the_same_size_comes_back_without_page_faults():
    def faults(*arguments: str) -> int:
        command = [sys.executable, "-c", FAULTS_OF_A_SECOND_ARRAY, *arguments]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") * 10 < faults()
