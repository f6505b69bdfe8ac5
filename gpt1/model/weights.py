"""Folders of weights in, tensors by our names out: ours, Hugging Face's openai-gpt, OpenAI's arrays; and the first two
from tensors. No pickle."""

from __future__ import annotations

import json
import math
import os
import re
import tokenize
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt1.config import GPTConfig, build, field_name, flag_name
from gpt1.errors import UserError
from gpt1.files.foreign import check_regular, parse_json, read_bounded, read_json_object, short
from gpt1.files.manifest import MANIFEST, verify_folder

MODEL_FORMAT = "gpt1-model-1"
MODEL_CONFIG_FILE, WEIGHTS_FILE, HEAD_PREFIX, TOKENIZER_KEY = "config.json", "model.safetensors", "head.", "tokenizer"
MODEL_FILES = "gpt1-model-files-1"
"""Format of a model folder's manifest.json."""
READ_FILES = [
    MODEL_CONFIG_FILE,
    WEIGHTS_FILE,
    "task.json",
    "gpt1_tokenizer.json",
    "vocab.json",
    "merges.txt",
    "encoder_bpe_40000.json",
]
READ_FILES += ["vocab_40000.bpe", "params_shapes.json", "params_0.npy"]
"""Files that gpt1 reads from a model folder where they exist; a manifest has to name them."""
FLOATING = ("F64", "F32", "F16", "BF16")
"""Data types of weights, as safetensors names them."""

# A block's tensors in the order of the release, with the names of the release (as Hugging Face keeps them) and ours.
# Dense weights ("w") are [in, out] there and [out, in] here.
BLOCK_NAMES = [
    ("attn.c_attn", "attention.qkv"),
    ("attn.c_proj", "attention.out"),
    ("ln_1", "norm_1"),
    ("mlp.c_fc", "mlp.widen"),
    ("mlp.c_proj", "mlp.narrow"),
    ("ln_2", "norm_2"),
]
BLOCK_RANKS = [3, 1, 3, 1, 1, 1, 3, 1, 3, 1, 1, 1]  # of these tensors in the release: a dense weight is [1, in, out]
HEAD_WIDTH = 64  # of the release, which does not say how many heads there are
LAYER_NORM_EPS = 1e-5
MAX_CONFIG_BYTES = 2**24
"""Largest config.json or task.json: thousands of labels."""
# What a model's shape is called in Hugging Face's config.json, and here.
SHAPE_NAMES = {n: n for n in ("vocab_size", "n_layer", "n_head", "n_embd")} | {"n_positions": "context"}


