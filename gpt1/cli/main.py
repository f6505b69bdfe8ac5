"""The commands: thin, typed, one function each. A command's code is imported only when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from gpt1.cli import experiments as analysis
from gpt1.cli.exit import ensure_standard_streams, exit_with, report_and_exit, stopped_by_signals, translate_oserror
from gpt1.cli.options import RangedNumber, column_options, setting_options, verify
from gpt1.cli.output import echo, echo_json
from gpt1.config import FinetuneConfig, PretrainConfig
from gpt1.errors import OUT_OF_MEMORY, GPT1Error, Interrupted, ResourceError, UserError
from gpt1.formatting import shell_quote
from gpt1.version import __version__

COMMAND_ORDER = ["demo", "tokenize", "pretrain", "finetune", "evaluate", "predict", "next", "generate", "inspect"]
COMMAND_ORDER += ["curve", "zeroshot", "reproduce", "import", "export"]
IMPORT_FORMATS, EXPORT_FORMATS = ("huggingface", "openai"), ("huggingface",)


class OrderedGroup(click.Group):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        known = super().list_commands(ctx)
        return [name for name in COMMAND_ORDER if name in known] + [name for name in known if name not in COMMAND_ORDER]


@click.group(cls=OrderedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gpt1")
def cli() -> None:
    """GPT-1: pre-train a Transformer on your texts, fine-tune it on your labels.

    \b
    gpt1 demo                                              the whole story in a few minutes
    gpt1 tokenize books/ --out corpus                      text → tokens
    gpt1 pretrain corpus --out runs/books                  stage 1
    gpt1 finetune reviews.csv --from runs/books --out runs/reviews \\
        --kind classification --text text --label label    stage 2
    gpt1 predict runs/reviews new.csv --out predictions.csv
    """


def make_console() -> Any:
    from gpt1.console import Console

    return Console()


def print_next_steps(*commands: str) -> None:
    """What to run next, on standard error: standard output holds results only."""
    for command in commands:
        echo(f"next: {command}")


def pretrained_next_steps(folder: Path) -> tuple[str, str]:
    run = shell_quote(folder)
    return (
        f'gpt1 next {run} "once upon a"',
        f"gpt1 finetune TABLE --from {run} --out runs/NAME --kind classification --text COLUMN --label COLUMN",
    )


@cli.command()
@click.option("--out", type=Path, default=Path("runs/demo"), show_default=True, help="Where its runs are kept.")
@click.option("--seeds", default=3, type=RangedNumber(int, 1), show_default=True, help="Seeds of each comparison.")
def demo(out: Path, seeds: int) -> None:
    """The whole story on this machine, offline, in a few minutes.

    Gathers the English prose of the installed Python, trains a vocabulary and a small GPT on it, fine-tunes it on a few
    hundred labelled rows (pre-trained against from scratch, all weights against the head only) and shows what came out.

    \b
    gpt1 demo
    gpt1 demo --out runs/demo2 --seeds 5
    """
    from gpt1.demo.run import run_demo

    run_demo(out, seeds=seeds, progress=make_console())


@cli.command()
@click.argument("corpora", nargs=-1, required=True, metavar="CORPUS...")
@click.option("--out", required=True, type=Path, help="Folder for the corpus; it must not hold anything yet.")
@click.option("--tokenizer", metavar="DIR", help="Folder with a tokenizer; a run or model folder serves.")
@click.option("--vocab-size", type=RangedNumber(int, 1), help="Train a tokenizer of N tokens.  [default: 8000]")
@click.option(
    "--pipeline",
    metavar="auto|original|lossless",
    default="auto",
    show_default=True,
    help="How a new tokenizer reads: like the paper's (English), losing nothing (any language), or by a look.",
)
@click.option(
    "--workers", type=RangedNumber(int, 1), help="Processes.  [default: as many as there are cores, at most 8]"
)
def tokenize(corpora: tuple[str, ...], out: Path, tokenizer: str | None, **options: Any) -> None:
    """Text into tokens: a corpus folder for pretrain.

    CORPUS is a file, a folder or a URL with .txt, .md, .jsonl, .csv, .tsv or .parquet (also .gz, .xz, .zst).

    \b
    gpt1 tokenize books/ --out corpus
    gpt1 tokenize a.txt b.jsonl.xz --out corpus --vocab-size 16000
    gpt1 tokenize reviews.jsonl --out corpus2 --tokenizer runs/books
    """
    from gpt1.corpus.tokenize import tokenize as run

    run(corpora, out=out, tokenizer=tokenizer, progress=make_console(), **options)
    print_next_steps(f"gpt1 pretrain {shell_quote(out)} --out runs/NAME")


@cli.command()
@click.argument("corpus", metavar="DIR")
@click.option("--out", required=True, type=Path, help="Run folder to make.")
@click.option("--from", "from_", metavar="RUN", help="Continue from the model of a run or model folder.")
@click.option("--valid", metavar="DIR", help="Corpus for the held-out figures, instead of the tail of this one.")
@click.option("--config", metavar="F.yaml", help="File with settings; flags win over it.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@setting_options(PretrainConfig)
def pretrain(corpus: str, out: Path, **options: Any) -> None:
    """Stage 1: train a GPT on a corpus folder (maximise L1).

    \b
    gpt1 pretrain corpus --out runs/books
    gpt1 pretrain corpus --out runs/books --model small --epochs 3
    gpt1 pretrain corpus --out runs/books --resume
    gpt1 pretrain corpus --out runs/paper --recipe paper
    torchrun --nproc-per-node 8 -m gpt1 pretrain corpus --out runs/books     # on eight GPUs
    """
    from gpt1.training.distributed import is_rank0
    from gpt1.training.pretrain import pretrain as run

    folder = run(corpus, out=out, progress=make_console(), **options)
    if is_rank0():
        echo(f"{folder / 'report.html'}   curves, settings, samples")
        print_next_steps(*pretrained_next_steps(folder))


@cli.command()
@click.argument("train_on", metavar="TRAIN")
@click.option("--from", "from_", required=True, metavar="RUN", help="Run or model folder of the pre-trained model.")
@click.option("--out", required=True, type=Path, help="Run folder to make.")
@click.option("--kind", metavar="KIND", help="classification, regression, entailment, similarity or choice.")
@column_options
@click.option("--score", is_flag=True, help="Similarity as a number instead of two classes.")
@click.option("--valid", metavar="F", help="Table to choose the best epoch by, instead of a share of TRAIN.")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--config", metavar="F.yaml", help="File with settings; flags win over it.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@setting_options(FinetuneConfig)
def finetune(train_on: str, out: Path, data_dir: str | None, **options: Any) -> None:
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
    gpt1 finetune reviews.csv --kind classification --text text --train head \\
        --from runs/books --out runs/head
    """
    from gpt1.training.finetune import finetune as run

    folder = run(train_on, out=out, data_dir=data_dir, progress=make_console(), **options)
    shown = "table of results, the worst mistakes" if (folder / "predictions.jsonl").exists() else "settings"
    echo(f"{folder / 'report.html'}   curves, {shown}")
    here = shell_quote(folder)
    print_next_steps(
        f"gpt1 predict {here} new.csv --out predictions.csv",
        f"gpt1 evaluate {here} TEST   (rows that were not in {train_on})",
    )


