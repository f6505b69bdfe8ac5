"""`gpt1 demo`: the whole method on text that every machine has, from unlabeled text to predictions.

The demo calls the same functions as the commands and keeps all their files. docs/demo.md describes how its settings
were chosen, on validation rows only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from gpt1 import formatting
from gpt1.console import default_progress
from gpt1.demo import docstrings
from gpt1.demo.results import (
    ALL,
    DEMO_METHODS,
    FROM_STARTER,
    HEAD,
    MAJORITY,
    PROMPTS,
    SCRATCH,
    TF_IDF,
    DemoResults,
    accuracy_rows,
    follow_up_commands,
    format_percent,
    pretraining_verdict,
    sparkline,
    starter_verdict,
)
from gpt1.errors import Interrupted, UserError
from gpt1.files.atomic import atomic_write_json
from gpt1.files.names import beside
from gpt1.progress import Progress
from gpt1.report.run_reader import Run
from gpt1.runs import folder as runs

DEMO_VOCAB_SIZE = 3000
PRETRAIN_SETTINGS: dict[str, Any] = {"model": "tiny", "n_layer": 3, "context": 64, "batch_size": 16, "steps": 2400}
PRETRAIN_SETTINGS |= {"peak_lr": 5e-3, "eval_every": 400}
PRETRAIN_SETTINGS |= {"valid_split": "end"}  # documents of one file are alike; the end has other files


def run_demo(out: Path, seeds: int = 3, progress: Progress | None = None) -> Path:
    """Run the demo.

    Args:
        out: folder for its texts, tables, runs and report. If it has an earlier demo, `out`-2, -3, … is used.
        seeds: number of random seeds of each fine-tuning method.
        progress: shows the progress; by default nothing is printed.

    Returns:
        The folder.

    Raises:
        UserError: `out` has other files, or this Python has no source files to take text from.
    """
    progress = progress or default_progress()
    if seeds < 1:
        raise UserError(f"--seeds {seeds} is out of range: at least 1.", "Default: --seeds 3")
    out = choose_output_folder(Path(out))
    results = DemoResults()
    try:
        with results.time_stage("gathering"):
            write_texts_and_tables(out, seeds, results, progress)
        with results.time_stage("tokens"):
            tokenize_texts(out, results, progress)
        with results.time_stage("pre-training"):
            pretrain_model(out, results, progress)
        with results.time_stage("fine-tuning"):
            finetune_methods(out, seeds, results, progress)
    except Interrupted:
        raise Interrupted(f"stopped; finished parts are in {out}.", "Start again with: gpt1 demo") from None
    with results.time_stage("testing"):
        evaluate_methods(out, seeds, results)
        sample_model(out, results)
    atomic_write_json(out / "demo.json", asdict(results))
    print_results(out, results)
    return out


def choose_output_folder(out: Path) -> Path:
    if (out / "texts.jsonl").exists():  # a second `make demo` works, and deletes nothing
        out = next(other for n in count(2) if not (other := beside(out, f"-{n}")).exists())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not an empty folder.", "Choose another --out.")
    return out


# --- the steps -------------------------------------------------------------------------------------------------------


def write_texts_and_tables(out: Path, seeds: int, results: DemoResults, progress: Progress) -> None:
    """Write the unlabeled texts and the labeled tables."""
    from gpt1.tables.table import write_table

    documents = docstrings.collect_documents(progress)
    task = docstrings.build_task(documents)
    texts = docstrings.select_pretraining_documents(documents, task)
    libraries = sorted({row.library for row in task.test})
    if len(libraries) < 2:
        raise UserError(
            "the packages of this Python have too few docstrings for a task.",
            "Use a Python with its source files, or start with your own texts: gpt1 tokenize --help",
        )
    (out / "labeled").mkdir(parents=True)
    write_table(out / "texts.jsonl", [{"text": "\n".join(d.paragraphs), "from": d.name} for d in texts])
    tables = {f"train-{seed}": task.draw_train_rows(seed) for seed in range(seeds)}
    tables |= {"validation": list(task.validation), "test": list(task.test)}
    for name, rows in tables.items():
        examples = [{"text": row.text, "library": row.library, "from": row.document.name} for row in rows]
        write_table(out / "labeled" / f"{name}.csv", examples)

    sizes: Counter[str] = Counter()
    for document in documents:
        sizes[document.library] += document_bytes(document)
    total, kept = sum(sizes.values()), sum(map(document_bytes, texts))
    results.gathered = {"documents": len(documents), "bytes": total, "by library": dict(sizes.most_common())}
    results.labeled = {
        "libraries": libraries,
        "train": len(task.draw_train_rows(0)),
        "withheld bytes": total - kept,
    } | {name: len(tables[name]) for name in ("validation", "test")}
    largest = ", ".join(f"{name} {n / 1e6:.1f}" for name, n in sizes.most_common(8))
    progress.log(f"{len(documents):,} docstrings with {total / 1e6:.1f} MB of prose ({largest}, others less)")
    progress.log(
        f"task: which of {len(libraries)} libraries does a docstring come from? Library names and all code are masked."
    )
    progress.log(
        f"{results.labeled['train']} labeled rows for training, {len(task.validation)} for validation, "
        f"{len(task.test)} for the test; pre-training skips validation and test rows and their near duplicates "
        f"({(total - kept) / 1e6:.1f} MB)"
    )


def tokenize_texts(out: Path, results: DemoResults, progress: Progress) -> None:
    from gpt1.corpus.tokenize import tokenize

    corpus = tokenize([str(out / "texts.jsonl")], out=out / "corpus", vocab_size=DEMO_VOCAB_SIZE, progress=progress)
    results.corpus = {"tokens": corpus.tokens, "documents": corpus.documents, "bytes": corpus.n_bytes}


def pretrain_model(out: Path, results: DemoResults, progress: Progress) -> None:
    from gpt1.training.pretrain import pretrain

    pretrain(out / "corpus", out=out / "pretrained", progress=progress, **PRETRAIN_SETTINGS)
    saved = runs.read_results(out / "pretrained")
    names = ("steps", "tokens_seen", "parameters", "unigram", "validation")
    results.pretraining = {name: saved[name] for name in names} | {"settings": PRETRAIN_SETTINGS}
    ours, unigram = saved["validation"], saved["unigram"]
    progress.log(
        f"validation perplexity {ours['perplexity']:.1f} ({ours['bits_per_byte']:.2f} bits per byte); unigram model "
        f"{unigram['perplexity']:.0f} ({unigram['bits_per_byte']:.2f})"
    )


def finetune_methods(out: Path, seeds: int, results: DemoResults, progress: Progress) -> None:
    """Fine-tune every method with every seed: it decides the labeled rows, the new weights and the order."""
    from gpt1.training.finetune import finetune

    if not runs.has_starter():
        progress.log(starter_verdict(results))
    for seed in range(seeds):
        for method, settings in available_methods().items():
            finetune(
                out / "labeled" / f"train-{seed}.csv",
                from_=runs.STARTER_FOLDER if method == FROM_STARTER else out / "pretrained",
                out=run_folder(out, method, seed),
                kind="classification",
                text="text",
                label="library",
                valid=out / "labeled" / "validation.csv",
                seed=seed,
                baselines=False,  # the demo has its own
                progress=SingleBarProgress(progress, f"fine-tuning, seed {seed}: {method}"),
                **settings,
            )
            _, accuracy = Run.open(run_folder(out, method, seed)).series("validation", "accuracy")
            results.curves.setdefault(method, []).append(accuracy)


def available_methods() -> dict[str, dict[str, Any]]:
    """The methods, without that of a model which is not installed."""
    installed = runs.has_starter()
    return {method: settings for method, settings in DEMO_METHODS.items() if method != FROM_STARTER or installed}


class SingleBarProgress(Progress):
    """Shows a run's progress bar under the given title and hides its log lines: there are many runs."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress, self.title = progress, title
        self.advance, self.record, self.end = progress.advance, progress.record, progress.end  # type: ignore[method-assign]

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        title = f"{self.title}, {title}" if unit == "examples" else self.title  # of the head: computing its features
        self.progress.begin(title, total, done, unit)


