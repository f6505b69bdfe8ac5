"""The same data sets from the Hugging Face hub, with a local folder in the hub's layout instead of a repository."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from known_datasets import no_data_dir_variable  # noqa: F401 (a fixture for every test)

from gpt1.datasets import find_data_set
from gpt1.datasets.hub import HubSource
from gpt1.errors import UserError


def write_local_hub(tmp_path: Path, name: str, parts: dict[str, tuple[list, dict]]):
    """The data set `name` with a local folder as its repository: one Parquet file per configuration and split."""
    import datasets

    configurations: dict[str, list[str]] = {}
    for part, (rows, features) in parts.items():
        configuration, _, split = part.rpartition("/")
        table = datasets.Dataset.from_list(rows, features=datasets.Features(features) if features else None)
        (tmp_path / "hub" / configuration).mkdir(parents=True, exist_ok=True)
        table.to_parquet(tmp_path / "hub" / configuration / f"{split}-0.parquet")
        configurations.setdefault(configuration or "default", []).append(f"  - split: {split}\n    path: {part}-*\n")
    described = "".join(f"- config_name: {c}\n  data_files:\n{''.join(f)}" for c, f in configurations.items())
    (tmp_path / "hub/README.md").write_text(f"---\nconfigs:\n{described}---\n")
    data = find_data_set(name)
    return replace(data, hub=replace(data.hub, name=str(tmp_path / "hub"), revision=None))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the package `datasets`: pip install 'gpt1[hub]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_numeric_labels_become_class_names_and_hidden_labels_give_no_column(hub, tmp_path):
    classes = {
        "sentence1": hub.Value("string"), "sentence2": hub.Value("string"), "idx": hub.Value("int32"),
        "label": hub.ClassLabel(names=["entailment", "not_entailment"]),
    }  # fmt: skip
    row = {"sentence1": "a", "sentence2": "b", "idx": 0}
    dev, test = [{**row, "label": 1}, {**row, "label": 0}], [{**row, "label": -1}]
    rte = write_local_hub(tmp_path, "rte", {"rte/validation": (dev, classes), "rte/test": (test, classes)})
    table = rte.read("dev")
    assert [row["label"] for row in table.rows] == ["not_entailment", "entailment"]
    assert table.locate_row(1) == f"{tmp_path / 'hub'} rte/validation, row 2"
    assert rte.read("test", "hub").rows == [{"premise": "a", "hypothesis": "b"}]


def test_labels_that_are_numbers_in_glue_are_numbers_from_the_hub(hub, tmp_path):
    classes = {"sentence": hub.Value("string"), "label": hub.ClassLabel(names=["unacceptable", "acceptable"])}
    cola = write_local_hub(tmp_path, "cola", {"cola/validation": ([{"sentence": "He ran.", "label": 1}], classes)})
    assert cola.read("dev").rows == [{"text": "He ran.", "label": "1"}]


def test_subsets_and_missing_gold_labels_are_read_from_the_hub(hub, tmp_path):
    options = {"article": "a", "question": "q", "options": ["a", "b", "c", "d"], "answer": "D", "example_id": "x"}
    race = write_local_hub(tmp_path, "race", {"middle/test": ([options], None), "high/test": ([options] * 2, None)})
    assert [row["subset"] for row in race.read("test").rows] == ["middle", "high", "high"]
    assert race.read("test", subset="high").rows[0]["label"] == 3
    classes = {
        "premise": hub.Value("string"), "hypothesis": hub.Value("string"),
        "label": hub.ClassLabel(names=["entailment", "neutral", "contradiction"]),
    }  # fmt: skip
    rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in (2, -1)]
    snli = write_local_hub(tmp_path / "snli", "snli", {"plain_text/test": (rows, classes)})
    table = snli.read("test")
    assert [row["label"] for row in table.rows] == ["contradiction"]
    assert "snli:test: 1 row without a gold label: skipped." in table.notes


def test_the_error_for_an_unreachable_hub_suggests_a_folder(hub, tmp_path):
    data = replace(
        find_data_set("rte"),
        hub=HubSource(str(tmp_path / "nothing"), find_data_set("rte").hub.splits, find_data_set("rte").hub.columns),
    )
    with pytest.raises(UserError, match="could not be loaded from the Hugging Face hub") as error:
        data.read("dev")
    assert "--data-dir" in error.value.fix


def test_the_error_without_folder_and_package_names_both_fixes(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="no folder with the files of RTE is set") as error:
        find_data_set("rte").read("dev")
    assert "--data-dir" in error.value.fix
    assert "pip install 'gpt1[hub]'" in error.value.fix


def test_the_error_for_a_data_set_outside_the_hub_names_its_source(monkeypatch):
    with pytest.raises(UserError, match="the hub does not have its test split") as error:
        find_data_set("storycloze").read()
    assert "https://cs.rochester.edu/nlp/rocstories/" in error.value.fix
