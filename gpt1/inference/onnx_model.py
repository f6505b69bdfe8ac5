"""Export to ONNX: the model in plain torch, traced by torch.onnx and checked in ONNX Runtime before it is kept."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpt1.console import default_progress
from gpt1.errors import GPT1Error, UserError
from gpt1.files.atomic import atomic_dir
from gpt1.files.manifest import write_manifest
from gpt1.files.names import ONNX_FILE
from gpt1.files.output import check_new_folder
from gpt1.formatting import format_size
from gpt1.inference.convert import write_huggingface_tokenizer
from gpt1.inference.predictor import TaskPredictor, load
from gpt1.inference.task import write_task
from gpt1.model.gpt import GPT
from gpt1.model.head import Head
from gpt1.model.weights import MODEL_FILES
from gpt1.progress import Progress
from gpt1.tasks.kinds import DELIMITER, EXTRACT, START
from gpt1.tasks.targets import Target, target_to_json

OPSET = 20
"""The first with GELU in its tanh form; ONNX Runtime 1.17 and newer."""
ONNX_TOLERANCE = 1e-4
"""Largest difference to the model's own output (relative to logits above 1), at the shortest and longest inputs."""
INT8_TOLERANCE = 0.5
"""With int8 weights only gross errors are refused; what it costs on a task is measured (docs/onnx.md)."""


