"""Commands that read texts with a model: score, features. A command's code is imported only when it runs."""

from __future__ import annotations

from typing import Any

import click

from gpt1.cli.options import RangedNumber, overwrite, verify
from gpt1.cli.output import echo, echo_json, make_console


@click.command(short_help="Score texts: perplexity and bits per byte.")
@click.argument("run", metavar="RUN")
@click.argument("text", metavar="FILE|TEXT")
@click.option(
    "--text", "column", default="text", show_default=True, metavar="COLUMN", help="Field or column with the texts."
)
@click.option(
    "--stride",
    type=RangedNumber(int, 1),
    help="Stride of the windows that read texts longer than the context, in tokens.  [default: half of the context]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, with the log-probability of each token.")
@verify
def score(run: str, text: str, column: str, stride: int | None, as_json: bool, verify: bool) -> None:
    """Score texts: log-probability, perplexity and bits per byte of each text.

    FILE has one of the formats of a corpus. A .txt or .md file is one text; in .jsonl, .csv, .tsv and .parquet each
    row is one text (in the field or column `text`, or --text). A terminal shows the most surprising words in color.

    \b
    gpt1 score runs/books "it was a dark and stormy night"
    gpt1 score runs/books letters.jsonl --json
    gpt1 score runs/books reviews.csv --text review
    """
    from gpt1.inference.predictor import load
    from gpt1.inference.scoring import surprising_words
    from gpt1.inference.texts import read_texts_or_text, score_with_progress

    texts = read_texts_or_text(text, column)
    model, console = load(run, verify=verify), make_console()
    scores = score_with_progress(model, texts, stride, console)
    if as_json:
        echo_json([{"text": own, **found} for own, found in zip(texts, scores, strict=True)])
        return
    words = [surprising_words(found, model.tokenizer) for found in scores]
    if len(texts) <= MAX_SHOWN_TEXTS:
        for own in words:
            console.show_surprise(own[:MAX_SHOWN_WORDS])
    rows = [[first_words(own), *score_columns(found)] for own, found in zip(texts, scores, strict=True)]
    console.print_table(["text", "tokens", "log-probability", "perplexity", "bits per byte"], rows)
    most = sorted((pair for own in words for pair in own), key=lambda pair: -pair[1])[:MOST_SURPRISING]
    echo("most surprising: " + ", ".join(f"{word.strip() or repr(word)} ({bits:.1f} bits)" for word, bits in most))


MAX_SHOWN_TEXTS, MAX_SHOWN_WORDS, MOST_SURPRISING = 10, 500, 5


def first_words(text: str) -> str:
    line = " ".join(text[:200].split())
    return line if len(line) <= 40 else line[:39] + "…"


def score_columns(found: dict[str, Any]) -> list[Any]:
    names = ("log_probability", "perplexity", "bits_per_byte")
    return [len(found["tokens"]), *(found[name] for name in names)]


@click.command(short_help="Write a vector for each text of a table.")
@click.argument("run", metavar="RUN")
@click.argument("table", metavar="TABLE")
@click.option("--text", "column", metavar="COLUMN", help="Column with the text.  [fine-tuned: as in training]")
@click.option("--out", required=True, metavar="F", help="Output table; its extension is the format.")
@overwrite
@verify
def features(run: str, table: str, column: str | None, out: str, overwrite: bool, verify: bool) -> None:
    """Write a vector for each text of a table, for other programs to classify, search or cluster.

    The vector is the input of the output layer of a fine-tuned model, or the mean hidden state over the tokens of a
    pre-trained model. The output has the columns of the table and `features`, a list of numbers.

    \b
    gpt1 features runs/books reviews.csv --text text --out features.parquet
    gpt1 features runs/reviews new.csv --out features.parquet
    """
    from gpt1.inference.texts import write_features

    echo(write_features(run, table, out, column=column, overwrite=overwrite, progress=make_console(), verify=verify))
