"""Helpers for tests of report pages: an HTML parser, and run folders."""

from __future__ import annotations

import json
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml
from hypothesis import Phase

from gpt1.config import FinetuneConfig, PretrainConfig, merge_settings

VOID_ELEMENTS = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect"}
HOSTILE_TEXT = "<script>alert('1')</script> \" ' & <b>not bold</b> {{ 7 * 7 }}"
PHASES_WITHOUT_SHRINK = set(Phase) - {Phase.shrink}  # a page takes a third of a second
RUN_FILES = ("config.yaml", "metrics.jsonl", "results.json", "predictions.jsonl")


class PageParser(HTMLParser):
    """Parsed page: elements with their attributes, numbers in <data>, text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open_tags: list[str] = []
        self.text = ""
        self.numbers: list[float] = []
        self.headings: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open_tags == []  # every element is closed

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open_tags.append(tag)
        if tag == "data":
            self.numbers.append(float(dict(attrs)["value"] or "nan"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open_tags:
            self.text += data
        if self.open_tags and self.open_tags[-1] in ("h1", "h2"):
            self.headings.append(data)

    @property
    def structure(self) -> list[tuple[str, tuple[str, ...]]]:
        return [(tag, tuple(attributes)) for tag, attributes in self.elements]


def write_jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write_pretraining_run(folder: Path, text: str = "and then it was evening") -> Path:
    config = asdict(merge_settings(PretrainConfig, {"peak_lr": 1e-3, "steps": 40}))
    command = {"corpus": "corpus/my books", "from": None, "valid": None}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"stage": "pretrain", "version": "0.1.0", "command": command, **config})
    )
    lines: list[dict[str, Any]] = []
    for step in range(10, 41, 10):
        lines.append({"step": step, "split": "train", "loss": 9 - step / 10, "lr": 1e-3, "tokens": step * 100})
        metrics = {"loss": 9.1 - step / 10, "perplexity": 800.0 / step, "bits_per_byte": 2.5}
        lines.append({"step": step, "split": "validation", **metrics})
    write_jsonl(folder / "metrics.jsonl", lines)
    results = {
        "stage": "pretrain", "steps": 40, "tokens_seen": 4000, "train_loss": 5.0, "parameters": 1_234_567,
        "validation": {"loss": 5.125, "perplexity": 20.25, "bits_per_byte": 2.5}, "seconds": 61.0,
        "unigram": {"loss": 6.7, "perplexity": 812.4, "bits_per_byte": 3.1},
        "samples": [{"prompt": "once", "text": "once" + text}],
        "corpus": {"tokens": 98_765, "documents": 12, "unknown": 0.004},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def write_finetuning_run(folder: Path, text: str = "a fine film", labels: tuple[str, ...] = ("neg", "pos")) -> Path:
    config = asdict(merge_settings(FinetuneConfig, {"seed": 7}))
    command = {"train": "r.csv", "from": "runs/books", "valid": None, "kind": "classification"}
    command["columns"] = {"text": "review", "label": "stars"}
    (folder / "config.yaml").write_text(yaml.safe_dump({"stage": "finetune", "command": command, **config}))
    lines: list[dict[str, Any]] = []
    for epoch, accuracy in ((1, 0.625), (2, 0.75)):
        lines.append({"step": 10 * epoch, "split": "train", "loss": 3.0, "task_loss": 0.5, "lm_loss": 5.0, "lr": 1e-4})
        lines.append({"step": 10 * epoch, "epoch": epoch, "split": "validation", "loss": 0.5, "accuracy": accuracy})
    write_jsonl(folder / "metrics.jsonl", lines)
    rows = []
    for i in range(8):
        probability = 0.55 + 0.05 * i
        label, predicted = labels[i % 2], labels[i % 2 if i < 6 else 1 - i % 2]
        probabilities = {name: probability if name == predicted else 1 - probability for name in labels[:2]}
        rows.append(
            {"fields": {"text": f"{text} {i}"}, "label": label, "prediction": predicted, "probabilities": probabilities}
        )
    write_jsonl(folder / "predictions.jsonl", rows)
    bins = [{"low": 0.5, "high": 1.0, "confidence": 0.725, "accuracy": 0.75, "count": 8}]
    results = {
        "stage": "finetune", "kind": "classification", "labels": list(labels), "main": "accuracy", "best_epoch": 2,
        "validation": {
            "metrics": {"accuracy": 0.75, "f1": 0.7333, "matthews": 0.5, "loss": 0.51}, "f1_of": "macro",
            "rows": 8, "interval": {"accuracy": [0.40625, 0.9375]},
        },
        "calibration": {"temperature": 1.25, "ece_before": 0.125, "ece_after": 0.03125,
                        "bins_before": bins, "bins": bins},
        "parameters_trained": 7_654_321, "seconds": 5.0,
        "data": {"rows": 80, "duplicates": 3, "unknown": 0.01, "cut": 0.02},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def write_regression_run(folder: Path) -> Path:
    write_finetuning_run(folder)
    rows = [{"fields": {"a": f"text {i}"}, "label": str(i / 2), "score": i / 2 + 0.1 * i} for i in range(11)]
    write_jsonl(folder / "predictions.jsonl", rows)
    results = json.loads((folder / "results.json").read_text())
    results |= {"kind": "regression", "labels": [], "main": "pearson", "calibration": {}}
    results["validation"] = {"metrics": {"pearson": 0.875, "spearman": 0.5}, "rows": 11, "interval": {}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def write_many_labels_run(folder: Path, labels: int = 8) -> Path:
    """A classification run with long names of labels."""
    names = tuple(f"introduction to subject number {k}" for k in range(labels))
    write_finetuning_run(folder, labels=names)
    rows = [
        {
            "fields": {"text": "a text " * 40},
            "label": names[i % labels],
            "prediction": names[i * i % labels],
            "probabilities": dict.fromkeys(names, 1 / labels),
        }
        for i in range(4 * labels)
    ]
    write_jsonl(folder / "predictions.jsonl", rows)
    return folder


def write_choice_run(folder: Path) -> Path:
    """A multiple-choice run whose answers are in columns of their own."""
    write_finetuning_run(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["command"] |= {"kind": "choice"}
    config["command"]["columns"] = {"context": "passage", "choices": "first,second", "label": "right"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    fields = {"context": "a long passage " * 60, "answer 0": "one answer", "answer 1": "another"}
    rows = [
        {"fields": fields, "label": i % 2, "prediction": k, "probabilities": {str(k): 0.75, str(1 - k): 0.25}}
        for i, k in ((i, i // 2 % 2) for i in range(8))
    ]
    write_jsonl(folder / "predictions.jsonl", rows)
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps(results | {"kind": "choice", "labels": []}))
    return folder


def write_multilabel_run(folder: Path) -> Path:
    """A run whose rows have several labels each, or none."""
    write_finetuning_run(folder, labels=("anger", "joy", "love"))
    rows = [(["joy", "love"], ["joy"]), ([], []), (["anger"], []), (["joy"], ["anger", "joy"]), (["love"], ["love"])]
    lines = [
        {
            "fields": {"text": f"text {i}"},
            "label": label,
            "prediction": prediction,
            "probabilities": {name: 0.75 if name in prediction else 0.25 for name in ("anger", "joy", "love")},
        }
        for i, (label, prediction) in enumerate(rows)
    ]
    write_jsonl(folder / "predictions.jsonl", lines)
    results = json.loads((folder / "results.json").read_text())
    results |= {"kind": "multilabel", "main": "f1_micro"}
    results["validation"] |= {"metrics": {"f1_micro": 0.6, "f1_macro": 0.5, "accuracy": 0.4}, "rows": 5}
    (folder / "results.json").write_text(json.dumps(results))
    return folder
