"""Models in other formats: Hugging Face's openai-gpt (read and written) and OpenAI's arrays. No pickle."""

from __future__ import annotations

import json
import math
import re
import tokenize
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.files.atomic import atomic_write_text
from gpt1.files.foreign import Fields, check_regular, parse_json, read_bounded, short
from gpt1.files.names import MODEL_CONFIG_FILE, SHAPES_FILE, WEIGHTS_FILE
from gpt1.model.weights import (
    MAX_CONFIG_BYTES,
    MODEL_FORMAT,
    check_finite_weights,
    check_shapes,
    is_openai,
    parse_model_config,
    read_config,
    read_model,
    read_safetensors,
    read_tensor_headers,
    weight_files,
    write_safetensors,
)
from gpt1.runs.folder import log_once

# The layers of a block in the order of the release: their names in the release and Hugging Face, and in gpt1.
# Dense weights are [in, out] there and [out, in] here.
BLOCK_NAMES = [
    ("attn.c_attn", "attention.qkv"),
    ("attn.c_proj", "attention.out"),
    ("ln_1", "norm_1"),
    ("mlp.c_fc", "mlp.widen"),
    ("mlp.c_proj", "mlp.narrow"),
    ("ln_2", "norm_2"),
]
BLOCK_RANKS = [3, 1, 3, 1, 1, 1, 3, 1, 3, 1, 1, 1]  # of their tensors in the release; dense weights are [1, in, out]
HEAD_WIDTH = 64  # of the release, which does not store the number of heads
LAYER_NORM_EPS = 1e-5
MASK = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)")
"""Names of the causal mask, a constant that old versions of transformers stored with the weights."""
SCORE = "score.weight"
"""The head of transformers' classifier; inference/foreign_task.py reads it."""
OWN_KEY = "gpt1"
"""Key of config.json with what our export keeps there: the number of special tokens, and the task."""
SHAPE_NAMES = {n: n for n in ("vocab_size", "n_layer", "n_head", "n_embd")} | {"n_positions": "context"}
"""Name of each dimension in Hugging Face's config.json → in GPTConfig."""


