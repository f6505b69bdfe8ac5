"""Models on the Hugging Face hub: `owner/name[@revision]` becomes a folder in its cache, a folder a repository.

Cache, token, address and offline use are those of `huggingface_hub`: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE.
Only safetensors, JSON and text are fetched, by name.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import cache, partial
from glob import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpt1.console import Console
from gpt1.errors import UserError, first_line
from gpt1.files.foreign import MAX_JSON_BYTES, read_json_object, short
from gpt1.files.names import (
    HEAD_FILE,
    INDEX_FILE,
    MANIFEST,
    MODEL_CONFIG_FILE,
    TASK_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
)
from gpt1.progress import Progress
from gpt1.version import __version__

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?", re.ASCII)
NO_NETWORK = "The model starter (English) comes with gpt1 and needs no network."
TEXT_FILES = [MODEL_CONFIG_FILE, INDEX_FILE, TASK_FILE, MANIFEST, *TOKENIZER_FILES, "tokenizer_config.json"]
SHARDS = "model-*-of-*.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MODEL_TYPES = ("openai-gpt", "gpt1-model-1")
"""`model_type` or `format` in the config.json of the models that gpt1 reads."""
LICENSE_FIX = "Use --license with an identifier of https://hf.co/docs/hub/repositories-licenses, or other."
INSTALL = "pip install 'gpt1[hub]'"
WEIGHTS_HINT = "A model has config.json, model.safetensors, vocab.json and merges.txt."


def is_hub_name(name: str) -> bool:
    """Whether a name, which is not a path, has the form `owner/name[@revision]`.

    If the folder `owner` exists, `owner/name` is a mistyped path; `owner/name@main` is not.
    """
    return bool(HUB_NAME.fullmatch(name)) and ("@" in name or not Path(name).parent.is_dir())


@cache  # all parts of a command use the same state of a repository
def download(name: str) -> Path:
    """The folder in the hub's cache with the model `owner/name[@revision]`; what is missing is downloaded.

    Raises:
        UserError: The model does not exist, needs a token, is not a GPT-1, has no safetensors, or cannot be reached
            and is not in the cache.
    """
    hub = import_hub(name)
    repository, _, revision = name.partition("@")
    fetch = partial(hub.snapshot_download, repository, ignore_patterns=["*/*"])
    progress = Console() if os.environ.get("RANK", "0") == "0" else Progress()
    with translate_hub_errors(hub, name):
        sizes = list_files(hub, repository, revision, progress)
        fetch = fetch if sizes is not None else partial(fetch, local_files_only=True)
        if sizes is not None:
            check_listing(name, sizes)
        folder = Path(fetch(revision=revision or None, allow_patterns=TEXT_FILES, tqdm_class=byte_bar()))
        check_config(name, folder)
        wanted = [HEAD_FILE, WEIGHTS_FILE if sizes is None or WEIGHTS_FILE in sizes else SHARDS]
        missing = {
            file: size
            for file, size in (sizes or {}).items()
            if any(fnmatch(file, pattern) for pattern in wanted) and not (folder / file).exists()
        }
        if missing:
            megabytes = -(-sum(missing.values()) // 10**6)
            progress.begin(f"downloading {name}", megabytes, unit="MB")
            bar = byte_bar(lambda done: progress.advance(min(megabytes, done // 10**6)))
            fetch(revision=folder.name, allow_patterns=wanted, tqdm_class=bar)
            progress.advance(megabytes)
            progress.end()
    return folder


def upload(folder: Path, name: str, private: bool) -> str:
    """Commit the files of a folder to the repository `owner/name`, which is created; returns its address.

    Files of an earlier model that this one does not have are deleted. Other files, and all in folders, stay.

    Raises:
        UserError: The hub cannot be reached or refuses it, or a repository that should be private is public.
    """
    hub = import_hub(name)
    with translate_hub_errors(hub, name):
        api = hub.HfApi()
        hub.utils.disable_progress_bars()  # the bars of the library do not work in logs
        api.create_repo(name, private=private, exist_ok=True)
        info = api.model_info(name)
        if private and not info.private:
            raise UserError(
                f"{name} exists and is public; --private applies only to a new repository.",
                f"Make it private at {hub.constants.ENDPOINT}/{name}/settings, or use another name.",
            )
        there = [file.rfilename for file in info.siblings or []]
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            commit_message=f"Model of gpt1 {__version__}",
            delete_patterns=[escape(file) for file in there if is_model_file(file)],
        )
    return f"{hub.constants.ENDPOINT}/{name}"


def is_model_file(file: str) -> bool:
    """Whether a file of a repository, by its path, belongs to a model in its root folder."""
    return "/" not in file and (file in (*TEXT_FILES, WEIGHTS_FILE, HEAD_FILE) or fnmatch(file, SHARDS))


def import_hub(name: str) -> Any:
    if find_spec("huggingface_hub") is None:
        raise UserError(
            f"{name} is not a local folder, and models on the Hugging Face hub need `huggingface_hub`, which is not "
            "installed.",
            f"Check the path, or: {INSTALL}\n{NO_NETWORK}",
        )
    return import_module("huggingface_hub")


def list_files(hub: Any, repository: str, revision: str, progress: Progress) -> dict[str, int] | None:
    """Size of each file of a repository in its root folder by name; None if the hub cannot be reached."""
    try:
        info = hub.HfApi().model_info(repository, revision=revision or None, files_metadata=True)
    except Exception as error:
        if not is_unreachable(error):
            raise
        if not isinstance(error, hub.errors.OfflineModeIsEnabled):
            progress.log(f"the Hugging Face hub cannot be reached: looking for {repository} in the local cache")
        return None
    return {file.rfilename: int(file.size or 0) for file in info.siblings or [] if "/" not in file.rfilename}


def is_unreachable(error: Exception) -> bool:
    """Whether the hub did not answer, or answered with a server error."""
    if status := getattr(getattr(error, "response", None), "status_code", 0):
        return int(status) >= 500
    return isinstance(error, ConnectionError | TimeoutError) or type(error).__module__.startswith("httpx")


def check_listing(name: str, sizes: dict[str, int]) -> None:
    """Raise UserError for a repository whose files gpt1 cannot use, before anything is downloaded."""
    if not any(fnmatch(file, pattern) for file in sizes for pattern in (WEIGHTS_FILE, SHARDS)):
        if pickles := [file for file in sizes if file.endswith(PICKLES)]:
            raise UserError(
                f"{name} has no safetensors, only pickles ({short(pickles[0])}), which can run code when loaded. "
                "gpt1 loads no pickles.",
                "Convert it with transformers: OpenAIGPTLMHeadModel.from_pretrained(...).save_pretrained(...).",
            )
        raise UserError(f"{name} has no {WEIGHTS_FILE}.", WEIGHTS_HINT)
    if MODEL_CONFIG_FILE not in sizes:
        raise UserError(f"{name} has no {MODEL_CONFIG_FILE}.", WEIGHTS_HINT)
    for file in TEXT_FILES:
        if sizes.get(file, 0) > MAX_JSON_BYTES:
            raise UserError(
                f"{name}: {file} has {sizes[file]:,} bytes; the limit is {MAX_JSON_BYTES:,}.",
                "Check that it is the right model.",
            )


def check_config(name: str, folder: Path) -> None:
    """Raise UserError for a model that is not a GPT-1, before its weights are downloaded."""
    if not (folder / MODEL_CONFIG_FILE).exists():
        raise UserError(
            f"{name} is incomplete in the hub's cache: no {MODEL_CONFIG_FILE} found.",
            "Run the command again with a network connection.",
        )
    config = read_json_object(folder / MODEL_CONFIG_FILE)
    kind = config.get("model_type") or config.get("format")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"{name} is not a GPT-1: its {MODEL_CONFIG_FILE} describes a model of the type {short(kind)}.",
            "Use a model of the type openai-gpt, such as openai-community/openai-gpt, or one that gpt1 push wrote.",
        )


def is_network_oserror(error: Exception) -> bool:
    """Whether it is an OSError of the network: those of the file system have an `errno`."""
    return isinstance(error, OSError) and error.errno is None


def byte_bar(advance: Callable[[int], None] = lambda done: None) -> type[Any]:
    """A class with the interface of tqdm that shows nothing and calls `advance` with the number of bytes done."""
    from tqdm import tqdm

    class ByteBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **kwargs | {"file": io.StringIO(), "disable": False})

        def display(self, *args: Any, **kwargs: Any) -> None:
            """Nothing: `advance` shows it."""

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.unit == "B":
                advance(int(self.n))
            return shown

    return ByteBar


@contextmanager
def translate_hub_errors(hub: Any, name: str) -> Iterator[None]:
    """Turn errors of the library into UserErrors that say how to fix them."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise as_user_error(hub, name, error) or error from None