def evaluate_methods(out: Path, seeds: int, results: DemoResults) -> None:
    """Score all methods on the test rows, after all training. Nothing else reads them."""
    from gpt1.inference.evaluate import evaluate
    from gpt1.tables.table import read_table

    table = read_table(out / "labeled" / "test.csv")
    labels = Counter(row["library"] for row in table.rows)
    results.accuracy[MAJORITY] = [max(labels.values()) / len(table)] * seeds
    results.accuracy[TF_IDF] = [tfidf_accuracy(out, seed) for seed in range(seeds)]
    for method in available_methods():
        scores = [evaluate(run_folder(out, method, seed), table, baselines=False)["metrics"] for seed in range(seeds)]
        results.accuracy[method] = [score["accuracy"] for score in scores]


def tfidf_accuracy(out: Path, seed: int) -> float:
    """Test accuracy of TF-IDF with logistic regression; n-grams and C are chosen on the validation rows."""
    from gpt1.tables.table import read_table
    from gpt1.tasks.examples import read_examples, target_from_examples
    from gpt1.tasks.kinds import KINDS, Example
    from gpt1.tasks.tfidf import TfidfFeatures, build_problem

    kind = KINDS["classification"]

    def read_split(name: str) -> list[Example]:
        table = read_table(out / "labeled" / f"{name}.csv")
        return read_examples(table.rows, kind, {"text": "text", "label": "library"}, table.locate_row)

    training, validation = read_split(f"train-{seed}"), read_split("validation")
    target = target_from_examples(kind, False, training, str, f"train-{seed}.csv")
    problem = build_problem(target, training)
    models = [
        problem.fit(TfidfFeatures(kind, {"ngram_range": (1, n)}), training, c=c)
        for n in (1, 2)
        for c in (1.0, 10.0, 100.0)
    ]
    best = max(models, key=lambda one: one.scores(target, validation)["accuracy"])
    return float(best.scores(target, read_split("test"))["accuracy"])


