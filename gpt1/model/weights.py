"""Model folders of gpt1: config.json and model.safetensors, read, written and checked. No pickle."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt1.config import GPTConfig, build_config, field_name
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_path, atomic_write_json
from gpt1.files.foreign import Fields, check_name, check_not_pointer, check_regular, read_json_object, short
from gpt1.files.manifest import file_entry, verify_folder
from gpt1.files.names import (
    FIRST_ARRAY,
    HEAD_FILE,
    INDEX_FILE,
    MANIFEST,
    MODEL_CONFIG_FILE,
    SHAPES_FILE,
    TASK_FILE,
    TOKENIZER_FILES,
    WEIGHTS_FILE,
)
from gpt1.kernels.meta_init import meta_init

MODEL_FORMAT = "gpt1-model-1"
HEAD_PREFIX, TOKENIZER_KEY = "head.", "tokenizer"
MODEL_FILES = "gpt1-model-files-1"
"""Format of a model folder's manifest.json."""
READ_FILES = [MODEL_CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, TASK_FILE, HEAD_FILE, *TOKENIZER_FILES]
READ_FILES += [SHAPES_FILE, FIRST_ARRAY]
"""Files that gpt1 reads from a model folder if they exist; a manifest must list them."""
FLOATING = ("F64", "F32", "F16", "BF16")
"""Data types of weights, as safetensors names them."""
MAX_CONFIG_BYTES = 2**24
"""Largest config.json or task.json; enough for thousands of labels."""


def verify_model(folder: Path) -> None:
    """Check a model folder against its manifest.json, if it has one.

    Raises:
        UserError: A file is missing or changed, or gpt1 reads it and the manifest does not list it.
    """
    if os.path.lexists(path := folder / MANIFEST) and ((folder / MODEL_CONFIG_FILE).exists() or is_openai(folder)):
        fix = f"Copy the model folder again. If you changed it on purpose, delete {path}."
        shards = weight_files(folder / WEIGHTS_FILE) if (folder / INDEX_FILE).exists() else {}
        verify_folder(folder, MODEL_FILES, fix, read=[*READ_FILES, *(path.name for path in shards)])


def is_openai(folder: Path) -> bool:
    """Whether a folder has the arrays of OpenAI's release."""
    return (folder / FIRST_ARRAY).exists()


def read_model(folder: Path, settings: Mapping[str, Any]) -> tuple[GPTConfig, dict[str, Tensor]]:
    """(config, float32 weights) of a gpt1 model folder. `settings` are those of its config.json."""
    config = check_own(folder, settings)
    weights = read_safetensors(folder / WEIGHTS_FILE, lambda name: not name.startswith(HEAD_PREFIX))
    check_shapes(folder / WEIGHTS_FILE, config, weights)
    return config, weights


def check_own(folder: Path, settings: Mapping[str, Any]) -> GPTConfig:
    """The config of a gpt1 model folder, checked against the header of its weights. Reads no weights."""
    own = {name: value for name, value in settings.items() if name not in ("format", TOKENIZER_KEY)}
    config = parse_model_config(folder / MODEL_CONFIG_FILE, own)
    header = read_tensor_headers(folder / WEIGHTS_FILE)
    gpt = {name: tensor for name, tensor in header.items() if not name.startswith(HEAD_PREFIX)}
    check_shapes(folder / WEIGHTS_FILE, config, gpt)
    return config


def parse_model_config(path: Path, values: Mapping[str, Any]) -> GPTConfig:
    """The GPTConfig with the values of the file `path`. Raises UserError if they are invalid."""
    try:
        for name, value in values.items():
            if isinstance(value, str) != isinstance(getattr(GPTConfig, field_name(GPTConfig, name)), str):
                raise UserError(f"{name} {short(value)} has the wrong type.")
        return build_config(GPTConfig, {field_name(GPTConfig, name): value for name, value in values.items()})
    except UserError as error:
        problem = re.sub(r"--([a-z-]+)", lambda flag: flag[1].replace("-", "_"), error.problem)  # keys, not flags
        raise UserError(f"{path} was changed or damaged: {problem}", "Copy the model folder again.") from None


def read_head(folder: Path) -> dict[str, Tensor]:
    """The tensors of the head in a fine-tuned model folder."""
    weights = read_safetensors(folder / WEIGHTS_FILE, lambda name: name.startswith(HEAD_PREFIX))
    return {name.removeprefix(HEAD_PREFIX): tensor for name, tensor in weights.items()}


def read_tokenizer_fingerprint(folder: Path) -> str | None:
    """Fingerprint of the tokenizer that a model was trained with; None if unknown."""
    return read_config(folder).get(TOKENIZER_KEY) if (folder / MODEL_CONFIG_FILE).exists() else None


def write_model(
    folder: Path,
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    head: Mapping[str, Tensor] | None = None,
    tokenizer_fingerprint: str | None = None,
) -> None:
    """Write config.json and model.safetensors, and delete the manifest of an earlier model.

    Args:
        folder: Where to write; it is created.
        config: The model's config.
        weights: The weights by name.
        head: Tensors of the head of a fine-tuned model, stored as `head.…`.
        tokenizer_fingerprint: Fingerprint of the tokenizer that the model was trained with.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    fingerprint = {TOKENIZER_KEY: tokenizer_fingerprint} if tokenizer_fingerprint else {}
    content = {"format": MODEL_FORMAT, **asdict(config), **fingerprint}
    atomic_write_json(folder / MODEL_CONFIG_FILE, content)
    head_tensors = {HEAD_PREFIX + name: tensor for name, tensor in (head or {}).items()}
    write_safetensors(folder / WEIGHTS_FILE, {**weights, **head_tensors})


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically. A full disk is the same error as for other files, not safetensors' own."""
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # according to the umask; safetensors sets 0600
        try:
            own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(own, temporary, metadata)
            temporary.chmod(mode)
        except SafetensorError as error:
            if number := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
            raise


