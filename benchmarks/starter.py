"""Make `starter`, the model that comes with the package: corpora, pre-training, export, measurements, model card.

    python -m benchmarks.starter DATA --work WORK
    python -m benchmarks.starter DATA --work WORK --run starter-2 --from starter

DATA has the texts and the pairs of BLiMP (docs/starter.md). WORK gets the corpora and the run. The results are
gpt1/starter, and in the repository benchmarks/starter.json with all figures and the figures of docs/starter.md.
Finished steps are not repeated, so the same command resumes after a stop. `--from starter` trains the model further and
replaces it; its card then shows both runs.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.starter_card import figures, model_card
from gpt1.console import Console
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.split import CorpusPart
from gpt1.corpus.tokenize import tokenize
from gpt1.corpus.windows import CorpusWindows, unigram_loss
from gpt1.errors import GPT1Error, UserError
from gpt1.experiments.zeroshot.heuristics import build_zeroshot_task
from gpt1.experiments.zeroshot.minimal_pairs import MinimalPairsTask
from gpt1.files.atomic import atomic_file
from gpt1.files.manifest import file_entry
from gpt1.files.names import MANIFEST, RUN_CONFIG_FILE, WEIGHTS_FILE
from gpt1.files.reading import open_input
from gpt1.inference.convert import export_model
from gpt1.inference.evaluate import evaluate_on_corpus
from gpt1.inference.predictor import LanguageModel, load
from gpt1.progress import Progress
from gpt1.report.card import CARD_FILE, changed_settings
from gpt1.report.run_reader import Run
from gpt1.runs import folder as runs
from gpt1.training.pretrain import pretrain

ROOT = Path(__file__).parents[1]
TWICE = "textbooks/train.jsonl.xz"
"""Read twice: of the two kinds of text, it is the one in modern English."""
VOCABULARY_TEXTS = (TWICE, "books/train-00.jsonl.xz", "books/train-01.jsonl.xz")
TRAINING_TEXTS = (*VOCABULARY_TEXTS, *(f"books/train-{i:02}.jsonl.xz" for i in range(2, 6)))
VALIDATION_TEXTS = {"textbooks": "textbooks/validation.jsonl.xz", "books": "books/validation.jsonl.xz"}
VOCAB_SIZE = 8000
SETTINGS: dict[str, Any] = {"model": "mini", "context": 512, "batch_size": 128, "steps": 5500}
SETTINGS |= {"peak_lr": 0.003, "warmup": 0.05, "schedule": "wsd"}  # for batches of 65,536 tokens, see docs/lab-log.md
SETTINGS |= {"eval_every": 500, "eval_windows": 128, "checkpoint_every": 500}
LICENSE = "cc-by-4.0"  # that of the textbooks
MAX_BYTES = 30_000_000  # of the weights in the package
FIGURES = re.compile(r"(?<=<!-- figures: written by benchmarks/starter.py -->\n).*?(?=<!-- end of figures -->)", re.S)


@dataclass(frozen=True)
class Making:
    """Where the texts come from and where everything goes.

    Args:
        data: The texts: TRAINING_TEXTS, VALIDATION_TEXTS and, for BLiMP, `tasks/`.
        work: Corpora and runs.
        out: The model folder to write.
        record: JSON file with all figures.
        page: Page of the documentation that shows them.
        run: Name of the run in `work`/runs.
        from_: Model to train further; None: a new one.
        table5: Folder of `gpt1 reproduce table5 --from starter`, to show its scores.
        blimp_rows: Most pairs of BLiMP; 0: all.
    """

    data: Path
    work: Path
    out: Path = runs.STARTER_FOLDER
    record: Path = ROOT / "benchmarks" / "starter.json"
    page: Path = ROOT / "docs" / "starter.md"
    run: str = "starter"
    from_: str | None = None
    table5: Path | None = None
    blimp_rows: int = 0
    vocab_size: int = VOCAB_SIZE
    settings: Mapping[str, Any] = field(default_factory=lambda: SETTINGS)

    @property
    def vocabulary(self) -> Path:
        """The corpus that the vocabulary is trained on."""
        return self.work / "starter-vocabulary"

    @property
    def corpus(self) -> Path:
        return self.work / "starter-corpus"

    @property
    def run_folder(self) -> Path:
        return self.work / "runs" / self.run

    def validation_corpus(self, name: str) -> Path:
        return self.work / f"valid-{name}"


def make_starter(making: Making, progress: Progress) -> dict[str, Any]:
    """Do the remaining steps; returns all figures, as in `making.record`."""
    check_inputs(making)
    tokenize_texts(making, progress)
    pretrain_model(making, progress)
    record: dict[str, Any] = json.loads(making.record.read_text("utf-8")) if making.record.exists() else {}
    stage = stage_facts(making)
    earlier = {name: one for name, one in record.get("stages", {}).items() if making.from_ and name != making.run}
    if record.get("stages", {}).get(making.run) != stage or not (making.out / WEIGHTS_FILE).exists():
        export_weights(making, progress)
    weights = making.out / WEIGHTS_FILE
    model = asdict(load(making.out, device="cpu").gpt.config) | file_entry(weights)
    if record.get("model") != model:
        record = {}  # the figures of other weights
    record |= {"stages": {**earlier, making.run: stage}, "model": model, "texts": text_facts(making)}
    for name, measure in measurements(making, progress).items():
        if name not in record:
            record[name] = measure()
            write_record(making.record, record)
    if making.table5:
        record["table5"] = table5_facts(making.table5)
    write_record(making.record, record)
    write_pages(making, record)
    return record


def check_inputs(making: Making) -> None:
    """UserError for a text that is missing, before anything is written, or a run that would replace the first one."""
    for name in (*TRAINING_TEXTS, *VALIDATION_TEXTS.values()):
        if not (making.data / name).is_file():
            raise UserError(f"{making.data / name} does not exist.", "The texts are described in docs/starter.md.")
    if making.from_ and making.run == Making.run:
        raise UserError(f"--from {making.from_} needs a run of another name.", f"Add: --run {making.run}-2")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write((json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


# --- texts, run and weights ------------------------------------------------------------------------------------------


def tokenize_texts(making: Making, progress: Progress) -> None:
    """The vocabulary, the training corpus, and the validation corpora."""
    again = making.work / "textbooks-again.jsonl.xz"  # a file that is named twice is read once

    def tokenize_with_again(names: Sequence[str], out: Path, **options: Any) -> None:
        if not (out / MANIFEST).exists():
            making.work.mkdir(parents=True, exist_ok=True)
            if not again.exists():
                shutil.copyfile(making.data / TWICE, again)
            first, *others = (str(making.data / name) for name in names)
            tokenize([first, str(again), *others], out=out, progress=progress, **options)

    tokenizer = making.from_ or str(making.vocabulary / "tokenizer")
    if not making.from_:
        tokenize_with_again(VOCABULARY_TEXTS, making.vocabulary, vocab_size=making.vocab_size)
    tokenize_with_again(TRAINING_TEXTS, making.corpus, tokenizer=tokenizer)
    for name, text in VALIDATION_TEXTS.items():
        if not (making.validation_corpus(name) / MANIFEST).exists():
            out, tokenizer = making.validation_corpus(name), str(making.corpus / "tokenizer")
            tokenize([str(making.data / text)], out=out, tokenizer=tokenizer, progress=progress)


def pretrain_model(making: Making, progress: Progress) -> None:
    run = making.run_folder
    if not runs.is_finished(run):
        resume = (run / RUN_CONFIG_FILE).exists()
        valid = making.validation_corpus("textbooks")
        settings = {} if resume else {"corpus": making.corpus, "from_": making.from_, "valid": valid}
        pretrain(out=run, resume=resume, progress=progress, **settings, **({} if resume else making.settings))


def export_weights(making: Making, progress: Progress) -> None:
    """Write the model folder in bf16, beside the old one until it is complete."""
    new = making.work / "export"
    export_model(
        "gpt1", making.run_folder, new, progress, dtype="bf16", license=LICENSE, name="starter", overwrite=True
    )
    if (size := (new / WEIGHTS_FILE).stat().st_size) > MAX_BYTES:
        problem = f"the weights have {size:,} bytes; the package allows {MAX_BYTES:,}."
        raise UserError(problem, "Train a smaller model.")
    shutil.rmtree(making.out, ignore_errors=True)
    shutil.copytree(new, making.out)


# --- figures ---------------------------------------------------------------------------------------------------------


def stage_facts(making: Making) -> dict[str, Any]:
    """Settings, size and validation curve of the run."""
    run = Run.open(making.run_folder)
    steps, bits = run.series("validation", "bits_per_byte")
    _, perplexity = run.series("validation", "perplexity")
    return {
        "version": run.settings["version"],
        "from": making.from_,
        "settings": dict(changed_settings(run)),
        "computes_in": run.settings.get("computes_in", ""),
        "batch_tokens": run.settings["batch_size"] * run.settings["context"],
        **{name: run.results[name] for name in ("steps", "tokens_seen", "parameters")},
        "curve": [[int(step), *values] for step, *values in zip(steps, bits, perplexity, strict=True)],
        "eval_windows": run.settings["eval_windows"],
    }


def text_facts(making: Making) -> dict[str, Any]:
    """Documents and bytes of each file; the textbooks, or the number of authors."""
    names = {**{name: name for name in TRAINING_TEXTS}, **VALIDATION_TEXTS}
    return {name: one_text_facts(making.data / name) | {"times": 1 + (name == TWICE)} for name in names.values()}


def one_text_facts(path: Path) -> dict[str, Any]:
    documents = list(read_documents(path))
    facts: dict[str, Any] = {"documents": len(documents)}
    facts["bytes"] = sum(len(document["text"].encode()) for document in documents)
    if all("book" in document for document in documents):
        return {**facts, "books": dict(sorted(Counter(document["book"] for document in documents).items()))}
    return {**facts, "authors": len({document.get("author") for document in documents})}


def read_documents(path: Path) -> Iterator[dict[str, Any]]:
    with open_input(path) as file:
        yield from (json.loads(line) for line in file.lines() if line.strip())


def measurements(making: Making, progress: Progress) -> dict[str, Any]:
    """Name → function that measures the exported model."""
    corpus = Corpus.open(making.corpus)

    def blimp() -> dict[str, Any]:
        task = build_zeroshot_task("blimp", data_dir=making.data / "tasks", rows=making.blimp_rows, progress=progress)
        assert isinstance(task, MinimalPairsTask)
        found = replace(task, corpus=corpus).evaluate(language_model(making), progress)
        return {name: value for name, value in found.items() if name not in ("paradigms", "how")}

    def validation() -> dict[str, Any]:
        return {name: validation_facts(making, corpus, name, progress) for name in VALIDATION_TEXTS}

    size = {"tokens": corpus.tokens, "documents": corpus.documents, "bytes": corpus.n_bytes}
    return {"corpus": lambda: size, "validation": validation, "blimp": blimp}


def language_model(making: Making) -> LanguageModel:
    model = load(making.out)
    assert isinstance(model, LanguageModel)
    return model


def validation_facts(making: Making, corpus: Corpus, name: str, progress: Progress) -> dict[str, Any]:
    """The model and the unigram model on all windows of a validation corpus, none of which overlap."""
    valid, model = Corpus.open(making.validation_corpus(name)), language_model(making)
    found = evaluate_on_corpus(model, valid, progress)
    training, windows = (
        CorpusWindows(CorpusPart.from_ranges(text, [(0, text.tokens)]), model.gpt.config.context, shifted=False)
        for text in (corpus, valid)
    )
    unigram = unigram_loss(training, windows, windows.n, corpus.vocab_size, max_tokens=corpus.tokens)
    return {"tokens": found["tokens"], "model": found["metrics"], "unigram": windows.loss_metrics(unigram)}


def table5_facts(folder: Path) -> list[dict[str, Any]]:
    """Task, metric, scores of each method and the baseline, of a results.json of `gpt1 reproduce table5`."""
    found = runs.read_results(folder)
    if found.get("what") != "table5":
        raise UserError(f"{folder} has no results of table 5.", "Use: gpt1 reproduce table5 --from starter --out DIR")
    return [{name: one[name] for name in ("task", "metric", "guess", "ours")} for one in found["results"]]


# --- pages -----------------------------------------------------------------------------------------------------------


def write_pages(making: Making, record: Mapping[str, Any]) -> None:
    """The model card beside the weights, and the figures of the documentation."""
    with atomic_file(making.out / CARD_FILE) as file:
        file.write(model_card(record).encode())
    page = making.page.read_text("utf-8")
    if not FIGURES.search(page):
        raise UserError(f"{making.page} has no place for the figures.", f"Add the lines around it: {FIGURES.pattern}")
    with atomic_file(making.page) as file:
        file.write(FIGURES.sub(lambda _: figures(record, heading="###"), page).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.starter", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with books/, textbooks/ and tasks/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpora and the run")
    parser.add_argument("--run", default="starter", help="name of the run in WORK/runs")
    parser.add_argument("--from", dest="from_", metavar="RUN", help="train a model further, such as starter")
    parser.add_argument("--steps", type=int, default=SETTINGS["steps"], help=f"default: {SETTINGS['steps']}")
    parser.add_argument("--table5", type=Path, metavar="DIR", help="results of gpt1 reproduce table5 --from starter")
    parser.add_argument("--blimp-rows", type=int, default=0, help="most pairs of BLiMP; 0: all")
    given = vars(parser.parse_args(arguments))
    settings = {**SETTINGS, "steps": given.pop("steps")}
    try:
        make_starter(Making(**given, settings=settings), Console())
    except GPT1Error as error:
        print(f"{error.problem}\n{error.fix}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
