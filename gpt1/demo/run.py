"""`gpt1 demo`: the whole story on text that every machine has, from unlabelled words to predictions.

Nothing here is special to the demo: it calls the same verbs as the commands do, on files that it leaves behind. How its
settings were chosen, on validation rows only, is told in docs/demo.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from gpt1 import formatting
from gpt1.demo import docstrings
from gpt1.demo.results import (
    ALL,
    DEMO_METHODS,
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
)
from gpt1.errors import Interrupted, UserError
from gpt1.progress import NullProgress, Progress
from gpt1.report.run_reader import Run
from gpt1.runs.folder import read_results, write_json

DEMO_VOCAB_SIZE = 3000
PRETRAIN_SETTINGS: dict[str, Any] = {"model": "tiny", "n_layer": 3, "context": 64, "batch_size": 16, "steps": 2400}
PRETRAIN_SETTINGS |= {"peak_lr": 2e-3, "eval_every": 400}


def run_demo(out: Path, seeds: int = 3, progress: Progress | None = None) -> Path:
    """Tell the story; its texts, tables, runs and page are left in `out`. Returns the folder.

    Where an earlier demo lies in `out`, the new one goes to the folder `out`-2, -3, …. Raises UserError for an `out`
    that holds anything else, and where there is no material (a Python without its sources).
    """
    progress = progress or NullProgress()
    if seeds < 1:
        raise UserError(f"--seeds {seeds} is out of range: it has to be at least 1.", "Default: --seeds 3")
    out = choose_output_folder(Path(out))
    story = DemoResults()
    try:
        with story.time_stage("gathering"):
            write_texts_and_tables(out, seeds, story, progress)
        with story.time_stage("tokens"):
            tokenize_texts(out, story, progress)
        with story.time_stage("pre-training"):
            pretrain_model(out, story, progress)
        with story.time_stage("fine-tuning"):
            finetune_methods(out, seeds, story, progress)
    except Interrupted:
        raise Interrupted(
            f"stopped; {out} keeps what is done.", "Tell the story from its beginning: gpt1 demo"
        ) from None
    with story.time_stage("testing"):
        evaluate_methods(out, seeds, story)
        sample_model(out, story)
    write_json(out / "demo.json", asdict(story))
    print_results(out, story)
    return out


def choose_output_folder(out: Path) -> Path:
    if (out / "texts.jsonl").exists():  # a second `make demo` should just work, and delete nothing
        out = next(other for n in count(2) if not (other := out.with_name(f"{out.name}-{n}")).exists())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not an empty folder.", "Choose another --out.")
    return out


# --- the steps -------------------------------------------------------------------------------------------------------


def write_texts_and_tables(out: Path, seeds: int, story: DemoResults, progress: Progress) -> None:
    """Write the unlabelled texts and the labelled tables."""
    documents = docstrings.collect_documents(progress)
    task = docstrings.build_task(documents)
    texts = docstrings.select_pretraining_documents(documents, task)
    libraries = sorted({row.library for row in task.test})
    if len(libraries) < 2:
        raise UserError(
            "the packages of this Python have too few docstrings to make a task of.",
            "Use a Python with its source files, or begin with your own texts: gpt1 tokenize --help",
        )
    (out / "labelled").mkdir(parents=True)
    write_jsonl(out / "texts.jsonl", ({"text": "\n".join(d.paragraphs), "from": d.name} for d in texts))
    tables = {f"train-{seed}": task.draw_train_rows(seed) for seed in range(seeds)}
    tables |= {"validation": list(task.validation), "test": list(task.test)}
    for name, rows in tables.items():
        write_labelled_table(out / "labelled" / f"{name}.csv", rows)

    sizes: Counter[str] = Counter()
    for document in documents:
        sizes[document.library] += document_bytes(document)
    total, kept = sum(sizes.values()), sum(map(document_bytes, texts))
    story.gathered = {"documents": len(documents), "bytes": total, "by library": dict(sizes.most_common())}
    story.labelled = {"libraries": libraries, "train": len(task.draw_train_rows(0)), "withheld bytes": total - kept} | {
        name: len(tables[name]) for name in ("validation", "test")
    }
    most = ", ".join(f"{name} {n / 1e6:.1f}" for name, n in sizes.most_common(8))
    progress.log(f"{len(documents):,} docstrings hold {total / 1e6:.1f} MB of clean prose ({most}, others less)")
    progress.log(
        f"the task: which of {len(libraries)} libraries does a docstring come from, when names of libraries and "
        "all code in it are masked?"
    )
    progress.log(
        f"{story.labelled['train']} labelled rows to learn from, {len(task.validation)} to choose the epoch, "
        f"{len(task.test)} for the test; the last two, and all that nearly repeats them, stay out of pre-training "
        f"({(total - kept) / 1e6:.1f} MB)"
    )


def tokenize_texts(out: Path, story: DemoResults, progress: Progress) -> None:
    from gpt1.corpus.tokenize import tokenize

    corpus = tokenize([str(out / "texts.jsonl")], out=out / "corpus", vocab_size=DEMO_VOCAB_SIZE, progress=progress)
    story.corpus = {"tokens": corpus.tokens, "documents": corpus.documents, "bytes": corpus.n_bytes}


def pretrain_model(out: Path, story: DemoResults, progress: Progress) -> None:
    from gpt1.training.pretrain import pretrain

    pretrain(out / "corpus", out=out / "pretrained", progress=progress, **PRETRAIN_SETTINGS)
    results = read_results(out / "pretrained")
    story.pretraining = {
        name: results[name] for name in ("steps", "tokens_seen", "parameters", "unigram", "validation")
    }
    story.pretraining["settings"] = PRETRAIN_SETTINGS
    ours, unigram = results["validation"], results["unigram"]
    progress.log(
        f"perplexity {ours['perplexity']:.1f} on held-out text ({ours['bits_per_byte']:.2f} bits per byte); a unigram "
        f"model has {unigram['perplexity']:.0f} ({unigram['bits_per_byte']:.2f})"
    )


def finetune_methods(out: Path, seeds: int, story: DemoResults, progress: Progress) -> None:
    """Every method with every seed, which draws the labelled rows, the fresh weights and the order."""
    from gpt1.training.finetune import finetune

    for seed in range(seeds):
        for method, settings in DEMO_METHODS.items():
            finetune(
                out / "labelled" / f"train-{seed}.csv",
                from_=out / "pretrained",
                out=run_folder(out, method, seed),
                kind="classification",
                text="text",
                label="library",
                valid=out / "labelled" / "validation.csv",
                seed=seed,
                progress=SingleBarProgress(progress, f"fine-tuning, seed {seed}: {method}"),
                **settings,
            )
            _, accuracy = Run.open(run_folder(out, method, seed)).series("validation", "accuracy")
            story.curves.setdefault(method, []).append(accuracy)


class SingleBarProgress(NullProgress):
    """A run's bar under a title of ours, without what it says: there are many runs."""

    def __init__(self, progress: Progress, title: str) -> None:
        self.progress, self.title = progress, title
        self.advance, self.record, self.end = progress.advance, progress.record, progress.end  # type: ignore[method-assign]

    def begin(self, title: str, total: int, done: int = 0, unit: str = "steps") -> None:
        self.progress.begin(self.title if unit == "steps" else f"{self.title}, {title}", total, done, unit)


