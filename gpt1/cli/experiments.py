"""Commands that run experiments: curve, zeroshot, reproduce. A command's code is imported only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gpt1.cli.options import RangedNumber, as_json, column_options, data_dir, kind, score, setting_options
from gpt1.cli.output import echo, echo_json, make_console
from gpt1.config import FinetuneConfig, flag_name
from gpt1.errors import UserError
from gpt1.experiments.reserved import RESERVED
from gpt1.formatting import three_decimals


def parse_sizes(text: str | None) -> list[int] | None:
    """`8,64,all` → [8, 64, 0]."""
    if text is None:
        return None
    try:
        return [0 if part.strip() == "all" else int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--sizes {text} is not a list of numbers.", "Use the form --sizes 8,64,512,all") from None


def parse_names(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip().lower() for part in text.split(",") if part.strip()]


@click.command(short_help="Measure the score against the number of labels.")
@click.argument("train_on", metavar="TRAIN")
@click.option("--from", "from_", required=True, metavar="RUN", help="Run or model folder to start from, or starter.")
@click.option("--out", required=True, type=Path, help="Folder for the results; the same command resumes in it.")
@kind
@column_options()
@score
@click.option("--test", metavar="F", help="Test table.  [default: the data set's test split, or a fifth of TRAIN]")
@data_dir
@click.option("--sizes", metavar="N,N,…", help="Numbers of labels; `all` is every row.  [default: 8,16,32,…,all]")
@click.option(
    "--seeds", default=5, show_default=True, type=RangedNumber(int, 1), help="Random seeds of the labels and weights."
)
@click.option("--methods", metavar="M,M,…", help="Some of all, head, scratch, tfidf.  [default: these four]")
@click.option("--test-rows", default=2000, show_default=True, type=RangedNumber(int, 0), help="Maximum; 0: all rows.")
@click.option(
    "--min-steps",
    default=100,
    show_default=True,
    type=RangedNumber(int, 1),
    help="Minimum number of training steps (matters with few labels).",
)
@click.option("--min-updates", type=RangedNumber(int, 1), hidden=True, help="Now --min-steps.")
@click.option("--config", metavar="F.yaml", help="File with settings of finetune; flags override it.")
@setting_options(FinetuneConfig, *RESERVED["curve"])
def curve(train_on: str, out: Path, sizes: str | None, methods: str | None, **options: Any) -> None:
    """Measure label efficiency: the score against the number of labels, with and without pre-training.

    Methods: pre-trained (all weights, only the head), from scratch, and TF-IDF with a linear model, each with several
    seeds. The same command resumes after a stop; more seeds or sizes extend the results.

    \b
    gpt1 curve reviews.csv --label label --from runs/books --out runs/reviews-curve
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
    echo(f"{folder / 'report.html'}   curves with their spread; also results.md and results.json")


