"""A few thousand mutated files through every reader; fuzz_foreign_files.py explains how and can run more."""

from __future__ import annotations

import fuzz_foreign_files as fuzz
import pytest

COUNT = 2500


@pytest.mark.skipif(not hasattr(fuzz, "resource"), reason="limits of memory need a POSIX system")
def test_no_mutated_file_causes_a_traceback_a_hang_or_a_kill():
    outcomes, findings = fuzz.run(first=0, count=COUNT)
    counted = [finding for finding in findings if fuzz.target_of(finding) not in fuzz.PENDING]
    assert not counted, "\n\n".join(counted[:5])
    assert sum(outcomes.values()) == COUNT
    assert outcomes["refused"] > COUNT / 3, "the mutations damage too little"
    assert outcomes["read"] > COUNT / 20, "the mutations damage too much: readers stop at their first check"


def test_every_run_has_the_same_inputs():
    first, second = (fuzz.run(first=4, count=12, only="table csv")[0] for _ in range(2))
    assert first == second
