"""The commands of the analyses: thin, as in cli.py. What a command does is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpt1.cli.options import RangedNumber, column_options, setting_options
from gpt1.cli.output import echo, echo_json
from gpt1.config import FinetuneConfig
from gpt1.errors import UserError
from gpt1.experiments.reserved import RESERVED


def make_console() -> Any:
    from gpt1.console import Console

    return Console()


def parse_sizes(text: str | None) -> list[int] | None:
    """`8,64,all` → [8, 64, 0]."""
    if text is None:
        return None
    try:
        return [0 if part.strip() == "all" else int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--sizes {text}: these are no numbers.", "Write them like --sizes 8,64,512,all") from None


def parse_names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip().lower() for part in text.split(",") if part.strip()]


@click.command()
@click.argument("train_on", metavar="TRAIN")
@click.option("--from", "from_", required=True, metavar="RUN", help="Run or model folder of the pre-trained model.")
@click.option("--out", required=True, type=Path, help="Folder for the curve; the same command goes on in it.")
@click.option("--kind", metavar="KIND", help="classification, regression, entailment, similarity or choice.")
@column_options
@click.option("--score", is_flag=True, help="Similarity as a number instead of two classes.")
@click.option("--test", metavar="F", help="Test table.  [default: a data set's own, else a fifth of TRAIN]")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--sizes", metavar="N,N,…", help="Numbers of labels; `all` is every row.  [default: 8,16,32,…,all]")
@click.option("--seeds", default=5, show_default=True, type=RangedNumber(int, 1), help="Draws of labels and weights.")
@click.option("--methods", metavar="M,M,…", help="Of all, head, scratch, tfidf.  [default: these four]")
@click.option("--test-rows", default=2000, show_default=True, type=RangedNumber(int, 0), help="At most; 0: every row.")
@click.option(
    "--min-updates",
    default=100,
    show_default=True,
    type=RangedNumber(int, 1),
    help="With few labels, updates at least.",
)
@click.option("--config", metavar="F.yaml", help="File with settings of finetune; flags win over it.")
@setting_options(FinetuneConfig, *RESERVED["curve"])
def curve(train_on: str, out: Path, sizes: str | None, methods: str | None, **options: Any) -> None:
    """How many labels do I need, and what is pre-training worth: score against number of labels.

    Pre-trained (all weights, head only), from scratch, and TF-IDF with a linear model, over several seeds. Stopped, the
    same command goes on; more seeds or sizes add to what is there.

    \b
    gpt1 curve reviews.csv --kind classification --text text --label label \\
        --from runs/books --out runs/reviews-curve
    gpt1 curve imdb --data-dir data/ --from runs/books --out runs/imdb-curve --sizes 8,64,512,4096
    """
    from gpt1.experiments.label_efficiency import curve as measure
    from gpt1.experiments.methods import CURVE_METHODS

    folder = measure(
        train_on,
        out=out,
        sizes=parse_sizes(sizes),
        methods=parse_names(methods) or list(CURVE_METHODS),
        progress=make_console(),
        **options,
    )
    echo(f"{folder / 'report.html'}   the curve with its spread; results.md and results.json beside it")


@click.command()
@click.argument("what", metavar="NAME|TABLE")
@click.option("--run", required=True, metavar="RUN", help="Run or model folder of a pre-trained model.")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--kind", metavar="KIND", help="Of a table: choice, or classification with --words.")
@column_options
@click.option("--words", metavar="L=W,L=W", help="For each label of a table the word that stands for it.")
@click.option("--append", default="very", show_default=True, help="What stands between a text and its word.")
@click.option("--rows", default=0, show_default=True, type=RangedNumber(int, 0), help="At most; 0: every row.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def zeroshot(what: str, words: str | None, as_json: bool, **options: Any) -> None:
    """What a pre-trained model knows of a task that it was never trained on, by the paper's heuristics.

    cola: mean log-probability of the tokens against a threshold. sst2: "very", then "positive" or "negative"? race,
    storycloze and tables of kind choice: the answer with the highest mean log-probability of its tokens. winograd (or a
    .txt file in the format of DPRD): the referent that makes the rest likeliest.

    \b
    gpt1 zeroshot race:test-middle --run runs/books --data-dir data/
    gpt1 zeroshot quiz.jsonl --run runs/books --kind choice --context passage --choices answers --label right
    gpt1 zeroshot reviews.csv --run runs/books --kind classification --text text \\
        --words pos=good,neg=bad --append "this was"
    """
    from gpt1.console import print_metrics
    from gpt1.experiments.zeroshot.heuristics import zeroshot as score

    result = score(what, words=parse_label_words(words), progress=make_console(), **options)
    if as_json:
        echo_json(result)
        return
    print_metrics(result)
    echo(f"a random guess has {result['metric']} {result['guess']:.3g}")


def parse_label_words(text: str | None) -> dict[str, str] | None:
    """`pos=good,neg=bad` → {"pos": "good", "neg": "bad"}."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if len(pairs) < 2 or not all(label.strip() and word.strip() for label, _, word in pairs):
        raise UserError(f"--words {text}: these are no labels with words.", "Write them like --words pos=good,neg=bad")
    return {label.strip(): word.strip() for label, _, word in pairs}


