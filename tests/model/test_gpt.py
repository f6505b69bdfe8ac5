"""Equation 2: against `transformers` with the same weights, and properties that hold for any weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_gpt import random_gpt
from torch import Tensor

from gpt1.config import Architecture, GPTConfig
from gpt1.errors import UserError
from gpt1.kernels.packing import PackedRow, Packing
from gpt1.model.foreign_weights import BLOCK_NAMES
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.init import resolve_init_std
from gpt1.model.losses import PretrainMicroBatch, l1

VOCABULARY, CONTEXT = 40, 12


def make_tiny_model(seed: int = 0, dropout: float = 0.0, context: int = CONTEXT, n_layer: int = 2) -> GPT:
    return random_gpt(GPTConfig(VOCABULARY, n_layer, 2, 16, context, dropout), seed)


MODEL = make_tiny_model()


@st.composite
def token_ids(
    draw: st.DrawFn, max_length: int = CONTEXT, min_length: int = 1, rows: int = 0
) -> Tensor:  # → [batch, time]
    batch, time = rows or draw(st.integers(1, 3)), draw(st.integers(min_length, max_length))
    return torch.tensor([[draw(st.integers(0, VOCABULARY - 1)) for _ in range(time)] for _ in range(batch)])


def compute_gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- against transformers


@pytest.fixture(scope="module")
def transformers_model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Random weights of the full size: the folder that transformers wrote, and its logits, loss and gradients."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig()).eval()
    assert sum(p.numel() for p in model.parameters()) == 116_534_784
    with torch.no_grad():  # LayerNorm weights of 1 and biases of 0 would hide errors
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("huggingface")
    model.save_pretrained(folder)
    ids = torch.randint(0, 40478, (2, 64))
    output = model(ids, labels=ids)
    output.loss.backward()
    gradients = {name.removeprefix("transformer."): grad for name, grad in compute_gradients(model).items()}
    return {"folder": folder, "ids": ids, "logits": output.logits.detach(), "loss": output.loss.item()} | {
        "gradients": gradients
    }


def rename_gradients(gradients: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    found = {"tokens.weight": gradients["tokens_embed.weight"], "positions.weight": gradients["positions_embed.weight"]}
    for layer in range(n_layer):
        for their_part, our_part in BLOCK_NAMES:
            for leaf in ("weight", "bias"):
                gradient = gradients[f"h.{layer}.{their_part}.{leaf}"]
                found[f"blocks.{layer}.{our_part}.{leaf}"] = gradient.T if gradient.dim() == 2 else gradient
    return found


@pytest.mark.slow
def test_at_full_size_logits_loss_and_gradients_equal_those_of_transformers(transformers_model):
    model = GPT.from_pretrained(transformers_model["folder"])
    ids = transformers_model["ids"]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), transformers_model["logits"], rtol=0, atol=1e-4)
    losses = l1(model, PretrainMicroBatch(ids, step_tokens=ids[:, 1:].numel()))
    assert losses.total.item() == pytest.approx(transformers_model["loss"], abs=1e-5)
    losses.total.backward()
    expected, found = rename_gradients(transformers_model["gradients"], model.config.n_layer), compute_gradients(model)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-3 * expected[name].norm(), name


# ---- any weights


@pytest.mark.parametrize("training", [False, True], ids=["inference", "with gradients"])
@given(ids=token_ids(), data=st.data())
def test_a_later_token_never_changes_an_earlier_prediction(training, ids, data):
    t = data.draw(st.integers(0, ids.shape[1] - 1))
    changed = ids.clone()
    changed[:, t:] = data.draw(token_ids(rows=len(ids), min_length=CONTEXT))[:, : ids.shape[1] - t]
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(MODEL(ids)[:, :t], MODEL(changed)[:, :t], rtol=0, atol=1e-6)


def test_every_earlier_token_changes_a_prediction():
    ids = torch.arange(CONTEXT)[None]
    for t in range(CONTEXT):
        changed = ids.clone()
        changed[0, t] = 30
        assert ((MODEL(ids) - MODEL(changed))[0, t:].abs().amax(-1) > 1e-6).all()


@given(ids=token_ids(max_length=8), padding=token_ids(max_length=4, rows=3))
def test_padding_on_the_right_changes_nothing(ids, padding):
    padded = torch.cat([ids, padding[: len(ids)]], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(MODEL(padded)[:, : ids.shape[1]], MODEL(ids), rtol=0, atol=1e-5)


@given(ids=token_ids(rows=3))
def test_a_row_gives_the_same_alone_and_in_a_batch(ids):
    with torch.no_grad():
        alone = torch.cat([MODEL(row[None]) for row in ids])
        torch.testing.assert_close(MODEL(ids), alone, rtol=0, atol=1e-5)


def test_more_tokens_than_positions_are_an_error():
    with pytest.raises(UserError, match="13 tokens exceed the 12 positions"):
        MODEL(torch.zeros(1, CONTEXT + 1, dtype=torch.int64))


@pytest.mark.parametrize("special_tokens", [0, 3])
def test_the_config_knows_the_number_of_parameters(special_tokens: int):
    config = GPTConfig(VOCABULARY, 3, 2, 16, CONTEXT, special_tokens=special_tokens)
    assert sum(p.numel() for p in GPT(config).parameters()) == config.n_parameters


def test_new_weights_are_initialized_as_in_the_paper():
    torch.manual_seed(0)
    for name, p in GPT(GPTConfig(2000, 2, 4, 128, 128)).named_parameters():
        if p.dim() > 1:
            assert p.mean().item() == pytest.approx(0, abs=6e-4), name
            assert p.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            assert (p == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name


@pytest.mark.parametrize("architecture", ["transformer", "lstm"])
def test_initial_weights_by_width_have_the_bits_of_the_papers_at_its_width(architecture: Architecture):
    config = GPTConfig(50, 1, 12, 768, 8, architecture=architecture, lstm_units=32)
    torch.manual_seed(0)
    expected = GPT(config).state_dict()
    torch.manual_seed(0)
    found = GPT(config, 0.0).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("init_std", "expected"), [(0.0, 0.02 * 6**0.5), (0.05, 0.05), (0.02, 0.02)])
def test_a_narrower_model_starts_with_larger_weights_of_the_same_draws(init_std: float, expected: float):
    config = GPTConfig(2000, 1, 4, 128, 128)
    torch.manual_seed(0)
    drawn = GPT(config).state_dict()
    torch.manual_seed(0)
    for name, p in GPT(config, init_std).named_parameters():
        factor = expected / 0.02 if p.dim() > 1 else 1.0
        torch.testing.assert_close(p.detach(), factor * drawn[name], rtol=1e-6, atol=0)


def test_initial_weights_of_an_lstm_do_not_depend_on_the_width():
    config = GPTConfig(50, 1, 4, 128, 8, architecture="lstm", lstm_units=32)
    assert resolve_init_std(config, 0.0) == 0.02


# ---- training


def compute_loss(model: GPT, ids: Tensor) -> Tensor:
    return l1(model, PretrainMicroBatch(ids, ids[:, 1:].numel())).total


IDS = torch.randint(0, VOCABULARY, (6, CONTEXT + 1), generator=torch.Generator().manual_seed(0))


def test_activation_checkpointing_gives_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        model = make_tiny_model(dropout=0.3).train()
        model.activation_checkpointing = checkpointing
        torch.manual_seed(1)
        compute_loss(model, IDS).backward()
        found.append(compute_gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-7, msg=name)


def test_dropout_acts_in_training_only():
    model = make_tiny_model(dropout=0.3)
    assert torch.equal(model(IDS[:, :-1]), model(IDS[:, :-1]))
    model.train()
    assert not torch.equal(model(IDS[:, :-1]), model(IDS[:, :-1]))
    model.set_dropout(0.0)
    torch.testing.assert_close(model(IDS[:, :-1]), model.eval()(IDS[:, :-1]))


def test_dropout_does_not_change_the_mean_gradient():
    """Small dropout is small noise: the mean gradient over many masks has the direction of that without dropout."""
    model = make_tiny_model(dropout=0.02).train()
    torch.manual_seed(0)
    for _ in range(60):
        compute_loss(model, IDS).backward()
    noisy = torch.cat([g.flatten() for g in compute_gradients(model).values()])
    model.zero_grad()
    model.eval()
    compute_loss(model, IDS).backward()
    plain = torch.cat([g.flatten() for g in compute_gradients(model).values()])
    assert torch.cosine_similarity(noisy, plain, dim=0) > 0.97
    assert float(noisy.norm() / 60 / plain.norm()) == pytest.approx(1, abs=0.1)


def test_bf16_activations_give_the_loss_and_the_gradients_of_fp32_within_their_precision():
    model = make_tiny_model()
    plain = compute_loss(model, IDS)
    plain.backward()
    expected = compute_gradients(model)
    model.zero_grad()
    model.activation_dtype = torch.bfloat16
    rough = compute_loss(model, IDS)
    rough.backward()
    assert rough.item() == pytest.approx(plain.item(), rel=0.01)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    for name, gradient in compute_gradients(model).items():
        assert (gradient - expected[name]).norm() <= 0.1 * expected[name].norm() + 1e-4, name


# ---- generation


def generate_without_cache(model: GPT, ids: list[int], n: int) -> list[int]:
    """Greedy decoding without a cache. When the context is full, it continues from its last half."""
    context, ids = model.config.context, list(ids)
    first = max(0, len(ids) - context)
    for _ in range(n):
        if len(ids) - first > context:
            first = len(ids) - max(1, context // 2)
        with torch.no_grad():
            logits = model(torch.tensor([ids[first:]]))[0, -1, : model.config.vocab_size]
        ids.append(int(logits.argmax()))
    return ids


@pytest.mark.parametrize("context", [2, 5, CONTEXT])
@given(data=st.data(), new=st.integers(0, 30))
def test_generation_with_a_cache_equals_recomputation_even_beyond_the_context(context, data, new):
    model = make_tiny_model(seed=3, context=context)
    ids = data.draw(token_ids(max_length=2 * context, rows=1))
    assert model.generate(ids, new, temperature=0)[0].tolist() == generate_without_cache(model, ids[0].tolist(), new)


@given(ids=token_ids(rows=3))
def test_prompts_generated_together_give_the_same_as_alone(ids):
    together = MODEL.generate(ids, 8, temperature=0)
    assert together.tolist() == [MODEL.generate(row[None], 8, temperature=0)[0].tolist() for row in ids]


@pytest.mark.parametrize(
    "narrow", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}, {"temperature": 1e-39}]
)
def test_every_setting_that_leaves_one_choice_is_greedy(narrow: dict[str, float]):
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(MODEL.generate(ids, 15, **narrow), MODEL.generate(ids, 15, temperature=0))  # type: ignore[arg-type]


def test_the_same_generator_samples_the_same_text():
    ids = torch.tensor([[1, 2, 3]])
    draws = [MODEL.generate(ids, 20, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_special_token_is_never_generated():
    model = make_tiny_model()
    model.add_special_tokens()
    with torch.no_grad():
        model.tokens.weight[VOCABULARY:] *= 100  # makes their logits the largest
    ids = torch.arange(8)[:, None]
    assert model(ids).argmax(-1).max() >= VOCABULARY
    for temperature in (0.0, 1.0, 3.0):
        assert model.generate(ids, 20, temperature=temperature).max() < VOCABULARY


def test_a_model_in_training_mode_generates_without_dropout_and_stays_in_training_mode():
    model, ids = make_tiny_model(), torch.tensor([[1, 2, 3]])
    expected = model.eval().generate(ids, 20, temperature=0)
    model.train().set_dropout(0.5)
    assert torch.equal(model.generate(ids, 20, temperature=0), expected)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_empty_prompt_is_an_error():
    with pytest.raises(UserError, match="prompt has no tokens"):
        MODEL.generate(torch.empty(1, 0, dtype=torch.int64), 3)


# ---- special tokens


def test_special_tokens_add_three_rows_and_change_nothing_else():
    model = make_tiny_model()
    before = model(IDS[:, :-1])
    model.add_special_tokens()
    after = model(IDS[:, :-1])
    assert (model.config.special_tokens, after.shape[-1]) == (3, VOCABULARY + 3)
    assert torch.equal(after[..., :VOCABULARY], before)
    added = model.tokens.weight.clone()
    model.add_special_tokens()
    assert torch.equal(model.tokens.weight, added)  # the second call does nothing


def test_embeddings_of_special_tokens_are_initialized_like_other_weights():
    for init_std, expected in ((0.0, 0.02 * 3**0.5), (0.02, 0.02)):
        model = GPT(GPTConfig(10, 1, 4, 256, 8))
        model.add_special_tokens(init_std)
        assert model.tokens.weight[10:].std().item() == pytest.approx(expected, rel=0.15)


@given(ids=token_ids(rows=3, max_length=8), data=st.data())
def test_a_task_model_uses_the_hidden_state_at_the_last_token_of_each_sequence(ids, data):
    model = TaskModel(MODEL, Head(16, 2, each=False)).eval()
    lengths = [data.draw(st.integers(1, ids.shape[1])) for _ in ids]
    packed = torch.cat([row[:length] for row, length in zip(ids, lengths, strict=True)])
    with torch.no_grad():
        found = model(packed, Packing([PackedRow(0, (length,)) for length in lengths]), torch.arange(3))
        for row, length, logits in zip(ids, lengths, found, strict=True):
            state = MODEL.hidden_states(row[None, :length])[0, -1]
            torch.testing.assert_close(logits, model.head.linear(state), rtol=0, atol=1e-5)


def test_a_saved_model_loads_as_the_same_model(tmp_path: Path):
    MODEL.save(tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == MODEL.config
    assert not again.training
    assert torch.equal(again(IDS[:, :-1]), MODEL(IDS[:, :-1]))
    assert all(p.requires_grad for p in again.parameters())
