"""Models and data of the benchmarks: gpt1's model, transformers' with the same weights, rows of SST-2."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Workload
from gpt1.config import GPTConfig
from gpt1.model.foreign_weights import BLOCK_NAMES
from gpt1.model.gpt import GPT


def model_config(quick: bool) -> GPTConfig:
    """The paper's 117M model, or a tiny one with its vocabulary."""
    return GPTConfig(n_layer=2, n_head=2, n_embd=32, context=64) if quick else GPTConfig()


def random_model(quick: bool) -> GPT:
    """A model with random weights."""
    torch.manual_seed(0)
    return GPT(model_config(quick))


def benchmark_device() -> torch.device:
    """A CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_size(config: GPTConfig) -> str:
    return f"{config.n_parameters / 1e6:.0f}M parameters"


# ---- transformers


def openai_config(ours: GPTConfig, dropout: float = 0.1, **more: Any) -> Any:
    """The config as transformers' OpenAIGPTConfig."""
    from transformers import OpenAIGPTConfig

    sizes: Any = {"n_embd": ours.n_embd, "n_layer": ours.n_layer, "n_head": ours.n_head}
    sizes |= {"n_positions": ours.context, "vocab_size": ours.embedding_rows}
    return OpenAIGPTConfig(**sizes, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, **more)


@torch.no_grad()
def copy_weights(ours: GPT, theirs: Any) -> None:
    """Copy the weights into transformers' OpenAIGPTModel, whose dense ones are [in, out]."""
    theirs.tokens_embed.weight.copy_(ours.tokens.weight)
    theirs.positions_embed.weight.copy_(ours.positions.weight)
    for our_block, their_block in zip(ours.blocks, theirs.h, strict=True):
        for their_part, our_part in BLOCK_NAMES:
            a: Any = our_block.get_submodule(our_part)
            b: Any = their_block.get_submodule(their_part)
            b.weight.copy_(a.weight.T if a.weight.dim() == 2 else a.weight)
            b.bias.copy_(a.bias)


def transformers_step(model: nn.Module, bf16: bool = True, lr: float = 1e-5) -> Any:
    """A step of transformers' Trainer: autocast, gradient clipping at 1, fused AdamW.

    The Trainer itself needs accelerate, which gpt1 does not install, so its data loader and logging are not measured.
    """
    device_type = next(model.parameters()).device.type
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr, weight_decay=0.0, fused=True)

    def step(**inputs: Tensor) -> None:
        with torch.autocast(device_type, torch.bfloat16, enabled=bf16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        model.zero_grad()

    model.train()
    return step


def repeat(workload: Workload, times: int) -> Workload:
    def run() -> None:
        for _ in range(times):
            workload()

    return run


# ---- rows


@dataclass(frozen=True)
class TokenizedRows:
    ids: list[list[int]]  # without special tokens
    labels: list[str]
    source: str


def find_data_dir(*needed: str) -> Path | None:
    """GPT1_DATA, by default the folder `shared` beside the checkout; None if it lacks a needed file."""
    folder = Path(os.environ.get("GPT1_DATA") or Path(__file__).parents[2] / "shared")
    return folder if all((folder / path).exists() for path in needed) else None


def sst2_rows(n: int) -> TokenizedRows:
    """`n` random training rows of SST-2; without the data, random tokens with the same distribution of lengths."""
    folder = find_data_dir("data/tasks/SST-2/train.tsv", "openai")
    draw = random.Random(0)
    if folder is None:  # the logarithms of the lengths of 4,000 rows: mean 1.98, deviation 0.90, longest 59
        lengths = [min(59, max(1, round(draw.lognormvariate(1.98, 0.9)))) for _ in range(n)]
        ids = [[draw.randrange(1, 40478) for _ in range(length)] for length in lengths]
        return TokenizedRows(
            ids, [str(i % 2) for i in range(n)], "rows of random tokens with lengths like those of SST-2"
        )
    from gpt1.tables.table import read_table
    from gpt1.tokenization.tokenizer import Tokenizer

    rows = draw.sample(read_table(folder / "data/tasks/SST-2/train.tsv").rows, n)
    ids = Tokenizer.load(folder / "openai").encode_batch([row["sentence"] for row in rows])
    return TokenizedRows(ids, [row["label"] for row in rows], "training rows of SST-2")