def evaluate_methods(out: Path, seeds: int, story: DemoResults) -> None:
    """The test rows are read here, after all training, and nowhere else."""
    from gpt1.inference.evaluate import evaluate
    from gpt1.tables.table import read_table

    table = read_table(out / "labelled" / "test.csv")
    labels = Counter(row["library"] for row in table.rows)
    story.accuracy[MAJORITY] = [max(labels.values()) / len(table)] * seeds
    story.accuracy[TF_IDF] = [tfidf_accuracy(out, seed) for seed in range(seeds)]
    for method in DEMO_METHODS:
        scores = [evaluate(run_folder(out, method, seed), table)["metrics"] for seed in range(seeds)]
        story.accuracy[method] = [score["accuracy"] for score in scores]


def tfidf_accuracy(out: Path, seed: int) -> float:
    """Test accuracy of a linear model on weighted word counts; like ours, it is chosen on the validation rows."""
    from gpt1.tables.table import read_table
    from gpt1.tasks.examples import read_examples, target_from_examples
    from gpt1.tasks.kinds import KINDS, Example
    from gpt1.tasks.tfidf import Features, build_problem

    kind = KINDS["classification"]

    def split(name: str) -> list[Example]:
        table = read_table(out / "labelled" / f"{name}.csv")
        return read_examples(table.rows, kind, {"text": "text", "label": "library"}, table.locate_row)

    training, validation = split(f"train-{seed}"), split("validation")
    target = target_from_examples(kind, False, training, str, f"train-{seed}.csv")
    problem = build_problem(target, training)
    fitted = [
        problem.fit(Features(kind, {"ngram_range": (1, n)}), training, c=c) for n in (1, 2) for c in (1.0, 10.0, 100.0)
    ]
    best = max(fitted, key=lambda one: one.scores(target, validation)["accuracy"])
    return float(best.scores(target, split("test"))["accuracy"])