@cli.command()
@click.argument("run", metavar="RUN")
@click.argument("test", metavar="TEST")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@verify
def evaluate(run: str, test: str, data_dir: str | None, as_json: bool, verify: bool) -> None:
    """Score a fine-tuned model on labelled rows, or any model on a corpus (perplexity).

    TEST is a table, the name of a known data set (its labelled evaluation split; NAME:SPLIT for another), or a corpus
    folder.

    \b
    gpt1 evaluate runs/reviews test.csv
    gpt1 evaluate runs/rte rte --data-dir glue/ --json
    gpt1 evaluate runs/books corpus-of-other-books
    """
    from gpt1.inference.evaluate import evaluate as score

    result = score(run, test, data_dir=data_dir, progress=make_console(), verify=verify)
    if as_json:
        echo_json(result)
        return
    from gpt1.console import print_metrics

    print_metrics(result)
    if "perplexity" not in result["metrics"]:
        rows = shell_quote(test) + (f" --data-dir {shell_quote(data_dir)}" if data_dir else "")
        print_next_steps(
            f"gpt1 predict {shell_quote(run)} {rows} --out predictions.jsonl   (to see the rows behind it)"
        )


@cli.command()
@click.argument("run", metavar="RUN")
@click.argument("rows", metavar="INPUT")
@click.option("--out", metavar="F", help="File to write; its ending is the format. Without it: standard output.")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--excel-safe", is_flag=True, help="Put ' before cells that a spreadsheet would take for formulas.")
@verify
def predict(run: str, rows: str, out: str | None, **options: Any) -> None:
    """Add predictions and probabilities to every row of a table.

    New columns: prediction (a label; in choice the answer's number, from 0) and a probability_ for each, or score.

    INPUT is a table, or the name of a known data set (NAME:SPLIT). The test split of a GLUE task, written into a
    folder, becomes the files that gluebenchmark.com takes.

    \b
    gpt1 predict runs/reviews new.csv --out predictions.csv
    gpt1 predict runs/reviews new.jsonl > predictions.jsonl
    gpt1 predict runs/rte rte:dev --data-dir glue/ --out rte-dev.tsv
    gpt1 predict runs/rte rte:test --data-dir glue/ --out submission/
    """
    from gpt1.inference.predict import predict_into

    if said := predict_into(run, rows, out, progress=make_console(), **options):
        echo(said)


