"""Arguments from Python that are not paths: rows are accepted where rows are meant, the rest is an error with a fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import gpt1
from gpt1.errors import UserError
from gpt1.inference.predictor import load_task_predictor
from gpt1.tables.table import read_table
from gpt1.tokenization.tokenizer import Tokenizer

MODEL = "the model must be a path or a name, not a"


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, list], ids=["pandas", "polars", "rows"])
def test_rows_are_predicted_like_the_file_with_them(make: Any, workspace: Path):
    run, path = workspace / "runs/reviews", workspace / "reviews.csv"
    table = read_table(path)
    expected = gpt1.predict(run, path)
    assert gpt1.predict(run, make(table.rows)) == expected
    added = load_task_predictor(run).predict_table(make(table.rows))
    assert [{**row, **new} for row, new in zip(table.rows, added, strict=True)] == expected


def test_a_frame_has_the_label_efficiency_of_its_table(table: Any, pretrained_run: Path, tmp_path: Path):
    rows = [{"text": row["text"], "label": row["label"]} for row in table.rows]
    options: dict[str, Any] = {
        "from_": pretrained_run,
        "label": "label",
        "methods": ["tfidf"],
        "sizes": [8],
        "seeds": 1,
    }
    first, second = (
        gpt1.curve(make(rows), out=tmp_path / str(i), **options) for i, make in enumerate((pd.DataFrame, list))
    )
    assert (first / "results.md").read_text() == (second / "results.md").read_text().replace(
        "the rows", "the DataFrame"
    )


FRAME = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})
CALLS: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "load": (lambda model, _: gpt1.load(model), f"{MODEL} TaskPredictor"),
    "predict": (lambda model, _: gpt1.predict(model, FRAME), f"{MODEL} TaskPredictor"),
    "evaluate": (lambda model, _: gpt1.evaluate(model, FRAME), f"{MODEL} TaskPredictor"),
    "finetune": (
        lambda model, out: gpt1.finetune(FRAME, from_=model, out=out, label="label"),
        f"{MODEL} TaskPredictor",
    ),
    "no model": (lambda _, out: gpt1.load(None), "the model must be a path or a name, not None"),
    "no folder": (
        lambda model, _: gpt1.finetune(FRAME, from_="starter", out=None, label="label"),
        "^out= must be a path",
    ),
    "a corpus": (lambda _, out: gpt1.pretrain(FRAME, out=out), "the corpus must be .*, not a DataFrame"),
    "texts": (lambda _, out: gpt1.tokenize(FRAME, out=out), "a source of texts must be .*, not a DataFrame"),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_type_instead_of_a_path_is_an_error_with_a_fix(name: str, workspace: Path, tmp_path: Path):
    call, problem = CALLS[name]
    model = gpt1.load(workspace / "runs/reviews")
    with pytest.raises(UserError, match=problem) as raised:
        call(model, tmp_path / "out")
    assert raised.value.fix
    assert not list(tmp_path.iterdir())


ROWS = [{"text": f"row {i}", "label": "xy"[i % 2]} for i in range(20)]
REVIEWS: dict[str, Any] = {"from_": "starter", "label": "label"}
SETTINGS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a text as vocab_size": (
        lambda out: gpt1.tokenize(["."], out=out, vocab_size="300"),  # type: ignore[arg-type]
        "vocab_size='300' is not a whole number",
    ),
    "half a worker": (
        lambda out: gpt1.tokenize(["."], out=out, workers=1.5),  # type: ignore[arg-type]
        "workers=1.5 is not a whole number of at least 1",
    ),
    "half a token": (lambda _: Tokenizer.train(["a"], 8.5), "vocab_size 8.5 is not a whole number"),  # type: ignore[arg-type]
    "no pipeline": (lambda _: Tokenizer.train(["a"], 300, pipeline=3), "unknown pipeline '3'"),  # type: ignore[arg-type]
    "text seeds": (lambda out: gpt1.curve(ROWS, out=out, seeds="2", **REVIEWS), "seeds='2' is not a whole number"),
    "no seed": (lambda out: gpt1.curve(ROWS, out=out, seeds=0, **REVIEWS), "seeds=0 is not .* of at least 1"),
    "one size": (lambda out: gpt1.curve(ROWS, out=out, sizes=8, **REVIEWS), "sizes=8 is not a list"),
    "half a row": (lambda out: gpt1.curve(ROWS, out=out, sizes=[8.5], **REVIEWS), "sizes=8.5 is not a whole"),
    "no step": (lambda out: gpt1.curve(ROWS, out=out, min_steps=0, **REVIEWS), "min_steps=0 is not a whole"),
    "test rows": (lambda out: gpt1.curve(ROWS, out=out, test_rows=-1, **REVIEWS), "test_rows=-1 is not a whole"),
    "one method": (lambda out: gpt1.curve(ROWS, out=out, methods="all", **REVIEWS), "methods=.*all.* is not a list"),
    "no seeds": (lambda out: gpt1.reproduce("table2", from_="starter", out=out, seeds=0), "seeds=0 is not a whole"),
    "one task": (lambda out: gpt1.reproduce("table2", from_="starter", out=out, tasks="rte"), "is not a list"),
    "words": (
        lambda _: gpt1.zeroshot("sst2", run="starter", words="pos=good,neg=bad"),  # type: ignore[arg-type]
        "words= must map labels to words, not be 'pos=good,neg=bad'",
    ),
    "rows": (lambda _: gpt1.zeroshot("sst2", run="starter", rows=2.5), "rows=2.5 is not a whole number"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_another_type_or_out_of_range_is_an_error_with_a_fix(name: str, tmp_path: Path):
    call, problem = SETTINGS[name]
    with pytest.raises(UserError, match=problem) as raised:
        call(tmp_path / "out")
    assert raised.value.fix
    assert not list(tmp_path.iterdir())


def test_saving_an_estimator_names_no_setting_that_it_does_not_have(workspace: Path, tmp_path: Path):
    pytest.importorskip("sklearn")
    from gpt1.sklearn import GPTClassifier

    estimator = GPTClassifier(workspace / "runs/books", train="head", epochs=1, device="cpu")
    estimator.fit(["a", "b", "c", "d"] * 4, ["x", "y"] * 8)
    assert estimator.save(tmp_path / "new") == tmp_path / "new"
    for folder in (tmp_path / "new", workspace / "reviews.csv", None):
        with pytest.raises(UserError) as raised:
            estimator.save(folder)
        assert raised.value.fix == "Use the path of a new or empty folder."
        assert "out" not in str(raised.value)
