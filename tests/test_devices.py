"""In what type a processor computes: by what was measured on it."""

from __future__ import annotations

from itertools import accumulate

import pytest

from gpt1 import devices


@pytest.mark.parametrize(
    ("bf16", "fp32", "pays"),
    [([1, 1], [3, 3], True), ([3, 3], [1, 1], False), ([1, 1], [1.1, 1.1], False), ([1, 1], [9, 1], False)],
    ids=["faster", "slower", "hardly faster", "faster while fp32 was held up"],
)
def test_bf16_is_taken_where_its_products_are_faster_each_time(
    bf16: list[float], fp32: list[float], pays: bool, monkeypatch: pytest.MonkeyPatch
):
    taken = [seconds for pair in zip(bf16, fp32, strict=True) for seconds in pair for _ in range(4)]
    clock = iter(accumulate(step for seconds in taken for step in (0.0, seconds)))
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(clock))
    assert devices.cpu_gains_from_bf16() == pays