def sample_model(out: Path, story: DemoResults) -> None:
    """The next token's probabilities, and a text that goes on."""
    from gpt1.inference.predictor import load

    model = load(out / "pretrained")
    story.next_tokens = model.next_tokens(PROMPTS[0], 8)
    text = model.generate(PROMPTS[1], max_tokens=60, temperature=0.7, seed=0)
    story.written = text.split("\n")[0]


# --- what came out ---------------------------------------------------------------------------------------------------


def print_results(out: Path, story: DemoResults) -> None:
    """The results on standard output, curves.svg and report.html."""
    from gpt1.console import Console
    from gpt1.demo.page import write_page

    results = Console()
    seeds = len(story.accuracy[ALL])
    results.print_table(
        [
            f"accuracy on {story.labelled['test']} test rows",
            "median",
            f"[min – max] of {formatting.count_noun(seeds, 'seed')}",
        ],
        accuracy_rows(story),
    )
    results.show_text(pretraining_verdict(story) + "\n")
    results.print_result("accuracy on the validation rows, epoch by epoch (median of the seeds)")
    for method, runs in story.curves.items():
        middle = [median(epoch) for epoch in zip(*runs, strict=True)]
        results.print_result(
            f"  {method:27}{sparkline(middle)}  {format_percent(middle[0])} → {format_percent(max(middle))}"
        )
    results.show_text(f"\nwhat comes after “{PROMPTS[0]}”")
    results.print_probabilities(story.next_tokens)
    results.show_text(f"\nthe model writes: {story.written}\n")
    page = write_page(out, story)
    parts = ", ".join(f"{part} {formatting.format_duration(seconds)}" for part, seconds in story.seconds.items())
    results.print_result(f"{formatting.format_duration(sum(story.seconds.values()))} minutes in all: {parts}")
    results.show_text(f"{page}   all of this with its curves; each run below {out} has a page of its own\n")
    results.print_result("the same with your own files:")
    for command, explanation in follow_up_commands(out):
        results.print_result(f"  {command:54}  {explanation}".rstrip())


# --- files -----------------------------------------------------------------------------------------------------------


def run_folder(out: Path, method: str, seed: int) -> Path:
    slug = {SCRATCH: "scratch", HEAD: "head", ALL: "all"}[method]
    return out / "finetuned" / f"{slug}-{seed}"


def document_bytes(document: docstrings.DocstringDocument) -> int:
    return sum(len(paragraph.encode()) for paragraph in document.paragraphs)


def write_labelled_table(path: Path, rows: Iterable[docstrings.LibraryExample]) -> None:
    from gpt1.tables.table import write_table

    write_table(path, [{"text": row.text, "library": row.library, "from": row.document.name} for row in rows])


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
