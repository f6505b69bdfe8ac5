"""Figure 2: transferred layers on the left, zero-shot scores over pre-training on the right."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduction_fixtures import read_results

from gpt1.config import FinetuneConfig
from gpt1.experiments.experiment_report import SeedScores
from gpt1.experiments.reproduce import reproduce as module
from gpt1.experiments.reproduce.figure2 import draw_transfer
from gpt1.experiments.reproduce.plan import Request
from gpt1.experiments.reproduce.reproduce import reproduce
from gpt1.experiments.zeroshot.heuristics import zeroshot
from gpt1.experiments.zeroshot.over_training import list_checkpoint_models
from gpt1.progress import Progress

pytestmark = pytest.mark.usefixtures("no_reports")


def test_the_last_point_of_the_right_half_is_the_zeroshot_score_of_the_finished_model(
    run_with_checkpoints: Path, official_data: Path, tmp_path: Path
) -> None:
    out = reproduce(
        "figure2",
        from_=run_with_checkpoints,
        out=tmp_path / "out",
        data_dir=official_data,
        right=True,
        tasks=["cola", "race"],
        test_rows={"race": 12},
    )
    assert [model.step for model in list_checkpoint_models(run_with_checkpoints)] == [2, 4, 5]
    for line in read_results(out)["results"]:
        assert list(line["steps"]) == ["2", "4", "5"]
        expected = zeroshot(
            line["task"], run=run_with_checkpoints, data_dir=official_data, rows=12 if line["task"] == "race" else 0
        )
        assert line["steps"]["5"]["score"] == pytest.approx(100 * expected["metrics"][expected["metric"]])
    markdown = (out / "results.md").read_text(encoding="utf-8")
    words_of_finetuning = ("| seeds |", "medians", "gpt1 finetune", "last epoch")
    assert not any(words in markdown for words in words_of_finetuning)
    assert (out / "figure2-right.svg").exists()
    assert not (out / "figure2-left.svg").exists()


def test_one_page_has_both_halves_and_both_models(
    run_with_checkpoints: Path, lstm_run: Path, official_data: Path, tmp_path: Path, executed_jobs: list[str]
) -> None:
    out = reproduce(
        "figure2", from_=run_with_checkpoints, lstm=lstm_run, out=tmp_path / "out", data_dir=official_data, seeds=1
    )
    assert executed_jobs == ["race, 0 layers, seed 0", "race, 1 layers, seed 0"]
    results = read_results(out)
    assert results["left_out"] == {"mnli": f"none of its files are in {official_data}"}
    halves = [(line["half"], line["task"], line.get("model", "")) for line in results["results"]]
    assert halves == [("left", "race", "")] + [("right", t, m) for m in ("from", "lstm") for t in ("cola", "race")]
    markdown = (out / "results.md").read_text(encoding="utf-8")
    assert "Zero-shot winograd skipped" in markdown
    assert "race, LSTM" in markdown


def test_the_left_half_varies_only_the_transferred_layers(run_with_checkpoints: Path, official_data: Path) -> None:
    plan = module.plan_reproduction(
        Request("figure2", run_with_checkpoints, "out", official_data, tasks=["cola"], left=True),
        FinetuneConfig(),
        Progress(),
    )
    assert [plan.run_settings(method, 3)["transfer_layers"] for method in plan.methods] == [0, 1]
    assert {plan.run_settings(method, 3)["seed"] for method in plan.methods} == {3}


def test_the_left_half_shows_every_task_in_a_style_of_its_own() -> None:
    tasks = [f"task {k}" for k in range(20)]
    scores: dict[str, list[SeedScores | None]] = {task: [SeedScores((0.5,)), SeedScores((0.6,))] for task in tasks}
    figure = draw_transfer(scores, {task: [] for task in tasks})
    lines = [line for line in figure.axes[0].get_lines() if line.get_label() in tasks]
    assert [line.get_label() for line in lines] == tasks
    assert [text.get_text() for text in figure.legends[0].get_texts()] == tasks
    looks = [(line.get_marker(), line.get_linestyle()) for line in lines]  # without the color
    assert len(set(looks)) == 20
    assert set(looks[:5]) == {(marker, "-") for marker in "os^Dv"}
