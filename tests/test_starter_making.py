"""`python -m benchmarks.starter` makes the model of the package, and its pages contain only measured figures."""

from __future__ import annotations

import json
import lzma
import re
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are next to the package, not in it

import gpt1
from benchmarks import starter
from benchmarks.starter_card import TEXTBOOKS, figures, model_card
from gpt1.datasets.blimp import PHENOMENA
from gpt1.errors import UserError
from gpt1.progress import Progress

SETTINGS = {"model": "tiny", "n_layer": 1, "n_head": 1, "n_embd": 16, "context": 16, "batch_size": 2}
SETTINGS |= {"steps": 4, "eval_every": 2, "eval_windows": 4, "precision": "fp32", "device": "cpu"}


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def making(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> starter.Making:
    """Texts of the form that the command reads, from docstrings, and one pair of each paradigm of BLiMP."""
    tmp_path = tmp_path_factory.mktemp("starter")
    data = tmp_path / "data"
    for part, name in enumerate([*starter.TRAINING_TEXTS, *starter.VALIDATION_TEXTS.values()]):
        is_textbook = name.startswith("textbooks")
        about = {"title": "t", "book": "physics"} if is_textbook else {"title": "t", "author": "a", "year": 1900}
        write_lines(data / name, [about | {"text": text} for text in prose[20 * part : 20 * part + 20]])
    (data / "tasks").mkdir()
    with tarfile.open(data / "tasks" / "BLiMP.tar.xz", "w:xz") as archive:
        for paradigm in sorted({paradigm for group in PHENOMENA.values() for paradigm in group}):
            path = tmp_path / f"{paradigm}.jsonl"
            pair = {"sentence_good": f"the cat {paradigm} sleeps", "sentence_bad": f"the cat {paradigm} sleep"}
            path.write_text(json.dumps(pair | {"field": "syntax", "UID": paradigm, "pairID": "0"}) + "\n")
            archive.add(path, f"blimp/data/{path.name}")
    page = tmp_path / "starter.md"
    page.write_text("before\n<!-- figures: written by benchmarks/starter.py -->\n<!-- end of figures -->\nafter\n")
    paths = {"out": tmp_path / "package", "record": tmp_path / "starter.json", "page": page}
    return starter.Making(data, tmp_path / "work", **paths, vocab_size=300, settings=SETTINGS)


@pytest.fixture(scope="module")
def record(making: starter.Making) -> dict[str, Any]:
    return starter.make_starter(making, Progress())


@pytest.mark.slow
def test_the_command_makes_the_model_its_card_and_the_figures_of_its_page(
    making: starter.Making, record: dict[str, Any]
):
    assert record == json.loads(making.record.read_text())
    card, page = (making.out / "README.md").read_text(), making.page.read_text()
    assert card == model_card(record)
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert figures(record, "###") in page
    for name, one in record["validation"].items():  # as `gpt1 evaluate` measures it
        found = gpt1.evaluate(making.out, making.validation_corpus(name))["metrics"]
        assert one["model"]["bits_per_byte"] == pytest.approx(found["bits_per_byte"])
        assert f"{found['bits_per_byte']:.3f}" in card
    curve = record["stages"]["starter"]["curve"]
    assert [step for step, *_ in curve] == [2, 4]
    assert all(f"{bits:.3f}" in card for _, bits, _ in curve)
    assert set(record["blimp"]["phenomena"]) == set(PHENOMENA)
    assert set(record["blimp"]["baselines"]) == {"shorter", "unigram"}
    assert "osbooks-physics/tree/ff78c7a815" in card
    assert record["texts"][starter.TWICE]["times"] == 2
    assert record["corpus"]["documents"] == 8 * 20, "the textbooks are in the corpus twice"

    before = (making.record.read_bytes(), (making.out / "model.safetensors").stat().st_mtime_ns)
    starter.make_starter(making, Progress())
    assert (making.record.read_bytes(), (making.out / "model.safetensors").stat().st_mtime_ns) == before


@pytest.mark.slow
def test_training_further_keeps_the_first_curve_and_measures_again(
    making: starter.Making, record: dict[str, Any], tmp_path: Path
):
    settings = {name: value for name, value in SETTINGS.items() if name not in ("model", "n_layer", "n_head", "n_embd")}
    paths = {"out": tmp_path / "package", "record": tmp_path / "starter.json", "page": tmp_path / "starter.md"}
    for name, path in paths.items():
        (shutil.copytree if name == "out" else shutil.copyfile)(getattr(making, name), path)
    further = replace(making, **paths, run="starter-2", from_=str(making.out), settings=settings)
    second = starter.make_starter(further, Progress())
    assert list(second["stages"]) == ["starter", "starter-2"]
    assert second["stages"]["starter"] == record["stages"]["starter"]
    assert second["model"]["sha256"] != record["model"]["sha256"]
    assert second["validation"] != record["validation"]
    tokens = re.findall(r"^\| [24] \| ([\d.]+M) ", model_card(second), re.M)
    assert len(tokens) == 4
    assert "runs/starter-2 --from" in model_card(second)


@pytest.mark.slow
def test_scores_of_table_5_are_shown_where_they_are_given(
    making: starter.Making, record: dict[str, Any], tmp_path: Path
):
    assert "table 5" not in model_card(record)
    scores = {"median": 71.25, "min": 70.0, "max": 72.0, "values": [70.0, 71.25, 72.0]}
    rows = [{"task": "sst2", "metric": "accuracy", "guess": 50.9, "ours": {"full": scores, "head": None}, "paper": {}}]
    (tmp_path / "table5").mkdir()
    (tmp_path / "table5" / "results.json").write_text(json.dumps({"what": "table5", "results": rows}))
    card = model_card(starter.make_starter(replace(making, table5=tmp_path / "table5"), Progress()))
    assert "| full | 71.2 [70.0–72.0] |" in card
    with pytest.raises(UserError, match="no results of table 5"):
        starter.table5_facts(tmp_path / "work")


@pytest.mark.slow
def test_a_textbook_without_attribution_is_refused(record: dict[str, Any]):
    texts = {**record["texts"], starter.TWICE: {**record["texts"][starter.TWICE], "books": {"alchemy": 1}}}
    with pytest.raises(UserError, match="the textbook alchemy has no attribution"):
        model_card({**record, "texts": texts})


def test_missing_texts_and_a_run_of_the_same_name_are_refused_before_anything_is_written(
    making: starter.Making, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert starter.main([str(tmp_path / "nowhere"), "--work", str(tmp_path / "work")]) == 2
    assert "textbooks/train.jsonl.xz does not exist" in capsys.readouterr().err
    assert starter.main([str(making.data), "--work", str(tmp_path / "work"), "--from", "starter"]) == 2
    assert "--run starter-2" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_every_textbook_has_a_commit_at_which_its_license_was_read():
    assert len(TEXTBOOKS) == 30
    assert all(re.fullmatch(r"[0-9a-f]{10}", commit) for _, commit in TEXTBOOKS.values())