def sample_model(out: Path, results: DemoResults) -> None:
    """Next-token probabilities of one prompt, and a continuation of another."""
    from gpt1.inference.predictor import load

    model = load(out / "pretrained")
    results.next_tokens = model.next_tokens(PROMPTS[0], 8)
    text = model.generate(PROMPTS[1], max_tokens=60, temperature=0.7, seed=0)
    results.written = text.split("\n")[0]


# --- the results -----------------------------------------------------------------------------------------------------


def print_results(out: Path, results: DemoResults) -> None:
    """Print the results; write curves.svg and report.html."""
    from gpt1.console import Console
    from gpt1.demo.page import write_demo_page

    console = Console()
    seeds = formatting.count_noun(len(results.accuracy[ALL]), "seed")
    titles = [f"accuracy on {results.labeled['test']} test rows", "median", f"[min – max] of {seeds}"]
    console.print_table(titles, accuracy_rows(results))
    console.show_text(f"{pretraining_verdict(results)}\n{starter_verdict(results)}\n")
    console.print_result("accuracy on the validation rows after each epoch (median over seeds)")
    for method, curves in results.curves.items():
        medians = [median(epoch) for epoch in zip(*curves, strict=True)]
        console.print_result(
            f"  {method:27}{sparkline(medians)}  {format_percent(medians[0])} → {format_percent(max(medians))}"
        )
    console.show_text(f"\nnext token after “{PROMPTS[0]}”")
    console.print_probabilities(results.next_tokens)
    console.show_text(f"\ngenerated text: {results.written}\n")
    page = write_demo_page(out, results)
    stages = ", ".join(f"{stage} {formatting.format_duration(seconds)}" for stage, seconds in results.seconds.items())
    console.print_result(f"{formatting.format_duration(sum(results.seconds.values()))} minutes in total: {stages}")
    console.show_text(f"{page}   these results with their curves; each run in {out} has its own report\n")
    console.print_result("the same with your own files:")
    for command, explanation in follow_up_commands(out):
        console.print_result(f"  {command:54}  {explanation}".rstrip())


# --- files -----------------------------------------------------------------------------------------------------------


def run_folder(out: Path, method: str, seed: int) -> Path:
    slug = {SCRATCH: "scratch", HEAD: "head", ALL: "all", FROM_STARTER: "starter"}[method]
    return out / "finetuned" / f"{slug}-{seed}"


def document_bytes(document: docstrings.DocstringDocument) -> int:
    return sum(len(paragraph.encode()) for paragraph in document.paragraphs)