def read_model(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """(config, weights by our names, float32) of any folder that gpt1 understands."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder.", "Name a model folder: it holds config.json and model.safetensors.")
    if (folder / "params_0.npy").exists():
        return read_openai(folder)
    if not (folder / MODEL_CONFIG_FILE).exists():
        inside = folder / "model"
        hint = (
            f"Did you mean {inside}?"
            if (inside / MODEL_CONFIG_FILE).exists()
            else f"It needs {MODEL_CONFIG_FILE} and {WEIGHTS_FILE}."
        )
        raise UserError(f"{folder} is no model folder: it has no {MODEL_CONFIG_FILE}.", hint)
    settings = read_config(folder)
    if settings.get("model_type") == "openai-gpt":
        return read_huggingface(folder, settings)
    if settings.get("format") != MODEL_FORMAT:
        found = str(settings.get("model_type") or settings.get("format") or "no format")[:40]
        raise UserError(
            f"{folder / MODEL_CONFIG_FILE} describes a model of another kind ({found}).",
            f"gpt1 reads its own models ({MODEL_FORMAT}), Hugging Face's openai-gpt and OpenAI's params_*.npy.",
        )
    config = check_own(folder, settings)
    weights = read_safetensors(folder / WEIGHTS_FILE, lambda name: not name.startswith(HEAD_PREFIX))
    check_shapes(folder / WEIGHTS_FILE, config, weights)
    return config, weights


def verify_model(folder: Path) -> None:
    """Check a model folder against its manifest.json; one without a manifest (made by hand or elsewhere) passes.

    Raises:
        UserError: with the first file that is missing, changed, or read by gpt1 and not in the manifest.
    """
    if os.path.lexists(path := folder / MANIFEST) and (
        (folder / MODEL_CONFIG_FILE).exists() or (folder / "params_0.npy").exists()
    ):
        fix = f"Copy the model folder again. If you changed it on purpose, delete {path}, or use --no-verify."
        verify_folder(folder, MODEL_FILES, fix, read=READ_FILES)


def check_own(folder: Path, settings: Mapping[str, Any]) -> GPTConfig:
    """The config of a model folder of ours, whose weights' header has to fit it. Reads no weights."""
    own = {name: value for name, value in settings.items() if name not in ("format", TOKENIZER_KEY)}
    config = parse_model_config(folder / MODEL_CONFIG_FILE, own)
    header = read_header(folder / WEIGHTS_FILE)
    check_shapes(
        folder / WEIGHTS_FILE, config, {name: t for name, t in header.items() if not name.startswith(HEAD_PREFIX)}
    )
    return config


def parse_model_config(path: Path, values: Mapping[str, Any]) -> GPTConfig:
    """The model that the file `path` describes by these values; UserError for one that cannot be."""
    try:
        for name, value in values.items():
            if isinstance(value, str) != isinstance(getattr(GPTConfig, field_name(GPTConfig, name)), str):
                raise UserError(f"{flag_name(name)} {short(value)} has the wrong type.")
        return build(GPTConfig, {field_name(GPTConfig, name): value for name, value in values.items()})
    except UserError as error:
        problem = f"{path} was changed or damaged: {error.problem}"
        raise UserError(problem, "Copy the model folder again.") from None


def read_head(folder: Path) -> dict[str, Tensor]:
    """The head's tensors of a fine-tuned model folder."""
    weights = read_safetensors(folder / WEIGHTS_FILE, lambda name: name.startswith(HEAD_PREFIX))
    return {name.removeprefix(HEAD_PREFIX): tensor for name, tensor in weights.items()}


def read_tokenizer_fingerprint(folder: Path) -> str | None:
    """The fingerprint of the tokenizer that the model of a folder was trained with; None where it does not say."""
    return read_config(folder).get(TOKENIZER_KEY) if (folder / MODEL_CONFIG_FILE).exists() else None


def write_model(
    folder: Path,
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    head: Mapping[str, Tensor] | None = None,
    tokenizer_fingerprint: str | None = None,
) -> None:
    """config.json and model.safetensors; the head of a fine-tuned model stands beside the weights as `head.…`.
    tokenizer_fingerprint: its fingerprint. A manifest of what was there before is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    told = {TOKENIZER_KEY: tokenizer_fingerprint} if tokenizer_fingerprint else {}
    about = {"format": MODEL_FORMAT, **asdict(config), **told}
    (folder / MODEL_CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    write_safetensors(
        folder / WEIGHTS_FILE, {**weights, **{HEAD_PREFIX + name: tensor for name, tensor in (head or {}).items()}}
    )


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> None:
    """The file `path`. A full disk is an OSError, as it is for every other file; safetensors' own error is not."""
    path.touch()
    mode = path.stat().st_mode  # as the umask says; safetensors itself gives 0600
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path, about)
        path.chmod(mode)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        raise


def read_huggingface(folder: Path, settings: Mapping[str, Any]) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The folder that `OpenAIGPTLMHeadModel.save_pretrained` writes."""
    if settings.get("afn", "gelu") not in ("gelu", "gelu_new"):
        raise UserError(
            f"{folder / MODEL_CONFIG_FILE}: activation {short(settings['afn'])}; GPT-1 has gelu.", "Another model?"
        )
    if (eps := settings.get("layer_norm_epsilon", LAYER_NORM_EPS)) != LAYER_NORM_EPS:
        raise UserError(
            f"{folder / MODEL_CONFIG_FILE}: layer_norm_epsilon {short(eps)}; GPT-1 has {LAYER_NORM_EPS}.",
            f"With another one it says something else: take a model that was trained with {LAYER_NORM_EPS}.",
        )
    for name in SHAPE_NAMES:
        if name not in settings:
            raise UserError(f"{folder / MODEL_CONFIG_FILE} says no {name}.", "It is no complete openai-gpt model.")
    shape = {ours: settings[theirs] for theirs, ours in SHAPE_NAMES.items()}
    config = parse_model_config(folder / MODEL_CONFIG_FILE, {**shape, "dropout": settings.get("resid_pdrop", 0.1)})
    if not (folder / WEIGHTS_FILE).exists() and (folder / "pytorch_model.bin").exists():
        raise UserError(
            f"{folder} holds pytorch_model.bin, a pickle, which can run code when it is opened: gpt1 never does.",
            "Convert it with transformers: OpenAIGPTLMHeadModel.from_pretrained(...).save_pretrained(...).",
        )
    for read in (read_header, read_safetensors):  # shapes first: what does not fit is not read
        theirs = {name.removeprefix("transformer."): t for name, t in read(folder / WEIGHTS_FILE).items()}
        try:
            ours = {
                our_name: transpose_dense(our_name, theirs[name])
                for our_name, name in huggingface_names(config.n_layer).items()
            }
        except KeyError as missing:
            raise UserError(
                f"{folder / WEIGHTS_FILE} has no tensor {missing}.", "It is no complete openai-gpt model."
            ) from None
        check_shapes(folder / WEIGHTS_FILE, config, ours)
    check_unused_weights(folder, config, theirs)
    return config, ours


def write_huggingface(folder: Path, config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    """config.json and model.safetensors as `OpenAIGPTLMHeadModel.save_pretrained` writes them. lm_head.weight is left
    out as there: it is the token embedding."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
        **{theirs: getattr(config, ours) for theirs, ours in SHAPE_NAMES.items()},
        "afn": "gelu",  # their name for the tanh form; "gelu_new", its name elsewhere, is none that this model knows
        "layer_norm_epsilon": LAYER_NORM_EPS,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), config.dropout),
    }
    (folder / MODEL_CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    tensors = {
        "transformer." + theirs: transpose_dense(ours, weights[ours])
        for ours, theirs in huggingface_names(config.n_layer).items()
    }
    write_safetensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})  # transformers 4.40 opens no file without it


