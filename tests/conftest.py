"""Shared fixtures: the public data, and a small text, tokenizer, corpus and run."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from page_browser import chromium, open_page  # noqa: F401 (fixtures for tests of the served page)
from reproduction_fixtures import executed_jobs, lstm_run, official_data, run_with_checkpoints  # noqa: F401 (fixtures for reproductions)
from task_models import make_predictor, write_model  # noqa: F401 (fixtures: fine-tuned models with random weights)
from unprivileged import open_folder  # noqa: F401 (fixture for tests of permissions)
from workspace import run_cli, workspace  # noqa: F401 (fixtures for every test)

if TYPE_CHECKING:
    from gpt1.tables.table import Table
    from gpt1.tokenization.tokenizer import Tokenizer

settings.register_profile("gpt1", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("gpt1")

# Their docstrings are English prose that every Python has.
MODULES = ("argparse", "configparser", "difflib", "json", "logging", "random", "shutil", "statistics", "textwrap")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> Generator[None, int, int]:
    """`-n auto`: one worker more than there are cores, since tests wait for processes, servers and the browser."""
    return (yield) + 1


def shared_folder() -> Path | None:
    """GPT1_DATA, or the folder `shared` next to the checkout; None if there is neither."""
    for candidate in (os.environ.get("GPT1_DATA"), Path(__file__).parents[2] / "shared"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = shared_folder()
    if folder is None:
        pytest.skip("needs the public data: set GPT1_DATA, or put the folder `shared` next to the checkout")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from more threads, and sums would depend on the number of threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def enable_ctrl_c() -> None:
    """Shells start background jobs with an ignored SIGINT, and a command leaves ignored signals alone."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def no_report(pretrained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without their page, which has its own tests and takes longer than a tiny run; `pretrained_run` has one."""
    monkeypatch.setattr("gpt1.training.run.report_on_exit", lambda run: nullcontext())


@pytest.fixture(scope="module")
def no_reports(pretrained_run: Path) -> Iterator[None]:
    """The same for all tests of a module, and for the fixtures that they share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gpt1.training.run.report_on_exit", lambda run: nullcontext())
        yield


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep cached features of head-only runs out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPT1_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """About 300 docstrings of standard modules and their members."""
    found: dict[str, None] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        classes = [item for item in vars(module).values() if inspect.isclass(item)]
        for item in [module, *vars(module).values(), *(member for c in classes for member in vars(c).values())]:
            text = getattr(item, "__doc__", None)
            if (item is module or getattr(item, "__module__", None) == name) and text and len(text) > 60:
                found[inspect.cleandoc(text)] = None
    return list(found)


@pytest.fixture(scope="session")
def tokenizer(prose: list[str]) -> Tokenizer:
    """300 tokens, lossless (the pipeline that starts fast)."""
    from gpt1.tokenization.tokenizer import Tokenizer

    return Tokenizer.train(prose, vocab_size=300, pipeline="lossless")


@pytest.fixture(scope="session")
def corpus(prose: list[str], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpt1.corpus.corpus import write_corpus

    folder = tmp_path_factory.mktemp("corpus")
    source = folder / "prose.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in prose), encoding="utf-8")
    write_corpus([str(source)], folder / "tokens", tokenizer)
    return folder / "tokens"


@pytest.fixture(scope="session")
def tiny_pretrain_settings() -> dict[str, Any]:
    """Settings of a pre-training run that takes a second."""
    return {"model": "tiny", "n_layer": 2, "n_head": 2, "n_embd": 32, "context": 32, "batch_size": 8, "steps": 60} | {
        "precision": "fp32",
        "device": "cpu",
        "eval_windows": 8,
        "peak_lr": 1e-2,
        "warmup": 10,
    }


@pytest.fixture(scope="session")
def pretrained_run(
    corpus: Path, tiny_pretrain_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    from gpt1.training.pretrain import pretrain

    return pretrain(corpus, out=tmp_path_factory.mktemp("runs") / "pretrained", **tiny_pretrain_settings)


@pytest.fixture(scope="session")
def table() -> Table:
    """64 rows with columns for every kind of task; one word determines the answer."""
    from gpt1.tables.table import Table

    things = ["file", "list", "number", "logger", "option", "string", "path", "name"]
    rows = []
    for i in range(64):
        good, thing = i % 2 == 0, things[i // 2 % 8]
        word = "valid" if good else "broken"
        rows.append(
            {
                "text": f"the {thing} number {i} is {word}",
                "other": f"this {thing} is {'valid' if i % 4 < 2 else 'broken'}",
                "label": "yes" if good else "no",
                "stars": [0.5, 1.0, 2.4, 4.5][i % 4],
                "answers": [f"{word}", f"{thing} {i}", "none of them"][: 2 + i % 2],
                "right": i // 4 % 2,
            }
        )
    return Table("rows.jsonl", list(rows[0]), rows)
