"""Models by their names on the Hugging Face hub, through the unmodified library and a hub on the loopback interface."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import TOKEN, HubServer, Repository, run_hub, run_in_new_process
from safetensors.torch import load_file, save_file

from gpt1.hub import is_hub_name
from gpt1.inference.predictor import load
from gpt1.model.gpt import GPT

pytest.importorskip("huggingface_hub")
NAME = "openai-community/openai-gpt"
FIND = "import sys; from gpt1.cli.exit import report_and_exit; from gpt1.errors import UserError; \
from gpt1.runs.folder import find_model_folder\n\
try: print(find_model_folder(sys.argv[1]))\n\
except UserError as error: report_and_exit(error)"


@pytest.fixture(scope="module")
def hub_model(tmp_path_factory: pytest.TempPathFactory, prose: list[str]) -> Path:
    """A folder like openai-community/openai-gpt: no prefix, stored masks, no lm_head."""
    from workspace import write_huggingface_folder

    folder = tmp_path_factory.mktemp("layout")
    write_huggingface_folder(folder, prose)
    weights = {n.removeprefix("transformer."): t for n, t in load_file(folder / "model.safetensors").items()}
    weights.pop("lm_head.weight", None)
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 16, 16).tril() for layer in range(2)}
    save_file({**weights, **masks}, folder / "model.safetensors", {"format": "pt"})
    assert {"tokens_embed.weight", "h.1.attn.c_attn.weight"} <= weights.keys()
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(hub_model: Path) -> Iterator[HubServer]:
    with run_hub() as server:
        others = dict.fromkeys(("pytorch_model.bin", "tf_model.h5", "rust_model.ot", "run.py"), b"never fetched")
        server.repositories[NAME] = Repository({**read_files(hub_model), **others, "onnx/config.json": b"{}"})
        yield server


def gpt1(hub: HubServer, folder: Path, *words: str, **environment: str) -> Any:
    return run_in_new_process(["-m", "gpt1", *words], folder / "hf", hub.url, folder, **environment)


def find(hub: HubServer, folder: Path, name: str, **environment: str) -> Any:
    """`find_model_folder` in a new process: its answer or its error, without the seconds that torch takes."""
    return run_in_new_process(["-c", FIND, name], folder / "hf", hub.url, folder, **environment)


@pytest.mark.slow
def test_a_name_works_from_an_empty_cache_and_then_offline(hub: HubServer, hub_model: Path, tmp_path: Path):
    first = gpt1(hub, tmp_path, "next", NAME, "the cat", "--json", "--top", "5")
    assert first.returncode == 0, first.stderr
    expected = load(hub_model).top_next_tokens("the cat", 5)
    assert [token["id"] for token in json.loads(first.stdout)] == [id for _, id, _ in expected]
    assert f"downloading {NAME}" in first.stderr
    assert hub.fetched() == {"config.json", "vocab.json", "merges.txt", "model.safetensors"}
    asked = len(hub.requests)
    again = gpt1(hub, tmp_path, "next", NAME, "the cat", "--json", "--top", "5", HF_HUB_OFFLINE="1")
    assert (again.stdout, again.stderr) == (first.stdout, "")
    assert len(hub.requests) == asked


def test_a_cached_model_is_not_downloaded_again_and_works_when_the_hub_is_gone(hub: HubServer, tmp_path: Path):
    first = find(hub, tmp_path, NAME)
    fetched = len([1 for method, path in hub.requests if method == "GET" and "/resolve/" in path])
    second = find(hub, tmp_path, NAME)
    assert second.stdout == first.stdout
    assert "downloading" not in second.stderr
    assert len([1 for method, path in hub.requests if method == "GET" and "/resolve/" in path]) == fetched
    hub.shutdown()
    hub.server_close()
    gone = find(hub, tmp_path, NAME)
    assert gone.stdout == first.stdout
    assert "the Hugging Face hub cannot be reached" in gone.stderr


@pytest.mark.slow
def test_a_name_is_a_model_for_fine_tuning_tokenizing_inspecting_and_python(hub: HubServer, tmp_path: Path):
    (tmp_path / "reviews.csv").write_text("text,label\n" + "the cat sat,a\na dog ran,b\n" * 20)
    code = f"""
