"""Zero-shot: scores with a shared prefix equal those of separate passes; the paper's heuristics; Winograd schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.experiments.zeroshot.heuristics import best_matthews_threshold, build_zeroshot_task, referent_task, zeroshot
from gpt1.experiments.zeroshot.scoring import ScoringQuery, log_probabilities, mean_log_probability
from gpt1.experiments.zeroshot.winograd import read_schemas
from gpt1.inference.predictor import LanguageModel, load
from gpt1.model.gpt import GPT
from gpt1.progress import Progress
from gpt1.tables.table import Table
from gpt1.tasks.metrics import class_scores

VOCABULARY, CONTEXT = 40, 24
ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)
queries = st.builds(
    ScoringQuery, ids.filter(bool), st.lists(ids, min_size=1, max_size=4), n_unscored=st.integers(0, 3)
)  # fmt: skip


def make_model(architecture: Any) -> GPT:
    torch.manual_seed(0)
    shape = GPTConfig(VOCABULARY, 2, 2, 16, CONTEXT, special_tokens=3, architecture=architecture, lstm_units=16)
    return GPT(shape).eval()


MODELS = {name: make_model(name) for name in ("transformer", "lstm")}


def score_separately(gpt: GPT, query: ScoringQuery) -> list[list[float]]:
    """Each continuation in its own forward pass, without a cache."""
    kept = [continuation[-(CONTEXT - 1) :] for continuation in query.continuations]
    before = query.prefix[-(CONTEXT - max(map(len, kept))) :]
    found = []
    for whole, text in zip(query.continuations, kept, strict=True):
        given = max(0, query.n_unscored - (len(whole) - len(text)))
        with torch.inference_mode():
            logits = gpt(torch.tensor([before + text]))[0, :, :VOCABULARY].log_softmax(-1)
        scores = [float(logits[len(before) + i - 1, token]) for i, token in enumerate(text)]
        found.append(scores[given:])
    return found


@pytest.mark.parametrize("architecture", MODELS)
@given(asked=st.lists(queries, min_size=1, max_size=5))
def test_shared_prefixes_and_batches_do_not_change_scores(architecture: str, asked: list[ScoringQuery]) -> None:
    gpt = MODELS[architecture]
    scored = log_probabilities(gpt, asked)
    for query, continuations in zip(asked, scored, strict=True):
        for ours, expected in zip(continuations, score_separately(gpt, query), strict=True):
            assert ours.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_passage_is_computed_once_for_all_its_questions_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt, seen = MODELS["transformer"], []
    hidden_states = gpt.hidden_states

    def record_shape(tokens: torch.Tensor, **rest: Any) -> torch.Tensor:
        seen.append(tuple(tokens.shape))
        return hidden_states(tokens, **rest)

    monkeypatch.setattr(gpt, "hidden_states", record_shape)
    passage = list(range(12))
    answers = [[1, 2, 3], [4], [5, 6], [7, 8]]
    log_probabilities(gpt, [ScoringQuery(passage, answers), ScoringQuery(passage, [[9, 3], [2]], n_unscored=1)])
    assert seen == [(1, 12), (6, 2)]


def test_the_mean_log_probability_is_the_sum_divided_by_the_tokens() -> None:
    (scores,) = log_probabilities(MODELS["transformer"], [ScoringQuery([1], [[2, 3], []])])
    assert mean_log_probability(scores[0]) == pytest.approx(float(scores[0].sum()) / 2)
    assert mean_log_probability(scores[1]) == -torch.inf


@given(rows=st.lists(st.tuples(st.sampled_from([-3.0, -2.0, -1.5, -1.0, 0.0]), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_has_a_higher_matthews_correlation_than_the_chosen_one(rows: list[tuple[float, bool]]) -> None:
    scores, positive = [score for score, _ in rows], [is_positive for _, is_positive in rows]

    def matthews(threshold: float) -> float:
        predicted = [str(int(score >= threshold)) for score in scores]
        return float(class_scores([str(int(p)) for p in positive], predicted, ("0", "1"))["matthews"])

    chosen = matthews(best_matthews_threshold(scores, positive))
    assert chosen >= max(matthews(threshold) for threshold in np.arange(-3.25, 0.5, 0.25)) - 1e-9


# --- the tasks -------------------------------------------------------------------------------------------------------


def test_a_choice_is_the_answer_with_the_highest_mean_log_probability(pretrained_run: Path, table: Table) -> None:
    options = {"kind": "choice", "context": "text", "question": "other", "choices": "answers", "label": "right"}
    result = zeroshot(table, run=pretrained_run, **options)
    assert result["rows"] == len(table)
    assert result["guess"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    model = load(pretrained_run)
    given = build_zeroshot_task(table, **options).predict(model, Progress())
    for row, chosen in list(zip(table.rows, given, strict=True))[:12]:
        encode = model.tokenizer.encode
        passage = [model.tokenizer.newline_id, *encode(row["text"])]
        asked = encode(" " + row["other"])
        means = []
        for answer in row["answers"]:
            tokens = encode(" " + answer)
            room = model.gpt.config.context - max(len(asked + encode(" " + a)) for a in row["answers"])
            before = passage[-max(1, room) :]
            with torch.inference_mode():
                logits = model.gpt(torch.tensor([before + asked + tokens]))[0, :, : model.gpt.config.vocab_size]
            at = len(before + asked)
            means.append(np.mean([float(logits[at + i - 1].log_softmax(-1)[token]) for i, token in enumerate(tokens)]))
        assert chosen == int(np.argmax(means))


def test_choices_may_count_from_1_or_be_letters(pretrained_run: Path) -> None:
    columns = ["q", "a", "b", "c", "label"]
    rows = [{**{name: f"{name} {i}" for name in columns[:-1]}, "label": i % 3} for i in range(9)]
    options: dict[str, Any] = {"run": pretrained_run, "kind": "choice", "context": "q", "choices": "a,b,c"}
    scores = []
    for spell in (lambda k: k, lambda k: str(k + 1), lambda k: "ABC"[k]):
        table = Table("t.csv", columns, [{**row, "label": spell(row["label"])} for row in rows])
        scores.append(zeroshot(table, label="label", **options)["metrics"])
    assert scores[0] == scores[1] == scores[2]
    with pytest.raises(UserError, match="choice needs choices="):
        zeroshot(table, run=pretrained_run, kind="choice", context="q", label="label")


def test_a_row_without_a_label_is_named(pretrained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,yes\nb,no\n\nc,\n")
    options: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label"}
    for rows in (0, 2):
        with pytest.raises(UserError, match=r"rows.csv, line 5: the label is empty"):
            zeroshot(tmp_path / "rows.csv", run=pretrained_run, words={"yes": "a", "no": "b"}, rows=rows, **options)


def test_the_labels_of_the_words_are_read_as_those_of_the_rows(pretrained_run: Path) -> None:
    options: dict[str, Any] = {"run": pretrained_run, "kind": "classification", "text": "text", "label": "label"}
    for labels, words in ((("true", "FALSE"), {"true": "good", "false": "bad"}), (("1.0", "0"), {1: "good", 0: "bad"})):
        table = Table("t.csv", ["text", "label"], [{"text": "a list", "label": labels[i % 2]} for i in range(6)])
        assert zeroshot(table, words=words, **options)["metrics"]["accuracy"] == 0.5


TABLE = Table(
    "t.csv", ["q", "a", "b", "label"], [{"q": f"q {i}", "a": "x", "b": "y", "label": i % 2} for i in range(4)]
)
CHOICE: dict[str, Any] = {"kind": "choice", "context": "q", "choices": "a,b", "label": "label"}
UNUSED: list[tuple[Any, dict[str, Any], str]] = [
    (TABLE, CHOICE | {"words": {"0": "x", "1": "y"}}, "words= does not apply to kind choice"),
    (TABLE, CHOICE | {"append": "so"}, "append= does not apply to kind choice"),
    ("race", {"words": {"0": "x", "1": "y"}}, "words= does not apply to RACE"),
    ("cola", {"append": "so"}, "append= does not apply to CoLA"),
    ("winograd", {"kind": "choice"}, "kind= does not apply to Winograd schemas"),
    ("mine.txt", {"text": "sentence"}, "text= does not apply to Winograd schemas"),
]


@pytest.mark.parametrize(("what", "options", "message"), UNUSED, ids=range(len(UNUSED)))
def test_an_option_that_the_heuristic_does_not_use_is_refused(
    what: Any, options: dict[str, Any], message: str, pretrained_run: Path, official_data: Path
) -> None:
    with pytest.raises(UserError, match=message):
        zeroshot(what, run=pretrained_run, data_dir=official_data, **options)


def test_an_empty_word_is_refused(pretrained_run: Path, table: Table) -> None:
    """The log-probability of no token is 0, more than that of any word."""
    options: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label"}
    with pytest.raises(UserError, match="words= must map labels to words"):
        zeroshot(table, run=pretrained_run, words={"yes": " ", "no": "broken"}, **options)


def test_rows_of_a_frame_and_of_a_list_are_scored_like_their_table(pretrained_run: Path, table: Table) -> None:
    options: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label", "run": pretrained_run}
    options |= {"words": {"yes": "valid", "no": "broken"}}
    rows = [{"text": row["text"], "label": row["label"]} for row in table.rows]
    expected = zeroshot(table, **options)
    for given_rows, name in ((rows, "the rows"), (pd.DataFrame(rows), "the DataFrame")):
        assert zeroshot(given_rows, **options) == {**expected, "task": name}


def test_a_text_gets_the_label_of_its_most_likely_next_word(pretrained_run: Path, table: Table) -> None:
    options: dict[str, Any] = {"kind": "classification", "text": "text", "label": "label", "append": "it is"}
    result = zeroshot(table, run=pretrained_run, words={"yes": "valid", "no": "broken"}, **options)
    assert set(result["metrics"]) == {"accuracy", "f1", "matthews"}
    assert zeroshot(table, run=pretrained_run, words={"yes": "x", "no": "y"}, rows=10, **options)["rows"] == 10
    with pytest.raises(UserError, match="no word for the label 'yes'"):
        zeroshot(table, run=pretrained_run, words={"no": "broken", "maybe": "x"}, **options)
    with pytest.raises(UserError, match="no zero-shot heuristic"):
        zeroshot(table, run=pretrained_run, **options)


def test_the_threshold_of_cola_depends_on_training_labels_only(pretrained_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "CoLA"
    folder.mkdir()
    lines = [f"src\t{i % 2}\t\tThe file number {i} is {'read' if i % 2 else 'is'} ." for i in range(30)]
    (folder / "in_domain_train.tsv").write_text("\n".join(lines[:20]) + "\n", encoding="utf-8")
    (folder / "in_domain_dev.tsv").write_text("\n".join(lines[20:26]) + "\n", encoding="utf-8")
    (folder / "out_of_domain_dev.tsv").write_text("\n".join(lines[26:]) + "\n", encoding="utf-8")
    result = zeroshot("cola", run=pretrained_run, data_dir=tmp_path)
    assert result["metric"] == "matthews"
    assert result["rows"] == 10
    given = build_zeroshot_task("cola", data_dir=tmp_path).predict(load(pretrained_run), Progress())
    flipped = [line.replace("src\t0", "src\tX").replace("src\t1", "src\t0").replace("X", "1") for line in lines]
    (folder / "in_domain_dev.tsv").write_text("\n".join(flipped[20:26]) + "\n", encoding="utf-8")
    assert build_zeroshot_task("cola", data_dir=tmp_path).predict(load(pretrained_run), Progress()) == given


# --- Winograd schemas ------------------------------------------------------------------------------------------------

SCHEMAS = """The bee landed on the flower because it had pollen.
it
The bee,the flower
the flower

