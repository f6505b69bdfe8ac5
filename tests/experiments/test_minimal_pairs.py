"""BLiMP: scores equal a plain sum in float64; means over paradigms and phenomena; baselines; limits and errors."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reproduction_fixtures import read_results

from gpt1.corpus.corpus import Corpus
from gpt1.datasets.blimp import PARADIGM_FILES, PHENOMENA
from gpt1.errors import UserError
from gpt1.experiments.reproduce.reproduce import reproduce
from gpt1.experiments.zeroshot.heuristics import zeroshot
from gpt1.experiments.zeroshot.scoring import sentence_log_probabilities
from gpt1.inference.predictor import LanguageModel, load
from gpt1.intervals import wilson_interval

pytestmark = pytest.mark.usefixtures("no_reports")

THINGS = ("file", "list", "number", "logger", "option", "string", "path", "name")


def make_pairs(paradigm: int) -> list[tuple[str, str]]:
    """Two to four pairs; the second of every third paradigm has equal sentences."""
    pairs = []
    for i in range(2 + paradigm % 3):
        one, other = THINGS[(paradigm + i) % 8], THINGS[(paradigm + 3 * i + 1) % 8]
        pairs.append((f"The {one} is the {other} {i}.", f"The {one} are a {other}{' here' * (i % 2)} {i}."))
    if paradigm % 3 == 0:
        pairs[1] = (pairs[1][0], pairs[1][0])
    return pairs


PAIRS = {name: make_pairs(number) for number, name in enumerate(PARADIGM_FILES)}


def write_blimp(folder: Path) -> Path:
    for name, file in PARADIGM_FILES.items():
        path = folder / "blimp" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"sentence_good": good, "sentence_bad": bad, "UID": name} for good, bad in PAIRS[name]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def blimp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blimp(tmp_path_factory.mktemp("blimp"))


def plain_log_probability(model: LanguageModel, sentence: str) -> float:
    """Σ log P(token | all before it), in float64, one sentence at a time, without a cache or packing."""
    ids = [model.tokenizer.newline_id, *model.tokenizer.encode(sentence)]
    with torch.no_grad():
        log_p = model.gpt(torch.tensor([ids]))[0].double()[:, : model.gpt.config.vocab_size].log_softmax(-1)
    return sum(float(log_p[i, ids[i + 1]]) for i in range(len(ids) - 1))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_the_score_of_a_sentence_is_the_plain_sum_of_its_log_probabilities(pretrained_run: Path) -> None:
    model = load(pretrained_run)
    groups = [pair for pairs in PAIRS.values() for pair in pairs] + [("a", ""), ("",), ("The file", "The file is")]
    for group, scores in zip(groups, sentence_log_probabilities(model, groups), strict=True):
        assert scores == pytest.approx([plain_log_probability(model, sentence) for sentence in group], abs=1e-4)
        assert len(set(scores)) == len(set(group))


def test_the_whole_is_the_mean_of_the_paradigms_whatever_their_sizes(pretrained_run: Path, blimp: Path) -> None:
    model, result = load(pretrained_run), zeroshot("blimp", run=pretrained_run, data_dir=blimp)
    expected = {
        name: [plain_log_probability(model, good) > plain_log_probability(model, bad) for good, bad in pairs]
        for name, pairs in PAIRS.items()
    }
    assert result["rows"] == sum(map(len, PAIRS.values()))
    assert {name: one["accuracy"] for name, one in result["paradigms"].items()} == pytest.approx(
        {name: mean(right) for name, right in expected.items()}
    )
    for name, paradigms in PHENOMENA.items():
        found = result["phenomena"][name]
        assert found["accuracy"] == pytest.approx(mean([mean(expected[paradigm]) for paradigm in paradigms]))
        assert found["rows"] == sum(len(PAIRS[paradigm]) for paradigm in paradigms)
    assert result["metrics"]["accuracy"] == pytest.approx(mean([mean(right) for right in expected.values()]))
    right = expected["wh_island"]
    expected_interval = wilson_interval(sum(right) / len(right), len(right))
    assert result["paradigms"]["wh_island"]["interval"] == pytest.approx(expected_interval)
    low, high = result["interval"]["accuracy"]
    assert low < result["metrics"]["accuracy"] < high


def test_a_pair_with_equal_sentences_never_counts_and_is_half_right_for_a_baseline(
    pretrained_run: Path, tmp_path: Path
) -> None:
    folder = write_blimp(tmp_path)
    row = json.dumps({"sentence_good": "The file is.", "sentence_bad": "The file is."})
    (folder / "blimp" / PARADIGM_FILES["wh_island"]).write_text(row + "\n", encoding="utf-8")
    result = zeroshot("blimp:wh_island", run=pretrained_run, data_dir=folder)
    assert result["metrics"]["accuracy"] == 0
    assert result["baselines"] == {"shorter": 0.5, "unigram": 0.5}


def test_the_baselines_prefer_fewer_tokens_and_frequent_tokens(
    pretrained_run: Path, corpus: Path, blimp: Path, tmp_path: Path
) -> None:
    tokenizer = load(pretrained_run).tokenizer
    tokens = Corpus.open(corpus)
    counts = np.bincount(tokens.read(0, tokens.tokens), minlength=tokenizer.vocab_size) + 1

    def preference_accuracy(value: Any) -> float:
        points = [
            [0.5 * (1 + np.sign(round(value(good) - value(bad), 9))) for good, bad in pairs] for pairs in PAIRS.values()
        ]
        return float(mean([mean(of_one) for of_one in points]))

    expected = {
        "shorter": preference_accuracy(lambda text: -len(tokenizer.encode(text))),
        "unigram": preference_accuracy(
            lambda text: sum(np.log(counts[i] / counts.sum()) for i in tokenizer.encode(text))
        ),
    }
    assert zeroshot("blimp", run=pretrained_run, data_dir=blimp)["baselines"] == pytest.approx(expected)
    moved = tmp_path / "model"
    shutil.copytree(pretrained_run / "model", moved)
    without_corpus = zeroshot("blimp", run=moved, data_dir=blimp)["baselines"]
    assert without_corpus == pytest.approx({"shorter": expected["shorter"]})


def test_rows_limits_the_pairs_equally_in_every_paradigm(pretrained_run: Path, blimp: Path) -> None:
    result = zeroshot("blimp", run=pretrained_run, data_dir=blimp, rows=140)
    assert {one["rows"] for one in result["paradigms"].values()} == {2}
    assert result["task"] == "blimp:test (134 rows of 200)"
    with pytest.raises(UserError, match="rows=66 is less than one pair of each of the 67 paradigms"):
        zeroshot("blimp", run=pretrained_run, data_dir=blimp, rows=66)


def test_blimp_over_pre_training_ends_at_the_score_of_the_finished_model(
    run_with_checkpoints: Path, blimp: Path, tmp_path: Path
) -> None:
    out = reproduce(
        "figure2", from_=run_with_checkpoints, out=tmp_path / "out", data_dir=blimp, right=True, tasks=["blimp"]
    )
    (line,) = read_results(out)["results"]
    expected = zeroshot("blimp", run=run_with_checkpoints, data_dir=blimp)
    assert list(line["steps"]) == ["2", "4", "5"]
    assert line["steps"]["5"]["score"] == pytest.approx(100 * expected["metrics"]["accuracy"])


def test_the_command_prints_phenomena_baselines_and_published_scores(
    pretrained_run: Path, blimp: Path, run_cli: Any
) -> None:
    shown = run_cli("zeroshot", "blimp", "--run", str(pretrained_run), "--data-dir", str(blimp))
    assert shown.exit_code == 0
    for name in (*PHENOMENA, "mean of the paradigms", "shorter sentence", "unigram model"):
        assert name in shown.stdout
    assert "GPT-2 0.815" in shown.stderr
    answer = run_cli("zeroshot", "blimp", "--run", str(pretrained_run), "--data-dir", str(blimp), "--json")
    assert set(json.loads(answer.stdout)["phenomena"]) == set(PHENOMENA)


# --- the files -------------------------------------------------------------------------------------------------------


def make_archive(folder: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(folder / "BLiMP.tar.xz", "w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return folder


def test_an_archive_gives_the_same_result_as_the_folder(pretrained_run: Path, blimp: Path, tmp_path: Path) -> None:
    files = {file: (blimp / "blimp" / file).read_bytes() for file in PARADIGM_FILES.values()}
    make_archive(tmp_path, {**files, "data/other.jsonl": b"not read", "../outside.jsonl": b"neither"})
    expected = zeroshot("blimp", run=pretrained_run, data_dir=blimp)
    assert zeroshot("blimp", run=pretrained_run, data_dir=tmp_path) == expected
    assert not list(tmp_path.parent.glob("outside*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"BLiMP\.tar\.xz has no file data/wh_island\.jsonl"),
        (b'{"sentence_good": "a"}\n', r"wh_island\.jsonl, line 1: no column 'sentence_bad'"),
        (b'{"sentence_good": "a", "sentence_bad": 2}\n', r"wh_island\.jsonl, line 1: .* is not a list of"),
        (b"{\n", r"data/wh_island\.jsonl"),
        (b'{"sentence_good": "\xff"}\n', r"data/wh_island\.jsonl is not UTF-8"),
    ],
)
def test_a_damaged_archive_is_one_error(
    content: bytes | None, message: str, pretrained_run: Path, blimp: Path, tmp_path: Path
) -> None:
    files = {file: (blimp / "blimp" / file).read_bytes() for file in PARADIGM_FILES.values()}
    del files[PARADIGM_FILES["wh_island"]]
    make_archive(tmp_path, files | ({PARADIGM_FILES["wh_island"]: content} if content is not None else {}))
    with pytest.raises(UserError, match=message):
        zeroshot("blimp", run=pretrained_run, data_dir=tmp_path)


def test_an_archive_larger_than_the_limit_is_refused(
    pretrained_run: Path, blimp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_archive(tmp_path, {"data/wh_island.jsonl": b" " * 100_000})
    monkeypatch.setenv("GPT1_MAX_BYTES", "50000")
    with pytest.raises(UserError, match="contains more than 50,000 bytes"):
        zeroshot("blimp", run=pretrained_run, data_dir=tmp_path)


def test_blimp_is_not_for_training(pretrained_run: Path, blimp: Path, tmp_path: Path, run_cli: Any) -> None:
    words = ["--data-dir", str(blimp), "--from", str(pretrained_run), "--out", str(tmp_path / "out")]
    answer = run_cli("finetune", "blimp", *words)
    assert answer.exit_code == 2
    assert "BLiMP has no training rows" in answer.stderr
    assert not (tmp_path / "out").exists()
    assert "gpt1 zeroshot blimp" in run_cli("inspect", "blimp", "--data-dir", str(blimp)).stderr