from gpt1 import GPT, Tokenizer, finetune, load, tokenize
from gpt1.inspect import inspect
name = {NAME!r}
columns = dict(kind="classification", text="text", label="label", epochs=1, batch_size=8, precision="fp32")
run = finetune("reviews.csv", from_=name, out="runs/r", **columns)
assert load(run).predict(["the cat"])[0]["prediction"] in ("a", "b")
assert f"starting_model: {{name}}" in (run / "config.yaml").read_text()
assert inspect(name)["shape"]["n_embd"] == 32
assert Tokenizer.load(name).vocab_size == 300
assert load(name + "@main").gpt.config == GPT.from_pretrained(name).config
assert tokenize("reviews.csv", out="corpus", tokenizer=name).vocab_size == 300
"""
    answer = run_in_new_process(["-c", code], tmp_path / "hf", hub.url, tmp_path)
    assert answer.returncode == 0, answer.stderr


def test_weights_in_several_files_are_downloaded_by_their_index(hub: HubServer, tmp_path: Path):
    files = hub.repositories[NAME].files
    (tmp_path / "whole.safetensors").write_bytes(files.pop("model.safetensors"))
    tensors = load_file(tmp_path / "whole.safetensors")
    expected, names, places = dict(tensors), sorted(tensors), {}
    for number, part in enumerate((names[:9], names[9:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: expected[name] for name in part}, tmp_path / file)
        files[file] = (tmp_path / file).read_bytes()
        places |= dict.fromkeys(part, file)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    found = find(hub, tmp_path, NAME)
    assert found.returncode == 0, found.stderr
    weights = GPT.from_pretrained(found.stdout.strip()).state_dict()
    assert torch.equal(weights["tokens.weight"], expected["tokens_embed.weight"])


def test_a_transfer_that_is_cut_off_once_continues(hub: HubServer, tmp_path: Path):
    hub.repositories[NAME].cut_off["model.safetensors"] = 1
    found = find(hub, tmp_path, NAME)
    assert found.returncode == 0, found.stderr
    assert (Path(found.stdout.strip()) / "model.safetensors").read_bytes() == hub.repositories[NAME].files[
        "model.safetensors"
    ]


def change(hub: HubServer, **files: Any) -> None:
    """Add, replace or (None) remove files of the repository."""
    for name, data in files.items():
        name = name.replace("_DOT_", ".")
        hub.repositories[NAME].files.pop(name, None)
        if data is not None:
            hub.repositories[NAME].files[name] = data


@pytest.mark.parametrize(
    ("name", "prepare", "problem", "fix"),
    [
        ("nobody/nothing", lambda hub: None, "neither a local folder nor a public", "Check the path or the name."),
        (f"{NAME}@v7", lambda hub: None, f"{NAME} has no revision v7", f"/{NAME}"),
        (NAME, lambda hub: setattr(hub.repositories[NAME], "refuses_with", "gated"), "is gated", "HF_TOKEN"),
        (NAME, lambda hub: setattr(hub.repositories[NAME], "refuses_with", "private"), "nor a public", "HF_TOKEN"),
        (
            NAME,
            lambda hub: change(hub, model_DOT_safetensors=None, pytorch_model_DOT_bin=pickle.dumps(1)),
            "has no safetensors, only pickles ('pytorch_model.bin')",
            "Convert it with transformers",
        ),
        (
            NAME,
            lambda hub: [change(hub, **{name: None}) for name in ("model_DOT_safetensors", "pytorch_model_DOT_bin")],
            "has no model.safetensors",
            "A model has config.json",
        ),
        (NAME, lambda hub: hub.repositories[NAME].files.clear(), "has no model.safetensors", "A model has config.json"),
        (NAME, lambda hub: change(hub, config_DOT_json=None), "has no config.json", "A model has config.json"),
        (
            NAME,
            lambda hub: change(hub, config_DOT_json=b'{"model_type": "llama"}'),
            "is not a GPT-1: its config.json describes a model of the type 'llama'",
            "openai-community/openai-gpt",
        ),
        (NAME, lambda hub: change(hub, config_DOT_json=b"{"), "cannot be read as JSON", "damaged"),
        (NAME, lambda hub: change(hub, vocab_DOT_json=b" " * (2**26 + 1)), "the limit is 67,108,864", "right model"),
        (NAME, lambda hub: (hub.shutdown(), hub.server_close()), "cannot be reached", "Check the path and the network"),
    ],
)
def test_an_unavailable_model_is_one_error_with_its_fix(
    name: str, prepare: Any, problem: str, fix: str, hub: HubServer, tmp_path: Path
):
    prepare(hub)
    answer = find(hub, tmp_path, name)
    assert answer.returncode == 2, answer.stderr
    message = answer.stderr[answer.stderr.index("gpt1: ") :]
    assert problem in message
    assert fix in message
    assert "Traceback" not in answer.stderr
    assert not any("safetensors" in path for method, path in hub.requests if "/resolve/" in path and method == "GET")


def test_a_transfer_that_is_always_cut_off_is_an_error_and_the_next_try_succeeds(hub: HubServer, tmp_path: Path):
    hub.repositories[NAME].cut_off["model.safetensors"] = 10**6
    answer = find(hub, tmp_path, NAME, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert answer.returncode == 2, answer.stderr
    assert f"the transfer of {NAME} was interrupted" in answer.stderr
    assert "Run the command again" in answer.stderr
    hub.repositories[NAME].cut_off.clear()
    assert find(hub, tmp_path, NAME).returncode == 0


def test_a_model_that_is_not_in_the_cache_cannot_be_used_offline(hub: HubServer, tmp_path: Path):
    answer = find(hub, tmp_path, NAME, HF_HUB_OFFLINE="1")
    assert answer.returncode == 2
    assert "HF_HUB_OFFLINE is set" in answer.stderr
    assert hub.requests == []


def test_a_token_from_the_environment_opens_a_private_model(hub: HubServer, tmp_path: Path):
    hub.repositories[NAME].refuses_with = "private"
    assert find(hub, tmp_path, NAME, HF_TOKEN=TOKEN).returncode == 0


def test_without_the_library_the_error_says_what_to_install(hub: HubServer, tmp_path: Path):
    hide = "import sys; sys.modules['huggingface_hub'] = None\n" + FIND
    answer = run_in_new_process(["-c", hide.replace("\n", "\n"), NAME], tmp_path, hub.url, tmp_path)
    assert answer.returncode == 2, answer.stderr
    assert "pip install 'gpt1[hub]'" in answer.stderr


# ---- names


@pytest.mark.parametrize("name", [NAME, "a/b", "owner/na.me-1_2", "a/b@main", "a/b@refs/pr/1", "a/b@0123abc"])
def test_owner_and_name_is_a_hub_name(name: str):
    assert is_hub_name(name)


@pytest.mark.parametrize(
    "name", ["gpt1", "/a/b", "./a", "../a", "a/b/c", "a/", "/a", "a b/c", "~/a", "a/b@", "a\\b", "https://a/b", "ä/b"]
)
def test_other_paths_are_not_hub_names(name: str):
    assert not is_hub_name(name)


def test_an_existing_path_wins_and_a_mistyped_one_sends_no_request(hub: HubServer, hub_model: Path, tmp_path: Path):
    local = tmp_path / NAME
    local.parent.mkdir()
    os.symlink(hub_model, local)
    assert find(hub, tmp_path, NAME).stdout.strip() == NAME
    mistyped = find(hub, tmp_path, "openai-community/openai-gtp")
    assert mistyped.returncode == 2
    assert f"Did you mean {NAME}?" in mistyped.stderr
    assert hub.requests == []
    assert re.search("snapshots", find(hub, tmp_path, f"{NAME}@main").stdout)


# ---- push


@pytest.mark.slow
def test_a_pushed_model_comes_back_bit_for_bit_with_its_card(hub: HubServer, workspace: Path, tmp_path: Path):
    others = {"old/config.json": b"{}", "int8/model.safetensors": b"", "adapter.safetensors": b"", "notes.md": b""}
    hub.repositories["alice/books"] = Repository({**others, "task.json": b"{}"})
    code = f"""
