"""gpt1.experiments.result_store: the progress of a job inside the bar of an experiment, and the facts of a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gpt1.experiments.result_store import JobProgress, model_facts
from gpt1.progress import Progress
from gpt1.runs import folder as runs


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


def test_a_config_that_leaves_out_a_default_is_complete_in_the_facts(pretrained_run: Path, tmp_path: Path):
    folder = Path(shutil.copytree(runs.find_model_folder(pretrained_run), tmp_path / "model"))
    (folder / "manifest.json").unlink()  # as in a folder that was written by hand
    config = json.loads((folder / "config.json").read_text())
    del config["dropout"]
    (folder / "config.json").write_text(json.dumps(config))
    assert model_facts(folder)["config"]["dropout"] == 0.1
    assert model_facts(pretrained_run)["config"]["dropout"] == 0