class PlainGPT(nn.Module):
    """Equation 2 without kernels: what the tracer sees does not depend on the size of the traced input."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, ids: Tensor) -> Tensor:  # [batch, time] → [batch, time, n_embd]
        gpt: Any = self.gpt
        h = F.embedding(ids, gpt.tokens.weight) + gpt.positions.weight[: ids.shape[1]]
        for block in gpt.blocks:
            h = self.normalize(block.norm_1, h + self.attend(block.attention, h))
            hidden = F.gelu(F.linear(h, block.mlp.widen.weight, block.mlp.widen.bias), approximate="tanh")
            h = self.normalize(block.norm_2, h + F.linear(hidden, block.mlp.narrow.weight, block.mlp.narrow.bias))
        return h

    @staticmethod
    def attend(attention: Any, x: Tensor) -> Tensor:  # [batch, time, n_embd] → the same
        batch, time, n_embd = x.shape
        qkv = F.linear(x, attention.qkv.weight, attention.qkv.bias)
        q, k, v = (part.view(batch, time, attention.n_head, -1).transpose(1, 2) for part in qkv.chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.linear(y.transpose(1, 2).reshape(batch, time, n_embd), attention.out.weight, attention.out.bias)

    @staticmethod
    def normalize(norm: Any, x: Tensor) -> Tensor:
        return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, eps=1e-5)


class NextTokenGraph(nn.Module):
    """ids [batch, time] → logits of the next token at each position [batch, time, vocabulary]."""

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.plain = PlainGPT(gpt)

    def forward(self, input_ids: Tensor) -> Tensor:
        return F.linear(self.plain(input_ids), self.plain.gpt.tokens.weight)


class TaskGraph(nn.Module):
    """The sequences of examples (figure 1) → calibrated probabilities, or scores."""

    def __init__(self, gpt: GPT, head: Head, target: Target, temperature: float) -> None:
        super().__init__()
        self.plain, self.head, self.target, self.temperature = PlainGPT(gpt), head, target, temperature

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """[rows, sequences, time] and [rows, sequences] → [rows, outputs]; a length of 0 is a missing answer.

        What follows the extract token of a sequence is padding. It changes nothing, because attention is causal.
        """
        rows, sequences, time = input_ids.shape
        states = self.plain(input_ids.view(rows * sequences, time))
        last = (lengths.view(-1, 1, 1) - 1).clamp(min=0).expand(-1, 1, states.shape[-1])
        features = states.gather(1, last).view(rows, sequences, -1)  # h_l^m, at the extract tokens
        weight, bias = self.head.linear.weight, self.head.linear.bias
        if self.head.each:
            logits = F.linear(features, weight, bias)[..., 0].masked_fill(lengths == 0, -torch.inf)
        else:
            logits = F.linear(features.sum(1), weight, bias)
        return self.target.activate(logits / self.temperature)


def export_onnx(
    source: str | Path,
    out: str | Path,
    int8: bool = False,
    progress: Progress | None = None,
    verify: bool = True,
    overwrite: bool = False,
) -> Path:
    """Export a model to ONNX (opset 20), with the tokenizer and, after fine-tuning, task.json.

    A pre-trained model maps `input_ids` [batch, time] to `logits` [batch, time, vocabulary]. A fine-tuned one maps
    `input_ids` [rows, sequences, time] and `lengths` [rows, sequences] to `probabilities` [rows, labels], which are
    calibrated, or to `score` [rows]. All dimensions but `sequences` (unless it counts answers) are dynamic.

    Args:
        source: A run or model folder.
        out: The folder to write.
        int8: Store the weight matrices as 8-bit integers (dynamic quantization, one scale per output).
        progress: Receives messages.
        verify: See `load`.
        overwrite: Replace a folder that gpt1 exported before.

    Returns:
        The path of the written folder.

    Raises:
        UserError: For an LSTM, or if the packages of gpt1[onnx] are missing; nothing is written then.
        GPT1Error: If ONNX Runtime's output differs from the model's; nothing is written then.
    """
    progress = progress or default_progress()
    if missing := [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]:
        raise UserError(f"export onnx needs the package {missing[0]}.", "pip install 'gpt1[onnx]'")
    target = check_new_folder(out, overwrite, [source], writes="model")
    model = load(source, device="cpu", verify=verify)
    if model.gpt.recurrent:
        raise UserError(f"{source} is an LSTM; only Transformers can be exported.", "Export another model.")
    with atomic_dir(target, replace=overwrite) as folder:
        difference = write_onnx(folder / ONNX_FILE, model, int8)
        model.tokenizer.save(folder)
        write_huggingface_tokenizer(folder, model.tokenizer, replace(model.gpt.config, special_tokens=0))
        if isinstance(model, TaskPredictor):
            write_task(folder, model.task)
        write_manifest(folder, MODEL_FILES)
        size = (folder / ONNX_FILE).stat().st_size
    progress.log(f"{target}: {ONNX_FILE} {format_size(size)}, opset {OPSET}{', int8 weights' if int8 else ''}")
    progress.log(f"checked in ONNX Runtime: largest difference {difference:.1e}")
    return target


def write_onnx(path: Path, model: Any, int8: bool) -> float:
    """Trace, save, quantize and check; returns the largest difference to the traced model."""
    is_task = isinstance(model, TaskPredictor)
    graph = TaskGraph(model.gpt, model.task_model.head, model.target, model.temperature) if is_task else None
    graph_or_lm: nn.Module = graph or NextTokenGraph(model.gpt)
    sequences = model.kind.sequences if is_task else 0
    many = is_task and model.kind.multiple_choice
    output = model.target.activated_name if is_task else "logits"
    trace(graph_or_lm.eval(), path, output, example_inputs(model.gpt, sequences, 2, 3, many), model.gpt.config.context)
    add_metadata(path, metadata(model))
    if int8:
        quantize(path)
    tolerance = INT8_TOLERANCE if int8 else ONNX_TOLERANCE
    return check(graph_or_lm, path, model.gpt, sequences, many, tolerance)


def example_inputs(gpt: GPT, sequences: int, rows: int, time: int, many: bool) -> tuple[Tensor, ...]:
    """Random inputs: (ids,), or (ids, lengths) for a task; with `many` three sequences per row, as many answers."""
    generator = torch.Generator().manual_seed(time)
    shape = (rows, 3 if many else sequences, time) if sequences else (rows, time)
    ids = torch.randint(gpt.config.embedding_rows, shape, generator=generator)
    return (ids, torch.randint(1, time + 1, shape[:2], generator=generator)) if sequences else (ids,)


def trace(graph: nn.Module, path: Path, output: str, inputs: tuple[Tensor, ...], context: int) -> None:
    rows, time = torch.export.Dim("rows"), torch.export.Dim("time", max=context)
    answers = torch.export.Dim("answers", min=2)
    dynamic: tuple[dict[int, Any], ...] = ({0: rows, 1: time},)
    if len(inputs) == 2:
        each = {1: answers} if isinstance(graph, TaskGraph) and graph.head.each else {}
        dynamic = ({0: rows, **each, 2: time}, {0: rows, **each})
    names = ["input_ids", "lengths"][: len(inputs)]
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=[output],
            dynamic_shapes=dynamic,
            verbose=False,
        )
        assert program is not None
        program.save(str(path))


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter, which logs skipped steps and warns about its own deprecated calls."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(model: Any) -> dict[str, Any]:
    """Metadata with which a client without gpt1 can build the inputs and read the output."""
    config = model.gpt.config
    facts: dict[str, Any] = {"producer": "gpt1", "context": config.context, "vocab_size": config.vocab_size}
    if isinstance(model, TaskPredictor):
        special = {"start": START, "delimiter": DELIMITER, "extract": EXTRACT} if config.special_tokens else {}
        facts |= {f"{name}_id": config.vocab_size + index for name, index in special.items()}
        if (pad := model.task.get("pad")) is not None:  # see encode_plain
            facts["pad_id"] = pad
        facts |= {"kind": model.kind.name, "labels": model.labels, "target": target_to_json(model.target)}
    return facts


def add_metadata(path: Path, facts: Mapping[str, Any]) -> None:
    import onnx

    model = onnx.load(str(path))
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in facts.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.save(model, str(path))


def quantize(path: Path) -> None:
    """Replace the float32 matrices of all products by int8 ones, in place; activations are quantized while running."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet_exporter():
        options = {"op_types_to_quantize": ["MatMul"], "per_channel": True, "weight_type": QuantType.QInt8}
        quantize_dynamic(str(path), str(path), **options)


def check(graph: nn.Module, path: Path, gpt: GPT, sequences: int, many: bool, tolerance: float) -> float:
    """The largest difference between ONNX Runtime and the model, at the shortest, a middle and the longest input."""
    session = open_session(path)
    names = [entry.name for entry in session.get_inputs()]
    context, largest = gpt.config.context, 0.0
    for rows, time in ((1, 1), (3, max(1, context // 3)), (2, context)):
        inputs = example_inputs(gpt, sequences, rows, time, many)
        with torch.no_grad():
            expected = graph(*inputs).numpy()
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        difference = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        largest = max(largest, float(difference.max()))
        if not largest <= tolerance:
            raise GPT1Error(
                f"ONNX Runtime's output differs by {largest:.1e} at {time} tokens (allowed: {tolerance:.0e}).",
                "Nothing was written. Try other versions of onnxruntime and torch.",
            )
    return largest


def open_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
