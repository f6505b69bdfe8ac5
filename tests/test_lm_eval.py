"""gpt1 as a model of lm-eval: its numbers on local tasks are those of gpt1's own commands."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpt1.corpus.corpus import write_corpus
from gpt1.devices import resolve_precision
from gpt1.experiments.zeroshot.scoring import sentence_log_probabilities
from gpt1.inference import evaluate as evaluation
from gpt1.inference.predictor import load

pytest.importorskip("lm_eval", reason="needs gpt1[eval]")

from gpt1.lm_eval import GPT1LM, decoding_settings, main

PAIRS = [
    ("The file is the list.", "The file are the list."),
    ("The name of the option is valid here.", "The name of the option are."),
    ("Return a string.", "Returning string the a."),
    ("The path.", "The paths, which is long, of the logger."),
]
PAIR_TASK = """
task: pairs
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: multiple_choice
test_split: test
doc_to_text: ""
target_delimiter: ""
doc_to_target: 0
doc_to_choice: "{{{{[sentence_good, sentence_bad]}}}}"
metric_list: [{{metric: acc}}]
"""
TEXT_TASK = """
task: text
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{file}"}}}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.fixture(scope="module")
def lm(pretrained_run: Path) -> GPT1LM:
    return GPT1LM(path=str(pretrained_run), device="cpu")


def make_requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=one) for one in arguments]


