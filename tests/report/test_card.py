"""Model cards: what the hub reads, what the run measured, and nothing about the machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpt1.inference.convert import export_model
from gpt1.report.card import write_card

SHAPE = {"n_layer": 2, "parameters": 1_234_567}


def metadata(card: str) -> dict[str, Any]:
    empty, head, body = card.split("---\n", 2)
    assert empty == ""
    assert body.startswith("\n# ")
    return yaml.safe_load(head)


def test_the_card_of_a_fine_tuned_model_states_data_labels_metrics_with_intervals_and_settings(
    workspace: Path, tmp_path: Path
):
    export_model("gpt1", workspace / "runs/reviews", tmp_path / "reviews", license="mit", name="alice/reviews")
    card = (tmp_path / "reviews/README.md").read_text("utf-8")
    assert metadata(card)["pipeline_tag"] == "text-classification"
    assert metadata(card)["license"] == "mit"
    assert "# alice/reviews\n" in card
    assert "fine-tuned for classification" in card
    assert "| train | reviews.csv |" in card
    assert "| starting model | another run |" in card
    assert "base_model" not in metadata(card)
    assert "| metric | value | 95% confidence interval |" in card
    assert all(f"| {name} |" in card for name in ("accuracy", "validation rows", "labels", "epochs", "seed", "recipe"))
    assert str(workspace) not in card


def test_a_model_without_a_run_has_a_card_without_the_tables_that_need_one(tmp_path: Path):
    write_card(tmp_path, "a|b", None, SHAPE, None, "unknown")
    card = (tmp_path / "README.md").read_text("utf-8")
    assert metadata(card) == {
        "license": "unknown",
        "library_name": "gpt1",
        "pipeline_tag": "text-generation",
        "tags": ["gpt1", "gpt-1"],
    }
    assert "| parameters | 1,234,567 |" in card
    assert "## Metrics" not in card
    assert "## Settings" not in card


def test_a_starting_model_on_the_hub_is_named(workspace: Path, tmp_path: Path):
    run = Path(shutil.copytree(workspace / "runs/reviews", tmp_path / "run"))
    with (run / "config.yaml").open("a") as file:
        file.write("starting_model: openai-community/openai-gpt@main\n")
    write_card(tmp_path, "n", run, SHAPE, None, "mit")
    card = (tmp_path / "README.md").read_text("utf-8")
    assert metadata(card)["base_model"] == "openai-community/openai-gpt"
    assert "| starting model | openai-community/openai-gpt@main |" in card


def test_the_query_of_a_url_which_may_hold_a_token_is_not_published(workspace: Path, tmp_path: Path):
    run = Path(shutil.copytree(workspace / "runs/reviews", tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    config["command"] |= {"train": "https://host/a/rows.csv?token=SECRET", "valid": "s3://bucket/dir/valid.csv#SECRET"}
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    write_card(tmp_path, "n", run, SHAPE, None, "mit")
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "| train | rows.csv |" in card
    assert "| valid | valid.csv |" in card
    assert "SECRET" not in card


def test_an_exported_model_keeps_its_card_when_it_is_exported_again(workspace: Path, tmp_path: Path):
    first = export_model("gpt1", workspace / "runs/reviews", tmp_path / "first", license="mit")
    with (first / "README.md").open("a", encoding="utf-8") as file:
        file.write("\nWritten by its owner.\n")
    card = (first / "README.md").read_text("utf-8")
    again = export_model("gpt1", first, tmp_path / "again")
    assert (again / "README.md").read_text("utf-8") == card
    other = export_model("gpt1", first, tmp_path / "other", license="CC-BY-4.0")
    changed = card.replace("license: mit", "license: cc-by-4.0").replace("License\n\nmit", "License\n\nCC-BY-4.0")
    assert (other / "README.md").read_text("utf-8") == changed != card


@pytest.mark.parametrize("name", ["</script><script>", "a|b", "x\n# heading", "`code`", "---"])
def test_a_name_from_a_run_cannot_break_the_card(name: str, workspace: Path, tmp_path: Path):
    run = Path(shutil.copytree(workspace / "runs/reviews", tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
    config["command"]["train"] = name
    (run / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    task = {"kind": "classification", "target": {"labels": [name, "b"]}}
    write_card(tmp_path, "n", run, SHAPE, task, "mit")
    card = (tmp_path / "README.md").read_text("utf-8")
    assert metadata(card)["license"] == "mit"
    assert "<script>" not in card
    assert "\n# heading" not in card
    rows = [line for line in card.splitlines() if line.startswith("| labels |")]
    assert [row.replace("\\|", "").count("|") for row in rows] == [3]
