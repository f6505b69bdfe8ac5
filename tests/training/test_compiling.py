"""torch.compile for the blocks: the same model, compiled once, and left alone where it cannot be compiled.

On a CPU the kernels are gpt1's own, which torch.compile cannot read. These tests put in their place what a GPU runs.
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
from gpt1.progress import NullProgress
from gpt1.training.compiling import compile_blocks
from gpt1.training.pretrain import pretrain

IDS = torch.randint(0, 40, (6, 17), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def kernels_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def attention(qkv: Tensor, n_head: int, p: float = 0.0) -> Tensor:
        q, k, v = split_heads(qkv, 3, n_head)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p).transpose(1, 2).flatten(2)

    monkeypatch.setattr("gpt1.model.gpt.causal_attention", attention)
    monkeypatch.setattr("gpt1.model.gpt.gelu", lambda x: F.gelu(x, approximate="tanh"))
    torch._dynamo.reset()  # type: ignore[no-untyped-call]
    counters.clear()
    yield
    torch._dynamo.reset()  # type: ignore[no-untyped-call]


def tiny() -> GPT:
    torch.manual_seed(0)
    return GPT(GPTConfig(40, n_layer=3, n_head=2, n_embd=16, context=16, dropout=0.0)).train()


def loss_of(model: GPT, ids: Tensor = IDS) -> Tensor:
    return l1(model, PretrainMicroBatch(ids, ids[:, 1:].numel())).total


def loss_and_gradients(model: GPT) -> dict[str, Tensor]:
    loss = loss_of(model)
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found | {"loss": loss.detach()}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_model_has_the_same_names_the_same_loss_and_the_same_gradients(
    checkpointing: bool, kernels_of_a_gpu: None
):
    model, said = tiny(), list[str]()
    model.activation_checkpointing = checkpointing
    expected, names = loss_and_gradients(model), list(model.state_dict())
    with compile_blocks(model, lambda: loss_of(model), said.append, backend="aot_eager"):
        assert list(model.state_dict()) == names
        assert all(p.grad is None for p in model.parameters())
        found = loss_and_gradients(model.train())
    assert len(said) == 1, said  # no word of a failure
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_the_blocks_are_compiled_once_for_all_and_afterwards_run_as_they_are(kernels_of_a_gpu: None):
    model = tiny()
    with compile_blocks(model, lambda: loss_of(model), lambda line: None, backend="eager"):
        model.train()
        loss_of(model)
        model.eval()
        with torch.inference_mode():  # as the held-out figures are measured
            loss_of(model)
            assert (counters["stats"]["unique_graphs"], len(counters["graph_break"])) == (2, 0)
            for _ in range(2):
                loss_of(model, IDS[:2])
            assert counters["stats"]["unique_graphs"] == 3
    model.generate(IDS[:, :3], 30, temperature=0)
    assert counters["stats"]["unique_graphs"] == 3


def test_the_models_of_one_process_are_compiled_however_many_they_are(kernels_of_a_gpu: None):
    """torch compiles a function eight times and then no more."""
    for width in (8, 16, 24, 32, 40, 48):
        counters.clear()
        model = GPT(GPTConfig(40, n_layer=1, n_head=2, n_embd=width, context=16, dropout=0.0))
        with compile_blocks(model, lambda model=model: loss_of(model), lambda line: None, backend="eager"):
            assert counters["stats"]["unique_graphs"] == 2, width


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_what_a_block_does_on_other_devices_than_a_cpu_is_one_graph(p: float):
    with torch.device("meta"):
        model = GPT(GPTConfig(40, n_layer=1, n_head=2, n_embd=16, context=16, dropout=p)).train()
        x = torch.empty(2, 16, 16, dtype=torch.bfloat16)
    explained = torch._dynamo.explain(model.blocks[0])(x)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_block_that_cannot_be_compiled_runs_as_it_is_and_a_line_says_so():
    """For real: the kernels for a CPU."""
    model, said = tiny(), list[str]()
    expected = loss_and_gradients(model)
    with compile_blocks(model, lambda: loss_of(model), said.append, backend="aot_eager"):
        found = loss_and_gradients(model.train())
    assert said[1].startswith("torch.compile does not work here, the run goes on without it (BackendCompilerFailed")
    assert len(said) == 2
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.slow
def test_without_a_compiler_on_the_machine_the_run_goes_on(
    kernels_of_a_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, said = tiny(), list[str]()
    without = config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True})
    with without, compile_blocks(model, lambda: loss_of(model), said.append):
        assert torch.isfinite(loss_of(model))
    assert "does not work here" in said[1]
    assert "no-such-compiler" in said[1]
    assert "\n" not in said[1]


def test_on_a_cpu_a_line_says_that_nothing_is_compiled_and_the_run_is_the_same(
    corpus: Path, pretrained_run: Path, tiny_pretrain_settings: dict[str, Any], tmp_path: Path
):
    class Listening(NullProgress):
        def say(self, line: str) -> None:
            said.append(line)

    said: list[str] = []
    run = pretrain(corpus, out=tmp_path / "run", compile=True, progress=Listening(), **tiny_pretrain_settings)
    assert any("--compile changes nothing on a CPU" in line for line in said)
    weights = "model/model.safetensors"
    assert (run / weights).read_bytes() == (pretrained_run / weights).read_bytes()