@cli.command()
@click.argument("run", metavar="RUN")
@click.argument("text")
@click.option("--top", default=10, show_default=True, type=RangedNumber(int, 1), help="How many tokens to show.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output.")
@verify
def next(run: str, text: str, top: int, as_json: bool, verify: bool) -> None:
    """The probabilities of the next token.

    \b
    gpt1 next runs/books "it was a dark and stormy"
    gpt1 next runs/books "it was a dark and stormy" --top 3 --json
    """
    from gpt1.inference.predictor import load

    model = load(run, verify=verify)
    if told := model.truncation_warning(text):
        echo(told)
    found = model.top_next_tokens(text, top)
    if as_json:
        echo_json([{"token": t, "id": i, "probability": p} for t, i, p in found])
        return
    from gpt1.console import print_probabilities

    print_probabilities([(token, probability) for token, _, probability in found])


@cli.command()
@click.argument("run", metavar="RUN")
@click.argument("texts", nargs=-1, metavar="TEXT...")
@click.option("--prompts", default="", metavar="F", help="File with more texts, one a line; - is standard input.")
@click.option("--max-tokens", default=100, show_default=True, type=RangedNumber(int, 0), help="Tokens to write.")
@click.option("--temperature", default=0.8, show_default=True, type=RangedNumber(float, 0), help="0: the likeliest.")
@click.option(
    "--top-k", default=0, show_default=True, type=RangedNumber(int, 0), help="Draw among the K likeliest; 0: all."
)
@click.option("--top-p", default=1.0, show_default=True, type=RangedNumber(float, 0, 1, above=True), help="… share P.")
@click.option(
    "--seed", type=RangedNumber(int, 0, 2**63 - 1), help="The same seed, the same text; more texts take the next."
)
@click.option("--precision", metavar="fp32|bf16|auto", default="fp32", show_default=True, help="bf16: fast, rough.")
@click.option("--json", "as_json", is_flag=True, help="A JSON list on standard output.")
@verify
def generate(
    run: str, texts: tuple[str, ...], prompts: str, precision: str, as_json: bool, verify: bool, **options: Any
) -> None:
    """Continue a text, or several side by side.

    \b
    gpt1 generate runs/books "the captain said" --temperature 0.7 --seed 1
    gpt1 generate runs/books "the captain said" --temperature 0 --max-tokens 40
    gpt1 generate runs/books "the captain said" "at night" --json
    gpt1 generate models/gpt1 --prompts prompts.txt --precision bf16
    """
    from gpt1.devices import resolve_precision, translate_resource_errors
    from gpt1.inference.predictor import generation_oom_advice, load, read_prompts

    texts += read_prompts(prompts) if prompts else ()
    if not texts:
        raise UserError("there is no TEXT to continue.", "Give one or more, or a file of them with --prompts.")
    model = load(run, precision=precision, verify=verify)
    if precision != "fp32":
        echo(f"computing in {resolve_precision(precision, model.device)[1]}")
    names = [f"text {i} of {len(texts)}" for i in range(1, len(texts) + 1)] if len(texts) > 1 else ["the text"]
    for told in filter(None, map(model.truncation_warning, texts, names)):
        echo(told)
    with translate_resource_errors(generation_oom_advice(len(texts), precision)):
        found = [*zip(names, texts, model.generate(texts, **options, progress=make_console()), strict=True)]
    if as_json:
        echo_json([{"prompt": prompt, "text": text} for _, prompt, text in found])
        return
    for name, _, text in found:
        make_console().show_text(f"--- {name}\n{text}" if len(texts) > 1 else text)


