"""A pre-training step of the 117 M model, batch 4 × 512, the paper's dropout: ours and transformers', in turn.

python -m benchmarks.step [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from gpt1 import GPT, GPTConfig
from gpt1.config import PretrainConfig
from gpt1.objectives import Windows, l1
from gpt1.training.optimizers import AdamW, clip

BATCH, TIME, GFLOP_A_TOKEN = 4, 512, 0.753


def ours() -> Callable[[], None]:
    torch.manual_seed(0)
    model = GPT(GPTConfig()).train()
    model.activations = torch.bfloat16
    optimizer = AdamW(model.named_parameters(), PretrainConfig())
    ids = torch.randint(0, 40478, (BATCH, TIME + 1))

    def step() -> None:
        l1(model, Windows(ids, BATCH * TIME)).total.backward()
        clip(model.parameters(), 1.0)
        optimizer.step(1e-5)
        for parameter in model.parameters():
            parameter.grad = None

    return step


def theirs(bf16: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig()).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    ids = torch.randint(0, 40478, (BATCH, TIME))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def run(rounds: int = 3) -> dict[str, float]:
    """Median seconds of each and the ratios, measured in turn after one warm-up of each."""
    steps = {"gpt1 bf16": ours(), "transformers bf16": theirs(True), "transformers fp32": theirs(False)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if round_:
                seconds[name].append(time.perf_counter() - start)
    mine = seconds["gpt1 bf16"]
    found = {f"{name}, tokens/s": BATCH * TIME / median(values) for name, values in seconds.items()}
    for peer in ("transformers bf16", "transformers fp32"):
        found[f"times {peer}"] = median(b / a for a, b in zip(mine, seconds[peer], strict=True))
    found["GFLOP/s"] = GFLOP_A_TOKEN * BATCH * TIME / median(mine)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    print(json.dumps({name: round(value, 2) for name, value in run(parser.parse_args().rounds).items()}, indent=2))
