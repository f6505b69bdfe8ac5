"""Fine-tuned models in Hugging Face's format: OpenAIGPTForSequenceClassification, read and written.

Their classifier maps the state of the last token that is not padding: score · h, without a bias, and without start and
extract tokens. Ours maps the state at the extract token: (W h + b) / temperature. To write ours as theirs, the special
tokens become three rows of the vocabulary, and W, b and the temperature one matrix. That is exact, because h is the
output of a LayerNorm with weight g and bias β: Σ h_i / g_i = Σ β_i / g_i = c for every input. So with u_i = 1 / g_i

    W h + b = (W + b uᵀ / c) h.

head.safetensors keeps W and b, and config.json the task, so that importing the folder restores our model bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpt1.errors import UserError
from gpt1.files.foreign import Fields, short
from gpt1.files.names import HEAD_FILE, MODEL_CONFIG_FILE, TASK_FILE, WEIGHTS_FILE
from gpt1.inference.task import TASK_FORMAT, StoredTask, parse_task, read_own_task
from gpt1.model.foreign_weights import OWN_KEY, SCORE, is_huggingface, read_huggingface_tensors
from gpt1.model.gpt import GPT
from gpt1.model.head import Head
from gpt1.model.weights import read_config, read_safetensors, read_tensor_headers
from gpt1.runs.folder import log_once
from gpt1.tasks.kinds import DELIMITER, KINDS, EncodedExample, Kind
from gpt1.tasks.targets import Classes, StandardizedNumber, Target, target_from_json, target_to_json

NORM = ("weight", "bias")
HEAD_TOLERANCE = 1e-5
"""Largest difference between the outputs of our head and of the matrix for it, relative to the largest output."""


def read_any_task(folder: Path) -> StoredTask | None:
    """Head and task of the fine-tuned model in a folder of any format; None if it is not fine-tuned."""
    if (folder / TASK_FILE).exists():
        return read_own_task(folder)
    if not is_huggingface(folder) or SCORE not in read_tensor_headers(folder / WEIGHTS_FILE):
        return None
    settings, weights = read_config(folder), read_huggingface_tensors(folder)
    score = weights[SCORE]
    if score.dim() != 2 or score.shape[1] != settings["n_embd"]:
        raise UserError(
            f"{folder / WEIGHTS_FILE}: {SCORE} has shape {tuple(score.shape)}, not [labels, {settings['n_embd']}].",
            "The model is damaged: copy it again.",
        )
    fields = Fields(settings, folder / MODEL_CONFIG_FILE).object(OWN_KEY, {})
    own = (
        parse_task(dict(fields.object("task").values), folder / MODEL_CONFIG_FILE) if "task" in fields.values else None
    )
    if own and (folder / HEAD_FILE).exists():
        stored = StoredTask(read_own_head(folder, score.shape), *own)
        norm = (weights[f"h.{settings['n_layer'] - 1}.ln_2.{kind}"] for kind in NORM)
        difference = (fold_head(stored, *norm) - score).abs().max()
        if difference <= HEAD_TOLERANCE * score.abs().max():
            return stored
        log_once(f"{folder / WEIGHTS_FILE}: {SCORE} has changed since the export, so {HEAD_FILE} is ignored")
    return read_their_task(folder, settings, score, own[0] if own else {})


def read_their_task(folder: Path, settings: Mapping[str, Any], score: Tensor, own: Mapping[str, Any]) -> StoredTask:
    """Head and task of a classifier that transformers wrote; `own`: the task of the gpt1 model behind it, if any."""
    target = read_target(folder, settings, len(score))
    kind = "regression" if isinstance(target, StandardizedNumber) else "classification"
    task: dict[str, Any] = {"format": TASK_FORMAT, "kind": kind, "columns": {"text": "text", "label": "label"}}
    if own and isinstance(target, KINDS[own["kind"]].target):
        task |= {key: own[key] for key in ("kind", "columns", "cut") if key in own}
    pad = settings.get("pad_token_id")
    if not own and pad is not None:
        task["pad"] = pad
    task |= {"temperature": 1.0, "target": target_to_json(target)}
    head = Head(score.shape[1], len(score), each=False)
    head.load_state_dict({"linear.weight": score, "linear.bias": torch.zeros(len(score))})
    task = json.loads(json.dumps(task))  # lists for tuples, as in a task.json
    return StoredTask(head, *parse_task(task, folder / MODEL_CONFIG_FILE))


def read_target(folder: Path, settings: Mapping[str, Any], outputs: int) -> Target:
    """The target of their head, by the rules of transformers: one output is a number, several are classes."""
    where = folder / MODEL_CONFIG_FILE
    if outputs == 1:
        return StandardizedNumber(0.0, 1.0)
    if (problem := settings.get("problem_type")) not in (None, "single_label_classification"):
        raise UserError(
            f"{where}: problem_type {short(problem)} with {outputs} outputs is not supported by gpt1.",
            "Use a classifier that predicts one label or one number per text.",
        )
    names = Fields(settings, where).object("id2label", {}).values
    labels = [names.get(str(i), f"LABEL_{i}") for i in range(outputs)]
    return target_from_json(Fields({"name": "classes", "labels": labels}, where))


def read_own_head(folder: Path, shape: torch.Size) -> Head:
    """The head that our export stores next to the weights."""
    head = Head(shape[1], shape[0], each=False)
    try:
        head.load_state_dict(read_safetensors(folder / HEAD_FILE))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{folder / HEAD_FILE} does not fit {SCORE}: {reason}", "Copy the folder again.") from None
    return head


def drop_padding_row(folder: Path, gpt: GPT, vocab_size: int) -> None:
    """Drop the embedding of a padding token that was added after the vocabulary: gpt1 packs texts without padding."""
    config = gpt.config
    if config.vocab_size != vocab_size + 1 or config.special_tokens or not is_huggingface(folder):
        return
    if read_config(folder).get("pad_token_id") == vocab_size:
        log_once(f"{folder}: the embedding of the padding token {vocab_size} is ignored: gpt1 needs no padding")
        gpt.config = replace(config, vocab_size=vocab_size)
        gpt.tokens.weight = nn.Parameter(gpt.tokens.weight.detach()[:vocab_size].clone())
        gpt.tokens.num_embeddings = vocab_size


def encode_plain(ids: Sequence[list[int]], context: int, newline_id: int, pad: int | None) -> list[EncodedExample]:
    """Texts as their classifier reads them: without special tokens, up to the last token that is not `pad`.

    In a causal model the tokens after it do not change its state, so they are left out.
    """
    encoded = []
    for text in ids:
        tokens = text[:context] or [newline_id]
        last = max((i for i, token in enumerate(tokens) if token != pad), default=0)
        encoded.append(EncodedExample([tokens[: last + 1]], is_truncated=len(text) > context))
    return encoded


# ---- export


def is_exportable(kind: Kind, target: Target) -> bool:
    """Whether their head can represent this kind of task: one sequence per row, a class or a number."""
    return kind.sequences == 1 and not kind.multiple_choice and isinstance(target, Classes | StandardizedNumber)


def fold_head(stored: StoredTask, norm_weight: Tensor, norm_bias: Tensor) -> Tensor:  # → [outputs, n_embd]
    """The matrix for (W h + b) / temperature, or for the number that it means; see the top of this file."""
    linear, temperature = stored.head.linear, float(stored.task.get("temperature", 1.0))
    weight, bias = (tensor.detach().double() / temperature for tensor in (linear.weight, linear.bias))
    if isinstance(stored.target, StandardizedNumber):
        weight, bias = weight * stored.target.deviation, bias * stored.target.deviation + stored.target.mean
    if bias.any():
        u = 1 / norm_weight.double()
        weight = weight + torch.outer(bias, u) / (u * norm_bias.double()).sum()
    return weight.float()


def score_matrix(source: str, gpt: GPT, stored: StoredTask) -> Tensor:  # → [outputs, n_embd]
    """As `fold_head`, after checking on states of the model that the matrix gives the outputs of our head.

    Raises:
        UserError: If it does not, because the biases of the last LayerNorm cancel out, as in a model that is hardly
        trained.
    """
    weights = gpt.state_dict()
    score = fold_head(stored, *(weights[f"blocks.{gpt.config.n_layer - 1}.norm_2.{kind}"] for kind in NORM))
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(gpt.config.vocab_size, (4, min(gpt.config.context, 64)), generator=random)
    with torch.inference_mode():
        states = gpt.hidden_states(ids).flatten(0, 1)
        expected = stored.head.linear(states) / float(stored.task.get("temperature", 1.0))
    if isinstance(stored.target, StandardizedNumber):
        expected = expected * stored.target.deviation + stored.target.mean
    difference = (states @ score.T - expected).abs().max()
    if not difference <= HEAD_TOLERANCE * max(1.0, float(expected.abs().max())):  # `not`, because it may be NaN
        raise UserError(
            f"the head of {source} has a bias. transformers' classifier has none, and this bias cannot be folded into "
            "the last LayerNorm.",
            "Fine-tune it for more steps, or use it with gpt1.",
        )
    return score


def classifier_settings(gpt: GPT, stored: StoredTask) -> dict[str, Any]:
    """The keys of a classifier's config.json besides the shape: labels, padding token, and our task."""
    is_class = isinstance(stored.target, Classes)
    labels = stored.target.labels if isinstance(stored.target, Classes) else ("LABEL_0",)
    special = gpt.config.special_tokens
    return {
        "architectures": ["OpenAIGPTForSequenceClassification"],
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        "problem_type": "single_label_classification" if is_class else "regression",
        # The delimiter is never the last token, so the last token that is not padding is the extract token.
        "pad_token_id": gpt.config.vocab_size + DELIMITER if special else stored.task.get("pad"),
        OWN_KEY: {"special_tokens": special, "task": stored.task},
    }
