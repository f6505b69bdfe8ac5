"""Fixtures of model tests: a folder in the format of Hugging Face."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


@pytest.fixture
def huggingface(tmp_path: Path) -> Path:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    shape = OpenAIGPTConfig(vocab_size=30, n_positions=10, n_embd=16, n_layer=2, n_head=2)
    OpenAIGPTLMHeadModel(shape).save_pretrained(tmp_path)
    return tmp_path
