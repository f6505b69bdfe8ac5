"""Known data sets: the official files where they are at hand, else files of our own in each official format."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpt1.errors import UserError
from gpt1.inputs import KINDS
from gpt1.tasks import KnownTable, find, known, names, parse, submission
from gpt1.tasks.hub import Hub
from gpt1.tasks.registry import DATA_SETS

HERE = {  # rows of the splits in ../shared, by its README
    "sst2": {"train": 67_349, "dev": 872, "test": 1_821},
    "cola": {"train": 8_551, "dev": 527 + 516},
    "mrpc": {"train": 4_076, "test": 1_725},
    "rte": {"train": 2_490, "dev": 277, "test": 3_000},
    "stsb": {"train": 5_749, "dev": 1_500, "test": 1_379},
    "qnli": {"dev": 5_463},
    "snli": {"dev": 9_842, "test": 9_824},
    "scitail": {"dev": 1_304, "test": 2_126},
    "race": {"train": 87_866, "dev": 4_887, "test": 4_934},
    "imdb": {"train": 25_000, "test": 25_000, "unlabeled": 50_000},
    "nsmc": {"train": 120_000, "test": 24_998, "unlabeled": 366_666},
}
ALIKE = {
    "sst2": (5, 10),
    "cola": (20,),
    "mrpc": (14,),
    "stsb": (12, 13),
    "race": (35, 23),
    "imdb": (123,),
    "nsmc": (1_670,),
}


RTE_HEADER = "index\tsentence1\tsentence2\tlabel"


@pytest.fixture(autouse=True)
def no_folder_from_outside(monkeypatch):
    monkeypatch.delenv("GPT1_DATA", raising=False)


@pytest.fixture(scope="session")
def official(shared):
    """A split of ../shared; each of the smaller ones is read once."""
    read: dict[str, KnownTable] = {}

    def table(name: str) -> KnownTable:
        found = read.get(name) or parse(name).evaluation_table(shared)
        if len(found) < 30_000:
            read[name] = found
        return found

    return table


def large(names: Iterable[str]) -> list[Any]:
    """`names` as parameters; those of the large sets are slow."""
    slow = ("race", "imdb", "nsmc")
    return [pytest.param(name, marks=pytest.mark.slow) if name.startswith(slow) else name for name in names]


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


# The official files


@pytest.mark.parametrize("name", large(f"{name}:{split}" for name, splits in HERE.items() for split in splits))
def test_official_files_have_the_rows_that_they_should_or_it_is_remarked_and_labels_inside_the_set(official, name):
    table = official(name)
    data, split = find(name.split(":")[0]), name.split(":")[1]
    rows, expected = HERE[data.name][split], data.official_count(split)
    assert len(table) == rows
    if rows == expected or name in ("mrpc:train", "nsmc:unlabeled"):  # before GLUE cut it in two; has no official count
        assert table.notes == []
    else:
        assert table.notes == [f"{name} has {rows:,} rows; the official split has {expected:,}."]
    labels = Counter(row.get("label") for row in table.rows)
    if "label" not in table.columns:
        assert split in data.unlabelled
    elif data.scale:
        assert min(labels) >= 0
        assert max(labels) <= 5
    elif data.labels:
        assert set(labels) == set(data.labels)
    else:
        assert all(0 <= row["label"] < len(row["choices"]) for row in table.rows)
    assert [role for role in data.columns if role != "label"] == [
        c for c in table.columns if c not in ("label", "subset")
    ]
    assert all(isinstance(row[c], str) for row in table.rows for c in table.columns if c not in ("label", "choices"))


@pytest.mark.parametrize("name", large(name for name, splits in HERE.items() if len(splits) > 1))
def test_no_text_of_an_evaluation_split_stands_in_train(official, shared, name):
    data = find(name)
    split = data.train_split if data.train_split in HERE[name] else "dev"
    table, notes = data.train_table(shared, split=split)
    others = [other for other in HERE[name] if other in ("dev", "test") and other != split]
    seen = {data.texts(row) for other in others for row in official(f"{name}:{other}").rows}
    assert not any(data.texts(row) in seen for row in table.rows)
    left_out = [note for note in notes if "left out" in note]
    assert len(left_out) == len(ALIKE.get(name, ()))
    for note, n in zip(left_out, ALIKE.get(name, ()), strict=True):
        assert f" {n:,} of " in note
    assert len(table) == HERE[name][split] - sum(ALIKE.get(name, ()))


def test_recipe_paper_keeps_the_rows_that_stand_in_dev_too_and_says_so(shared):
    table, notes = find("cola").train_table(shared, keep_duplicates=True)
    assert len(table) == 8_551
    assert notes == [
        "cola:train: 20 of 8,551 rows also stand in dev (18 to the letter, 2 but for case, spaces and signs): kept."
    ]


def test_rows_say_where_they_stand(official):
    assert official("rte:dev").where(0).endswith("RTE/dev.tsv, line 2")
    assert official("cola:dev").where(527).endswith("CoLA/out_of_domain_dev.tsv, line 1")
    assert official("scitail:test").where(1).endswith("test/answers.jsonl, line 2")


def test_quotes_in_glues_files_are_text(official):
    assert any(row["text_a"].count('"') == 1 for row in official("mrpc:train").rows)
    assert any(row["text_b"].startswith('"') for row in official("stsb:train").rows)


@pytest.mark.slow
def test_races_levels_are_its_subsets(official, shared):
    assert Counter(row["subset"] for row in official("race:test").rows) == {"middle": 1_436, "high": 3_498}
    assert len(parse("race:dev-high").evaluation_table(shared)) == 3_451
    assert any("_" in row["question"] for row in official("race:test").rows)
    assert official("race:test").where(0).endswith("RACE.tar.xz: RACE/test/middle/1.txt, question 1")


@pytest.mark.parametrize("folder", ["", "data", "data/tasks", "data/tasks/RTE"])
def test_the_folder_of_a_set_serves_as_well_as_any_above_it(tmp_path, monkeypatch, folder):
    write(tmp_path, "data/tasks/RTE/dev.tsv", RTE_HEADER, "0\ta\tb\tentailment")
    write(tmp_path, "data/tasks/QNLI/dev.tsv", "another")
    expected = [{"premise": "a", "hypothesis": "b", "label": "entailment"}]
    assert find("rte").read("dev", tmp_path / folder).rows == expected
    monkeypatch.setenv("GPT1_DATA", str(tmp_path / folder))
    assert find("rte").read().rows == expected


# The registry


@pytest.mark.parametrize("data", DATA_SETS, ids=names())
def test_every_entry_is_whole(data):
    kind = KINDS[data.kind]
    needed = {role for role in kind.columns if role not in kind.optional} | {"label"}
    for files in data.files:
        assert needed - {"label"} <= set(files.columns) <= {*kind.columns, "label"}
        assert set(files.splits) <= set(data.splits)
    assert {data.train_split, data.evaluation_split, *data.unlabelled} <= set(data.splits)
    assert data.evaluation_split not in data.unlabelled or data.name in ("mrpc", "storycloze")
    assert all(data.official_count(split) for split in data.splits if split != "unlabeled")
    assert {name.partition("-")[2] for name in data.counts} - {""} == set(data.subsets)
    assert data.labels or data.scale or data.renamed
    if data.hub:
        assert set(data.hub.columns) == set(data.columns)
    assert find(data.name) is find(data.title) is data


@pytest.mark.parametrize(
    ("name", "data", "split", "subset"),
    [
        ("rte", "rte", None, None),
        ("SST-2", "sst2", None, None),
        ("rte:dev", "rte", "dev", None),
        ("CoLA:validation", "cola", "dev", None),
        ("mnli:mm", "mnli", None, "mm"),
        ("mnli:test-m", "mnli", "test", "m"),
        ("race:test-high", "race", "test", "high"),
        ("imdb:unlabelled", "imdb", "unlabeled", None),
    ],
)
def test_a_name_means_a_data_set_a_split_and_a_part(name, data, split, subset):
    found = parse(name)
    assert (found.data.name, found.split, found.subset) == (data, split, subset)


@pytest.mark.parametrize("name", ["rte.csv", "./rte", "data/rte", "reviews", "C:\\rte", "rte/", ""])
def test_a_path_is_no_known_name(name):
    assert parse(name) is None


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("rte:devv", "rte has no split 'devv'. Did you mean dev?"),
        ("race:tset-high", "race has no split 'tset"),
        ("rte:dev-mm", "rte has no split 'dev-mm'"),
        ("mnli:train-mm", "the train split of mnli has no part 'mm'"),
    ],
)
def test_a_split_that_does_not_exist_is_refused_with_those_that_do(name, problem):
    with pytest.raises(UserError, match=problem.replace("?", r"\?")):
        parse(name)


def test_an_unknown_name_gets_the_closest_one():
    with pytest.raises(UserError, match="no known data set 'scitial'") as caught:
        known("scitial")
    assert "Did you mean scitail?" in caught.value.problem


# Every official format, with rows of our own


def test_qqps_broken_lines_are_left_out_and_told(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    write(tmp_path, "QQP/train.tsv", header, "1\t1\t2\tWhat is up?\tWhat's up?\t1", "2\t3\t4\tHow do", "I?\tb\t0")
    table = find("qqp").read("train", tmp_path)
    assert table.rows == [{"text_a": "What is up?", "text_b": "What's up?", "label": "1"}]
    assert table.notes[0] == "qqp:train: 2 rows are broken (a text with line breaks): left out."
    assert table.notes[1] == "qqp:train has 1 rows; the official split has 363,846."


MNLI_HEADER = "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label"


def test_mnlis_two_halves_are_one_split_with_subsets(tmp_path):
    write(tmp_path, "MNLI/dev_matched.tsv", MNLI_HEADER, "0\t1\tIt rains.\tIt is wet.\tentailment\tentailment")
    write(tmp_path, "MNLI/dev_mismatched.tsv", MNLI_HEADER, "0\t1\tHe sat.\tHe ran.\tneutral\tcontradiction")
    table = find("mnli").read("dev", tmp_path)
    assert table.rows == [
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment", "subset": "m"},
        {"premise": "He sat.", "hypothesis": "He ran.", "label": "contradiction", "subset": "mm"},
    ]
    only = parse("mnli:mm").evaluation_table(tmp_path)
    assert only.rows == table.rows[1:]
    assert only.notes == ["mnli:dev-mm has 1 rows; the official split has 9,832."]


def test_rows_without_a_gold_label_are_left_out_and_told(tmp_path):
    rows = [
        {"gold_label": label, "sentence1": f"{label} 1", "sentence2": "b", "annotator_labels": []}
        for label in ("neutral", "-", "entailment", "-")
    ]
    write(tmp_path, "snli_1.0/snli_1.0_dev.jsonl", *map(json.dumps, rows))
    table = find("snli").read("dev", tmp_path)
    assert [row["label"] for row in table.rows] == ["neutral", "entailment"]
    assert "snli:dev: 2 rows have no gold label: left out." in table.notes
    assert table.where(1).endswith("snli_1.0_dev.jsonl, line 3")


def test_snlis_tab_separated_files_and_mnlis_json_lines_serve_too(tmp_path):
    header = "gold_label\tsentence1_binary_parse\tsentence1\tsentence2"
    write(tmp_path, "SNLI/original/snli_1.0_test.txt", header, 'neutral\t( a )\tA "dog\tA cat')
    assert find("snli").read("test", tmp_path).rows == [
        {"premise": 'A "dog', "hypothesis": "A cat", "label": "neutral"}
    ]
    row = {"gold_label": "neutral", "sentence1": "a", "sentence2": "b", "genre": "fiction"}
    write(tmp_path, "multinli_1.0/multinli_1.0_train.jsonl", json.dumps(row))
    assert find("mnli").read("train", tmp_path).rows == [{"premise": "a", "hypothesis": "b", "label": "neutral"}]


def test_scitails_formats_give_the_same_rows(tmp_path):
    expected = [{"premise": "Iron rusts.", "hypothesis": "Rust is iron.", "label": "entailment"}]
    row = {"gold_label": "entailment", "sentence1": "Iron rusts.", "sentence2": "Rust is iron."}
    write(tmp_path, "a/SciTailV1.1/snli_format/scitail_1.0_train.txt", json.dumps(row))
    write(tmp_path, "b/SciTailV1.1/tsv_format/scitail_1.0_train.tsv", "Iron rusts.\tRust is iron.\tentails")
    write(tmp_path, "c/snli_format/scitail_1.0_train.txt", json.dumps(row))
    write(tmp_path, "d/scitail_1.0_train.tsv", "Iron rusts.\tRust is iron.\tentails")
    for folder in "abcd":
        assert find("scitail").read("train", tmp_path / folder).rows == expected


STORY_HEADER = (
    "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,RandomFifthSentenceQuiz1,"
    "RandomFifthSentenceQuiz2,AnswerRightEnding"
)


def test_story_cloze_is_a_choice_between_two_endings_and_trains_on_its_labelled_validation_split(tmp_path):
    val = "cloze_test_val__spring2016 - cloze_test_ALL_val.csv"
    write(tmp_path, val, STORY_HEADER, 'x-1,Tom ran.,"He fell, hard.",It hurt.,He cried.,He got up.,He flew.,1')
    test = "cloze_test_test__spring2016 - cloze_test_ALL_test.csv"
    write(tmp_path, test, STORY_HEADER, "x-2,Ann ran.,She fell.,It hurt.,She cried.,She flew.,She got up.,2")
    data = find("storycloze")
    table, _ = data.train_table(tmp_path)
    assert table.rows == [
        {"context": "Tom ran. He fell, hard. It hurt. He cried.", "choices": ["He got up.", "He flew."], "label": 0}
    ]
    assert data.read(data_dir=tmp_path).rows[0]["label"] == 1
    assert table.notes == ["storycloze:dev has 1 rows; the official split has 1,871."]


def test_glues_own_files_of_cola_mrpc_and_stsb_serve_too(tmp_path):
    write(tmp_path, "CoLA/train.tsv", "gj04\t1\t\tHe ran.", "gj04\t0\t*\tRan he him.")
    write(tmp_path, "CoLA/test.tsv", "index\tsentence", "0\tBill died.")
    assert [row["label"] for row in find("cola").read("train", tmp_path).rows] == ["1", "0"]
    assert find("cola").read("test", tmp_path).rows == [{"text": "Bill died."}]
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    write(tmp_path, "MRPC/train.tsv", header, '1\t1\t2\t"A\tB')
    write(tmp_path, "MRPC/msr_paraphrase_train.txt", header, '1\t1\t2\t"A\tB', "0\t3\t4\tC\tD")
    assert find("mrpc").read("train", tmp_path).rows == [{"text_a": '"A', "text_b": "B", "label": "1"}]
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    write(tmp_path, "STS-B/dev.tsv", header, "0\tg\tf\t2012\t1\tn\tn\tA\tB\t3.800")
    assert find("stsb").read("dev", tmp_path).rows == [{"text_a": "A", "text_b": "B", "label": 3.8}]


PASSAGE = {
    "article": "Tom has a dog.\nIt is old.",
    "questions": ["Tom has a  _  .", "How old is it?"],
    "options": [["cat", "dog", "cow", "pig"], ["1", "2", "Old.", "New."]],
    "answers": ["B", "C"],
    "id": "middle1.txt",
}


def test_race_is_read_out_of_its_archive_and_out_of_a_folder_alike(tmp_path):
    for level in ("middle", "high"):
        write(tmp_path, f"folder/RACE/test/{level}/1.txt", json.dumps(PASSAGE))
    (tmp_path / "archive").mkdir()
    with tarfile.open(tmp_path / "archive/RACE.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder/RACE", "RACE")
    table = find("race").read("test", tmp_path / "folder")
    assert table.rows[1] == {
        "context": PASSAGE["article"], "question": "How old is it?", "choices": ["1", "2", "Old.", "New."],
        "label": 2, "subset": "middle",
    }  # fmt: skip
    assert [row["subset"] for row in table.rows] == ["middle", "middle", "high", "high"]
    assert find("race").read("test", tmp_path / "archive").rows == table.rows
    assert find("race").read("test", tmp_path / "folder/RACE").rows == table.rows


def test_imdb_is_read_out_of_its_archive_and_out_of_a_folder_alike(tmp_path):
    for part, text in (("train/pos", "Great!"), ("train/neg", "Bad<br />"), ("train/unsup", "So so")):
        (tmp_path / "folder/aclImdb" / part).mkdir(parents=True)
        (tmp_path / "folder/aclImdb" / part / "0_1.txt").write_text(text)
    (tmp_path / "archive").mkdir()
    with tarfile.open(tmp_path / "archive/aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder/aclImdb", "aclImdb")
    for folder in ("folder", "archive"):
        assert find("imdb").read("train", tmp_path / folder).rows == [
            {"text": "Bad<br />", "label": "neg"},
            {"text": "Great!", "label": "pos"},
        ]
        assert find("imdb").read("unlabeled", tmp_path / folder).rows == [{"text": "So so"}]


def test_nsmcs_official_file_has_quotes_that_are_text(tmp_path):
    write(tmp_path, "nsmc/ratings_train.txt", "id\tdocument\tlabel", '1\t"재밌다\t1', "2\t별로\t0")
    assert find("nsmc").read("train", tmp_path).rows == [
        {"text": '"재밌다', "label": "1"},
        {"text": "별로", "label": "0"},
    ]


@pytest.mark.parametrize(("ending", "open_file"), [("gz", gzip.open), ("xz", lzma.open)])
def test_official_files_may_be_compressed(tmp_path, ending, open_file):
    (tmp_path / "SST-2").mkdir()
    with open_file(tmp_path / f"SST-2/dev.tsv.{ending}", "wt", encoding="utf-8") as file:
        file.write("sentence\tlabel\ngood \t1\n")
    assert find("sst2").read("dev", tmp_path).rows == [{"text": "good ", "label": "1"}]


def test_rows_that_agree_but_for_case_signs_and_the_order_of_a_pair_leave_train_too(tmp_path):
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    train = ["1\t1\t2\tHe ran.\tHe sat", "0\t1\t2\the sat!\tHE RAN", "1\t1\t2\tHe ran.\tHe ate."]
    write(tmp_path, "MRPC/msr_paraphrase_train.txt", header, *train)
    write(tmp_path, "MRPC/msr_paraphrase_test.txt", header, "1\t1\t2\tHe ran.\tHe sat")
    table, notes = find("mrpc").train_table(tmp_path)
    assert [row["text_b"] for row in table.rows] == ["He ate."]
    assert table.where(0).endswith("msr_paraphrase_train.txt, line 4")
    assert "2 of 3 rows also stand in test (1 to the letter, 1 but for case, spaces and signs): left out." in notes[-1]


# What a user can mend


def test_a_split_that_is_not_there_names_the_files_those_that_are_and_where_to_get_it(tmp_path):
    write(tmp_path, "SNLI-devtest/dev.jsonl", json.dumps({"premise": "a", "hypothesis": "b", "label": "neutral"}))
    with pytest.raises(UserError) as caught:
        find("snli").train_table(tmp_path)
    assert "the train split of SNLI is not in" in caught.value.problem
    assert "no snli_1.0_train.jsonl" in caught.value.problem
    assert "There are: snli:dev." in caught.value.fix
    assert "https://nlp.stanford.edu/projects/snli/" in caught.value.fix
    assert len(parse("snli:dev").train_table(tmp_path)[0]) == 1


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere is no folder"):
        find("rte").read("dev", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["sentence\tlabel", "good\t1"], "dev.tsv, line 2: there is no column 'sentence1'; .*'sentence', 'label'"),
        ([RTE_HEADER, "0\ta\tb\tentails"], "line 2: 'entails' is no label of RTE. Did you mean entailment?"),
        ([RTE_HEADER, "0\ta\tb\tentailment", "1\ta\tb"], "dev.tsv, line 3 has 3 cells"),
        ([RTE_HEADER], "the dev split of RTE has no rows"),
        ([RTE_HEADER.removesuffix("\tlabel"), "0\ta\tb"], "there is no column 'label'"),
    ],
)
def test_files_that_are_not_as_they_should_be_are_refused_by_line_value_and_rule(tmp_path, lines, problem):
    write(tmp_path, "RTE/dev.tsv", *lines)
    with pytest.raises(UserError, match=problem):
        find("rte").read("dev", tmp_path)


@pytest.mark.parametrize("score", ["5.5", "-0.1", "nan", "high"])
def test_scores_outside_the_scale_are_refused(tmp_path, score):
    write(tmp_path, "sts-dev.csv", f"g\tf\t2012\t1\t{score}\tA\tB")
    with pytest.raises(UserError, match=f"line 1: the score is '{score}'"):
        find("stsb").read("dev", tmp_path)


@pytest.mark.parametrize(
    ("passage", "problem"),
    [
        ("{", "1.txt is not a passage of RACE"),
        (json.dumps({**PASSAGE, "answers": ["B"]}), "1.txt is not a passage of RACE"),
        (json.dumps({**PASSAGE, "answers": ["B", "E"]}), "1.txt, question 2: 'E' is no label of RACE"),
        (json.dumps({**PASSAGE, "options": [["a", "b"], ["a", "b"]]}), "question 2: 'C' is no label"),
        (json.dumps({**PASSAGE, "options": ["ab", ["a", "b"]]}), "question 1: 'options' is no list"),
        (json.dumps({**PASSAGE, "article": 5}), "question 1: 'article' is '5' and not a text"),
    ],
)
def test_a_broken_passage_is_refused_by_file_and_question(tmp_path, passage, problem):
    write(tmp_path, "RACE/test/middle/1.txt", passage)
    write(tmp_path, "RACE/test/high/1.txt", json.dumps(PASSAGE))
    with pytest.raises(UserError, match=problem):
        find("race").read("test", tmp_path)


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_an_archive_that_was_cut_short_is_refused(tmp_path, ending):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{ending}") as archive:
        for number in range(50):
            text = json.dumps({**PASSAGE, "article": str(number) * 5000}).encode()
            member = tarfile.TarInfo(f"RACE/test/middle/{number}.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    (tmp_path / f"RACE.tar.{ending}").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        find("race").read("test", tmp_path)


# Predictions for GLUE


def test_predictions_become_glues_files(tmp_path):
    labels = ["entailment", "not_entailment"] * 1500
    (path,) = submission(find("rte"), labels, tmp_path)
    lines = path.read_text().splitlines()
    assert path.name == "RTE.tsv"
    assert lines[:3] == ["index\tprediction", "0\tentailment", "1\tnot_entailment"]
    assert len(lines) == 3001
    (path,) = submission(find("stsb"), [7.0, -1.0, 2.34567] + [0.0] * 1376, tmp_path / "scores.tsv")
    assert path.read_text().splitlines()[1:4] == ["0\t5.000", "1\t0.000", "2\t2.346"]


def test_mnlis_predictions_are_cut_into_its_two_halves(tmp_path):
    matched, mismatched = submission(find("mnli"), ["neutral"] * 9_796 + ["entailment"] * 9_847, tmp_path)
    assert (matched.name, mismatched.name) == ("MNLI-m.tsv", "MNLI-mm.tsv")
    assert matched.read_text().splitlines()[-1] == "9795\tneutral"
    assert mismatched.read_text().splitlines()[1] == "0\tentailment"


@pytest.mark.parametrize(
    ("name", "predictions", "problem"),
    [
        ("rte", ["entailment"], "1 predictions, but the test split of RTE has 3,000 rows"),
        ("rte", ["yes"] * 3000, "prediction 1 is 'yes'"),
        ("race", [], "RACE has no submission file"),
    ],
)
def test_predictions_that_glue_would_refuse_are_refused_here(tmp_path, name, predictions, problem):
    with pytest.raises(UserError, match=problem):
        submission(find(name), predictions, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The Hugging Face hub


def on_local_hub(tmp_path: Path, name: str, parts: dict[str, tuple[list, dict]]):
    """`name`, with a folder in the hub's layout in place of its repository: Parquet per configuration and split."""
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
    data = find(name)
    return replace(data, hub=replace(data.hub, name=str(tmp_path / "hub"), revision=None))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets", reason="needs the package `datasets`: pip install 'gpt1[hub]'")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