def huggingface_names(n_layer: int) -> dict[str, str]:
    """Our name of each tensor of a Transformer → Hugging Face's, without its prefix."""
    names = {"tokens.weight": "tokens_embed.weight", "positions.weight": "positions_embed.weight"}
    for layer in range(n_layer):
        for their_part, our_part in BLOCK_NAMES:
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{our_part}.{kind}"] = f"h.{layer}.{their_part}.{kind}"
    return names


def transpose_dense(our_name: str, tensor: Tensor) -> Tensor:
    """A dense weight of a block, [out, in] here and [in, out] there, in the other's form; any other tensor as it is."""
    return tensor.T.contiguous() if our_name.startswith("blocks.") and tensor.dim() == 2 else tensor


def check_unused_weights(folder: Path, config: GPTConfig, theirs: Mapping[str, Tensor]) -> None:
    """UserError for weights of Hugging Face's that belong to the model and have no place in ours."""
    if any(name.startswith(f"h.{config.n_layer}.") for name in theirs):
        raise UserError(
            f"{folder / WEIGHTS_FILE} holds more blocks than the {config.n_layer} of {MODEL_CONFIG_FILE}.",
            "Weights and configuration are of two different models.",
        )
    if "lm_head.weight" in theirs and not torch.equal(theirs["lm_head.weight"], theirs["tokens_embed.weight"]):
        raise UserError(
            f"{folder / WEIGHTS_FILE}: lm_head.weight is not the token embedding; GPT-1 has one matrix for both.",
            "Import a model whose output is tied to its embedding.",
        )


