"""Predictions depend on their row only, probabilities follow the labels, and text is continued."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from task_models import TASKS, MakePredictor
from torch import nn

from gpt1.errors import UserError
from gpt1.inference.predictor import LanguageModel, TaskPredictor, load, load_task_predictor
from gpt1.inference.task import save_task
from gpt1.inference.task_logits import compute_task_logits
from gpt1.progress import Progress
from gpt1.tables.table import Table
from gpt1.tokenization.tokenizer import Tokenizer

texts = st.text("abcdefgh .,", max_size=60).map(lambda text: text if text.strip() else "a")
rows = st.fixed_dictionaries({"t": texts, "u": texts, "a": st.lists(texts, min_size=2, max_size=3)})
every_task = pytest.mark.parametrize("name", TASKS)
every_rule = pytest.mark.parametrize("long", ["cut", "head-tail", "windows"])
few = settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbers(prediction: dict[str, Any]) -> list[float]:
    return [value for name, value in prediction.items() if name != "prediction"]


@every_task
@every_rule
@few
@given(table=st.lists(rows, min_size=2, max_size=6))
def test_a_row_has_the_same_prediction_alone_and_in_a_batch(make_predictor: MakePredictor, name: str, long: str, table):
    model = make_predictor(name, long)
    together = model.predict(table)
    for row, expected in zip(table, together, strict=True):
        (alone,) = model.predict([row])
        assert list(alone) == list(expected)
        assert numbers(alone) == pytest.approx(numbers(expected), abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("name", ["similarity", "scored similarity"])
@every_rule
@few
@given(row=rows)
def test_similarity_does_not_depend_on_the_order_of_the_texts(make_predictor: MakePredictor, name: str, long: str, row):
    model = make_predictor(name, long)
    original, swapped = model.predict([row, {"t": row["u"], "u": row["t"]}])
    assert numbers(original) == pytest.approx(numbers(swapped), abs=1e-5)


@every_rule
@few
@given(row=rows, data=st.data())
def test_permuted_answers_have_permuted_probabilities(make_predictor: MakePredictor, long: str, row, data):
    model = make_predictor("choice", long)
    order = data.draw(st.permutations(range(len(row["a"]))))
    original, permuted = model.predict([row, {**row, "a": [row["a"][i] for i in order]}])
    expected = [original[f"probability_{i}"] for i in order]
    assert numbers(permuted) == pytest.approx(expected, abs=1e-5)
    assert permuted[f"probability_{permuted['prediction']}"] == max(numbers(permuted))


@every_rule
@few
@given(table=st.lists(rows, min_size=1, max_size=3))
def test_a_shared_prefix_gives_the_logits_of_separate_sequences(make_predictor: MakePredictor, long: str, table):
    model = make_predictor("choice", long)
    encoded = model.encode(model.read_rows(table))
    assert all(example.shared_prefix for example in encoded)
    each = [replace(example, shared_prefix=False) for example in encoded]
    together, alone = (compute_task_logits(model.task_model, sequences, model.device) for sequences in (encoded, each))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("classification", ["prediction", "probability_a", "probability_b", "probability_c"]),
        ("entailment", ["prediction", "probability_no", "probability_yes"]),
        ("similarity", ["prediction", "probability_0", "probability_1"]),
        ("scored similarity", ["score"]),
        ("choice", ["prediction", "probability_0", "probability_1"]),
        ("regression", ["score"]),
    ],
)
def test_a_prediction_has_the_documented_keys(make_predictor: MakePredictor, name: str, keys: list[str]):
    (found,) = make_predictor(name).predict([{"t": "one", "u": "two", "a": ["x", "y"]}])
    assert list(found) == keys


def test_the_share_of_unknown_tokens_is_logged(make_predictor: MakePredictor, monkeypatch: pytest.MonkeyPatch):
    model, progress, lines = make_predictor("choice"), Progress(), list[str]()
    monkeypatch.setattr(progress, "log", lines.append)
    monkeypatch.setattr(model.tokenizer, "count_unknown", len)
    rows = [{"t": "a context for all of the answers", "u": "", "a": ["b", "c", "d", "e"]}]
    model.predict_table(Table("rows", ["t", "u", "a"], rows), progress=progress)
    assert "100.00% of the tokens unknown" in lines[0]


@pytest.mark.parametrize("name", ["classification", "entailment", "similarity", "choice"])
@few
@given(table=st.lists(rows, min_size=1, max_size=4))
def test_the_columns_of_predict_proba_are_the_labels(make_predictor: MakePredictor, name: str, table):
    model = make_predictor(name)
    probabilities = model.predict_proba(table)
    assert probabilities.shape == (len(table), len(model.labels))
    assert probabilities.sum(1) == pytest.approx(1)
    for row, p in zip(model.predict(table), probabilities, strict=True):
        named = [row.get(f"probability_{label}", 0.0) for label in model.labels]
        assert list(p) == pytest.approx(named, abs=1e-15)
        assert str(row["prediction"]) == model.labels[int(p.argmax())]


def test_more_answers_than_in_training_have_columns_too(make_predictor: MakePredictor):
    row = {"t": "one", "u": "", "a": ["v", "w", "x", "y", "z"]}
    assert make_predictor("choice").predict_proba([row]).shape == (1, 5)


def test_rows_can_be_strings_if_the_task_has_one_text(make_predictor: MakePredictor):
    model = make_predictor("classification")
    assert model.predict(["some text"]) == model.predict([{"t": "some text"}])
    assert model.predict(["some text"]) == model.predict([{"t": "some text", "l": "a", "more": 1}])


@every_task
def test_rows_can_be_an_iterator(make_predictor: MakePredictor, name: str):
    rows = [{"t": "one", "u": "two", "a": ["x", "y"]}] * 2
    assert make_predictor(name).predict(row for row in rows) == make_predictor(name).predict(rows)
    if make_predictor(name).labels:
        np.testing.assert_array_equal(
            make_predictor(name).predict_proba(iter(rows)), make_predictor(name).predict_proba(rows)
        )


def test_a_table_is_an_error_instead_of_its_column_names_being_predicted(make_predictor: MakePredictor):
    table = Table("rows.csv", ["t"], [{"t": "some text"}])
    with pytest.raises(UserError, match=r"not a table \(Table\)"):
        make_predictor("classification").predict(table)  # type: ignore[arg-type]


def test_logits_that_are_nan_are_an_error(make_predictor: MakePredictor):
    broken = deepcopy(make_predictor("classification"))
    nn.init.constant_(broken.task_model.gpt.blocks[0].mlp.widen.bias, float("nan"))
    table = Table("rows.csv", ["t"], [{"t": "some text"}])
    for ask in (broken.predict, broken.predict_proba, lambda _: broken.predict_table(table), broken.next_tokens):
        with pytest.raises(UserError, match="logits are not finite"):
            ask("a" if ask == broken.next_tokens else ["a"])


def test_no_rows_give_no_predictions(make_predictor: MakePredictor):
    assert make_predictor("classification").predict([]) == []
    assert make_predictor("classification").predict_proba([]).shape == (0, 3)


def test_the_temperature_divides_the_logits(make_predictor: MakePredictor):
    model = make_predictor("classification")
    logits = model.logits(model.read_rows(["some text"])).double()
    expected = (logits / 1.5).softmax(-1).numpy()
    np.testing.assert_allclose(model.predict_proba(["some text"]), expected, atol=1e-6)
    assert numbers(model.predict(["some text"])[0]) == pytest.approx(list(expected[0]), abs=1e-6)


@every_rule
def test_a_text_longer_than_the_context_is_predicted(make_predictor: MakePredictor, long: str):
    assert make_predictor("classification", long).predict(["word " * 500])[0]["prediction"] in "abc"


@every_task
def test_the_prediction_of_a_windowed_text_is_the_mean_over_its_windows(make_predictor: MakePredictor, name: str):
    """The mean of probabilities at temperature 1, or of numbers; the temperature divides the logarithms of the mean."""
    model = make_predictor(name, "windows")
    row = {"t": "a long text, " * 9, "u": "with another one, " * 4, "a": ["one", "another, " * 6]}
    (example,) = model.encode(model.read_rows([row]))
    assert example.windows > 2
    windows = example.split_windows()
    alone = torch.cat([compute_task_logits(model.task_model, [window], model.device) for window in windows])
    if name == "regression":
        expected = [float(alone.mean()) / 1.5 * 2.0 + 3.0]  # standard deviation and mean of the target
    else:
        mean = alone.softmax(-1).mean(0)
        assert not torch.allclose(mean, alone[0].softmax(-1), atol=1e-3)
        sharpened = mean ** (1 / 1.5) / (mean ** (1 / 1.5)).sum()
        expected = [float(sharpened @ torch.arange(6.0))] if name == "scored similarity" else sharpened.tolist()
    assert numbers(model.predict([row])[0]) == pytest.approx(expected, abs=1e-5)


@every_task
@few
@given(row=rows)
def test_a_row_that_fits_has_the_same_prediction_with_every_long_option(make_predictor: MakePredictor, name: str, row):
    short = {**row, "t": row["t"][:4], "u": row["u"][:4], "a": [answer[:4] for answer in row["a"]]}
    long = {**row, "t": row["t"] * 9}
    expected = make_predictor(name).predict([short])[0]
    for rule in ("head-tail", "windows"):
        found = make_predictor(name, rule).predict([short, long])[0]
        assert list(found) == list(expected)  # the prediction itself may differ between equal answers
        assert numbers(found) == pytest.approx(numbers(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "row", "problem"),
    [
        ("classification", {"text": "x"}, "rows[0] has no column 't'. Columns: text"),
        ("entailment", {"t": "x"}, "rows[0] has no column 'u'"),
        ("entailment", "a text", "rows[0] has the type str"),
        ("classification", 3, "rows[0] has the type int"),
        ("choice", {"t": "x", "u": "y", "a": ["only"]}, "rows[0]: only 1 answer to choose from"),
        ("choice", {"t": "x", "u": "y", "a": "text"}, "rows[0]: column 'a' must contain a list"),
    ],
)
def test_a_row_that_does_not_fit_the_task_is_an_error_with_its_number(
    make_predictor: MakePredictor, name: str, row: Any, problem: str
):
    with pytest.raises(UserError, match=re.escape(problem)):
        make_predictor(name).predict([row])


@pytest.mark.parametrize("rows", ["a text", {"t": "a text"}, None, 3])
def test_what_is_not_a_list_of_rows_is_an_error(make_predictor: MakePredictor, rows: Any):
    model = make_predictor("classification")
    for call in (model.predict, model.predict_proba, model.features, model.explain):
        with pytest.raises(UserError, match="takes a list of rows, not"):
            call(rows)


@pytest.mark.parametrize("name", ["scored similarity", "regression"])
def test_a_model_of_scores_has_no_probabilities(make_predictor: MakePredictor, name: str):
    with pytest.raises(UserError, match="Use predict"):
        make_predictor(name).predict_proba([{"t": "one", "u": "two"}])


# ---- folders


@every_task
def test_a_saved_and_moved_model_predicts_the_same(make_predictor: MakePredictor, name: str, tmp_path: Path):
    model = make_predictor(name)
    save_task(tmp_path / "first", model.task_model, model.tokenizer, model.task, model.target)
    shutil.move(tmp_path / "first", tmp_path / "second")
    again = load_task_predictor(tmp_path / "second")
    table = [{"t": "one", "u": "two", "a": ["x", "y", "z"]}, {"t": "three", "u": "", "a": ["x", "y"]}]
    assert again.predict(table) == model.predict(table)
    assert again.labels == model.labels


def test_a_model_saved_without_a_long_option_truncates(make_predictor: MakePredictor, tmp_path: Path):
    model = make_predictor("classification", "windows")
    task = {name: value for name, value in model.task.items() if name != "long"}
    save_task(tmp_path, model.task_model, model.tokenizer, task, model.target)
    text = "a long text, " * 9
    assert load_task_predictor(tmp_path).predict([text]) == make_predictor("classification", "cut").predict([text])


def test_a_pretrained_model_cannot_predict_labels(pretrained_run: Path):
    assert not isinstance(load(pretrained_run), TaskPredictor)
    with pytest.raises(UserError, match="is pre-trained but not fine-tuned"):
        load_task_predictor(pretrained_run)
    for ask in (load(pretrained_run).predict, load(pretrained_run).predict_proba):
        with pytest.raises(UserError, match="is pre-trained but not fine-tuned"):
            ask(["a text"])


def test_a_run_and_its_model_folder_load_the_same_model(pretrained_run: Path):
    assert load(pretrained_run).next_tokens("the") == load(pretrained_run / "model").next_tokens("the")


def test_an_unfinished_run_is_an_error(pretrained_run: Path, tmp_path: Path):
    shutil.copy(pretrained_run / "config.yaml", tmp_path)
    with pytest.raises(UserError, match="no finished model yet"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["classification", "choice"])
def test_bf16_predictions_are_close_to_fp32(make_predictor: MakePredictor, name: str, table, tmp_path: Path):
    made = make_predictor(name)
    save_task(tmp_path / "model", made.task_model, made.tokenizer, made.task, made.target)
    exact, fast = load_task_predictor(tmp_path / "model"), load(tmp_path / "model", precision="bf16")
    assert fast.gpt.tokens.weight.dtype == torch.bfloat16
    assert exact.gpt.tokens.weight.dtype == torch.float32
    rows = [{"t": row["text"], "u": row["other"], "a": row["answers"]} for row in table.rows]
    ours, theirs = (model.predict_proba(rows) for model in (fast, exact))
    assert np.abs(ours - theirs).mean() < 0.02


def test_an_unknown_precision_is_an_error(pretrained_run: Path):
    with pytest.raises(UserError, match='precision="fp31" is not a valid choice'):
        load(pretrained_run, precision="fp31")


def test_a_missing_folder_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("damage", ['{"kind": "poetry"}', "{}", "[]", "no json", "unknown long option"])
def test_a_damaged_task_json_is_an_error_that_names_it(make_predictor: MakePredictor, tmp_path: Path, damage: str):
    model = make_predictor("classification")
    save_task(tmp_path, model.task_model, model.tokenizer, model.task, model.target)
    text = (tmp_path / "task.json").read_text().replace('"long": "cut"', '"long": "summary"')
    (tmp_path / "task.json").write_text(text if damage == "unknown long option" else damage)
    with pytest.raises(UserError, match=r"task\.json"):
        load(tmp_path, verify=False)


# ---- language


@pytest.fixture(scope="module")
def language_model(pretrained_run: Path) -> LanguageModel:
    return load(pretrained_run)


def test_another_tokenizer_than_that_of_training_is_an_error(pretrained_run: Path, tmp_path: Path, prose: list[str]):
    model = Path(shutil.copytree(pretrained_run / "model", tmp_path / "model"))
    (model / "manifest.json").unlink()
    size = Tokenizer.load(model).vocab_size
    for other, problem in ((size + 1, f"has {size + 1} tokens, the model {size}"), (size, "is not the one")):
        Tokenizer.train([text[::-1] for text in prose], other).save(model)
        with pytest.raises(UserError, match=problem):
            load(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "tokenizer"}))
    load(model)  # without a fingerprint there is nothing to compare


def test_next_tokens_are_the_most_likely_ones_with_their_probabilities(language_model: LanguageModel):
    found = language_model.next_tokens("return the", k=5)
    with torch.no_grad():
        ids = torch.tensor([language_model.tokenizer.encode("return the")])
        p = language_model.gpt(ids)[0, -1].softmax(-1)
    best = p.topk(5)
    assert [token for token, _ in found] == [language_model.tokenizer.display_token(int(i)) for i in best.indices]
    assert [q for _, q in found] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_the_probabilities_of_all_next_tokens_sum_to_1(language_model: LanguageModel):
    found = language_model.top_next_tokens("the", k=9999)
    assert sorted(i for _, i, _ in found) == list(range(300))
    assert sum(p for _, _, p in found) == pytest.approx(1, abs=1e-5)


def test_a_fine_tuned_model_gives_no_probability_to_special_tokens(make_predictor: MakePredictor):
    found = make_predictor("classification").top_next_tokens("the", k=9999)
    assert sorted(i for _, i, _ in found) == list(range(300))
    assert sum(p for _, _, p in found) == pytest.approx(1, abs=1e-5)


def test_an_empty_text_is_continued_as_a_new_document(language_model: LanguageModel):
    assert language_model.top_next_tokens("", 3) == language_model.top_next_tokens("\n", 3)
    assert language_model.generate("", max_tokens=3, seed=0)


def test_a_text_longer_than_the_context_is_continued_from_its_last_tokens(language_model: LanguageModel):
    ids = language_model.tokenizer.encode("a long text " * 50)
    assert language_model.encode_prompt("a long text " * 50)[0].tolist() == ids[-32:]
    assert language_model.generate("a long text " * 50, max_tokens=2, temperature=0).startswith("a long text " * 50)
