"""gpt1.experiments.result_store: the progress of a job inside the bar of an experiment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpt1.experiments.result_store import JobProgress
from gpt1.progress import Progress


class OuterBar(Progress):
    def __init__(self) -> None:
        self.done: list[int] = []

    def advance(self, done: int, **values: float) -> None:
        self.done.append(done)


def run_bars(bars: list[tuple[int, str]]) -> list[int]:
    outer = OuterBar()
    job = JobProgress(outer, 1000, 1000)
    for total, unit in bars:
        job.begin("", total, unit=unit)
        for done in range(1, total + 1):
            job.advance(done)
    return outer.done


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["steps", "examples", "rows"])), min_size=1, max_size=6))
def test_a_job_never_goes_back_and_stays_within_its_share(bars: list[tuple[int, str]]):
    done = run_bars(bars)
    assert done == sorted(done)
    assert min(done) >= 1000
    assert max(done) <= 1950


def test_the_training_steps_take_most_of_a_job_whatever_comes_before_them():
    features = run_bars([(200, "examples")])
    assert features[-1] == 1100
    both = run_bars([(200, "examples"), (400, "steps")])
    assert both[: len(features)] == features
    halfway = both[len(features) + 200]
    assert 1500 < halfway < 1550
    assert both[-1] == 1950