from pathlib import Path
from gpt1 import load
from gpt1.hub import download
from gpt1.inference.push import push
run, tuned = Path({str(workspace)!r}, "runs/books"), Path({str(workspace)!r}, "runs/reviews")
assert push(run, "alice/books", license="cc-by-4.0") == {hub.url!r} + "/alice/books"
for name in ("config.json", "model.safetensors", "vocab.json", "gpt1_tokenizer.json"):
    assert Path(download("alice/books"), name).read_bytes() == (run / "model" / name).read_bytes(), name
push(tuned, "alice/reviews", private=True)
ours, theirs = load(tuned), load("alice/reviews")
assert theirs.predict(["one text"]) == ours.predict(["one text"])
push("alice/books", "alice/reviews", dtype="bf16", license="MIT")  # replaces a fine-tuned model: its task.json goes
download.cache_clear()
assert type(load("alice/reviews@main")).__name__ == "LanguageModel"
"""
    answer = run_in_new_process(["-c", code], tmp_path / "hf", hub.url, tmp_path, HF_TOKEN=TOKEN)
    assert answer.returncode == 0, answer.stderr
    pushed = hub.repositories["alice/books"].files
    card = pushed["README.md"].decode()
    results = json.loads((workspace / "runs/books/results.json").read_text())
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    assert f"| tokens | {results['corpus']['tokens']:,} |" in card
    assert f"| loss | {results['validation']['loss']:.2f} |" in card
    assert "| corpus |" in card
    assert pushed.keys() >= others.keys()
    assert "task.json" not in pushed
    assert str(workspace) not in card
    assert hub.repositories["alice/reviews"].refuses_with == "private"
    assert "task.json" not in hub.repositories["alice/reviews"].files
    assert len(hub.repositories["alice/reviews"].files["model.safetensors"]) < 0.6 * len(pushed["model.safetensors"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "token", "problem"),
    [
        ("alice/books", "", "refuses access to alice/books (status 401)"),
        ("books", TOKEN, "books is not a name on the hub"),
        ("alice/books --license free", TOKEN, 'refuses the model card: Invalid metadata in README.md. "license" must'),
        ("alice/books --license mit", TOKEN, "the transfer of alice/books was interrupted: Error while uploading"),
        ("alice/public --private", TOKEN, "alice/public exists and is public"),
    ],
)
def test_a_push_that_the_hub_would_refuse_is_one_error(
    words: str, token: str, problem: str, hub: HubServer, workspace: Path, tmp_path: Path
):
    hub.repositories["alice/public"] = Repository({})
    hub.refuses_uploads = True
    environment = {"HF_TOKEN": token} if token else {}
    answer = gpt1(hub, tmp_path, "push", str(workspace / "runs/books"), *words.split(), **environment)
    assert answer.returncode == 2, answer.stderr
    assert problem in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not any(hub.repositories[name].files for name in {"alice/books", "alice/public"} & hub.repositories.keys())