James asked Robert for a favor, but he refused.
he
James,Robert
Robert
"""


def test_the_referent_that_makes_the_rest_more_likely_is_chosen(pretrained_run: Path, tmp_path: Path) -> None:
    (tmp_path / "test.c.txt").write_text(SCHEMAS, encoding="utf-8")
    first, second = read_schemas(tmp_path / "test.c.txt")
    assert (first.before, first.after) == ("The bee landed on the flower because", "had pollen.")
    assert (first.referents, first.answer_index) == (("The bee", "the flower"), 1)
    assert second.before.endswith("but")
    model = load(pretrained_run)
    (given, _) = referent_task("two", [first, second]).predict(model, Progress())
    means = [score_rest(model, f"{first.before} {one}", " " + first.after) for one in first.referents]
    assert given == int(means[1] > means[0])
    assert zeroshot("winograd", run=pretrained_run, data_dir=tmp_path)["rows"] == 2
    assert zeroshot(tmp_path / "test.c.txt", run=pretrained_run)["guess"] == 0.5


def test_letters_with_a_longer_lower_case_form_do_not_move_the_pronoun(tmp_path: Path) -> None:
    (tmp_path / "test.c.txt").write_text("İpek saw İris because She ran.\nshe\nİpek,İris\nİris\n", encoding="utf-8")
    (schema,) = read_schemas(tmp_path / "test.c.txt")
    assert (schema.before, schema.after) == ("İpek saw İris because", "ran.")


def score_rest(model: LanguageModel, before: str, rest: str) -> float:
    prompt, tokens = [model.tokenizer.newline_id, *model.tokenizer.encode(before)], model.tokenizer.encode(rest)
    return mean_log_probability(log_probabilities(model.gpt, [ScoringQuery(prompt, [tokens])])[0][0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A saw B .\nhe\nA,B\n", "line 1: a schema with 3 lines"),
        (SCHEMAS.replace("James,Robert", "James and Robert"), "line 8: 'James and Robert' is not a pair"),
        (SCHEMAS.replace("\nRobert\n", "\nRoger\n"), "line 9: 'Roger' is none of"),
        (SCHEMAS.replace("\nhe\n", "\nshe\n"), "line 6: the sentence has no word 'she'"),
        ("\n\n", "has no schemas"),
    ],
)
def test_the_error_of_an_invalid_schema_names_its_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "test.c.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_schemas(tmp_path / "test.c.txt")


def test_missing_schemas_are_an_error(pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT1_DATA", raising=False)
    with pytest.raises(UserError, match="the folder with the Winograd schemas is missing"):
        zeroshot("winograd", run=pretrained_run)
    with pytest.raises(UserError, match=r"no train\.c\.txt"):
        zeroshot("winograd:train", run=pretrained_run, data_dir=tmp_path)


def test_schemas_are_found_in_the_folder_of_the_environment(
    pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test.c.txt").write_text(SCHEMAS, encoding="utf-8")
    monkeypatch.setenv("GPT1_DATA", str(tmp_path))
    assert zeroshot("winograd", run=pretrained_run) == zeroshot("winograd", run=pretrained_run, data_dir=tmp_path)