def read_openai(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """The release of 2018: flat arrays params_0.npy … params_9.npy, concatenated and cut by params_shapes.json."""
    shapes = read_openai_shapes(folder / "params_shapes.json")
    numbered = {path: re.fullmatch(r"params_(\d+)\.npy", path.name) for path in folder.glob("params_*.npy")}
    files = sorted((int(number[1]), path) for path, number in numbered.items() if number)
    arrays = [read_array(path) for _, path in files]  # memory-mapped: nothing is read yet
    held, wanted = sum(array.size for array in arrays), sum(map(math.prod, shapes))
    if held != wanted:
        raise UserError(
            f"{folder}: the arrays hold {held:,} numbers, params_shapes.json asks for {wanted:,}.",
            f"The release has ten arrays, params_0.npy to params_9.npy; here are {len(files)}.",
        )
    flat = np.concatenate([array.ravel() for array in arrays])
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = zip(np.split(flat, ends), shapes, strict=True)
    tensors = iter([torch.from_numpy(part.astype(np.float32).reshape(shape)) for part, shape in parts])
    (context, n_embd), (vocab_size, _) = shapes[:2]
    n_layer = (len(shapes) - 2) // len(BLOCK_RANKS)
    shape = {"vocab_size": vocab_size, "n_layer": n_layer, "n_head": n_embd // HEAD_WIDTH, "n_embd": n_embd}
    config = parse_model_config(folder / "params_shapes.json", {**shape, "context": context})
    ours = {"positions.weight": next(tensors), "tokens.weight": next(tensors)}
    for layer in range(n_layer):
        for _, part in BLOCK_NAMES:
            weight = next(tensors)
            dense = weight.dim() == 3  # [1, in, out]
            ours[f"blocks.{layer}.{part}.weight"] = weight[0].T.contiguous() if dense else weight
            ours[f"blocks.{layer}.{part}.bias"] = next(tensors)
    check_shapes(folder, config, ours)
    check_finite(folder, ours)
    return config, ours


def read_openai_shapes(path: Path) -> list[list[int]]:
    """The shapes of the release's tensors in its order: positions, tokens, then twelve a block."""
    if not path.exists():
        raise UserError(f"{path.parent} has no {path.name}.", "Copy it from the release; it stands beside the arrays.")
    shapes = parse_json(read_bounded(path, MAX_CONFIG_BYTES), path)
    ranks = []
    if isinstance(shapes, list) and all(is_shape(shape) for shape in shapes):
        ranks = list(map(len, shapes))
    if len(ranks) < 14 or ranks != [2, 2, *BLOCK_RANKS * ((len(shapes) - 2) // len(BLOCK_RANKS))]:
        raise UserError(
            f"{path} is no list of the release's shapes: positions [512, 768], tokens [40478, 768], then the twelve "
            "of each block.",
            "The file is damaged: copy it again.",
        )
    if shapes[0][1] % HEAD_WIDTH:
        raise UserError(
            f"{path}: a width of {shapes[0][1]} is no multiple of {HEAD_WIDTH}, the width of the release's heads.",
            "Is it a model of the release's format?",
        )
    return cast(list[list[int]], shapes)


def is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n > 0 for n in value)


def tensor_shapes(config: GPTConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a model, by our names."""
    n = config.n_embd
    shapes: dict[str, tuple[int, ...]] = {"tokens.weight": (config.embedding_rows, n)}
    if config.architecture == "transformer":
        shapes["positions.weight"] = (config.context, n)
    for layer in range(config.n_layer):
        block = f"blocks.{layer}."
        if config.architecture == "lstm":
            gates, units = 4 * config.lstm_units, config.lstm_units
            shapes |= {
                block + "weight_in": (gates, n),
                block + "weight_state": (gates, units),
                block + "bias": (gates,),
            }
            shapes |= {block + "out": (n, units), block + "out_bias": (n,)}
            continue
        for part, n_out, n_in in [
            ("attention.qkv", 3 * n, n),
            ("attention.out", n, n),
            ("mlp.widen", 4 * n, n),
            ("mlp.narrow", n, 4 * n),
        ]:
            shapes[f"{block}{part}.weight"], shapes[f"{block}{part}.bias"] = (n_out, n_in), (n_out,)
        for part in ("norm_1", "norm_2"):
            shapes[f"{block}{part}.weight"], shapes[f"{block}{part}.bias"] = (n,), (n,)
    return shapes


def check_shapes(where: Path, config: GPTConfig, weights: Mapping[str, Tensor]) -> None:
    wanted = tensor_shapes(config)
    for name in [*wanted, *weights]:
        found = tuple(weights[name].shape) if name in weights else None
        if found != wanted.get(name):
            raise UserError(
                f"{where}: tensor {name} has the shape {found}, {MODEL_CONFIG_FILE} asks for {wanted.get(name)}.",
                "Weights and configuration are of two different models.",
            )


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file without their data (device `meta`): names and shapes, read from its header."""
    if not path.exists():
        raise UserError(f"{path} does not exist.", f"A model folder holds {MODEL_CONFIG_FILE} and {WEIGHTS_FILE}.")
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}.", "The file is damaged or cut short: copy it again."
        ) from None


def read_safetensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a file whose names are `wanted`, as float32.

    Raises:
        UserError: for a file that is missing or damaged, a tensor that is not floating point, NaN and infinity.
    """
    tensors = {name: tensor.float() for name, tensor in read_tensors(path, wanted).items()}
    check_finite(path, tensors)
    return tensors


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a safetensors file in the floating-point types that they have there."""
    if not path.exists():
        raise UserError(f"{path} does not exist.", f"A model folder holds {MODEL_CONFIG_FILE} and {WEIGHTS_FILE}.")
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if wanted(name)]  # noqa: SIM118 (it is no mapping)
            for name in names:
                if (dtype := file.get_slice(name).get_dtype()) not in FLOATING:
                    raise UserError(
                        f"{path}: tensor {name} has the type {dtype}; weights are floating point.",
                        f"Save the model as one of {', '.join(FLOATING)}.",
                    )
            return {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise UserError(
            f"{path} cannot be read: {error}.", "The file is damaged or cut short: copy it again."
        ) from None


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """UserError for a tensor with NaN or infinity in it."""
    for name, tensor in tensors.items():
        if not tensor.sum().isfinite() and not tensor.isfinite().all():  # the sum is quick, and may overflow
            raise UserError(
                f"{path}: tensor {name} holds NaN or infinity.",
                "Training diverged, or the file is damaged: use another checkpoint, or copy the file again.",
            )


def read_array(path: Path) -> NDArray[Any]:
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # no memory for more numbers than the file holds
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise ValueError("it holds something else than floating-point numbers")
    except (ValueError, EOFError, BadZipFile, OverflowError, TypeError, SyntaxError, tokenize.TokenError) as error:
        raise UserError(
            f"{path} is no array of numbers: {str(error)[:200]}", "The file is damaged or no part of the release."
        ) from None
    return array


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder."""
    return read_json_object(folder / MODEL_CONFIG_FILE, max_bytes=MAX_CONFIG_BYTES)
