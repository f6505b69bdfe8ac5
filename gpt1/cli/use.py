"""Commands that use models: evaluate, predict, next, generate, inspect, import, export, push.

A command's code is imported only when it runs.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import click

from gpt1.cli.options import (
    COLUMN_HELP,
    RangedNumber,
    as_json,
    baselines,
    column_options,
    data_dir,
    overwrite,
    unlabeled,
    verify,
)
from gpt1.cli.output import echo, echo_json, make_console, print_next_steps
from gpt1.config import flag_name
from gpt1.errors import UserError
from gpt1.files.foreign import read_json_object
from gpt1.files.names import MODEL_CONFIG_FILE, TASK_FILE
from gpt1.formatting import shell_join, shell_quote
from gpt1.inference import EXPORT_FORMATS, IMPORT_FORMATS

AS_IN_TRAINING = "  [default: as in training]"


@click.command(short_help="Evaluate a model on labeled rows or on a corpus.")
@click.argument("run", metavar="RUN")
@click.argument("test", metavar="TEST")
@column_options(suffix=AS_IN_TRAINING)
@data_dir
@click.option(
    "--unseen",
    metavar="wrong|refuse",
    default="wrong",
    show_default=True,
    help="What to do with rows whose label was not in training: count them as wrong, or stop with an error.",
)
@unlabeled
@baselines
@click.option("--report", metavar="F.html", help="Write an HTML page: confusion matrix, calibration, worst mistakes.")
@overwrite
@as_json
@verify
def evaluate(run: str, test: str, data_dir: str | None, report: str | None, as_json: bool, **options: Any) -> None:
    """Evaluate a fine-tuned model on labeled rows, or any model on a corpus (perplexity).

    TEST is a table (- is standard input), the name of a known data set (its labeled evaluation split; NAME:SPLIT for
    another), or a corpus folder.

    \b
    gpt1 evaluate runs/reviews test.csv --report test.html
    gpt1 evaluate runs/reviews test.csv --text review --label stars
    gpt1 evaluate runs/rte rte --data-dir glue/ --json
    gpt1 evaluate runs/books corpus-of-other-books
    """
    from gpt1.files.reading import spool_standard_input
    from gpt1.inference.evaluate import evaluate as score
    from gpt1.tables.table import read_table

    rows: Any = test
    if test == "-":
        with spool_standard_input() as path:
            rows = read_table(path, name="standard input")
    result = score(run, rows, data_dir=data_dir, report=report, progress=make_console(), **options)
    if as_json:
        echo_json(result)
        return
    from gpt1.console import print_metrics
    from gpt1.report.evaluation import predict_command

    print_metrics(result)
    if result.get("warning"):
        echo(f"warning: {result['warning']}")
    for command in result.get("advice", ()):
        echo(f"  {command}")
    if "perplexity" not in result["metrics"] and test != "-":
        columns = {role: options[role] for role in COLUMN_HELP}
        if report:
            echo(f"{report}   confusion matrix or scatter plot, calibration, worst mistakes")
        else:
            given = {"data_dir": data_dir, **columns}
            chosen = [word for name, value in given.items() if value for word in (flag_name(name), value)]
            chosen += [word for name in ("unseen", "unlabeled") for word in changed_option(name)]
            chosen += [f"--no-{name}" for name in ("verify", "baselines") if not options[name]]
            page = shell_join(["gpt1", "evaluate", run, test, *chosen, "--report", "test.html"])
            print_next_steps(f"{page}   (writes a page with the worst mistakes)")
        command = predict_command(run, test, data_dir, columns, options["verify"])
        print_next_steps(f"{command}   (to see the predictions row by row)")


def changed_option(name: str) -> list[str]:
    """The flag and value of an option of the running command that is not at its default."""
    context = click.get_current_context()
    value, default = context.params[name], {param.name: param.default for param in context.command.params}[name]
    return [] if value == default else [flag_name(name), value]


@click.command(short_help="Add predictions and probabilities to a table.")
@click.argument("run", metavar="RUN")
@click.argument("rows", metavar="INPUT")
@click.option("--out", metavar="F", help="Output file; its extension is the format.  [default: standard output]")
@column_options("label", suffix=AS_IN_TRAINING)
@overwrite
@data_dir
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, whatever the format of INPUT.")
@click.option(
    "--excel-safe", is_flag=True, help="Prefix cells that a spreadsheet would run as formulas with an apostrophe."
)
@verify
def predict(run: str, rows: str, out: str | None, **options: Any) -> None:
    """Add predictions and probabilities to every row of a table.

    New columns: prediction (a label; for choice the number of the answer, from 0) and one probability_ column for each
    label or answer; or score.

    INPUT is a table, - for a table on standard input, a text in quotes, or the name of a known data set (NAME:SPLIT).
    In a terminal, the prediction of a text is a table; in a pipe, or with --json, it is JSON.
    For the test split of a GLUE task and a folder as --out, the files have the format of gluebenchmark.com.

    \b
    gpt1 predict runs/reviews new.csv --out predictions.csv
    gpt1 predict runs/reviews new.csv --text review > predictions.csv
    gpt1 predict runs/reviews "two hours of my life"
    zcat new.csv.gz | gpt1 predict runs/reviews - --out predictions.csv
    gpt1 predict runs/rte rte:dev --data-dir glue/ --out rte-dev.tsv
    gpt1 predict runs/rte rte:test --data-dir glue/ --out submission/
    """
    from gpt1.inference.predict import predict_into

    if message := predict_into(run, rows, out, progress=make_console(), **options):
        echo(message)


@click.command(short_help="Show the most likely next tokens of a text.")
@click.argument("run", metavar="RUN")
@click.argument("text")
@click.option("--top", default=10, show_default=True, type=RangedNumber(int, 1), help="Number of tokens to show.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@verify
def next(run: str, text: str, top: int, as_json: bool, verify: bool) -> None:
    """Show the most likely next tokens of a text with their probabilities.

    \b
    gpt1 next starter "the cell membrane"
    gpt1 next runs/books "it was a dark and stormy"
    gpt1 next runs/books "it was a dark and stormy" --top 3 --json
    """
    from gpt1.inference.predictor import load

    model = load(run, verify=verify)
    if warning := model.truncation_warning(text):
        echo(warning)
    tokens = model.top_next_tokens(text, top)
    if as_json:
        echo_json([{"token": token, "id": i, "probability": p} for token, i, p in tokens])
        return
    make_console().print_probabilities([(token, p) for token, _, p in tokens])


@click.command(short_help="Generate text that continues one or more prompts.")
@click.argument("run", metavar="RUN")
@click.argument("texts", nargs=-1, metavar="TEXT...")
@click.option("--prompts", default="", metavar="F", help="File with more prompts, one per line; - is standard input.")
@click.option("--max-tokens", default=100, show_default=True, type=RangedNumber(int, 0), help="Tokens to generate.")
@click.option(
    "--temperature",
    default=0.8,
    show_default=True,
    type=RangedNumber(float, 0),
    help="0: always the most likely token.",
)
@click.option(
    "--top-k",
    metavar="K",
    default=0,
    show_default=True,
    type=RangedNumber(int, 0),
    help="Sample from the K most likely tokens; 0: all.",
)
@click.option(
    "--top-p",
    metavar="P",
    default=1.0,
    show_default=True,
    type=RangedNumber(float, 0, 1, above=True),
    help="Sample from the smallest set of most likely tokens with a total probability of at least P.",
)
@click.option(
    "--seed", type=RangedNumber(int, 0, 2**63 - 1), help="Random seed of the first text; text i uses seed + i."
)
@click.option(
    "--stop", multiple=True, metavar="S", help="End a text before this string; \\n is a line break; can be repeated."
)
@click.option(
    "--precision", metavar="fp32|bf16|auto", default="fp32", show_default=True, help="bf16 is faster and less exact."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@verify
def generate(
    run: str, texts: tuple[str, ...], prompts: str, precision: str, as_json: bool, verify: bool, **options: Any
) -> None:
    """Generate text that continues one or more prompts. A single text is streamed.

    \b
    gpt1 generate runs/books "the captain said" --temperature 0.7 --seed 1
    gpt1 generate runs/books "the captain said" --stop . --stop "?"
    gpt1 generate runs/books "the captain said" --temperature 0 --max-tokens 40
    gpt1 generate runs/books "the captain said" "at night" --json
    gpt1 generate models/gpt1 --prompts prompts.txt --precision bf16
    """
    from gpt1.devices import resolve_precision, translate_resource_errors
    from gpt1.inference.predictor import generation_oom_advice, load, read_prompts

    texts += read_prompts(prompts) if prompts else ()
    options["stop"] = [stop.replace("\\n", "\n").replace("\\t", "\t") for stop in options["stop"]]
    if not texts:
        raise UserError("TEXT is missing.", "Give one or more texts, or a file of texts with --prompts.")
    model = load(run, precision=precision, verify=verify)
    if precision != "fp32":
        echo(f"computing in {resolve_precision(precision, model.device)[1]}")
    names = [f"text {i} of {len(texts)}" for i in range(1, len(texts) + 1)] if len(texts) > 1 else ["the text"]
    for warning in filter(None, map(model.truncation_warning, texts, names)):
        echo(warning)
    console = make_console()
    with translate_resource_errors(generation_oom_advice(len(texts), precision)):
        if len(texts) == 1 and not as_json:
            for piece in chain(texts, model.generate(texts, stream=True, **options), ["\n"]):
                console.write(piece)
            return
        generated = model.generate(texts, **options, progress=console)
    if as_json:
        echo_json([{"prompt": prompt, "text": text} for prompt, text in zip(texts, generated, strict=True)])
        return
    for name, text in zip(names, generated, strict=True):
        console.show_text(f"--- {name}\n{text}")


@click.command(short_help="Describe a table, data set, corpus, run or model.")
@click.argument("what", metavar="PATH|NAME")
@data_dir
@click.option("--from", "from_", metavar="RUN", help="Count unknown and truncated tokens for this model.")
@as_json
def inspect(what: str, data_dir: str | None, from_: str | None, as_json: bool) -> None:
    """Describe a table, a known data set, a corpus, a run or a model, with warnings about likely problems.

    \b
    gpt1 inspect reviews.csv
    gpt1 inspect reviews.csv --from runs/books
    gpt1 inspect rte --data-dir glue/
    gpt1 inspect corpus
    gpt1 inspect runs/books
    """
    from gpt1.inspect import inspect as describe
    from gpt1.inspect import print_facts

    facts = describe(what, data_dir=data_dir, from_=from_, progress=make_console())
    if as_json:
        echo_json(facts)
        return
    print_facts(facts)
    print_next_steps(*facts["next"])


@click.command("import", short_help="Import GPT-1 weights from Hugging Face or OpenAI.")
@click.argument("source", metavar="|".join(IMPORT_FORMATS))
@click.argument("folder", metavar="SRC")
@click.option("--out", required=True, type=Path, help="Model folder to create.")
@overwrite
def import_(source: str, folder: str, out: Path, overwrite: bool) -> None:
    """Import GPT-1 weights: Hugging Face's openai-gpt, or OpenAI's params_*.npy.

    \b
    gpt1 import huggingface openai-gpt/ --out models/gpt1
    gpt1 import openai finetune-transformer-lm/model --out models/gpt1
    """
    from gpt1.inference.convert import import_model

    import_model(source, folder, out, make_console(), overwrite)
    print_next_steps(*model_next_steps(out))


@click.command(short_help="Export a model to Hugging Face, ONNX or a model folder.")
@click.argument("target", metavar="|".join(EXPORT_FORMATS))
@click.argument("run", metavar="RUN")
@click.option("--out", required=True, type=Path, help="Folder to create.")
@click.option("--dtype", metavar="fp32|bf16", default="fp32", show_default=True, help="bf16: half the size, rounded.")
@click.option("--int8", is_flag=True, help="onnx: store the weight matrices as 8-bit integers.")
@overwrite
@verify
def export(target: str, run: str, out: Path, dtype: str, int8: bool, verify: bool, overwrite: bool) -> None:
    """Export a model for transformers or ONNX Runtime, or as a model folder.

    gpt1: a self-contained model folder, to move or to publish. huggingface: openai-gpt of transformers, for
    OpenAIGPTLMHeadModel.from_pretrained(DIR); `gpt1 import` reads it back. onnx: a pre-trained or fine-tuned
    Transformer for ONNX Runtime; needs gpt1[onnx].

    \b
    gpt1 export gpt1 runs/books --out models/books --dtype bf16
    gpt1 export huggingface runs/books --out books-hf
    gpt1 export onnx runs/reviews --out reviews-onnx --int8
    """
    if target == "onnx":
        from gpt1.inference.onnx_model import export_onnx

        if dtype != "fp32":
            raise UserError("--dtype does not apply to gpt1 export onnx.", "Omit --dtype, or use --int8.")
        export_onnx(run, out, int8, make_console(), verify, overwrite)
        print_next_steps(f"in Python, onnxruntime.InferenceSession({str(out / 'model.onnx')!r})")
        return
    if int8:
        raise UserError(
            f"--int8 does not apply to gpt1 export {target}.", "Omit --int8, or use: gpt1 export onnx … --int8"
        )
    from gpt1.inference.convert import check_format_name, export_model

    check_format_name("export", target, EXPORT_FORMATS)
    export_model(target, run, out, make_console(), verify, dtype, overwrite=overwrite)
    if target == "gpt1":
        print_next_steps(*model_next_steps(out))
        return
    (name,) = read_json_object(out / MODEL_CONFIG_FILE)["architectures"]
    print_next_steps(f"in Python, transformers.{name}.from_pretrained({str(out)!r})")


@click.command(short_help="Publish a model on the Hugging Face hub.")
@click.argument("run", metavar="RUN")
@click.argument("name", metavar="OWNER/NAME")
@click.option("--license", default="unknown", show_default=True, help="Identifier of the license, such as cc-by-4.0.")
@click.option("--private", is_flag=True, help="Create a private repository.")
@click.option("--dtype", metavar="fp32|bf16", default="fp32", show_default=True, help="bf16: half the size, rounded.")
@verify
def push(run: str, name: str, **options: Any) -> None:
    """Publish a model on the Hugging Face hub, with a model card: data, settings, metrics, license.

    Needs a token with write permission: `hf auth login`, or the variable HF_TOKEN.

    \b
    gpt1 push runs/reviews alice/reviews --license cc-by-4.0
    gpt1 push runs/books alice/books --private --dtype bf16
    """
    from gpt1.inference.push import push as publish

    echo(publish(run, name, progress=make_console(), **options))
    print_next_steps(f"gpt1 inspect {shell_quote(name)}")


def model_next_steps(folder: Path) -> list[str]:
    from gpt1.runs.folder import pretrained_commands

    if (folder / TASK_FILE).exists():
        return [f"gpt1 predict {shell_quote(folder)} INPUT --out predictions.csv"]
    return pretrained_commands(folder)
