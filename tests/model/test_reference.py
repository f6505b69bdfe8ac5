"""The model, its loss and gradients, and its decoding against GPT-1 in plain torch (tests/reference_gpt.py)."""

from __future__ import annotations

import pytest
import reference_gpt as reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_gpt import random_gpt

from gpt1.config import GPTConfig
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch, l1

CONFIG = GPTConfig(vocab_size=50, n_layer=3, n_head=4, n_embd=32, context=24, dropout=0.0)
SHAPE = (CONFIG.n_layer, CONFIG.n_head)


@pytest.fixture(scope="module")
def model() -> GPT:
    return random_gpt(CONFIG, noise=0.1)


@given(data=st.data(), batch=st.integers(1, 3), time=st.integers(1, 24))
def test_logits_equal_equation_2(model: GPT, data: st.DataObject, batch: int, time: int):
    ids = torch.tensor(data.draw(st.lists(st.integers(0, 49), min_size=batch * time, max_size=batch * time)))
    ids = ids.view(batch, time)
    with torch.no_grad():
        expected = reference.logits(ids, *SHAPE, model.state_dict())
        torch.testing.assert_close(model(ids), expected, atol=2e-5, rtol=1e-4)


def test_the_loss_and_its_gradients_equal_equation_1(model: GPT):
    ids = torch.randint(50, (4, 24), generator=torch.Generator().manual_seed(1))
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected = reference.l1_loss(ids, *SHAPE, weights)
    expected.backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    loss = l1(model, PretrainMicroBatch(ids, ids[:, 1:].numel())).total
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, weights[name].grad, atol=1e-6, rtol=1e-3, msg=name)


@given(prompt=st.lists(st.integers(0, 49), min_size=1, max_size=12))
def test_greedy_decoding_takes_the_most_likely_token_every_time(model: GPT, prompt: list[int]):
    ids, ready = torch.tensor([prompt]), model.eval()
    expected = reference.generate(ids, 12, *SHAPE, model.state_dict())
    assert torch.equal(ready.generate(ids, 12, temperature=0), expected)