@cli.command()
@click.argument("what", metavar="PATH|NAME")
@click.option("--data-dir", metavar="DIR", help="Where the files of known data sets lie.")
@click.option("--from", "from_", metavar="RUN", help="Count unknown and cut tokens as this model would see them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def inspect(what: str, data_dir: str | None, from_: str | None, as_json: bool) -> None:
    """What a table, a known data set, a corpus, a run or a model is, and what is odd about it.

    \b
    gpt1 inspect reviews.csv
    gpt1 inspect reviews.csv --from runs/books
    gpt1 inspect rte --data-dir glue/
    gpt1 inspect corpus
    gpt1 inspect runs/books
    """
    from gpt1.inspect import inspect as look
    from gpt1.inspect import print_facts

    found = look(what, data_dir=data_dir, from_=from_, progress=make_console())
    if as_json:
        echo_json(found)
        return
    print_facts(found)
    print_next_steps(*found["next"])


@cli.command("import")
@click.argument("source", metavar="|".join(IMPORT_FORMATS))
@click.argument("folder", metavar="SRC")
@click.option("--out", required=True, type=Path, help="Model folder to make.")
def import_(source: str, folder: str, out: Path) -> None:
    """Bring a GPT-1 of another home: Hugging Face's openai-gpt, or OpenAI's params_*.npy.

    \b
    gpt1 import huggingface openai-gpt/ --out models/gpt1
    gpt1 import openai finetune-transformer-lm/model --out models/gpt1
    """
    from gpt1.inference.convert import import_model

    import_model(source, folder, out, make_console())
    print_next_steps(*pretrained_next_steps(out))


@cli.command()
@click.argument("home", metavar="|".join(EXPORT_FORMATS))
@click.argument("folder", metavar="SRC")
@click.option("--out", required=True, type=Path, help="Folder to make.")
@verify
def export(home: str, folder: str, out: Path, verify: bool) -> None:
    """Write a pre-trained Transformer as transformers' openai-gpt; import brings it back.

    SRC is a run or model folder. In Python: OpenAIGPTLMHeadModel.from_pretrained(DIR).

    \b
    gpt1 export huggingface runs/books --out books-hf
    """
    from gpt1.inference.convert import export_model

    export_model(home, folder, out, make_console(), verify)
    print_next_steps(f"in Python, transformers.OpenAIGPTLMHeadModel.from_pretrained({str(out)!r})")


for command in analysis.EXPERIMENT_COMMANDS:
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; errors that a user can mend are one message and an exit code, never a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    ensure_standard_streams()
    try:
        with stopped_by_signals():
            cli.main(arguments or ["--help"], prog_name="gpt1", standalone_mode=False)
        sys.stdout.flush()  # what cannot be written is found here, and not when the interpreter has gone
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "gpt1"
        report_and_exit(UserError(error.format_message(), f"See: {where} --help"))
    except GPT1Error as error:
        report_and_exit(error)
    except (KeyboardInterrupt, click.Abort):
        if os.environ.get("RANK", "0") != "0":  # of the processes that torchrun started the first one speaks
            exit_with(Interrupted.exit_code)
        report_and_exit(Interrupted("stopped.", "Run it again; a run folder goes on with --resume."))
    except OSError as error:
        report_and_exit(translate_oserror(error))
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        report_and_exit(
            ResourceError("out of memory.", "Close other programs, or take a smaller model or shorter texts.")
        )


if __name__ == "__main__":
    main()
