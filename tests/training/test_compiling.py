"""torch.compile for the blocks: the same results, compiled once, with a fallback if compiling fails.

torch.compile cannot trace the CPU kernels of gpt1. These tests replace them by the code for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from gpt1.config import GPTConfig
from gpt1.kernels.attention import split_heads
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.progress import Progress
from gpt1.training.compiling import compile_blocks
from gpt1.training.pretrain import pretrain

IDS = torch.randint(0, 40, (6, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def attention(qkv: Tensor, n_head: int, dropout_p: float = 0.0) -> Tensor:
        q, k, v = split_heads(qkv, 3, n_head)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout_p).transpose(1, 2).flatten(2)

    monkeypatch.setattr("gpt1.model.gpt.causal_attention", attention)
    monkeypatch.setattr("gpt1.model.gpt.gelu", lambda x: F.gelu(x, approximate="tanh"))
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    counters.clear()
    yield
    torch._dynamo.reset()  # type: ignore[no-untyped-call]


def make_tiny_model() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(40, n_layer=3, n_head=2, n_embd=16, context=16, dropout=0.0)).train()


def compute_loss(model: GPT, ids: Tensor = IDS) -> Tensor:
    return l1(model, PretrainMicroBatch(ids, ids[:, 1:].numel())).total


def loss_and_gradients(model: GPT) -> dict[str, Tensor]:
    loss = compute_loss(model)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found | {"loss": loss.detach()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_model_has_the_same_names_loss_and_gradients(checkpointing: bool, gpu_kernels: None):
    model, messages = make_tiny_model(), list[str]()
    model.activation_checkpointing = checkpointing
    expected, names = loss_and_gradients(model), list(model.state_dict())
    with compile_blocks(model, lambda: compute_loss(model), messages.append, backend="aot_eager"):
        assert list(model.state_dict()) == names
        assert all(p.grad is None for p in model.parameters())
        found = loss_and_gradients(model.train())
    assert len(messages) == 1, messages
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_blocks_are_compiled_once_and_run_uncompiled_afterwards(gpu_kernels: None):
    model = make_tiny_model()
    with compile_blocks(model, lambda: compute_loss(model), lambda line: None, backend="eager"):
        model.train()
        compute_loss(model)
        model.eval()
        with torch.inference_mode():  # as in evaluation
            compute_loss(model)
            assert (counters["stats"]["unique_graphs"], len(counters["graph_break"])) == (2, 0)
            for _ in range(2):
                compute_loss(model, IDS[:2])
            assert counters["stats"]["unique_graphs"] == 3
    model.generate(IDS[:, :3], 30, temperature=0)
    assert counters["stats"]["unique_graphs"] == 3


def test_any_number_of_models_is_compiled_in_one_process(gpu_kernels: None):
    """torch compiles a function at most eight times."""
    for width in (8, 16, 24, 32, 40, 48):
        counters.clear()
        model = GPT(GPTConfig(40, n_layer=1, n_head=2, n_embd=width, context=16, dropout=0.0))
        with compile_blocks(model, lambda model=model: compute_loss(model), lambda line: None, backend="eager"):
            assert counters["stats"]["unique_graphs"] == 2, width


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_a_block_on_a_device_other_than_a_cpu_is_one_graph(p: float):
    with torch.device("meta"):
        model = GPT(GPTConfig(40, n_layer=1, n_head=2, n_embd=16, context=16, dropout=p)).train()
        x = torch.empty(2, 16, 16, dtype=torch.bfloat16)
    explained = torch._dynamo.explain(model.blocks[0])(x)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_block_that_cannot_be_compiled_runs_uncompiled_with_a_message():
    """The CPU kernels cannot be compiled."""
    model, messages = make_tiny_model(), list[str]()
    expected = loss_and_gradients(model)
    with compile_blocks(model, lambda: compute_loss(model), messages.append, backend="aot_eager"):
        found = loss_and_gradients(model.train())
    assert messages[1].startswith("torch.compile failed, continuing without it (BackendCompilerFailed")
    assert len(messages) == 2
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_training_continues_without_a_compiler_on_the_machine(
    gpu_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, messages = make_tiny_model(), list[str]()
    without = config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True})
    with without, compile_blocks(model, lambda: compute_loss(model), messages.append):
        assert torch.isfinite(compute_loss(model))
    assert "torch.compile failed" in messages[1]
    assert "no-such-compiler" in messages[1]
    assert "\n" not in messages[1]


def test_on_a_cpu_a_message_says_that_compile_has_no_effect_and_the_run_is_the_same(
    corpus: Path, pretrained_run: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    class Listening(Progress):
        def log(self, line: str) -> None:
            messages.append(line)

    messages: list[str] = []
    run = pretrain(corpus, out=tmp_path / "run", compile=True, progress=Listening(), **tiny_pretrain_settings)
    assert any("--compile has no effect on a CPU" in line for line in messages)
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (pretrained_run / weights).read_bytes()
