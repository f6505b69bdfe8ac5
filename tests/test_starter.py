"""The model that comes with the package is in every distribution and works offline wherever a run is accepted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.append(str(Path(__file__).parents[1]))  # the benchmarks are next to the package, not in it

import gpt1
from benchmarks.starter_card import figures, model_card
from gpt1.corpus.tokenize import tokenize
from gpt1.errors import UserError
from gpt1.files.manifest import file_entry
from gpt1.files.names import WEIGHTS_FILE
from gpt1.inference.convert import export_model
from gpt1.model.weights import verify_model
from gpt1.runs import folder as runs
from gpt1.runs.folder import find_model_folder
from gpt1.tables.table import Table

ROOT = Path(__file__).parents[1]
QUICK: dict[str, Any] = {"precision": "fp32", "device": "cpu"}
RECORD = ROOT / "benchmarks" / "starter.json"

with_weights = pytest.mark.skipif(
    not runs.has_starter(), reason=f"the weights of starter are not in this checkout: {runs.STARTER_FOLDER}"
)


@pytest.fixture(autouse=True)
def without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder; a request to the hub would fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


# --- what is shipped -------------------------------------------------------------------------------------------------


@with_weights
def test_the_shipped_weights_are_bf16_below_30_mb_and_match_their_manifest():
    verify_model(runs.STARTER_FOLDER)
    weights = runs.STARTER_FOLDER / WEIGHTS_FILE
    assert weights.stat().st_size < 30_000_000
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.bfloat16}


@pytest.mark.skipif(not RECORD.exists(), reason="benchmarks/starter.json is written with the weights")
@with_weights
def test_the_card_and_the_page_say_what_was_measured_with_these_weights():
    record = json.loads(RECORD.read_text("utf-8"))
    weights = file_entry(runs.STARTER_FOLDER / WEIGHTS_FILE)
    assert {name: record["model"][name] for name in weights} == weights
    assert (runs.STARTER_FOLDER / "README.md").read_text("utf-8") == model_card(record)
    assert figures(record, heading="###") in (ROOT / "docs" / "starter.md").read_text("utf-8")


@pytest.mark.slow
def test_wheel_and_source_distribution_hold_the_model_and_the_wheel_works(pretrained_run: Path, tmp_path: Path):
    """With a tiny model in place of the package's, so that it also runs in a checkout without weights."""
    pytest.importorskip("setuptools", "77")
    project, site = tmp_path / "project", tmp_path / "site"
    skipped = shutil.ignore_patterns("__pycache__", "starter")
    shutil.copytree(ROOT / "gpt1", project / "gpt1", ignore=skipped)
    for name in ("pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, project)
    export_model("gpt1", pretrained_run, project / "gpt1" / "starter", dtype="bf16")
    names = {f"gpt1/starter/{path.name}" for path in (project / "gpt1" / "starter").iterdir()}
    assert {"gpt1/starter/README.md", "gpt1/starter/manifest.json"} < names
    build = "from setuptools import build_meta as b; print(b.build_sdist('.'), b.build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=project, capture_output=True, text=True, check=True)
    source, wheel = built.stdout.split()[-2:]
    with tarfile.open(project / source) as archive:
        assert names <= {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(project / wheel) as archive:
        assert names <= set(archive.namelist())
        archive.extractall(site)
    use = "import gpt1; print(gpt1.__file__); print(len(gpt1.load('starter').next_tokens('the', 3)))"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    used = subprocess.run(
        [sys.executable, "-c", use], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert used.stdout.split() == [str(site / "gpt1" / "__init__.py"), "3"]


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_model_called_starter_in_the_current_folder_wins_and_a_line_says_so(
    pretrained_run: Path, capsys: pytest.CaptureFixture[str]
):
    runs.log_once.cache_clear()
    shutil.copytree(pretrained_run, "starter")
    assert find_model_folder("starter") == Path("starter/model")
    assert "starter: using the folder in the current directory, not the model" in capsys.readouterr().err
    assert find_model_folder("./starter") == Path("starter/model")
    assert not capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_path_named_starter_that_is_not_a_model_is_an_error_that_says_what_it_hides(kind: str):
    Path("starter").mkdir() if kind == "folder" else Path("starter").touch()
    with pytest.raises(UserError) as refused:
        find_model_folder("starter")
    assert str(refused.value) == (
        f"the {kind} starter in the current directory is not a model, but hides the built-in model of that name.\n"
        f"Rename the {kind}, or run the command in another folder."
    )


@pytest.mark.parametrize("name", ["Starter", "startr", "starters"])
def test_a_mistyped_starter_is_recognized(name: str):
    with pytest.raises(UserError, match=r"does not exist\. Did you mean starter\?"):
        find_model_folder(name)


def test_a_command_without_a_pretrained_model_suggests_starter(run_cli: Any, table: Table):
    hint = "--from starter is a pre-trained English model, which comes with gpt1."
    without = run_cli("finetune", "reviews.csv", "--out", "run")
    assert without.exit_code == 2
    assert hint in without.stderr
    Path("runs").mkdir()
    for name in ("runs/books", "books"):
        missing = run_cli("finetune", "reviews.csv", "--from", name, "--out", "run")
        assert missing.exit_code == 2
        assert "starter: the English model that comes with gpt1" in missing.stderr
    elsewhere = run_cli("next", "owner/books", "the")
    assert elsewhere.exit_code == 2
    assert "The model starter (English) comes with gpt1 and needs no network." in elsewhere.stderr


# --- wherever a run is accepted --------------------------------------------------------------------------------------


@pytest.fixture
def reviews() -> Path:
    lines = [f"the {i}th film was {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(24)]
    Path("reviews.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return Path("reviews.csv")


@pytest.mark.slow
@with_weights
def test_commands_that_use_a_model_take_starter(run_cli: Any, reviews: Path):
    Path("text.txt").write_text("The cell membrane regulates which substances pass into the cell. " * 60)
    for words in (
        "next starter the",
        "generate starter the --max-tokens 2",
        "score starter films",
        "features starter reviews.csv --text text --out vectors.parquet",
        "inspect starter",
        "inspect reviews.csv --from starter",
        "tokenize text.txt --out corpus --tokenizer starter",
        "evaluate starter corpus",
        "export huggingface starter --out theirs",
        "export gpt1 starter --out ours --dtype bf16",
        "zeroshot reviews.csv --run starter --kind classification --text text --words pos=good,neg=bad",
    ):
        answer = run_cli(*words.split())
        assert answer.exit_code == 0, (words, answer.stderr)
    with pytest.raises(UserError, match="starter has the license cc-by"):
        export_model("gpt1", "starter", "licensed", license="mit")
    for name in (WEIGHTS_FILE, "README.md"):  # the card has the attribution
        assert (Path("ours") / name).read_bytes() == (runs.STARTER_FOLDER / name).read_bytes()


@pytest.mark.slow
@with_weights
def test_both_stages_and_scikit_learn_start_from_starter(reviews: Path):
    from gpt1.sklearn import GPTClassifier, GPTFeatures

    run = gpt1.finetune(
        reviews, from_="starter", out="tuned", kind="classification", text="text", epochs=1, baselines=False, **QUICK
    )
    assert len(gpt1.load(run).predict(["good", "bad"])) == 2
    assert runs.read_run_config(run)["starting_model"] == "starter"
    card = (export_model("gpt1", run, "exported") / "README.md").read_text("utf-8")
    assert "trained further from `starter`" in card
    assert "OpenStax" in card
    Path("text.txt").write_text("The cell membrane regulates which substances pass into the cell. " * 60)
    corpus = tokenize(["text.txt"], out="corpus", tokenizer="starter")
    further = gpt1.pretrain(
        "corpus", from_="starter", out="further", steps=1, batch_size=2, valid_fraction=0.0, **QUICK
    )
    again = gpt1.pretrain("corpus", from_=further, out="again", steps=1, batch_size=2, valid_fraction=0.0, **QUICK)
    assert runs.read_run_config(again)["starting_model"] == "starter"  # its license asks for the name
    assert gpt1.load(further).gpt.config.n_embd == gpt1.load("starter").gpt.config.n_embd
    assert corpus.tokenizer_fingerprint == gpt1.Tokenizer.load("starter").fingerprint
    texts, labels = ["a good film", "a bad film"] * 6, ["pos", "neg"] * 6
    model = GPTClassifier(train="head", epochs=2, random_state=0, device="cpu", precision="fp32").fit(texts, labels)
    assert model.predict(texts).shape == (12,)
    vectors = GPTFeatures().fit(texts).transform(texts[:2])
    states = gpt1.load("starter").features(texts[:2])
    np.testing.assert_allclose(np.asarray(vectors), np.asarray(states), rtol=1e-5, atol=1e-6)


@with_weights
def test_the_server_takes_starter_and_serves_it_by_this_name():
    from gpt1.serving.metrics import Metrics
    from gpt1.serving.models import ServedModels
    from gpt1.serving.settings import ServeConfig

    models = ServedModels(["starter"], ServeConfig(device="cpu", precision="fp32"), Metrics())
    assert list(models.models) == ["starter"]
