"""Modules without data: no random numbers are used, and loading a model imports no compiler."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from gpt1.config import GPTConfig
from gpt1.kernels.meta_init import meta_init
from gpt1.model.gpt import GPT
from gpt1.model.head import Head

CONFIG = GPTConfig(vocab_size=30, n_layer=2, n_head=2, n_embd=16, context=8)

LOADED = """
import sys
from gpt1 import GPT
from gpt1.generation.inference_model import for_inference, pack_weights
model = GPT.from_pretrained(sys.argv[1])
for_inference(model), pack_weights(model)
print({"torch._dynamo", "sympy"} & set(sys.modules))
"""


def test_modules_have_shapes_and_no_data():
    before = torch.get_rng_state()
    with meta_init():
        model, head = GPT(CONFIG), Head(16, 3, each=False)
    assert torch.equal(torch.get_rng_state(), before)
    shapes = {name: p.shape for name, p in GPT(CONFIG).named_parameters()}
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert all(p.is_meta for p in [*model.parameters(), *head.parameters()])


def test_later_modules_are_initialized_as_usual():
    torch.manual_seed(0)
    expected = GPT(CONFIG).state_dict()
    with meta_init():
        GPT(CONFIG)
    torch.manual_seed(0)
    torch.testing.assert_close(GPT(CONFIG).state_dict(), expected, rtol=0, atol=0)


def test_loading_a_model_imports_no_compiler(tmp_path: Path):
    GPT(CONFIG).save(tmp_path)
    done = subprocess.run([sys.executable, "-c", LOADED, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
