"""Commands that train: demo, tokenize, pretrain, finetune. A command's code is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpt1.cli.options import (
    RangedNumber,
    baselines,
    column_options,
    data_dir,
    kind,
    overwrite,
    score,
    setting_options,
    unlabeled,
)
from gpt1.cli.output import echo, make_console, print_next_steps
from gpt1.config import MAX_VOCABULARY, FinetuneConfig, PretrainConfig
from gpt1.files.names import PREDICTIONS, REPORT_FILE
from gpt1.formatting import shell_join, shell_quote


@click.command(short_help="Run the whole method offline in ten minutes.")
@click.option("--out", type=Path, default=Path("runs/demo"), show_default=True, help="Folder for the runs.")
@click.option("--seeds", default=3, type=RangedNumber(int, 1), show_default=True, help="Random seeds per comparison.")
def demo(out: Path, seeds: int) -> None:
    """Run the whole method on this machine, offline, in about ten minutes on two cores.

    Collects English prose from the docstrings of the installed Python packages, trains a tokenizer and a small GPT on
    it, and fine-tunes the GPT on a few hundred labeled rows: pre-trained and from scratch, all weights and only the
    head. Shows the results next to those of starter, the model that comes with gpt1.

    \b
    gpt1 demo
    gpt1 demo --out runs/demo2 --seeds 5
    """
    from gpt1.demo.run import run_demo

    run_demo(out, seeds=seeds, progress=make_console())


@click.command(short_help="Tokenize texts into a corpus folder for pretrain.")
@click.argument("corpora", nargs=-1, required=True, metavar="CORPUS...")
@click.option("--out", required=True, type=Path, help="Folder for the corpus; must be empty or not exist.")
@click.option("--tokenizer", metavar="DIR", help="Folder with a tokenizer; can be a run, model or corpus folder.")
@click.option(
    "--vocab-size", type=RangedNumber(int, 1, MAX_VOCABULARY), help="Train a tokenizer of N tokens.  [default: 8000]"
)
@click.option(
    "--pipeline",
    metavar="auto|original|lossless",
    default="auto",
    show_default=True,
    help="Pipeline of a new tokenizer: the paper's (English), lossless (any language), or chosen from the texts.",
)
@click.option("--text-field", default="text", show_default=True, metavar="NAME", help="Field or column with the texts.")
@click.option("--workers", type=RangedNumber(int, 1), help="Worker processes.  [default: the CPU cores, at most 8]")
@overwrite
def tokenize(corpora: tuple[str, ...], out: Path, tokenizer: str | None, **options: Any) -> None:
    """Tokenize texts into a corpus folder for pretrain.

    CORPUS is a file, a folder or a URL with .txt, .md, .jsonl, .csv, .tsv or .parquet (also .gz, .xz, .zst).

    \b
    gpt1 tokenize books/ --out corpus
    gpt1 tokenize a.txt b.jsonl.xz --out corpus --vocab-size 16000
    gpt1 tokenize reviews.jsonl --out corpus2 --tokenizer runs/books --text-field review
    """
    from gpt1.corpus.tokenize import tokenize as run
    from gpt1.runs.folder import has_weights

    run(corpora, out=out, tokenizer=tokenizer, progress=make_console(), **options)
    origin = ["--from", tokenizer] if tokenizer and has_weights(tokenizer) else []
    print_next_steps(shell_join(["gpt1", "pretrain", out, *origin, "--out", "runs/NAME"]))


@click.command(short_help="Stage 1: pre-train a GPT on a corpus folder.")
@click.argument("corpus", metavar="DIR", required=False)
@click.option("--out", required=True, type=Path, help="Run folder to create.")
@click.option("--from", "from_", metavar="RUN", help="Continue from a model: run or model folder, or starter.")
@click.option("--valid", metavar="DIR", help="Corpus folder for validation, instead of a part of this one.")
@click.option(
    "--minutes",
    metavar="N",
    type=RangedNumber(float, 0, above=True),
    help="Choose --steps (and --model, unless given) for a run of about N minutes on this machine.",
)
@click.option("--config", metavar="F.yaml", help="File with settings; flags override it.")
@click.option("--resume", is_flag=True, help="Resume the run in --out.")
@overwrite
@setting_options(PretrainConfig)
def pretrain(corpus: str | None, out: Path, **options: Any) -> None:
    """Stage 1: pre-train a GPT on a corpus folder (maximize L1, equation 1).

    \b
    gpt1 pretrain corpus --out runs/books
    gpt1 pretrain corpus --out runs/books --minutes 10
    gpt1 pretrain corpus --out runs/books --model small --epochs 3
    gpt1 pretrain --out runs/books --resume
    gpt1 pretrain corpus --out runs/paper --recipe paper
    torchrun --nproc-per-node 8 -m gpt1 pretrain corpus --out runs/books     # on eight GPUs
    """
    from gpt1.runs.folder import pretrained_commands, read_results
    from gpt1.training.distributed import is_rank0
    from gpt1.training.pretrain import is_below_unigram
    from gpt1.training.pretrain import pretrain as run

    folder = run(corpus, out=out, progress=make_console(), **options)
    if is_rank0():
        show_page(folder, "curves, settings, samples")
        results = read_results(folder)
        if is_below_unigram(results["unigram"], results["validation"]):
            print_next_steps(*pretrained_commands(folder))


@click.command(short_help="Stage 2: fine-tune on labeled rows.")
@click.argument("train_on", metavar="TRAIN", required=False)
@click.option("--from", "from_", metavar="RUN", help="Pre-trained model: run or model folder, or starter (English).")
@click.option("--out", required=True, type=Path, help="Run folder to create.")
@kind
@column_options()
@score
@click.option("--weight", metavar="COLUMN", help="Column with the weight of each row in the task loss.  [default: 1]")
@unlabeled
@click.option(
    "--valid", metavar="F", help="Validation table, which selects the best epoch.  [default: a share of TRAIN]"
)
@data_dir
@click.option("--config", metavar="F.yaml", help="File with settings; flags override it.")
@click.option("--resume", is_flag=True, help="Resume the run in --out.")
@click.option(
    "--time-limit",
    metavar="MINUTES",
    type=RangedNumber(float, 0, above=True),
    help="Train as many epochs as fit into this time; the speed is measured before the run.",
)
@overwrite
@baselines
@setting_options(FinetuneConfig)
def finetune(train_on: str | None, out: Path, data_dir: str | None, **options: Any) -> None:
    """Stage 2: fine-tune on labeled rows (maximize L3 = L2 + λ·L1, equation 5).

    Trains a new output layer and, by default, all pre-trained weights. TRAIN is a table (.csv, .tsv, .jsonl, .parquet,
    .json, .xlsx, also compressed) or the name of a known data set.

    \b
    gpt1 finetune reviews.csv --label label --from starter --out runs/reviews
    gpt1 finetune reviews.csv --kind classification --text text --label label \\
        --from runs/books --out runs/reviews
    gpt1 finetune rte --data-dir glue/ --from runs/books --out runs/rte
    gpt1 finetune pairs.tsv --kind similarity --text-a a --text-b b --label score --score \\
        --from runs/books --out runs/pairs
    gpt1 finetune quiz.jsonl --kind choice --context passage --question question \\
        --choices answers --label right --from runs/books --out runs/quiz
    gpt1 finetune reviews.csv --kind classification --text text --train head \\
        --from runs/books --out runs/head
    gpt1 finetune --out runs/reviews --resume
    """
    from gpt1.training.finetune import finetune as run

    folder = run(train_on, out=out, data_dir=data_dir, progress=make_console(), **options)
    content = "results, the worst mistakes" if (folder / PREDICTIONS).exists() else "settings"
    show_page(folder, f"curves, {content}")
    quoted = shell_quote(folder)
    print_next_steps(
        f"gpt1 predict {quoted} new.csv --out predictions.csv",
        f"gpt1 evaluate {quoted} TEST   (TEST: labeled rows that were not used for training)",
    )


def show_page(run: Path, content: str) -> None:
    """Name the report page of a run, if it could be written."""
    if (run / REPORT_FILE).exists():
        echo(f"{run / 'report.html'}   {content}")
