"""The command line: the group of commands, and main(), which turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys

import click

from gpt1.cli.exit import ensure_standard_streams, exit_with, raise_on_signals, report_and_exit, translate_oserror
from gpt1.cli.experiments import curve, reproduce, zeroshot
from gpt1.cli.serve import serve
from gpt1.cli.texts import features, score
from gpt1.cli.train import demo, finetune, pretrain, tokenize
from gpt1.cli.use import evaluate, export, generate, import_, inspect, next, predict, push
from gpt1.errors import OUT_OF_MEMORY, GPT1Error, Interrupted, ResourceError, UserError
from gpt1.version import __version__


class OrderedGroup(click.Group):
    """Lists commands in the order in which they were added, not by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=OrderedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="gpt1")
def cli() -> None:
    """GPT-1: pre-train a Transformer on your texts, fine-tune it on your labels.

    \b
    gpt1 demo                                              the whole method in ten minutes
    gpt1 finetune reviews.csv --label label --from starter --out runs/reviews
    gpt1 tokenize books/ --out corpus                      text → tokens
    gpt1 pretrain corpus --out runs/books                  stage 1
    gpt1 finetune reviews.csv --from runs/books --out runs/reviews \\
        --kind classification --text text --label label    stage 2, from your own model
    gpt1 predict runs/reviews new.csv --out predictions.csv
    """


for command in (demo, tokenize, pretrain, finetune, evaluate, predict, next, generate, score, features):
    cli.add_command(command)
for command in (serve, inspect):
    cli.add_command(command)
for command in (curve, zeroshot, reproduce, import_, export, push):
    cli.add_command(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command. An expected error is one message and an exit code, without a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    ensure_standard_streams()
    try:
        with raise_on_signals():
            cli.main(arguments or ["--help"], prog_name="gpt1", standalone_mode=False)
        sys.stdout.flush()  # write errors must appear here, not when the interpreter exits
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "gpt1"
        report_and_exit(UserError(error.format_message(), f"See: {command} --help"))
    except GPT1Error as error:
        report_and_exit(error)
    except (KeyboardInterrupt, click.Abort):
        if os.environ.get("RANK", "0") != "0":  # of the processes of torchrun only rank 0 prints
            exit_with(Interrupted.exit_code)
        report_and_exit(Interrupted("stopped.", "Run the command again."))
    except OSError as error:
        report_and_exit(translate_oserror(error))
    except (MemoryError, RuntimeError, ImportError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        fix = "Close other programs, or use a smaller model or shorter texts."
        report_and_exit(ResourceError("out of memory.", fix))


if __name__ == "__main__":
    main()