def test_the_hubs_numbers_become_our_labels_and_hidden_ones_no_column(hub, tmp_path):
    classes = {
        "sentence1": hub.Value("string"), "sentence2": hub.Value("string"), "idx": hub.Value("int32"),
        "label": hub.ClassLabel(names=["entailment", "not_entailment"]),
    }  # fmt: skip
    row = {"sentence1": "a", "sentence2": "b", "idx": 0}
    dev, test = [{**row, "label": 1}, {**row, "label": 0}], [{**row, "label": -1}]
    rte = on_local_hub(tmp_path, "rte", {"rte/validation": (dev, classes), "rte/test": (test, classes)})
    table = rte.read("dev")
    assert [row["label"] for row in table.rows] == ["not_entailment", "entailment"]
    assert table.where(1) == f"{tmp_path / 'hub'} rte/validation, row 2"
    assert rte.read("test", "hub").rows == [{"premise": "a", "hypothesis": "b"}]


def test_labels_that_are_numbers_in_glue_stay_numbers_from_the_hub(hub, tmp_path):
    classes = {"sentence": hub.Value("string"), "label": hub.ClassLabel(names=["unacceptable", "acceptable"])}
    cola = on_local_hub(tmp_path, "cola", {"cola/validation": ([{"sentence": "He ran.", "label": 1}], classes)})
    assert cola.read("dev").rows == [{"text": "He ran.", "label": "1"}]