@cache
def tensor_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a model, by name. The meta device allocates no memory."""
    from gpt1.model.gpt import GPT  # an import at the top would be circular

    with meta_init():
        return {name: tuple(tensor.shape) for name, tensor in GPT(config).state_dict().items()}


def check_shapes(where: Path, config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    """Raise UserError unless the weights are exactly those that `config` describes."""
    expected = tensor_shapes(config)
    for name in [*expected, *weights]:
        shape = tuple(weights[name].shape) if name in weights else None
        if shape != expected.get(name):
            raise UserError(
                f"{where}: tensor {name} has shape {shape}, but {MODEL_CONFIG_FILE} requires {expected.get(name)}.",
                "Weights and configuration belong to different models: copy the folder again.",
            )


def weight_files(path: Path) -> dict[Path, set[str]]:
    """The files of the weights `path`: the file itself, or its shards with the names of their tensors.

    Raises:
        UserError: The index of the shards is damaged, or names a file that is not beside it.
    """
    index = path.with_name(INDEX_FILE)
    if path.exists() or not index.exists():
        return {path: set()}
    shards: dict[Path, set[str]] = {}
    fields = Fields(read_json_object(index), index)
    for tensor, name in fields.object("weight_map").values.items():
        if "/" in check_name(name, index) or not name.endswith(".safetensors"):
            fields.refuse(f"{short(name)} is not the name of a .safetensors file")
        shards.setdefault(index.with_name(name), set()).add(tensor)
    if not shards:
        fields.refuse("'weight_map' is empty")
    return shards


def read_weight_files(
    path: Path, read: Callable[[Path], dict[str, Tensor]], select: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """The tensors that `read` finds in the files of the weights `path`; shards must hold what their index says."""
    tensors: dict[str, Tensor] = {}
    for file, names in weight_files(path).items():
        part = read(file)
        if file != path and (differ := sorted(part.keys() ^ set(filter(select, names)))):
            raise UserError(
                f"{file} and {INDEX_FILE} do not agree about the tensor {short(differ[0])}.",
                "The files belong to different models: copy the folder again.",
            )
        tensors |= part
    return tensors


def fingerprint_weights(folder: Path) -> str:
    """SHA-256 of the weights of a model folder in any format."""
    files: Iterable[Path] = weight_files(folder / WEIGHTS_FILE)
    if is_openai(folder):
        files = folder.glob("params_*.npy")
    hashes = [file_entry(path)["sha256"] for path in sorted(files)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def read_tensor_headers(path: Path) -> dict[str, Tensor]:
    """The tensors of the weights by name, without data (device `meta`), read from the headers of the files."""
    return read_weight_files(path, read_file_header)


def read_file_header(path: Path) -> dict[str, Tensor]:
    with open_safetensors(path, OverflowError, RuntimeError, TypeError, ValueError) as file:  # of a wrong shape
        return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118


@contextmanager
def open_safetensors(path: Path, *errors: type[Exception]) -> Iterator[Any]:
    """An open safetensors file; UserError if it is missing or damaged, which `errors` may mean as well."""
    if not path.exists():
        raise UserError(f"{path} does not exist.", f"A model folder contains {MODEL_CONFIG_FILE} and {WEIGHTS_FILE}.")
    check_regular(path)
    check_not_pointer(path)
    damage: tuple[type[Exception], ...] = (SafetensorError, *errors)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except damage as error:
        raise UserError(
            f"{path} cannot be read: {error}.", "The file is damaged or truncated: copy it again."
        ) from None


def read_safetensors(path: Path, select: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of its shards, as float32.

    Args:
        path: The file; if it does not exist, the shards of the index beside it.
        select: Whether to read the tensor of this name.

    Raises:
        UserError: The file is missing or damaged, or a tensor is not floating point or contains NaN or infinity.
    """
    tensors = {name: tensor.float() for name, tensor in read_tensors(path, select).items()}
    check_finite_weights(path, tensors)
    return tensors


def read_tensors(path: Path, select: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of the weights with the dtypes of the file, which must be floating point."""
    return read_weight_files(path, lambda file: read_file_tensors(file, select), select)


def read_file_tensors(path: Path, select: Callable[[str], bool]) -> dict[str, Tensor]:
    with open_safetensors(path) as file:
        names = [name for name in file.keys() if select(name)]  # noqa: SIM118 (not a mapping)
        for name in names:
            if (dtype := file.get_slice(name).get_dtype()) not in FLOATING:
                raise UserError(
                    f"{path}: tensor {name} has the type {dtype}, which is not floating point.",
                    f"Save the weights as {', '.join(FLOATING[:-1])} or {FLOATING[-1]}.",
                )
        return {name: file.get_tensor(name) for name in names}


def check_finite_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError if a tensor contains NaN or infinity."""
    for name, tensor in tensors.items():
        if not tensor.sum().isfinite() and not tensor.isfinite().all():  # the sum is fast, but may overflow
            raise UserError(
                f"{path}: tensor {name} contains NaN or infinity.",
                "Training diverged, or the file is damaged: use another checkpoint, or copy the file again.",
            )


def read_config(folder: Path) -> dict[str, Any]:
    """The content of a model folder's config.json."""
    return read_json_object(folder / MODEL_CONFIG_FILE, max_bytes=MAX_CONFIG_BYTES)