@click.command(short_help="Evaluate a pre-trained model on a task without training.")
@click.argument("what", metavar="NAME|TABLE")
@click.option("--run", required=True, metavar="RUN", help="Pre-trained model: run or model folder, or starter.")
@data_dir
@click.option("--kind", metavar="KIND", help="For a table: choice, or classification with --words.")
@column_options()
@click.option("--words", metavar="L=W,L=W", help="One word for each label of a table.")
@click.option("--append", default="very", show_default=True, help="Text between a row and the word.")
@click.option("--rows", default=0, show_default=True, type=RangedNumber(int, 0), help="Maximum; 0: all rows.")
@as_json
def zeroshot(what: str, words: str | None, as_json: bool, **options: Any) -> None:
    """Evaluate a pre-trained model on a task without training, with the paper's heuristics (figure 2, right).

    cola: mean log-probability of the tokens against a threshold. sst2: "positive" or "negative" after "very". race,
    storycloze and tables of kind choice: the answer with the highest mean log-probability of its tokens. winograd (or a
    .txt file in the format of DPRD): the referent that makes the rest most likely. blimp (not in the paper): the
    sentence of each minimal pair with the higher log-probability, by phenomenon.

    \b
    gpt1 zeroshot race:test-middle --run runs/books --data-dir data/
    gpt1 zeroshot blimp --run runs/books --data-dir data/ --rows 6700
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
    if "phenomena" in result:
        print_minimal_pairs(result)
        return
    print_metrics(result)
    echo(f"random guessing: {result['metric']} {result['guess']:.3g}")


def print_minimal_pairs(result: dict[str, Any]) -> None:
    """Print the accuracy of each phenomenon and of all pairs, next to the baselines; published scores below."""
    baselines = list(result["baselines"])
    groups = {**result["phenomena"], "mean of the paradigms": {**result["metrics"], **result["baselines"]}}
    groups["mean of the paradigms"] |= {"interval": result["interval"]["accuracy"], "rows": result["rows"]}
    rows = [
        [name, group["rows"], group["accuracy"], three_decimals(group["interval"])]
        + [group[baseline] for baseline in baselines]
        for name, group in groups.items()
    ]
    titles = {"shorter": "shorter sentence", "unigram": "unigram model"}
    columns = ["", "pairs", "accuracy", "95% confidence interval", *(titles[name] for name in baselines)]
    make_console().print_table(columns, rows)
    published = ", ".join(f"{name} {score:.3f}" for name, score in result["published"].items())
    echo(f"random guessing: {result['guess']:.3g}; published, all pairs (Warstadt et al. 2020): {published}")


def parse_label_words(text: str | None) -> dict[str, str] | None:
    """`pos=good,neg=bad` → {"pos": "good", "neg": "bad"}."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if len(pairs) < 2 or not all(label.strip() and word.strip() for label, _, word in pairs):
        raise UserError(f"--words {text} is not a list of labels with words.", "Use the form --words pos=good,neg=bad")
    return {label.strip(): word.strip() for label, _, word in pairs}


@click.command(short_help="Reproduce the paper's tables and figure 2.")
@click.argument("what", metavar="table2|table3|table4|table5|figure2")
@click.option("--from", "from_", required=True, metavar="RUN", help="Run or model folder to start from, or starter.")
@click.option("--out", required=True, type=Path, help="Folder for the results; the same command resumes in it.")
@click.option("--data-dir", metavar="DIR", help="Folder with the official files of the data sets.")
@click.option("--seeds", default=3, show_default=True, type=RangedNumber(int, 1), help="Random seeds per result.")
@click.option("--tasks", metavar="T,T,…", help="Data sets; `snli:dev>test` trains on dev.  [default: the paper's]")
@click.option(
    "--methods",
    metavar="M,M,…",
    help="Some of full, scratch, scratch-no-aux, no-aux, lstm, head, tfidf, overlap.  "
    "[default: full, tfidf, overlap; table5: all]",
)
@click.option(
    "--rows", metavar="N|T=N,…", help="Maximum number of training rows, for all tasks or by task.  [default: all]"
)
@click.option("--test-rows", metavar="N|T=N,…", help="Maximum number of test rows.  [default: all]")
@click.option(
    "--lstm", metavar="RUN", help="Pre-trained LSTM, for the fourth row of table 5 and the LSTM line of figure 2."
)
@click.option("--left", is_flag=True, help="figure2: only the left half (transferred layers).")
@click.option("--right", is_flag=True, help="figure2: only the right half (zero-shot over pre-training).")
@click.option("--config", metavar="F.yaml", help="File with settings of finetune; flags override it.")
@setting_options(FinetuneConfig, *RESERVED["reproduce"])
def reproduce(what: str, out: Path, **options: Any) -> None:
    """Reproduce the paper's tables and figure 2 with your pre-trained model, next to the published numbers.

    Fine-tunes with several seeds and writes a report. The same command resumes after a stop; more seeds or tasks extend
    the results. Tasks whose files are not in --data-dir are skipped and listed.

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
        options[name] = parse_row_limits(options[name], flag_name(name))
    folder = run(what, out=out, progress=make_console(), **options)
    echo(f"{folder / 'report.html'}   results next to the paper's; also results.md and results.json")


def parse_row_limits(text: str | None, flag: str) -> dict[str, int]:
    """`10000` → {"": 10000}; `race=1000,sst2=10000` → by task."""
    limits: dict[str, int] = {}
    for part in (text or "").split(","):
        name, _, number = part.rpartition("=")
        if part.strip():
            if not number.strip().isdecimal() or int(number) < 1:
                raise UserError(
                    f"{flag} {text}: '{part}' is not a number of rows.", f"Use {flag} 10000 or {flag} race=1000,…"
                )
            limits[name.strip().lower()] = int(number)
    return limits
