"""transformers' classifier of openai-gpt and gpt1's fine-tuned models say the same, in both directions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.inference.convert import export_model, import_model
from gpt1.inference.foreign_task import read_any_task
from gpt1.inference.onnx_model import metadata
from gpt1.inference.predictor import TaskPredictor, load, load_task_predictor
from gpt1.inference.task import save_task
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.tables.table import Table
from gpt1.tasks.kinds import KINDS
from gpt1.tasks.multilabel import MultiLabel
from gpt1.tasks.targets import Answers, Classes, OrdinalBins, StandardizedNumber, Target
from gpt1.tokenization.tokenizer import Tokenizer
from gpt1.training.finetune import finetune

transformers = pytest.importorskip("transformers")
TEXTS = ["the file is opened and closed", "a", "return the value of the <extract> object", "if not, raise an error!"]
COLUMNS = {
    "classification": {"text": "text", "label": "label"},
    "regression": {"text": "text", "label": "label"},
    "entailment": {"premise": "p", "hypothesis": "h", "label": "label"},
    "similarity": {"text_a": "a", "text_b": "b", "label": "label"},
    "choice": {"context": "c", "choices": "x", "label": "label"},
    "multilabel": {"text": "text", "label": "label"},
}
FILES = ("config.json", "model.safetensors", "task.json", "gpt1_tokenizer.json", "vocab.json", "merges.txt")


def write_finetuned(
    folder: Path, tokenizer: Tokenizer, kind: str, target: Target, temperature: float = 1.7, **task: Any
) -> TaskPredictor:
    """A fine-tuned model with random weights, biases too, as training leaves them."""
    torch.manual_seed(3)
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_embd=16, context=24))
    gpt.add_special_tokens()
    head = Head(16, target.outputs, KINDS[kind].multiple_choice)
    for weight in (*gpt.parameters(), *head.parameters()):
        torch.nn.init.normal_(weight, mean=0.2, std=0.5)
    content = {"kind": kind, "columns": COLUMNS[kind], "temperature": temperature, "train": "all", **task}
    save_task(folder, TaskModel(gpt.eval(), head), tokenizer, content, target)
    return load_task_predictor(folder)


def transformers_outputs(folder: Path, texts: list[Any]) -> Any:
    """What transformers' model says about texts (or pairs of texts) that transformers' tokenizer has read."""
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    first, second = (list(part) for part in zip(*texts, strict=True)) if isinstance(texts[0], tuple) else (texts, None)
    batch = transformers.AutoTokenizer.from_pretrained(folder)(
        first, second, padding=True, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return model.eval()(**batch).logits


# ---- ours → theirs


@pytest.mark.parametrize("labels", [("no", "yes"), ("a", "b", "c")])
def test_transformers_gives_the_calibrated_probabilities_of_an_exported_classifier(
    labels: tuple[str, ...], tokenizer: Tokenizer, tmp_path: Path
):
    ours = write_finetuned(tmp_path / "ours", tokenizer, "classification", Classes(labels))
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    theirs = transformers_outputs(tmp_path / "theirs", TEXTS).double().softmax(-1).numpy()
    np.testing.assert_allclose(theirs, ours.predict_proba(TEXTS), atol=1e-5)
    pipeline = transformers.pipeline("text-classification", str(tmp_path / "theirs"))
    assert [row["label"] for row in pipeline(TEXTS, truncation=True)] == [
        row["prediction"] for row in ours.predict(TEXTS)
    ]


def test_transformers_gives_the_probabilities_of_an_exported_model_of_pairs(tokenizer: Tokenizer, tmp_path: Path):
    ours = write_finetuned(tmp_path / "ours", tokenizer, "entailment", Classes(("no", "yes")))
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    pairs = [("a man sleeps", "he rests"), ("it is", "it is not so"), ("x", "y")]
    theirs = transformers_outputs(tmp_path / "theirs", pairs).double().softmax(-1).numpy()
    np.testing.assert_allclose(theirs, ours.predict_proba([{"p": p, "h": h} for p, h in pairs]), atol=1e-5)


def test_transformers_gives_the_numbers_of_an_exported_regression(tokenizer: Tokenizer, tmp_path: Path):
    target = StandardizedNumber(mean=3.5, deviation=1.25)
    ours = write_finetuned(tmp_path / "ours", tokenizer, "regression", target, temperature=1.0)
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    scores = [row["score"] for row in ours.predict(TEXTS)]
    np.testing.assert_allclose(transformers_outputs(tmp_path / "theirs", TEXTS)[:, 0], scores, rtol=1e-5, atol=1e-5)


def test_the_original_pipeline_gives_the_same_probabilities_for_plain_words(english: Tokenizer, tmp_path: Path):
    ours = write_finetuned(tmp_path / "ours", english, "classification", Classes(("no", "yes")))
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    plain = ["the file is opened and closed", "a list of the names"]
    theirs = transformers_outputs(tmp_path / "theirs", plain).double().softmax(-1).numpy()
    np.testing.assert_allclose(theirs, ours.predict_proba(plain), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("classification", Classes(("0", "1", "ä"))),
        ("entailment", Classes(("no", "yes"))),
        ("regression", StandardizedNumber(3.5, 1.25)),
    ],
)
@pytest.mark.parametrize("original", [False, True])
def test_export_then_import_restores_a_fine_tuned_model_bit_for_bit(
    kind: str, target: Target, original: bool, tokenizer: Tokenizer, english: Tokenizer, tmp_path: Path
):
    own = english if original else tokenizer
    write_finetuned(tmp_path / "ours", own, kind, target, long="head-tail", cut="longest")
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    import_model("huggingface", tmp_path / "theirs", tmp_path / "back")
    for name in FILES:
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes(), name
    assert load(tmp_path / "theirs").target == target  # without importing it


def test_a_classifier_trained_further_in_transformers_has_its_new_weights(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_finetuned(tmp_path / "ours", tokenizer, "classification", Classes(("no", "yes")))
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "theirs")
    with torch.no_grad():
        model.score.weight.add_(torch.randn_like(model.score.weight))
        model.transformer.h[1].ln_2.bias.add_(1)
    model.save_pretrained(tmp_path / "new")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "new")
    theirs = transformers_outputs(tmp_path / "new", TEXTS).double().softmax(-1).numpy()
    np.testing.assert_allclose(load_task_predictor(tmp_path / "new").predict_proba(TEXTS), theirs, atol=1e-5)
    model.save_pretrained(tmp_path / "theirs")  # beside our head, which is now outdated
    (tmp_path / "theirs/manifest.json").unlink()
    import_model("huggingface", tmp_path / "theirs", tmp_path / "back")
    assert "score.weight has changed since the export, so head.safetensors is ignored" in capsys.readouterr().err
    back = load_task_predictor(tmp_path / "back")
    np.testing.assert_allclose(back.predict_proba(TEXTS), theirs, atol=1e-5)
    assert (back.labels, back.temperature) == (["no", "yes"], 1.0)


@pytest.mark.parametrize(
    ("kind", "target", "problem"),
    [
        ("similarity", Classes(("0", "1")), r"fine-tuned for similarity \(several sequences per row\)"),
        ("similarity", OrdinalBins(0, 5), r"fine-tuned for similarity \(several sequences per row\)"),
        ("choice", Answers(2), r"fine-tuned for choice \(several sequences per row\)"),
        ("multilabel", MultiLabel(("a", "b")), r"fine-tuned for multilabel \(several labels per row\)"),
    ],
)
def test_a_model_that_their_head_cannot_represent_is_an_error_and_nothing_is_written(
    kind: str, target: Target, problem: str, tokenizer: Tokenizer, tmp_path: Path
):
    write_finetuned(tmp_path / "ours", tokenizer, kind, target)
    with pytest.raises(UserError, match=problem):
        export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_a_head_with_a_bias_that_cannot_be_folded_is_an_error(tokenizer: Tokenizer, tmp_path: Path):
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, n_layer=1, n_head=1, n_embd=8, context=24))
    gpt.add_special_tokens()
    head = Head(8, 2, each=False)
    torch.nn.init.ones_(head.linear.bias)
    content = {"kind": "classification", "columns": COLUMNS["classification"]}
    save_task(tmp_path / "ours", TaskModel(gpt, head), tokenizer, content, Classes(("no", "yes")))
    with pytest.raises(UserError, match=r"has a bias\. transformers' classifier has none"):
        export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")


# ---- theirs → ours


def write_classifier(folder: Path, tokenizer: Tokenizer, extra_rows: int = 0, **settings: Any) -> Any:
    """A classifier as transformers saves it, and with the tokenizer files of its newer versions."""
    torch.manual_seed(5)
    shape = {
        "vocab_size": tokenizer.vocab_size + extra_rows,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "n_positions": 24,
    }
    model = transformers.OpenAIGPTForSequenceClassification(transformers.OpenAIGPTConfig(**shape, **settings)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=0.1, std=0.5)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    (folder / "gpt1_tokenizer.json").unlink()
    return model


def compute_outputs(model: Any, tokenizer: Tokenizer, text: str) -> Any:
    ids = torch.tensor([tokenizer.encode(text)[:24]])
    with torch.no_grad():
        return model(ids).logits[0].double()


@pytest.mark.parametrize("pad", [None, 5])
def test_the_metadata_of_an_onnx_export_name_no_special_token_that_it_lacks(
    pad: int | None, english: Tokenizer, tmp_path: Path
):
    write_classifier(tmp_path, english, pad_token_id=pad)
    facts = metadata(load_task_predictor(tmp_path))
    assert not {"start_id", "delimiter_id", "extract_id"} & facts.keys()
    assert facts.get("pad_id") == pad


@pytest.mark.parametrize("pad", [None, 0, 5])
def test_their_classifier_is_a_fine_tuned_model_with_its_numbers(
    pad: int | None, english: Tokenizer, tmp_path: Path, run_cli: Any
):
    labels = {"id2label": {0: "bad", 1: "fine", 2: "good"}, "label2id": {"bad": 0, "fine": 1, "good": 2}}
    model = write_classifier(tmp_path / "theirs", english, pad_token_id=pad, **labels)
    answer = run_cli("import", "huggingface", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours"))
    assert answer.exit_code == 0, answer.stderr
    assert f"next: gpt1 predict {tmp_path / 'ours'}" in answer.stderr
    unknown = ["zebra ☃ ☃", "☃", "the file ☃"]  # <unk> is id 0, which is also the padding of one of the models
    texts = ["the file is opened", "a", "x " * 40, *unknown]
    for folder in ("ours", "theirs"):
        ours = load_task_predictor(tmp_path / folder)
        assert ours.labels == ["bad", "fine", "good"]
        expected = [compute_outputs(model, english, text).softmax(-1).numpy() for text in texts]
        np.testing.assert_allclose(ours.predict_proba(texts), expected, atol=1e-5)


def test_their_classifier_with_one_output_is_a_regression(english: Tokenizer, tmp_path: Path):
    model = write_classifier(tmp_path / "theirs", english, num_labels=1)
    import_model("huggingface", tmp_path / "theirs", tmp_path / "ours")
    scores = [row["score"] for row in load_task_predictor(tmp_path / "ours").predict(["the file", "a list"])]
    expected = [float(compute_outputs(model, english, text)[0]) for text in ("the file", "a list")]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_import_then_export_restores_the_weights_of_their_classifier_bit_for_bit(english: Tokenizer, tmp_path: Path):
    write_classifier(tmp_path / "theirs", english, num_labels=3, pad_token_id=0)
    import_model("huggingface", tmp_path / "theirs", tmp_path / "ours")
    export_model("huggingface", tmp_path / "ours", tmp_path / "back")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert (config["pad_token_id"], config["id2label"]["2"]) == (0, "LABEL_2")


def test_the_row_of_an_added_padding_token_is_named_and_left_out(
    english: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    size = english.vocab_size
    model = write_classifier(tmp_path / "theirs", english, extra_rows=1, pad_token_id=size)
    import_model("huggingface", tmp_path / "theirs", tmp_path / "ours")
    assert f"the embedding of the padding token {size} is ignored" in capsys.readouterr().err
    expected = compute_outputs(model, english, "the file").softmax(-1).numpy()
    np.testing.assert_allclose(
        load_task_predictor(tmp_path / "ours").predict_proba(["the file"])[0], expected, atol=1e-5
    )
    write_classifier(tmp_path / "more", english, extra_rows=2, pad_token_id=size)
    with pytest.raises(UserError, match=f"{size} tokens, the model {size + 2}"):
        import_model("huggingface", tmp_path / "more", tmp_path / "none")


def test_a_tokenizer_in_one_file_is_read_as_the_same_tokenizer(
    tokenizer: Tokenizer, english: Tokenizer, tmp_path: Path
):
    for own in (tokenizer, english):
        folder = tmp_path / own.pipeline
        write_finetuned(tmp_path / "ours" / own.pipeline, own, "classification", Classes(("no", "yes")))
        export_model("huggingface", tmp_path / "ours" / own.pipeline, folder)
        for name in ("gpt1_tokenizer.json", "vocab.json", "merges.txt"):
            (folder / name).unlink()
        assert Tokenizer.load(folder).fingerprint == own.fingerprint


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(model={**c["model"], "type": "WordPiece"}), "gpt1 does not split texts in this way"),
        (lambda c: c.update(pre_tokenizer={"type": "Whitespace"}), "gpt1 does not split texts in this way"),
        (lambda c: c["pre_tokenizer"].update(add_prefix_space=True), "gpt1 does not split texts in this way"),
        (lambda c: c["model"].update(merges=[["a"]]), "is not a pair of tokens"),
        (lambda c: c["model"].update(vocab={"a": 7}), "is not a vocabulary"),
        (lambda c: c.pop("model"), "'model' is missing"),
    ],
)
def test_a_tokenizer_in_one_file_that_is_not_ours_is_an_error(
    change: Any, problem: str, tokenizer: Tokenizer, tmp_path: Path
):
    write_finetuned(tmp_path / "ours", tokenizer, "classification", Classes(("no", "yes")))
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    content = json.loads((tmp_path / "theirs/tokenizer.json").read_text())
    change(content)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=problem):
        Tokenizer.load(tmp_path / "alone")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"problem_type": "multi_label_classification", "num_labels": 3}, "problem_type 'multi_label_classification'"),
        ({"id2label": {0: "same", 1: "same"}}, "its labels must be different texts"),
        ({"id2label": {0: " ", 1: "b"}}, "its labels must be different texts"),
    ],
)
def test_a_classifier_that_is_not_a_task_of_gpt1_is_an_error(
    settings: dict[str, Any], problem: str, english: Tokenizer, tmp_path: Path
):
    write_classifier(tmp_path / "theirs", english, **settings)
    with pytest.raises(UserError, match=problem):
        import_model("huggingface", tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_damaged_head_or_task_is_an_error_that_names_the_file(tokenizer: Tokenizer, tmp_path: Path):
    write_finetuned(tmp_path / "ours", tokenizer, "classification", Classes(("no", "yes")))
    export_model("huggingface", tmp_path / "ours", tmp_path / "theirs")
    (tmp_path / "theirs/manifest.json").unlink()

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "theirs", tmp_path / name))

    save_file({"linear.weight": torch.zeros(5, 16), "linear.bias": torch.zeros(5)}, copy("head") / "head.safetensors")
    with pytest.raises(UserError, match=r"head/head.safetensors does not fit score.weight"):
        load(tmp_path / "head")
    for name, value in {"task": {"kind": "none"}, "special_tokens": 7}.items():
        path = copy(name) / "config.json"
        content = json.loads(path.read_text())
        content["gpt1"][name] = value
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=f"{name}/config.json"):
            load(path.parent)
    tensors = load_file(tmp_path / "theirs/model.safetensors")
    save_file({**tensors, "score.weight": torch.zeros(2, 15)}, copy("score") / "model.safetensors")
    with pytest.raises(UserError, match=r"score.weight has shape \(2, 15\)"):
        load(tmp_path / "score")


def test_their_classifier_can_be_trained_further_with_its_head(english: Tokenizer, tmp_path: Path):
    write_classifier(tmp_path / "theirs", english, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    rows = [{"text": text, "label": label} for text, label in [("the file", "no"), ("a list", "yes")] * 20]
    settings = {"kind": "classification", "text": "text", "keep_head": True, "deduplicate": False}
    settings |= {"peak_lr": 0.0, "epochs": 1, "precision": "fp32", "device": "cpu"}
    run = finetune(Table("rows", ["text", "label"], rows), from_=tmp_path / "theirs", out=tmp_path / "run", **settings)
    head, before = read_any_task(run / "model").head, read_any_task(tmp_path / "theirs").head
    assert torch.equal(head.linear.weight, before.linear.weight)