@click.command()
@click.argument("what", metavar="table2|table3|table4|table5|figure2")
@click.option("--from", "from_", required=True, metavar="RUN", help="Run or model folder of the pre-trained model.")
@click.option("--out", required=True, type=Path, help="Folder for the results; the same command goes on in it.")
@click.option("--data-dir", metavar="DIR", help="Where the official files of the data sets lie.")
@click.option(
    "--seeds", default=3, show_default=True, type=RangedNumber(int, 1), help="Runs of each cell, seeds in turn."
)
@click.option("--tasks", metavar="T,T,…", help="Data sets; `snli:dev>test` trains on dev.  [default: the paper's]")
@click.option(
    "--methods",
    metavar="M,M,…",
    help="Of full, scratch, no-aux, lstm, head, tfidf.  [default: full; table5: all but tfidf]",
)
@click.option("--rows", metavar="N|T=N,…", help="Training rows at most, of all tasks or by task.  [default: all]")
@click.option("--test-rows", metavar="N|T=N,…", help="Test rows at most.  [default: all]")
@click.option("--lstm", metavar="RUN", help="A pre-trained LSTM: table 5's fourth row, figure 2's other line.")
@click.option("--left", is_flag=True, help="Of figure2 the left half: transferred layers.")
@click.option("--right", is_flag=True, help="Of figure2 the right half: zero-shot over pre-training.")
@click.option("--config", metavar="F.yaml", help="File with settings of finetune; flags win over it.")
@setting_options(FinetuneConfig, *RESERVED["reproduce"])
def reproduce(what: str, out: Path, **options: Any) -> None:
    """The paper's tables and figure 2 from your pre-trained model, beside the published numbers.

    Runs what is missing, over several seeds, and leaves a page. Stopped, the same command goes on; more seeds or tasks
    add to what is there. Tasks whose files are not in --data-dir are left out and named.

    \b
    gpt1 reproduce table4 --from runs/books --data-dir glue/ --out runs/table4
    gpt1 reproduce table5 --from runs/books --lstm runs/lstm --data-dir data/ --out runs/table5 \\
        --tasks cola,sst2,rte --rows sst2=10000
    gpt1 reproduce figure2 --from runs/books --data-dir data/ --out runs/figure2 --tasks rte,"snli:dev>test"
    """
    from gpt1.experiments.reproduce.reproduce import reproduce as run

    for name in ("tasks", "methods"):
        options[name] = parse_names(options[name])
    for name in ("rows", "test_rows"):
        options[name] = parse_row_limits(options[name], "--" + name.replace("_", "-"))
    folder = run(what, out=out, progress=make_console(), **options)
    echo(f"{folder / 'report.html'}   beside the paper; results.md and results.json beside it")


def parse_row_limits(text: str | None, flag: str) -> dict[str, int]:
    """`10000` → {"": 10000}; `race=1000,sst2=10000` → by task."""
    found: dict[str, int] = {}
    for part in (text or "").split(","):
        name, _, number = part.rpartition("=")
        if part.strip():
            if not number.strip().isdigit() or int(number) < 1:
                raise UserError(f"{flag} {text}: '{part}' is no number of rows.", f"Write {flag} 10000, or race=1000,…")
            found[name.strip().lower()] = int(number)
    return found


EXPERIMENT_COMMANDS: list[click.Command] = [curve, zeroshot, reproduce]