def write_task(folder: Path, task: str, rows: Sequence[dict[str, str]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "task.yaml").write_text(task.format(file=file), encoding="utf-8")
    return folder


def run_harness(lm: GPT1LM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    (name,) = manager.all_tasks
    return simple_evaluate(lm, tasks=[name], task_manager=manager, bootstrap_iters=0, log_samples=True), name


def whole_windows(lm: GPT1LM, texts: Sequence[str], windows: int) -> str:
    """A text of exactly `windows` windows of tokens."""
    ids = [i for text in texts for i in lm.tokenizer.encode(text + " ")]
    for first in range(len(ids)):
        text = lm.tokenizer.decode(ids[first : first + windows * lm.max_length])
        if len(lm.tokenizer.encode(text)) == windows * lm.max_length and text == text.strip():
            return text
    raise AssertionError("no such text")


def test_the_perplexity_is_that_of_gpt1_evaluate(
    lm: GPT1LM, pretrained_run: Path, prose: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a corpus that begins with the newline that lm-eval's prefix token is, both have the same windows."""
    text = whole_windows(lm, prose, 3)
    source = tmp_path / "text.jsonl"
    source.write_text(json.dumps({"text": "\n" + text}) + "\n", encoding="utf-8")
    corpus = write_corpus([str(source)], tmp_path / "corpus", lm.tokenizer)
    assert corpus.read(0, corpus.tokens).tolist() == [lm.prefix_token_id, *lm.tokenizer.encode(text)]
    # A corpus is evaluated in bf16 where the CPU has it; here both compute in fp32.
    monkeypatch.setattr(evaluation, "resolve_precision", lambda _, device: resolve_precision("fp32", device))
    ours = evaluation.evaluate(pretrained_run, tmp_path / "corpus")
    assert ours["tokens"] == 3 * lm.max_length
    (log_p,) = lm.loglikelihood_rolling(make_requests((text,)))
    assert math.exp(-log_p / ours["tokens"]) == pytest.approx(ours["metrics"]["perplexity"], rel=1e-5)
    results, name = run_harness(lm, write_task(tmp_path, TEXT_TASK, [{"text": text}]), monkeypatch)
    bits = -log_p / math.log(2) / len(text.encode())
    assert results["results"][name]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-9)


def test_minimal_pairs_are_those_of_gpt1_zeroshot(
    lm: GPT1LM, pretrained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = sentence_log_probabilities(load(pretrained_run), PAIRS)
    rows = [{"sentence_good": good, "sentence_bad": bad} for good, bad in PAIRS]
    results, name = run_harness(lm, write_task(tmp_path, PAIR_TASK, rows), monkeypatch)
    samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    theirs = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
    for own, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(own, abs=1e-4)
    expected = sum(good > bad for good, bad in ours) / len(ours)
    assert results["results"][name]["acc,none"] == pytest.approx(expected)


def plain_scores(lm: GPT1LM, context: list[int], text: list[int]) -> tuple[float, bool]:
    """One sequence in one pass of the model."""
    ids = [*context, *text][-lm.max_length - 1 :]
    n = min(len(text), len(ids) - 1)
    with torch.no_grad():
        log_p = lm.gpt(torch.tensor([ids[:-1]]))[0, :, : lm.gpt.config.vocab_size].double().log_softmax(-1)[-n:]
    last = ids[-n:]
    return float(log_p[range(n), last].sum()), log_p.argmax(-1).tolist() == last


def test_every_request_is_scored_as_alone_and_long_contexts_lose_their_beginning(lm: GPT1LM, prose: list[str]) -> None:
    pairs = [(prose[0][:30], " of the file"), ("", "The name"), (prose[1], " list "), ("a ", "path"), ("b", prose[2])]
    greedy = lm.tokenizer.decode([lm.model.top_next_tokens("\nThe file", 1)[0][1]])
    pairs.append(("The file", greedy))
    scored = lm.loglikelihood(make_requests(*pairs))
    for (context, text), own in zip(pairs, scored, strict=True):
        first = lm.tokenizer.encode(context.rstrip())
        rest = lm.tokenizer.encode(context + text)[len(first) :]
        expected = plain_scores(lm, [lm.prefix_token_id, *first], rest)
        assert own[0] == pytest.approx(expected[0], abs=1e-4)
        assert own[1] == expected[1]
    assert scored[-1][1] is True
    assert lm.loglikelihood(make_requests(("The file", ""))) == [(0.0, True)]


def test_every_token_of_a_text_is_predicted_once_in_windows_of_the_whole_context(lm: GPT1LM, prose: list[str]) -> None:
    text = next(text for text in prose if len(lm.tokenizer.encode(text)) > 2 * lm.max_length)
    ids, n = lm.tokenizer.encode(text), lm.max_length
    full = len(ids) // n
    expected = [plain_scores(lm, [lm.prefix_token_id], ids[:n])[0]]
    expected += [plain_scores(lm, ids[k * n - 1 : k * n], ids[k * n : (k + 1) * n])[0] for k in range(1, full)]
    if rest := len(ids) % n:  # the last window is full: its first tokens are given
        expected.append(plain_scores(lm, ids[-n - 1 : -rest], ids[-rest:])[0])
    long, short = lm.loglikelihood_rolling(make_requests((text,), ("",)))
    assert long == pytest.approx(sum(expected), abs=1e-3)
    assert short == 0


def test_greedy_text_is_that_of_generate_up_to_the_stop_string(lm: GPT1LM) -> None:
    prompts = ["\nThe file", "\nReturn the list of"]
    expected = lm.model.generate(prompts, max_tokens=12, temperature=0)
    settings: dict[str, Any] = {"max_gen_toks": 12, "until": []}
    found = lm.generate_until(make_requests(*((prompt[1:], settings) for prompt in prompts)))
    assert [prompt + text for prompt, text in zip(prompts, found, strict=True)] == expected
    stop = found[0][3:5]
    (cut,) = lm.generate_until(make_requests((prompts[0][1:], {**settings, "until": [stop, "never", ""]})))
    assert cut == found[0][: found[0].index(stop)]
    sampled = {"max_gen_toks": 12, "until": "\n", "do_sample": True, "temperature": 1.0, "top_k": 20}
    once, again = (lm.generate_until(make_requests((prompts[0], sampled))) for _ in range(2))
    assert once == again
    assert lm.generate_until(make_requests((prompts[0][1:], {**settings, "until": None}))) == found[:1]
    long = lm.generate_until(make_requests(("word " * 500, {"max_gen_toks": 4 * lm.max_length})))
    assert len(long[0]) > 2 * lm.max_length


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (256, 0.0, 0, 1.0)),
        ({"temperature": 0.7, "max_gen_toks": 5}, (5, 0.7, 0, 1.0)),
        ({"temperature": 0.7, "do_sample": None}, (256, 0.7, 0, 1.0)),
        ({"temperature": 0.7, "do_sample": False}, (256, 0.0, 0, 1.0)),
        ({"do_sample": True, "top_k": 3, "top_p": 0.5}, (256, 1.0, 3, 0.5)),
        ({"max_new_tokens": 7}, (7, 0.0, 0, 1.0)),
        ({"max_tokens": 7, "max_gen_toks": None}, (7, 0.0, 0, 1.0)),
        ({"max_completion_tokens": 7, "max_new_tokens": 5}, (5, 0.0, 0, 1.0)),
    ],
)
def test_settings_have_the_names_and_defaults_of_lm_eval(given: dict[str, Any], expected: Any) -> None:
    assert decoding_settings(given) == expected


@pytest.mark.slow
def test_the_runner_evaluates_a_run_and_reports_a_wrong_one_in_one_line(
    lm: GPT1LM,
    pretrained_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_task(tmp_path, PAIR_TASK, [{"sentence_good": good, "sentence_bad": bad} for good, bad in PAIRS])
    flags = ["--model", "gpt1", "--include_path", str(folder), "--tasks", "pairs", "--model_args"]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gpt1.lm_eval", *flags, f"path={pretrained_run}"]
    command += ["--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = (tmp_path / "out").rglob("results_*.json")
    found = json.loads(file.read_text(encoding="utf-8"))["results"]["pairs"]["acc,none"]
    expected = [good > bad for good, bad in sentence_log_probabilities(lm.model, PAIRS)]
    assert found == pytest.approx(sum(expected) / len(expected))
    monkeypatch.setattr(sys, "argv", ["lm-eval", *flags, "path=nowhere"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "nowhere does not exist" in said
    assert "Traceback" not in said
