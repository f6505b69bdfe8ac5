"""The commands: thin, typed, one function each. A command's code is imported only when it runs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click

from gpt1 import __version__
from gpt1.config import FinetuneConfig, PretrainConfig, base_type, default, descriptions, flag, hints
from gpt1.errors import GPT1Error, Interrupted, UserError

Command = TypeVar("Command", bound=Callable[..., Any])

ORDER = ["demo", "tokenize", "pretrain", "finetune", "evaluate", "predict", "next", "generate", "inspect", "import"]


class Commands(click.Group):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        known = super().list_commands(ctx)
        return [name for name in ORDER if name in known] + [name for name in known if name not in ORDER]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gpt1")
def gpt1() -> None:
    """GPT-1: pre-train a Transformer on your texts, fine-tune it on your labels.

    \b
    gpt1 demo                                              the whole story in five minutes
    gpt1 tokenize books/ --out corpus                      text → tokens
    gpt1 pretrain corpus --out runs/books                  stage 1
    gpt1 finetune reviews.csv --from runs/books --out runs/reviews \\
        --kind classification --text text --label label    stage 2
    gpt1 predict runs/reviews new.csv --out predictions.csv
    """


def settings(config_class: type[Any], *hidden: str) -> Callable[[Command], Command]:
    """Every field of a config as a flag, with its type, default and reason."""

    def add(command: Command) -> Command:
        for field in reversed(dataclasses.fields(config_class)):
            if field.name in hidden:
                continue
            base, _ = base_type(hints(config_class)[field.name])
            text = f"{descriptions(config_class)[field.name]}  [default: {default(config_class, field.name)}]"
            if base is bool:
                option = click.option(f"{flag(field.name)}/--no-{flag(field.name)[2:]}", default=None, help=text)
            elif get_origin(base) is Literal:
                choice = click.Choice([str(c) for c in get_args(base)])
                option = click.option(flag(field.name), type=choice, default=None, help=text)
            else:
                metavar = {int: "N", float: "X"}.get(base, "TEXT")
                option = click.option(flag(field.name), metavar=metavar, default=None, help=text)
            command = option(command)
        return command

    return add


def console() -> Any:
    from gpt1.console import Console

    return Console()


def next_steps(*commands: str) -> None:
    """What to run next, on standard error: standard output holds results only."""
    for command in commands:
        click.echo(f"next: {command}", err=True)


@gpt1.command()
@click.option("--out", type=Path, default=Path("runs/demo"), show_default=True, help="Where its runs are kept.")
@click.option("--seeds", default=3, show_default=True, help="Seeds of each comparison.")
def demo(out: Path, seeds: int) -> None:
    """The whole story on this machine, offline, in five minutes.

    Gathers the English prose of the installed Python, trains a vocabulary and a small GPT on it, fine-tunes it on a few
    hundred labelled rows (pre-trained against from scratch, all weights against the head only) and shows what came out.
    """
    from gpt1.demo import run

    run(out, seeds=seeds, progress=console())


@gpt1.command()
@click.argument("corpora", nargs=-1, required=True, metavar="CORPUS...")
@click.option("--out", required=True, type=Path, help="Folder for the corpus; it must not hold anything yet.")
@click.option("--tokenizer", metavar="DIR", help="Folder with a tokenizer; a run or model folder serves.")
@click.option("--vocab-size", type=click.IntRange(min=1), help="Train a tokenizer of N tokens.  [default: 8000]")
@click.option(
    "--pipeline",
    type=click.Choice(["auto", "original", "lossless"]),
    default="auto",
    show_default=True,
    help="How a new tokenizer reads: like the paper's (English), losing nothing (any language), or by a look.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: as many as there are cores]")
def tokenize(corpora: tuple[str, ...], out: Path, tokenizer: str | None, **options: Any) -> None:
    """Text into tokens: a corpus folder for pretrain.

    CORPUS is a file, a folder or a URL with .txt, .md, .jsonl, .csv, .tsv or .parquet (also .gz, .xz, .zst).

    \b
    gpt1 tokenize books/ --out corpus
    gpt1 tokenize a.txt b.jsonl.xz --out corpus --vocab-size 16000
    gpt1 tokenize reviews.jsonl --out corpus2 --tokenizer runs/books
    """
    from gpt1.tokenizing import tokenize as run

    run(corpora, out=out, tokenizer=tokenizer, progress=console(), **options)
    next_steps(f"gpt1 pretrain {out} --out runs/NAME")


@gpt1.command()
@click.argument("corpus", metavar="DIR")
@click.option("--out", required=True, type=Path, help="Run folder to make.")
@click.option("--from", "from_", metavar="RUN", help="Continue from the model of a run or model folder.")
@click.option("--valid", metavar="DIR", help="Corpus for the held-out figures, instead of the tail of this one.")
@click.option("--config", metavar="F.yaml", help="File with settings; flags win over it.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@settings(PretrainConfig)
def pretrain(corpus: str, out: Path, **options: Any) -> None:
    """Stage 1: train a GPT on a corpus folder (maximise L1).

    \b
    gpt1 pretrain corpus --out runs/books
    gpt1 pretrain corpus --out runs/books --model small --epochs 3
    gpt1 pretrain corpus --out runs/books --resume
    gpt1 pretrain corpus --out runs/paper --model gpt1 --recipe paper
    """
    from gpt1.pretraining import pretrain as run

    folder = run(corpus, out=out, progress=console(), **options)
    click.echo(f"{folder / 'report.html'}   curves, settings, samples", err=True)
    next_steps(
        f'gpt1 next {folder} "once upon a"',
        f"gpt1 finetune TABLE --from {folder} --out runs/NAME --kind classification --text COLUMN --label COLUMN",
    )


COLUMNS = {
    "text": "Column with the text (classification, regression).",
    "premise": "Column with the premise (entailment).",
    "hypothesis": "Column with the hypothesis (entailment).",
    "text_a": "Column with one text (similarity).",
    "text_b": "Column with the other text (similarity).",
    "context": "Column with the document (choice).",
    "question": "Column with the question (choice; may be left out).",
    "choices": "Columns with the answers, C1,C2,…, or the one that holds lists of them (choice).",
    "label": "Column with the label.",
}


def columns(command: Command) -> Command:
    for role, text in reversed(COLUMNS.items()):
        command = click.option(flag(role), metavar="COLUMN", help=text)(command)
    return command


@gpt1.command()
@click.argument("train_on", metavar="TRAIN")
@click.option("--from", "from_", required=True, metavar="RUN", help="Run or model folder of the pre-trained model.")
@click.option("--out", required=True, type=Path, help="Run folder to make.")
@click.option("--kind", metavar="KIND", help="classification, regression, entailment, similarity or choice.")
@columns
@click.option("--score", is_flag=True, help="Similarity as a number instead of two classes.")
@click.option("--valid", metavar="F", help="Table to choose the best epoch by, instead of a share of TRAIN.")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--config", metavar="F.yaml", help="File with settings; flags win over it.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@settings(FinetuneConfig)
def finetune(train_on: str, out: Path, **options: Any) -> None:
    """Stage 2: train a new layer, and by default all the rest, on labelled rows (L3 = L2 + λ·L1).

    TRAIN is a table (.csv, .tsv, .jsonl, .parquet, also compressed) or the name of a known data set.

    \b
    gpt1 finetune reviews.csv --kind classification --text text --label label \\
        --from runs/books --out runs/reviews
    gpt1 finetune rte --data-dir glue/ --from runs/books --out runs/rte
    gpt1 finetune pairs.tsv --kind similarity --text-a a --text-b b --label score --score \\
        --from runs/books --out runs/pairs
    gpt1 finetune quiz.jsonl --kind choice --context passage --question question \\
        --choices answers --label right --from runs/books --out runs/quiz
    """
    from gpt1.finetuning import finetune as run

    folder = run(train_on, out=out, progress=console(), **options)
    click.echo(f"{folder / 'report.html'}   curves, table of results, the worst mistakes", err=True)
    next_steps(f"gpt1 predict {folder} new.csv --out predictions.csv")


@gpt1.command()
@click.argument("run", metavar="RUN")
@click.argument("test", metavar="TEST")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def evaluate(run: str, test: str, data_dir: str | None, as_json: bool) -> None:
    """Score a fine-tuned model on labelled rows.

    \b
    gpt1 evaluate runs/reviews test.csv
    gpt1 evaluate runs/rte rte --json
    """
    from gpt1.evaluation import evaluate as score

    result = score(run, test, data_dir=data_dir, progress=console())
    if as_json:
        click.echo(json.dumps(result))
        return
    from gpt1.console import results_table

    results_table(result)


@gpt1.command()
@click.argument("run", metavar="RUN")
@click.argument("rows", metavar="INPUT")
@click.option("--out", metavar="F", help="File to write; its ending is the format. Without it: standard output.")
def predict(run: str, rows: str, out: str | None) -> None:
    """Add predictions and probabilities to every row of a table.

    \b
    gpt1 predict runs/reviews new.csv --out predictions.csv
    gpt1 predict runs/reviews new.jsonl > predictions.jsonl
    """
    from gpt1.data.tables import read_table, write_table
    from gpt1.inference import load_task

    model = load_task(run)
    table = read_table(rows)
    added = model.predict_table(table)
    write_table(out, [{**row, **new} for row, new in zip(table.rows, added, strict=True)], like=rows)
    if out:
        click.echo(f"{out}: {len(added):,} rows with predictions", err=True)


@gpt1.command()
@click.argument("run", metavar="RUN")
@click.argument("text")
@click.option("--top", default=10, show_default=True, type=click.IntRange(min=1), help="How many tokens to show.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output.")
def next(run: str, text: str, top: int, as_json: bool) -> None:
    """The probabilities of the next token.

    \b
    gpt1 next runs/books "it was a dark and stormy"
    """
    from gpt1.inference import load

    found = load(run).next_ids(text, top)
    if as_json:
        click.echo(json.dumps([{"token": t, "id": i, "probability": p} for t, i, p in found], ensure_ascii=False))
        return
    from gpt1.console import bars

    bars([(token, probability) for token, _, probability in found])


@gpt1.command()
@click.argument("run", metavar="RUN")
@click.argument("text")
@click.option("--max-tokens", default=100, show_default=True, type=click.IntRange(min=0), help="Tokens to write.")
@click.option("--temperature", default=0.8, show_default=True, type=click.FloatRange(min=0), help="0: the likeliest.")
@click.option("--top-k", default=0, show_default=True, type=click.IntRange(min=0), help="Draw among the K likeliest.")
@click.option("--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1, min_open=True), help="… share P.")
@click.option("--seed", type=int, help="The same seed writes the same.")
def generate(run: str, text: str, **options: Any) -> None:
    """Continue a text.

    \b
    gpt1 generate runs/books "the captain said" --temperature 0.7 --seed 1
    """
    from gpt1.inference import load

    click.echo(load(run).generate(text, **options))


@gpt1.command()
@click.argument("what", metavar="PATH|NAME")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--from", "from_", metavar="RUN", help="Count unknown and cut tokens as this model would see them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def inspect(what: str, data_dir: str | None, from_: str | None, as_json: bool) -> None:
    """What a table, a known data set, a corpus, a run or a model is, and what is odd about it.

    \b
    gpt1 inspect reviews.csv
    gpt1 inspect reviews.csv --from runs/books
    gpt1 inspect rte
    gpt1 inspect corpus
    """
    from gpt1.inspection import inspect as look
    from gpt1.inspection import show

    found = look(what, data_dir=data_dir, from_=from_)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, default=str))
    else:
        show(found)


@gpt1.command("import")
@click.argument("source", type=click.Choice(["huggingface", "openai"]))
@click.argument("folder", metavar="SRC")
@click.option("--out", required=True, type=Path, help="Model folder to make.")
def import_(source: str, folder: str, out: Path) -> None:
    """Bring a GPT-1 of another home: Hugging Face's openai-gpt, or OpenAI's params_*.npy.

    \b
    gpt1 import huggingface openai-gpt/ --out models/gpt1
    gpt1 import openai finetune-transformer-lm/model --out models/gpt1
    """
    from gpt1.exchange import import_model

    import_model(folder, out, console())
    next_steps(f'gpt1 next {out} "once upon a"', f"gpt1 finetune TABLE --from {out} --out runs/NAME …")


def main(arguments: list[str] | None = None) -> None:
    """Run a command; errors that a user can mend are one message and an exit code, never a traceback."""
    try:
        gpt1.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "gpt1"
        stop(UserError(error.format_message(), f"See: {where} --help"))
    except GPT1Error as error:
        stop(error)
    except (KeyboardInterrupt, click.Abort):
        stop(Interrupted("stopped.", ""))
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(0)
    except PermissionError as error:
        stop(UserError(f"{error.filename}: permission denied.", "Choose a place that you may read and write."))
    except OSError as error:
        stop(GPT1Error(f"{error.filename or 'the system'}: {error.strerror or error}.", "Mend that and run it again."))
    except MemoryError:
        stop(GPT1Error("out of memory.", "Close other programs, or take a smaller model or --micro-batch."))


def stop(error: GPT1Error) -> None:
    lines = [f"gpt1: {error.problem}", *(f"      {line}" for line in error.fix.splitlines())]
    click.echo("\n".join(lines), err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