def read_any_model(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """(config, float32 weights by the names of gpt1) of a model folder in any supported format."""
    if not folder.is_dir():
        problem = f"{folder} is not a folder."
        raise UserError(problem, f"Use a model folder, which contains {MODEL_CONFIG_FILE} and {WEIGHTS_FILE}.")
    if is_openai(folder):
        return read_openai(folder)
    if not (folder / MODEL_CONFIG_FILE).exists():
        inside = folder / "model"
        hint = f"A model folder contains {MODEL_CONFIG_FILE} and {WEIGHTS_FILE}."
        if (inside / MODEL_CONFIG_FILE).exists():
            hint = f"Did you mean {inside}?"
        raise UserError(f"{folder} is not a model folder: no {MODEL_CONFIG_FILE} found.", hint)
    settings = read_config(folder)
    if settings.get("model_type") == "openai-gpt":
        return read_huggingface(folder, settings)
    if settings.get("format") != MODEL_FORMAT:
        model_format = str(settings.get("model_type") or settings.get("format") or "no format")[:40]
        raise UserError(
            f"{folder / MODEL_CONFIG_FILE} describes an unsupported model ({model_format}).",
            f"gpt1 reads {MODEL_FORMAT}, Hugging Face's openai-gpt and OpenAI's params_*.npy.",
        )
    return read_model(folder, settings)


def read_huggingface(folder: Path, settings: Mapping[str, Any]) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Read a folder written by `save_pretrained` of transformers' openai-gpt models, with or without a head."""
    if settings.get("afn", "gelu") not in ("gelu", "gelu_new"):
        problem = f"{folder / MODEL_CONFIG_FILE}: activation {short(settings['afn'])}; GPT-1 uses gelu."
        raise UserError(problem, "Use a model with activation gelu.")
    if (eps := settings.get("layer_norm_epsilon", LAYER_NORM_EPS)) != LAYER_NORM_EPS:
        raise UserError(
            f"{folder / MODEL_CONFIG_FILE}: layer_norm_epsilon {short(eps)}; GPT-1 uses {LAYER_NORM_EPS}.",
            f"Use a model that was trained with layer_norm_epsilon {LAYER_NORM_EPS}.",
        )
    for name in SHAPE_NAMES:
        if name not in settings:
            raise UserError(f"{folder / MODEL_CONFIG_FILE} has no {name}.", "The model is incomplete: copy it again.")
    shape = {ours: settings[theirs] for theirs, ours in SHAPE_NAMES.items()}
    fields = Fields(settings, folder / MODEL_CONFIG_FILE)
    if special := fields.object(OWN_KEY, {}).integer("special_tokens", 0, 3, default=0):  # their vocabulary has them
        shape |= {"vocab_size": fields.integer("vocab_size", special) - special, "special_tokens": special}
    config = parse_model_config(folder / MODEL_CONFIG_FILE, {**shape, "dropout": settings.get("resid_pdrop", 0.1)})
    has_weights = any(path.exists() for path in weight_files(folder / WEIGHTS_FILE))
    if not has_weights and (folder / "pytorch_model.bin").exists():
        raise UserError(
            f"{folder} has only pytorch_model.bin, a pickle, which can run code when loaded. gpt1 loads no pickles.",
            "Convert it with transformers: OpenAIGPTLMHeadModel.from_pretrained(...).save_pretrained(...).",
        )
    for read in (read_tensor_headers, read_floating):  # shapes first, so that weights of a wrong shape are not read
        theirs = read_huggingface_tensors(folder, read)
        try:
            ours = {
                our_name: transpose_dense(our_name, theirs[name])
                for our_name, name in huggingface_names(config.n_layer).items()
            }
        except KeyError as missing:
            problem = f"{folder / WEIGHTS_FILE} has no tensor {missing}."
            raise UserError(problem, "The model is incomplete: copy it again.") from None
        check_shapes(folder / WEIGHTS_FILE, config, ours)
    check_unused_weights(folder, config, theirs)
    return config, ours


def is_huggingface(folder: Path) -> bool:
    return (folder / MODEL_CONFIG_FILE).exists() and read_config(folder).get("model_type") == "openai-gpt"


def read_huggingface_tensors(
    folder: Path, read: Callable[[Path], dict[str, Tensor]] | None = None
) -> dict[str, Tensor]:
    """The tensors of a folder of transformers by their names without prefix, without the masks."""
    return {
        name.removeprefix("transformer."): tensor
        for name, tensor in (read or read_floating)(folder / WEIGHTS_FILE).items()
        if not MASK.fullmatch(name)
    }


def read_floating(path: Path) -> dict[str, Tensor]:
    return read_safetensors(path, lambda name: not MASK.fullmatch(name))


def write_huggingface(
    folder: Path,
    config: GPTConfig,
    weights: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    classifier: Mapping[str, Any] = {},
    score: Tensor | None = None,
) -> None:
    """Write config.json and model.safetensors like `save_pretrained` of transformers, with weights of `dtype`.

    The model is an OpenAIGPTLMHeadModel, or a classifier with these settings and this `score` [outputs, n_embd].
    lm_head.weight is omitted, as there, because it is the token embedding.
    """
    content = {
        "architectures": ["OpenAIGPTLMHeadModel"],
        "model_type": "openai-gpt",
        **{theirs: getattr(config, ours) for theirs, ours in SHAPE_NAMES.items()},
        "vocab_size": config.embedding_rows,
        "afn": "gelu",  # transformers' name of the tanh form in this model; it does not accept "gelu_new"
        "layer_norm_epsilon": LAYER_NORM_EPS,
        **dict.fromkeys(("embd_pdrop", "resid_pdrop", "attn_pdrop"), config.dropout),
        **classifier,
    }
    atomic_write_text(folder / MODEL_CONFIG_FILE, json.dumps(content, indent=2) + "\n")
    tensors = {
        "transformer." + theirs: transpose_dense(ours, weights[ours]).to(dtype)
        for ours, theirs in huggingface_names(config.n_layer).items()
    } | ({} if score is None else {SCORE: score.to(dtype)})
    write_safetensors(folder / WEIGHTS_FILE, tensors, {"format": "pt"})  # transformers 4.40 requires this metadata


def huggingface_names(n_layer: int) -> dict[str, str]:
    """Name of each tensor in gpt1 → in Hugging Face, without the prefix `transformer.`."""
    names = {"tokens.weight": "tokens_embed.weight", "positions.weight": "positions_embed.weight"}
    for layer in range(n_layer):
        for their_part, our_part in BLOCK_NAMES:
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{our_part}.{kind}"] = f"h.{layer}.{their_part}.{kind}"
    return names


def transpose_dense(our_name: str, tensor: Tensor) -> Tensor:
    """Transpose a dense weight of a block ([out, in] here, [in, out] there); other tensors stay as they are."""
    return tensor.T.contiguous() if our_name.startswith("blocks.") and tensor.dim() == 2 else tensor


def check_unused_weights(folder: Path, config: GPTConfig, theirs: Mapping[str, Tensor]) -> None:
    """Raise UserError for weights that change the model and that gpt1 would have to ignore; name all others."""
    if any(name.startswith(f"h.{config.n_layer}.") for name in theirs):
        raise UserError(
            f"{folder / WEIGHTS_FILE} has more blocks than the {config.n_layer} of {MODEL_CONFIG_FILE}.",
            "Weights and configuration belong to different models: copy the folder again.",
        )
    if "lm_head.weight" in theirs and not torch.equal(theirs["lm_head.weight"], theirs["tokens_embed.weight"]):
        raise UserError(
            f"{folder / WEIGHTS_FILE}: lm_head.weight differs from the token embedding; GPT-1 ties the two.",
            "Use a model whose output matrix is tied to its embedding.",
        )
    if unused := sorted(theirs.keys() - {*huggingface_names(config.n_layer).values(), "lm_head.weight", SCORE}):
        log_once(f"{folder / WEIGHTS_FILE}: not used, because GPT-1 has no such weights: {', '.join(unused)[:400]}")


def read_openai(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Read OpenAI's release of 2018: params_0.npy … params_9.npy, concatenated and split by params_shapes.json."""
    shapes = read_openai_shapes(folder / SHAPES_FILE)
    numbered = {path: re.fullmatch(r"params_(\d+)\.npy", path.name) for path in folder.glob("params_*.npy")}
    files = sorted((int(number[1]), path) for path, number in numbered.items() if number)
    arrays = [read_array(path) for _, path in files]  # memory-mapped: not read yet
    size, expected = sum(array.size for array in arrays), sum(map(math.prod, shapes))
    if size != expected:
        raise UserError(
            f"{folder}: the arrays have {size:,} numbers, but {SHAPES_FILE} requires {expected:,}.",
            f"The release has ten arrays, params_0.npy to params_9.npy; found {len(files)}.",
        )
    flat = np.concatenate([array.ravel() for array in arrays])
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = zip(np.split(flat, ends), shapes, strict=True)
    tensors = iter([torch.from_numpy(part.astype(np.float32).reshape(shape)) for part, shape in parts])
    (context, n_embd), (vocab_size, _) = shapes[:2]
    n_layer = (len(shapes) - 2) // len(BLOCK_RANKS)
    shape = {"vocab_size": vocab_size, "n_layer": n_layer, "n_head": n_embd // HEAD_WIDTH, "n_embd": n_embd}
    config = parse_model_config(folder / SHAPES_FILE, {**shape, "context": context})
    ours = {"positions.weight": next(tensors), "tokens.weight": next(tensors)}
    for layer in range(n_layer):
        for _, part in BLOCK_NAMES:
            weight = next(tensors)
            dense = weight.dim() == 3  # [1, in, out]
            ours[f"blocks.{layer}.{part}.weight"] = weight[0].T.contiguous() if dense else weight
            ours[f"blocks.{layer}.{part}.bias"] = next(tensors)
    check_shapes(folder, config, ours)
    check_finite_weights(folder, ours)
    return config, ours


def read_openai_shapes(path: Path) -> list[list[int]]:
    """The shapes of the tensors of the release, in order: positions, tokens, then twelve per block."""
    if not path.exists():
        raise UserError(
            f"{path.parent} has no {path.name}.", "Copy it from the release, where it is next to the arrays."
        )
    shapes = parse_json(read_bounded(path, MAX_CONFIG_BYTES), path)
    ranks = []
    if isinstance(shapes, list) and all(is_shape(shape) for shape in shapes):
        ranks = list(map(len, shapes))
    if len(ranks) < 14 or ranks != [2, 2, *BLOCK_RANKS * ((len(shapes) - 2) // len(BLOCK_RANKS))]:
        raise UserError(
            f"{path} is not the list of shapes of the release: positions [512, 768], tokens [40478, 768], then twelve "
            "per block.",
            "The file is damaged: copy it again.",
        )
    if shapes[0][1] % HEAD_WIDTH:
        raise UserError(
            f"{path}: width {shapes[0][1]} is not a multiple of {HEAD_WIDTH}, the head width of the release.",
            "Copy the files of the release again.",
        )
    return cast(list[list[int]], shapes)


def is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n > 0 for n in value)


def read_array(path: Path) -> NDArray[Any]:
    check_regular(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mmap: a wrong header cannot allocate memory
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
            raise ValueError("the data type is not floating point")
    except (ValueError, EOFError, BadZipFile, OverflowError, TypeError, SyntaxError, tokenize.TokenError) as error:
        problem = f"{path} is not an array of numbers: {str(error)[:200]}"
        raise UserError(problem, "The file is damaged, or not a part of the release: copy it again.") from None
    return array