def test_halves_levels_and_missing_gold_labels_come_from_the_hub_too(hub, tmp_path):
    options = {"article": "a", "question": "q", "options": ["a", "b", "c", "d"], "answer": "D", "example_id": "x"}
    race = on_local_hub(tmp_path, "race", {"middle/test": ([options], None), "high/test": ([options] * 2, None)})
    assert [row["subset"] for row in race.read("test").rows] == ["middle", "high", "high"]
    assert race.read("test", subset="high").rows[0]["label"] == 3
    classes = {
        "premise": hub.Value("string"), "hypothesis": hub.Value("string"),
        "label": hub.ClassLabel(names=["entailment", "neutral", "contradiction"]),
    }  # fmt: skip
    rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in (2, -1)]
    snli = on_local_hub(tmp_path / "snli", "snli", {"plain_text/test": (rows, classes)})
    table = snli.read("test")
    assert [row["label"] for row in table.rows] == ["contradiction"]
    assert "snli:test: 1 rows have no gold label: left out." in table.notes


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_round(hub, tmp_path):
    data = replace(find("rte"), hub=Hub(str(tmp_path / "nothing"), find("rte").hub.splits, find("rte").hub.columns))
    with pytest.raises(UserError, match="could not be loaded from the Hugging Face hub") as caught:
        data.read("dev")
    assert "--data-dir" in caught.value.fix


def test_without_a_folder_and_without_the_package_both_ways_out_are_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="no folder with the files of RTE is named") as caught:
        find("rte").read("dev")
    assert "--data-dir" in caught.value.fix
    assert "pip install 'gpt1[hub]'" in caught.value.fix


def test_what_the_hub_does_not_have_is_told_where_to_get(monkeypatch):
    with pytest.raises(UserError, match="the hub does not have its test split") as caught:
        find("storycloze").read()
    assert "https://cs.rochester.edu/nlp/rocstories/" in caught.value.fix
