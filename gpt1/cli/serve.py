"""The command `serve`."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from typing import Any

import click

from gpt1.cli.options import setting_options, verify
from gpt1.cli.output import echo
from gpt1.errors import Interrupted, UserError
from gpt1.formatting import count_noun
from gpt1.serving.settings import ServeConfig, read_api_key, serve_settings

SERVE_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@click.command(short_help="Serve models: an OpenAI-compatible API and a web page.")
@click.argument("runs", nargs=-1, metavar="RUN...")
@setting_options(ServeConfig)
@verify
def serve(runs: tuple[str, ...], verify: bool, **flags: Any) -> None:
    """Serve one or more models: an OpenAI-compatible API and a web page to explore them.

    RUN is a run folder, a model folder, `starter`, a name on the Hugging Face hub, or a folder of runs, whose models
    are loaded when they are first used. On SIGTERM or Ctrl-C, the server finishes the accepted requests
    and exits.

    \b
    gpt1 serve runs/books
    gpt1 serve runs/books runs/reviews --port 8080
    gpt1 serve runs/books --host 0.0.0.0 --api-key-file key.txt
    """
    if not runs:
        from gpt1.runs.nearby import describe_models_here

        raise UserError("RUN is missing.", f"Models here: {describe_models_here() or 'none'}.\nSee: gpt1 serve --help")
    config = serve_settings(flags)
    key = read_api_key(config)
    if missing := [name for name in SERVE_PACKAGES if find_spec(name) is None]:
        raise UserError(f"gpt1 serve needs {', '.join(missing)}.", "Install them: pip install 'gpt1[serve]'")
    from gpt1.serving.app import create_app
    from gpt1.serving.metrics import Metrics
    from gpt1.serving.models import ServedModels
    from gpt1.serving.server import address, bind, make_server, run_server

    listener = bind(config)
    metrics = Metrics()
    models = ServedModels(runs, config, metrics, verify, echo)
    server = make_server(create_app(models, config, key, metrics, echo), config)
    where = address(listener)

    def print_address() -> None:
        echo(f"serving {', '.join(models.models)} at {where}; API documentation: {where}/docs; to stop, press Ctrl-C")

    try:
        run_server(server, listener, print_address)
    finally:
        models.close()
    cut_off = count_noun(server.gate.cut_off, "accepted request")
    message = f"stopped; {f'{cut_off} not answered' if server.gate.cut_off else 'all accepted requests were answered'}"
    if server.signal == signal.SIGINT:
        raise Interrupted(f"{message}.")
    echo(message)
