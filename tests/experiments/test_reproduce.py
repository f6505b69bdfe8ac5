"""Reproduction: the paper's numbers, fixed rows, no run repeated, a report of the finished runs."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reproduction_fixtures import (
    QUICK_SETTINGS,
    RTE_LABELS,
    make_sentence,
    read_results,
    read_stored_results,
    write_lines,
)

from gpt1.cli import experiments as commands
from gpt1.config import FinetuneConfig
from gpt1.datasets import find_data_set, require_data_set
from gpt1.errors import GPT1Error, Interrupted, UserError
from gpt1.experiments.experiment_report import SeedScores
from gpt1.experiments.reproduce import paper, plan
from gpt1.experiments.reproduce import reproduce as module
from gpt1.experiments.reproduce.figure2 import normalize_score
from gpt1.experiments.reproduce.paper_tasks import PaperTask, TaskName, read_tasks
from gpt1.experiments.reproduce.plan import ReproductionPlan, Request
from gpt1.experiments.reproduce.reproduce import reproduce
from gpt1.experiments.reproduce.scores import points_cell
from gpt1.experiments.result_store import STORE_FILE
from gpt1.inference.evaluate import evaluate
from gpt1.progress import Progress
from gpt1.training.finetune import finetune

pytestmark = pytest.mark.usefixtures("no_reports")

# --- the paper's numbers ---------------------------------------------------------------------------------------------


def test_the_published_numbers_are_consistent() -> None:
    averages = {"full": 74.7, "scratch": 59.9, "no-aux": 75.0, "lstm": 69.1}  # table 5 prints them too
    assert paper.ABLATIONS.keys() == averages.keys()
    for method, row in paper.ABLATIONS.items():
        assert sum(row) / len(row) == pytest.approx(averages[method], abs=0.1)  # all are rounded
    halves = {column.subset: column.gpt1 for column in paper.all_columns() if column.task in ("mnli", "race")}
    assert (halves["m"] + halves["mm"]) / 2 == pytest.approx(paper.ablation_score("full", "mnli"), abs=0.06)
    counts = require_data_set("race").data.counts
    middle, high = counts["test-middle"], counts["test-high"]
    weighted = (middle * halves["middle"] + high * halves["high"]) / (middle + high)
    assert weighted == pytest.approx(halves[""], abs=0.06)


def test_every_published_number_has_a_known_data_set_metric_and_subset() -> None:
    for column in paper.all_columns():
        data = find_data_set(column.task)
        assert data is not None
        assert column.metric == data.metrics[0]
        assert column.subset in ("", *data.subsets)
    assert {column.task for column in paper.all_columns()} >= {*paper.ABLATION_COLUMNS, *paper.TRANSFER_TASKS}


@given(task=st.sampled_from(["cola", "sst2", "race", "storycloze"]), guess=st.floats(0, 0.3))
def test_a_random_guess_is_normalized_to_0_and_the_previous_best_to_1(task: str, guess: float) -> None:
    best = paper.previous_best_score(task)
    assert best is not None
    assert normalize_score(task, {"score": guess, "guess": guess}) == 0
    assert normalize_score(task, {"score": best / 100, "guess": guess}) == pytest.approx(1)


@given(value=st.floats(-200, 200))
def test_no_number_is_shown_as_minus_zero(value: float) -> None:
    for cell in (points_cell(value), points_cell(value, "+"), SeedScores((value / 100,)).to_cell(1, 100)):
        assert cell is not None
        assert float(cell.text.replace("−", "-")) == pytest.approx(value, abs=0.051)
        assert cell.text != "−0.0"


# --- the rows --------------------------------------------------------------------------------------------------------


def test_rows_are_always_the_same_sample_and_their_counts_are_shown(official_data: Path) -> None:
    wanted = [TaskName.parse("cola"), TaskName.parse("rte")]
    (cola, rte), _ = read_tasks(wanted, official_data, {"cola": 8}, {"": 4}, False)
    (again, _), _ = read_tasks(wanted, official_data, {"cola": 8}, {"": 4}, False)
    assert cola.facts == again.facts
    assert (len(cola.training), len(rte.training), len(rte.test)) == (8, 20, 4)
    assert (cola.describe_train_rows(), rte.describe_train_rows(), rte.describe_test_rows()) == (
        "8 of 24",
        "20",
        "4 of 10",
    )
    assert sum(row["label"] == "1" for row in cola.training.table.rows) == 4


def test_duplicates_are_noted_if_fine_tuning_removes_them(official_data: Path, tmp_path: Path) -> None:
    shutil.copytree(official_data / "CoLA", tmp_path / "CoLA")
    file = tmp_path / "CoLA/in_domain_train.tsv"
    file.write_text(file.read_text() + "".join(file.read_text().splitlines(keepends=True)[:3]))
    note = "cola:train: 3 of 27 training rows are duplicates; fine-tuning uses each text once."
    for keep_duplicates in (False, True):
        ((cola,), _) = read_tasks([TaskName.parse("cola")], tmp_path, {}, {}, keep_duplicates)
        assert (note in cola.notes) == (not keep_duplicates)


def test_the_baseline_is_the_most_frequent_training_label_or_a_random_answer(official_data: Path) -> None:
    (cola, race, snli), _ = read_tasks(
        [*map(TaskName.parse, ("cola", "race", "snli:dev>test"))], official_data, {}, {}, False
    )
    assert cola.baseline_score("matthews") == 0
    assert cola.baseline_score("accuracy") == pytest.approx(0.5)
    assert race.baseline_score("accuracy", "high") == pytest.approx(0.25)
    assert snli.baseline_score("accuracy") == pytest.approx(1 / 3)


def test_the_command_of_a_report_makes_the_same_request(tmp_path: Path) -> None:
    request = Request(
        "table5", "runs/my books", tmp_path, "data", 4, ["snli:dev>test", "rte"], ["full"], {"rte": 7, "": 9}, {"": 3},
        settings={"peak_lr": 1e-4, "batch_size": 1000, "deduplicate": False},
    )  # fmt: skip
    words = shlex.split(request.command_line())
    assert words[:2] == ["gpt1", "reproduce"]
    given = commands.reproduce.make_context("reproduce", words[2:]).params
    assert commands.parse_names(given["tasks"]) == request.tasks
    assert commands.parse_row_limits(given["rows"], "--rows") == request.rows
    assert commands.parse_row_limits(given["test_rows"], "--test-rows") == request.test_rows
    assert [given[name] for name in ("what", "from_", "seeds", "deduplicate")] == ["table5", "runs/my books", 4, False]
    assert (float(given["peak_lr"]), int(given["batch_size"])) == (1e-4, 1000)


# --- the runs --------------------------------------------------------------------------------------------------------


def test_a_result_equals_that_of_finetune_and_evaluate(
    pretrained_run: Path, official_data: Path, tmp_path: Path
) -> None:
    options = {"from_": pretrained_run, "data_dir": official_data, **QUICK_SETTINGS}
    out = reproduce("table4", out=tmp_path / "out", tasks=["cola"], seeds=1, **options)
    run = finetune("cola", out=tmp_path / "run", seed=0, valid_fraction=0.0, **options)
    by_hand = evaluate(run, "cola", data_dir=official_data)
    cell = read_stored_results(out)["cola, full, seed 0"]
    assert cell["metrics"] == pytest.approx(by_hand["metrics"])
    assert cell["score"] == pytest.approx(by_hand["metrics"]["matthews"])
    assert cell["made_from"]["rows"]["test"] == by_hand["rows"]


def test_a_sample_of_the_rows_is_trained_on(pretrained_run: Path, official_data: Path, tmp_path: Path) -> None:
    options = {"data_dir": official_data, "rows": {"": 8}, "methods": ["full", "head"], **QUICK_SETTINGS}
    out = reproduce("table4", from_=pretrained_run, out=tmp_path / "out", tasks=["cola"], seeds=1, **options)
    results = read_stored_results(out)
    assert [result["made_from"]["rows"]["train"] for result in results.values()] == [8, 8]
    assert list(results) == ["cola, full, seed 0", "cola, head, seed 0"]


def test_table_5_has_every_method_beside_the_paper_and_leaves_no_models(
    pretrained_run: Path, lstm_run: Path, official_data: Path, tmp_path: Path
) -> None:
    out = reproduce(
        "table5", from_=pretrained_run, lstm=lstm_run, out=tmp_path / "out", data_dir=official_data,
        tasks=["cola", "mnli"], seeds=2, **QUICK_SETTINGS,
    )  # fmt: skip
    results = read_results(out)
    assert results["left_out"] == {"mnli": f"none of its files are in {official_data}"}
    (cola,) = results["results"]
    assert set(cola["ours"]) == {"full", "scratch", "scratch-no-aux", "no-aux", "lstm", "head", "tfidf", "overlap"}
    assert cola["ours"].pop("overlap") is None  # a single text
    assert cola["paper"] == {"full": 45.4, "scratch": 18.9, "no-aux": 47.9, "lstm": 30.3}
    for spread in cola["ours"].values():
        assert len(spread["values"]) == 2
        assert spread["min"] <= spread["median"] <= spread["max"]
    assert not list(out.rglob("*.safetensors"))
    page = (out / "report.html").read_text(encoding="utf-8")
    for text in ("LSTM with auxiliary LM", "head only", "no pre-training", "tokens seen", "MNLI skipped"):
        assert text in page


def test_the_subsets_of_a_split_average_to_the_whole(pretrained_run: Path, official_data: Path, tmp_path: Path) -> None:
    out = reproduce(
        "table3", from_=pretrained_run, out=tmp_path / "out", data_dir=official_data, seeds=1, **QUICK_SETTINGS
    )
    cell = read_stored_results(out)["race, full, seed 0"]
    parts = [(6, cell["subsets"]["middle"]), (10, cell["subsets"]["high"])]
    assert cell["metrics"]["accuracy"] == pytest.approx(sum(n * part["accuracy"] for n, part in parts) / 16)
    assert [line["subset"] for line in read_results(out)["results"]] == ["middle", "high", ""]
    assert "| Story Cloze | accuracy | 77.6 | 86.5 | none of its files are in" in (out / "results.md").read_text(
        "utf-8"
    )


def test_runs_go_seed_by_seed_and_more_seeds_or_tasks_are_added(
    pretrained_run: Path, official_data: Path, tmp_path: Path, executed_jobs: list[str]
) -> None:
    options: dict[str, Any] = {"from_": pretrained_run, "out": tmp_path / "out", "data_dir": official_data}
    reproduce("table5", tasks=["cola"], methods=["full", "head"], seeds=2, **options)
    assert executed_jobs == [f"cola, {method}, seed {seed}" for seed in (0, 1) for method in ("full", "head")]
    reproduce("table5", tasks=["cola", "rte"], methods=["full", "head"], seeds=3, **options)
    reproduce("table4", tasks=["cola", "rte"], methods=["full"], seeds=3, **options)  # shares the runs of table 5
    assert len(executed_jobs) == len(set(executed_jobs)) == 2 * 2 * 3
    assert read_results(tmp_path / "out")["results"][0]["ours"]["full"]["median"] == pytest.approx(60)


@pytest.mark.parametrize("at", [1, 2])
def test_an_interrupted_reproduction_resumes_to_the_same_numbers(
    at: int, pretrained_run: Path, official_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "from_": pretrained_run,
        "data_dir": official_data,
        "tasks": ["cola", "rte"],
        "seeds": 1,
        **QUICK_SETTINGS,
    }
    whole = read_stored_results(reproduce("table5", out=tmp_path / "whole", methods=["full", "scratch"], **options))
    evaluate_run, calls = plan.evaluate_run, []

    def interrupt_once(*arguments: Any) -> dict[str, Any]:
        calls.append(arguments)
        if len(calls) == at:
            raise KeyboardInterrupt
        return evaluate_run(*arguments)

    monkeypatch.setattr(plan, "evaluate_run", interrupt_once)
    with pytest.raises(Interrupted, match=f"stopped in run {at} of 4"):
        reproduce("table5", out=tmp_path / "out", methods=["full", "scratch"], **options)
    assert "cola" in (tmp_path / "out" / "results.md").read_text(encoding="utf-8")
    assert list(read_stored_results(tmp_path / "out")) == ["cola, full, seed 0"][: at - 1]
    reproduce("table5", out=tmp_path / "out", methods=["full", "scratch"], **options)
    assert len(calls) == 1 + 4
    found = read_stored_results(tmp_path / "out")
    assert {key: cell["metrics"] for key, cell in found.items()} == {k: cell["metrics"] for k, cell in whole.items()}


def test_the_glue_score_is_the_mean_of_its_eight_tasks_if_all_are_finished(
    pretrained_run: Path, official_data: Path, tmp_path: Path, executed_jobs: list[str]
) -> None:
    folder = Path(shutil.copytree(official_data, tmp_path / "data"))
    two = [make_sentence(i, 1) for i in range(12)]
    three = ("entailment", "neutral", "contradiction")
    tables = {
        "SST-2": ("sentence\tlabel", [f"{text}\t{i % 2}" for i, text in enumerate(two)]),
        "MRPC": ("Quality\t#1 String\t#2 String", [f"{i % 2}\t{text}\tother" for i, text in enumerate(two)]),
        "STS-B": ("sentence1\tsentence2\tscore", [f"{text}\tother\t{i % 6}" for i, text in enumerate(two)]),
        "QQP": ("question1\tquestion2\tis_duplicate", [f"{text}\tother\t{i % 2}" for i, text in enumerate(two)]),
        "MNLI": ("sentence1\tsentence2\tgold_label", [f"{t}\tother\t{three[i % 3]}" for i, t in enumerate(two)]),
        "QNLI": ("question\tsentence\tlabel", [f"{t}\tother\t{RTE_LABELS[i % 2]}" for i, t in enumerate(two)]),
    }
    for name, (header, lines) in tables.items():
        halves = ("dev_matched", "dev_mismatched") if name == "MNLI" else ("dev",)
        for split in ("train", *halves):
            write_lines(
                folder / name / f"{split}.tsv", [header, *(line.replace("the ", f"{split} ") for line in lines)]
            )
    options: dict[str, Any] = {"from_": pretrained_run, "out": tmp_path / "out", "data_dir": folder, "seeds": 2}
    eight = [*paper.ABLATION_COLUMNS]
    eight[eight.index("mrpc")] = "mrpc:train>dev"
    out = reproduce("table4", tasks=eight, methods=["full"], **options)
    assert "| GLUE | score | 68.9 | 72.8 | 55.0 [50.0–60.0] | −17.8 | – |" in (out / "results.md").read_text("utf-8")
    reproduce("table4", tasks=eight[:-1], methods=["full"], **options)
    assert "| GLUE | score | 68.9 | 72.8 | needs rte too | – | – |" in (out / "results.md").read_text("utf-8")
    assert len(executed_jobs) == 8 * 2
    reproduce("table4", tasks=eight, **options)  # the overlap has no score for single texts
    spread = "55.0 [50.0–60.0]"
    assert f"| GLUE | score | 68.9 | 72.8 | {spread} | {spread} | – | −17.8 | – |" in (out / "results.md").read_text(
        "utf-8"
    )
    eight[eight.index("mnli")] = "mnli:train>dev-m"
    reproduce("table4", tasks=eight, methods=["full"], **options)
    assert "| GLUE | score | 68.9 | 72.8 | needs the other half of mnli too |" in (out / "results.md").read_text(
        "utf-8"
    )


@pytest.mark.slow
def test_a_killed_process_repeats_no_finished_run(pretrained_run: Path, official_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = f"reproduce table5 --from {pretrained_run} --data-dir {official_data} --out {out} --tasks cola --seeds 1"
    words += " --methods full,scratch,no-aux,head,tfidf --epochs 6 --precision fp32"
    command = [sys.executable, "-m", "gpt1", *words.split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (
            (out / STORE_FILE).exists() and read_stored_results(out) and list((out / "scratch").glob("*/config.yaml"))
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    before = (out / STORE_FILE).read_text(encoding="utf-8")
    finished = json.loads(before)["cells"]
    assert 1 <= len(finished) < 5
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"{len(finished)} of 5 runs are finished already" in done.stderr
    after = read_stored_results(out)
    assert len(after) == 5
    assert {key: after[key] for key in finished} == finished


@pytest.mark.parametrize("setting", [{"deduplicate": False}, {"long": "head-tail"}, {"cut": "shares"}], ids=str)
def test_settings_of_rows_and_texts_also_apply_to_the_head_alone(
    setting: dict[str, Any], pretrained_run: Path, official_data: Path
) -> None:
    request = Request(
        "table5", pretrained_run, "out", official_data, tasks=["cola"], settings={**setting, "peak_lr": 1.0}
    )
    plan_made = module.plan_reproduction(request, FinetuneConfig(**setting), Progress())
    head, full = plan_made.run_settings("head", 0), plan_made.run_settings("full", 0)
    assert setting.items() <= head.items()
    assert setting.items() <= full.items()
    assert ("peak_lr" in head, "peak_lr" in full) == (False, True)


def test_a_diverging_run_is_reported_and_stops_no_other(
    pretrained_run: Path, official_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executed_jobs: list[str]
) -> None:
    measure = ReproductionPlan.run_job

    def measure_or_diverge(plan: Any, task: PaperTask, method: str, *rest: Any) -> dict[str, Any]:
        if method == "scratch":
            raise GPT1Error("training diverged.")
        return measure(plan, task, method, *rest)

    monkeypatch.setattr(ReproductionPlan, "run_job", measure_or_diverge)
    options: dict[str, Any] = {"from_": pretrained_run, "data_dir": official_data, "tasks": ["cola", "rte"], "seeds": 1}
    out = reproduce("table5", out=tmp_path / "out", **options)
    assert read_results(out)["failed"] == [f"{task}, scratch, seed 0: training diverged." for task in ("cola", "rte")]
    assert len(read_stored_results(out)) == 2 * 5 + 1
    markdown = (out / "results.md").read_text(encoding="utf-8")
    assert "Not finished: cola, scratch" in markdown
    assert "| LSTM with auxiliary LM | needs --lstm RUN | – |" in markdown


@pytest.mark.parametrize("text", ["²", "rte=5²x", "rte=-1", "0", "1.5"])
def test_a_limit_that_is_not_a_number_of_rows_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a number of rows"):
        commands.parse_row_limits(text, "--rows")
