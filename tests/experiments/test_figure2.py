"""Figure 2: transferred layers on the left, zero-shot skill over pre-training on the right."""

from __future__ import annotations

from pathlib import Path

import pytest
from reproduced import results_of

from gpt1.config import FinetuneConfig
from gpt1.experiments.reproduce import reproduce as module
from gpt1.experiments.reproduce.plan import Asked
from gpt1.experiments.reproduce.reproduce import reproduce
from gpt1.experiments.zeroshot.heuristics import zeroshot
from gpt1.experiments.zeroshot.steps import points_of
from gpt1.progress import Silent


def test_the_last_dot_of_the_right_half_is_what_zeroshot_says_of_the_finished_model(
    walked: Path, data: Path, tmp_path: Path
) -> None:
    out = reproduce(
        "figure2",
        from_=walked,
        out=tmp_path / "out",
        data_dir=data,
        right=True,
        tasks=["cola", "race"],
        test_rows={"race": 12},
    )
    assert [point.step for point in points_of(walked)] == [2, 4, 5]
    for line in results_of(out)["results"]:
        assert list(line["steps"]) == ["2", "4", "5"]
        of_the_model = zeroshot(line["task"], run=walked, data_dir=data, rows=12 if line["task"] == "race" else 0)
        assert line["steps"]["5"]["score"] == pytest.approx(100 * of_the_model["metrics"][of_the_model["metric"]])
    markdown = (out / "results.md").read_text(encoding="utf-8")
    assert not any(
        word in markdown for word in ("| seeds |", "medians", "gpt1 finetune", "last epoch")
    )  # nothing was fine-tuned
    assert (out / "figure2-right.svg").exists()
    assert not (out / "figure2-left.svg").exists()


def test_both_halves_stand_on_one_page_and_the_lstm_beside_the_transformer(
    walked: Path, recurrent: Path, data: Path, tmp_path: Path, counted: list[str]
) -> None:
    out = reproduce("figure2", from_=walked, lstm=recurrent, out=tmp_path / "out", data_dir=data, seeds=1)
    assert counted == ["race, 0 layers, seed 0", "race, 1 layers, seed 0"]
    results = results_of(out)
    assert results["left_out"] == {"mnli": f"none of its files are in {data}"}
    halves = [(line["half"], line["task"], line.get("model", "")) for line in results["results"]]
    assert halves == [("left", "race", "")] + [("right", t, m) for m in ("from", "lstm") for t in ("cola", "race")]
    markdown = (out / "results.md").read_text(encoding="utf-8")
    assert "Zero-shot, winograd: left out" in markdown
    assert "race, LSTM" in markdown


def test_transferred_layers_are_what_the_left_half_varies(walked: Path, data: Path) -> None:
    plan = module.planned(Asked("figure2", walked, "out", data, tasks=["cola"], left=True), FinetuneConfig(), Silent())
    assert [plan.settings_for(method, 3)["transfer_layers"] for method in plan.methods] == [0, 1]
    assert {plan.settings_for(method, 3)["seed"] for method in plan.methods} == {3}