def as_user_error(hub: Any, name: str, error: Exception) -> UserError | None:
    """The UserError for an error of the library; None for unrelated errors, such as a full disk."""
    errors, host = hub.errors, hub.constants.ENDPOINT
    repository = name.partition("@")[0]
    token = "Log in with `hf auth login`, or set HF_TOKEN to a token of huggingface.co/settings/tokens"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{name} is gated: access requires accepting its terms of use.",
            f"Accept them at {host}/{repository}. {token}.",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{repository} has no revision {name.partition('@')[2]}.", f"See {host}/{repository}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{name} is neither a local folder nor a public model on {host}.",
            f"Check the path or the name. For a private model: {token} with read permission.",
        )
    if status in (401, 403):
        return UserError(f"{host} refuses access to {name} (status {status}).", f"{token} with this permission.")
    if isinstance(error, errors.HFValidationError):
        return UserError(f"{name} is neither a local folder nor a valid name: {first_line(error)}", "Check the name.")
    if isinstance(error, errors.LocalEntryNotFoundError) and hub.constants.HF_HUB_OFFLINE:
        return UserError(
            f"{name} is neither a local folder nor in the hub's cache, and HF_HUB_OFFLINE is set.",
            f"Run the command once online, without HF_HUB_OFFLINE, or use the path of a model folder.\n{NO_NETWORK}",
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UserError(
            f"{name} is neither a local folder nor in the hub's cache, and {host} cannot be reached.",
            f"Check the path and the network. With a proxy, set HTTPS_PROXY.\n{NO_NETWORK}",
        )
    if isinstance(error, ValueError) and "metadata" in str(error):
        lines = [line.lstrip("- ") for line in str(error).splitlines()]
        return UserError(f"{host} refuses the model card: {' '.join(lines)}", LICENSE_FIX)
    # RuntimeError: an upload that the storage refuses, or a transfer by hf_xet
    if is_unreachable(error) or status or isinstance(error, RuntimeError) or is_network_oserror(error):
        return UserError(
            f"the transfer of {name} was interrupted: {first_line(error)}",
            "Run the command again: complete files are kept.",
        )
    return None
