"""Every official format of a known data set, with small files, and the errors for invalid files."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile

import pytest
from known_datasets import MSR_HEADER, RACE_PASSAGE, RTE_HEADER, no_data_dir_variable, write_official_file  # noqa: F401 (for every test)

from gpt1.datasets import find_data_set, parse_data_set
from gpt1.errors import UserError


@pytest.mark.parametrize("folder", ["", "data", "data/tasks", "data/tasks/RTE"])
def test_data_dir_may_be_the_folder_of_a_data_set_or_one_above_it(tmp_path, monkeypatch, folder):
    write_official_file(tmp_path, "data/tasks/RTE/dev.tsv", RTE_HEADER, "0\ta\tb\tentailment")
    write_official_file(tmp_path, "data/tasks/QNLI/dev.tsv", "another")
    expected = [{"premise": "a", "hypothesis": "b", "label": "entailment"}]
    assert find_data_set("rte").read("dev", tmp_path / folder).rows == expected
    monkeypatch.setenv("GPT1_DATA", str(tmp_path / folder))
    assert find_data_set("rte").read().rows == expected


def test_malformed_lines_of_qqp_are_skipped_and_reported(tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    write_official_file(
        tmp_path, "QQP/train.tsv", header, "1\t1\t2\tWhat is up?\tWhat's up?\t1", "2\t3\t4\tHow do", "I?\tb\t0"
    )
    table = find_data_set("qqp").read("train", tmp_path)
    assert table.rows == [{"text_a": "What is up?", "text_b": "What's up?", "label": "1"}]
    assert table.notes[0] == "qqp:train: 2 rows are malformed (line breaks in a text): skipped."
    assert table.notes[1] == "qqp:train has 1 row; the official split has 363,846."


MNLI_HEADER = "index\tpromptID\tsentence1\tsentence2\tlabel1\tgold_label"


def test_the_two_halves_of_mnli_are_one_split_with_subsets(tmp_path):
    write_official_file(
        tmp_path, "MNLI/dev_matched.tsv", MNLI_HEADER, "0\t1\tIt rains.\tIt is wet.\tentailment\tentailment"
    )
    write_official_file(
        tmp_path, "MNLI/dev_mismatched.tsv", MNLI_HEADER, "0\t1\tHe sat.\tHe ran.\tneutral\tcontradiction"
    )
    table = find_data_set("mnli").read("dev", tmp_path)
    assert table.rows == [
        {"premise": "It rains.", "hypothesis": "It is wet.", "label": "entailment", "subset": "m"},
        {"premise": "He sat.", "hypothesis": "He ran.", "label": "contradiction", "subset": "mm"},
    ]
    only = parse_data_set("mnli:mm").evaluation_table(tmp_path)
    assert only.rows == table.rows[1:]
    assert only.notes == ["mnli:dev-mm has 1 row; the official split has 9,832."]


def test_a_subset_needs_only_its_own_file(tmp_path):
    write_official_file(
        tmp_path, "MNLI/dev_matched.tsv", MNLI_HEADER, "0\t1\tIt rains.\tIt is wet.\tentailment\tentailment"
    )
    assert len(parse_data_set("mnli:m").evaluation_table(tmp_path)) == 1
    with pytest.raises(UserError, match=r": no dev_mismatched\.tsv, no multinli"):
        parse_data_set("mnli:mm").evaluation_table(tmp_path)
    with pytest.raises(UserError, match=r": no dev_matched\.tsv \+ dev_mismatched\.tsv"):
        parse_data_set("mnli").evaluation_table(tmp_path)


def test_rows_without_a_gold_label_are_skipped_and_reported(tmp_path):
    rows = [
        {"gold_label": label, "sentence1": f"{label} 1", "sentence2": "b", "annotator_labels": []}
        for label in ("neutral", "-", "entailment", "-")
    ]
    write_official_file(tmp_path, "snli_1.0/snli_1.0_dev.jsonl", *map(json.dumps, rows))
    table = find_data_set("snli").read("dev", tmp_path)
    assert [row["label"] for row in table.rows] == ["neutral", "entailment"]
    assert "snli:dev: 2 rows without a gold label: skipped." in table.notes
    assert table.locate_row(1).endswith("snli_1.0_dev.jsonl, line 3")


def test_snli_as_tsv_and_mnli_as_jsonl_are_read(tmp_path):
    header = "gold_label\tsentence1_binary_parse\tsentence1\tsentence2"
    write_official_file(tmp_path, "SNLI/original/snli_1.0_test.txt", header, 'neutral\t( a )\tA "dog\tA cat')
    assert find_data_set("snli").read("test", tmp_path).rows == [
        {"premise": 'A "dog', "hypothesis": "A cat", "label": "neutral"}
    ]
    row = {"gold_label": "neutral", "sentence1": "a", "sentence2": "b", "genre": "fiction"}
    write_official_file(tmp_path, "multinli_1.0/multinli_1.0_train.jsonl", json.dumps(row))
    assert find_data_set("mnli").read("train", tmp_path).rows == [
        {"premise": "a", "hypothesis": "b", "label": "neutral"}
    ]


def test_all_formats_of_scitail_give_the_same_rows(tmp_path):
    expected = [{"premise": "Iron rusts.", "hypothesis": "Rust is iron.", "label": "entailment"}]
    row = {"gold_label": "entailment", "sentence1": "Iron rusts.", "sentence2": "Rust is iron."}
    write_official_file(tmp_path, "a/SciTailV1.1/snli_format/scitail_1.0_train.txt", json.dumps(row))
    write_official_file(
        tmp_path, "b/SciTailV1.1/tsv_format/scitail_1.0_train.tsv", "Iron rusts.\tRust is iron.\tentails"
    )
    write_official_file(tmp_path, "c/snli_format/scitail_1.0_train.txt", json.dumps(row))
    write_official_file(tmp_path, "d/scitail_1.0_train.tsv", "Iron rusts.\tRust is iron.\tentails")
    for folder in "abcd":
        assert find_data_set("scitail").read("train", tmp_path / folder).rows == expected


STORY_HEADER = (
    "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,RandomFifthSentenceQuiz1,"
    "RandomFifthSentenceQuiz2,AnswerRightEnding"
)


def test_story_cloze_is_a_choice_between_two_endings_and_trains_on_its_labeled_validation_split(tmp_path):
    val = "cloze_test_val__spring2016 - cloze_test_ALL_val.csv"
    write_official_file(
        tmp_path, val, STORY_HEADER, 'x-1,Tom ran.,"He fell, hard.",It hurt.,He cried.,He got up.,He flew.,1'
    )
    test = "cloze_test_test__spring2016 - cloze_test_ALL_test.csv"
    write_official_file(
        tmp_path, test, STORY_HEADER, "x-2,Ann ran.,She fell.,It hurt.,She cried.,She flew.,She got up.,2"
    )
    data = find_data_set("storycloze")
    table, _ = data.train_table(tmp_path)
    assert table.rows == [
        {"context": "Tom ran. He fell, hard. It hurt. He cried.", "choices": ["He got up.", "He flew."], "label": 0}
    ]
    assert data.read(data_dir=tmp_path).rows[0]["label"] == 1
    assert table.notes == ["storycloze:dev has 1 row; the official split has 1,871."]


def test_the_glue_files_of_cola_mrpc_and_stsb_are_read(tmp_path):
    write_official_file(tmp_path, "CoLA/train.tsv", "gj04\t1\t\tHe ran.", "gj04\t0\t*\tRan he him.")
    write_official_file(tmp_path, "CoLA/test.tsv", "index\tsentence", "0\tBill died.")
    assert [row["label"] for row in find_data_set("cola").read("train", tmp_path).rows] == ["1", "0"]
    assert find_data_set("cola").read("test", tmp_path).rows == [{"text": "Bill died."}]
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    write_official_file(tmp_path, "MRPC/train.tsv", header, '1\t1\t2\t"A\tB')
    write_official_file(tmp_path, "MRPC/msr_paraphrase_train.txt", header, '1\t1\t2\t"A\tB', "0\t3\t4\tC\tD")
    assert find_data_set("mrpc").read("train", tmp_path).rows == [{"text_a": '"A', "text_b": "B", "label": "1"}]
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    write_official_file(tmp_path, "STS-B/dev.tsv", header, "0\tg\tf\t2012\t1\tn\tn\tA\tB\t3.800")
    assert find_data_set("stsb").read("dev", tmp_path).rows == [{"text_a": "A", "text_b": "B", "label": 3.8}]


def test_the_evaluation_split_has_labels_if_any_split_does(tmp_path):
    for split, row in (("train", "1\t1\t2\tA\tB"), ("dev", "0\t1\t2\tC\tD"), ("test", "0\t1\t2\tE\tF")):
        header = MSR_HEADER.replace("Quality", "index") if split == "test" else MSR_HEADER
        write_official_file(tmp_path, f"MRPC/{split}.tsv", header, row)
    assert parse_data_set("mrpc").evaluation_table(tmp_path).rows == [{"text_a": "C", "text_b": "D", "label": "0"}]
    assert parse_data_set("mrpc:test").evaluation_table(tmp_path).rows == [{"text_a": "E", "text_b": "F"}]
    (tmp_path / "MRPC/dev.tsv").unlink()
    assert "label" not in parse_data_set("mrpc").evaluation_table(tmp_path).columns
    write_official_file(tmp_path, "MRPC/msr_paraphrase_test.txt", MSR_HEADER, "1\t1\t2\tG\tH")
    assert parse_data_set("mrpc").evaluation_table(tmp_path).rows[0]["text_a"] == "G"


def test_race_has_the_same_rows_from_its_archive_and_from_a_folder(tmp_path):
    for level in ("middle", "high"):
        write_official_file(tmp_path, f"folder/RACE/test/{level}/1.txt", json.dumps(RACE_PASSAGE))
    (tmp_path / "archive").mkdir()
    with tarfile.open(tmp_path / "archive/RACE.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder/RACE", "RACE")
    table = find_data_set("race").read("test", tmp_path / "folder")
    assert table.rows[1] == {
        "context": RACE_PASSAGE["article"], "question": "How old is it?", "choices": ["1", "2", "Old.", "New."],
        "label": 2, "subset": "middle",
    }  # fmt: skip
    assert [row["subset"] for row in table.rows] == ["middle", "middle", "high", "high"]
    assert find_data_set("race").read("test", tmp_path / "archive").rows == table.rows
    assert find_data_set("race").read("test", tmp_path / "folder/RACE").rows == table.rows


def test_imdb_has_the_same_rows_from_its_archive_and_from_a_folder(tmp_path):
    for part, text in (("train/pos", "Great!"), ("train/neg", "Bad<br />"), ("train/unsup", "So so")):
        (tmp_path / "folder/aclImdb" / part).mkdir(parents=True)
        (tmp_path / "folder/aclImdb" / part / "0_1.txt").write_text(text)
    (tmp_path / "archive").mkdir()
    with tarfile.open(tmp_path / "archive/aclImdb_v1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "folder/aclImdb", "aclImdb")
    for folder in ("folder", "archive"):
        assert find_data_set("imdb").read("train", tmp_path / folder).rows == [
            {"text": "Bad<br />", "label": "neg"},
            {"text": "Great!", "label": "pos"},
        ]
        assert find_data_set("imdb").read("unlabeled", tmp_path / folder).rows == [{"text": "So so"}]


def test_quotes_in_nsmc_are_text(tmp_path):
    write_official_file(tmp_path, "nsmc/ratings_train.txt", "id\tdocument\tlabel", '1\t"재밌다\t1', "2\t별로\t0")
    assert find_data_set("nsmc").read("train", tmp_path).rows == [
        {"text": '"재밌다', "label": "1"},
        {"text": "별로", "label": "0"},
    ]


@pytest.mark.parametrize(("ending", "open_file"), [("gz", gzip.open), ("xz", lzma.open)])
def test_official_files_may_be_compressed(tmp_path, ending, open_file):
    (tmp_path / "SST-2").mkdir()
    with open_file(tmp_path / f"SST-2/dev.tsv.{ending}", "wt", encoding="utf-8") as file:
        file.write("sentence\tlabel\ngood \t1\n")
    assert find_data_set("sst2").read("dev", tmp_path).rows == [{"text": "good ", "label": "1"}]


def test_training_rows_in_test_are_removed_ignoring_case_punctuation_and_pair_order(tmp_path):
    train = ["1\t1\t2\tHe ran.\tHe sat", "0\t1\t2\the sat!\tHE RAN", "1\t1\t2\tHe ran.\tHe ate."]
    write_official_file(tmp_path, "MRPC/msr_paraphrase_train.txt", MSR_HEADER, *train)
    write_official_file(tmp_path, "MRPC/msr_paraphrase_test.txt", MSR_HEADER, "1\t1\t2\tHe ran.\tHe sat")
    table, notes = find_data_set("mrpc").train_table(tmp_path)
    assert [row["text_b"] for row in table.rows] == ["He ate."]
    assert table.locate_row(0).endswith("msr_paraphrase_train.txt, line 4")
    assert "2 of 3 rows are also in test (1 identical, 1 ignoring case, punctuation and order): removed." in notes[-1]


def test_training_rows_in_the_split_that_is_tested_are_removed(tmp_path):
    for name, texts in {"train": ["good", "bad"], "dev": ["Good!", "fine", "poor"]}.items():
        rows = [f"{text}\t{k % 2}" for k, text in enumerate(texts)]
        write_official_file(tmp_path, f"SST-2/{name}.tsv", "sentence\tlabel", *rows)
    data = find_data_set("sst2")
    table, notes = data.train_table(tmp_path, split="dev", tested=data.read("train", tmp_path))
    assert [row["text"] for row in table.rows] == ["fine", "poor"]
    assert "sst2:dev: 1 of 3 rows are also in train (1 ignoring case and punctuation): removed." in notes


# Errors


def test_the_error_for_a_missing_split_names_its_files_the_found_splits_and_the_source(tmp_path):
    write_official_file(
        tmp_path, "SNLI-devtest/dev.jsonl", json.dumps({"premise": "a", "hypothesis": "b", "label": "neutral"})
    )
    with pytest.raises(UserError) as error:
        find_data_set("snli").train_table(tmp_path)
    assert "the train split of SNLI is not in" in error.value.problem
    assert "no snli_1.0_train.jsonl" in error.value.problem
    assert "Found: snli:dev." in error.value.fix
    assert "https://nlp.stanford.edu/projects/snli/" in error.value.fix
    assert len(parse_data_set("snli:dev").train_table(tmp_path)[0]) == 1


def test_the_error_for_a_missing_split_names_its_archives(tmp_path):
    with pytest.raises(UserError, match=r"no test/middle \+ test/high, no RACE\.tar\.gz, no RACE\.tar\.xz"):
        find_data_set("race").read("test", tmp_path)


def test_the_error_for_a_missing_folder_names_it(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        find_data_set("rte").read("dev", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["sentence\tlabel", "good\t1"], "dev.tsv, line 2: no column 'sentence1'. Columns: 'sentence', 'label'"),
        ([RTE_HEADER, "0\ta\tb\tentails"], "line 2: 'entails' is not a label of RTE. Did you mean entailment?"),
        ([RTE_HEADER, "0\ta\tb\tentailment", "1\ta\tb"], "dev.tsv, line 3 has 3 cells"),
        ([RTE_HEADER], "the dev split of RTE has no rows: .*RTE/dev.tsv"),
        ([RTE_HEADER.removesuffix("\tlabel"), "0\ta\tb"], "line 2: no column 'label'"),
    ],
)
def test_the_error_for_an_invalid_file_names_the_line_and_the_value(tmp_path, lines, problem):
    write_official_file(tmp_path, "RTE/dev.tsv", *lines)
    with pytest.raises(UserError, match=problem):
        find_data_set("rte").read("dev", tmp_path)


@pytest.mark.parametrize("score", ["5.5", "-0.1", "nan", "high"])
def test_scores_outside_the_range_are_an_error(tmp_path, score):
    write_official_file(tmp_path, "sts-dev.csv", f"g\tf\t2012\t1\t{score}\tA\tB")
    with pytest.raises(UserError, match=f"line 1: '{score}' is not a score of STS-B"):
        find_data_set("stsb").read("dev", tmp_path)


@pytest.mark.parametrize(
    ("passage", "problem"),
    [
        ("{", "1.txt cannot be read as JSON"),
        ("[]", "1.txt is not a passage of RACE"),
        (json.dumps({**RACE_PASSAGE, "answers": ["B"]}), "1.txt is not a passage of RACE"),
        (json.dumps({**RACE_PASSAGE, "answers": ["B", "E"]}), "1.txt, question 2: 'E' is not a label of RACE"),
        (json.dumps({**RACE_PASSAGE, "options": [["a", "b"], ["a", "b"]]}), "question 2: 'C' is not a label"),
        (json.dumps({**RACE_PASSAGE, "options": ["ab", ["a", "b"]]}), "question 1: 'options' is not a list"),
        (json.dumps({**RACE_PASSAGE, "article": 5}), "question 1: 'article' is '5', not a text"),
    ],
)
def test_the_error_for_an_invalid_passage_names_the_file_and_the_question(tmp_path, passage, problem):
    write_official_file(tmp_path, "RACE/test/middle/1.txt", passage)
    write_official_file(tmp_path, "RACE/test/high/1.txt", json.dumps(RACE_PASSAGE))
    with pytest.raises(UserError, match=problem):
        find_data_set("race").read("test", tmp_path)


def test_an_archive_whose_header_has_a_number_beyond_any_file_is_refused(tmp_path):
    member = tarfile.TarInfo("RACE/test/middle/1.txt")
    member.pax_headers = {"comment": "x"}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    damaged = b"9" * 24 + b" a="
    content = bytearray(data.getvalue())
    record = content.index(b"13 comment=x")
    content[record : record + len(damaged)] = damaged
    with gzip.open(tmp_path / "RACE.tar.gz", "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="damaged or truncated"):
        find_data_set("race").read("test", tmp_path)


@pytest.mark.parametrize("ending", ["gz", "xz"])
def test_a_truncated_archive_is_an_error(tmp_path, ending):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{ending}") as archive:
        for number in range(50):
            text = json.dumps({**RACE_PASSAGE, "article": str(number) * 5000}).encode()
            member = tarfile.TarInfo(f"RACE/test/middle/{number}.txt")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    (tmp_path / f"RACE.tar.{ending}").write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(UserError, match="damaged or truncated"):
        find_data_set("race").read("test", tmp_path)
