"""Equation 2: against the model of `transformers` with the same weights, and the laws that hold for any weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.kernels.packing import PackedRow, Packing
from gpt1.model.gpt import GPT
from gpt1.model.head import Head, TaskModel
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.model.weights import BLOCK_NAMES

VOCABULARY, CONTEXT = 40, 12


def tiny(seed: int = 0, dropout: float = 0.0, context: int = CONTEXT, n_layer: int = 2) -> GPT:
    """A model with weights large enough that every part of it shows in what comes out."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(VOCABULARY, n_layer, 2, 16, context, dropout))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.2)
    return model.eval()


MODEL = tiny()


@st.composite
def token_ids(draw: st.DrawFn, most: int = CONTEXT, least: int = 1, rows: int = 0) -> Tensor:  # → [batch, time]
    batch, time = rows or draw(st.integers(1, 3)), draw(st.integers(least, most))
    return torch.tensor([[draw(st.integers(0, VOCABULARY - 1)) for _ in range(time)] for _ in range(batch)])


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# ---- against transformers


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Random weights of the full size: the folder that transformers wrote, and its logits, loss and gradients."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig()).eval()
    assert sum(p.numel() for p in model.parameters()) == 116_534_784
    with torch.no_grad():  # gains of 1 and biases of 0 would hide where they go
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("huggingface")
    model.save_pretrained(folder)
    ids = torch.randint(0, 40478, (2, 64))
    output = model(ids, labels=ids)
    output.loss.backward()
    gradients = {name.removeprefix("transformer."): grad for name, grad in gradients_of(model).items()}
    return {"folder": folder, "ids": ids, "logits": output.logits.detach(), "loss": output.loss.item()} | {
        "gradients": gradients
    }


def by_our_name(gradients: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    found = {"tokens.weight": gradients["tokens_embed.weight"], "positions.weight": gradients["positions_embed.weight"]}
    for layer in range(n_layer):
        for their_part, our_part in BLOCK_NAMES:
            for leaf in ("weight", "bias"):
                gradient = gradients[f"h.{layer}.{their_part}.{leaf}"]
                found[f"blocks.{layer}.{our_part}.{leaf}"] = gradient.T if gradient.dim() == 2 else gradient
    return found


@pytest.mark.slow
def test_at_full_size_logits_loss_and_gradients_are_those_of_transformers(theirs):
    model = GPT.from_pretrained(theirs["folder"])
    ids = theirs["ids"]
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs["logits"], rtol=0, atol=1e-4)
    losses = l1(model, PretrainMicroBatch(ids, step_tokens=ids[:, 1:].numel()))
    assert losses.total.item() == pytest.approx(theirs["loss"], abs=1e-5)
    losses.total.backward()
    expected, found = by_our_name(theirs["gradients"], model.config.n_layer), gradients_of(model)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-3 * expected[name].norm(), name


# ---- any weights


@pytest.mark.parametrize("training", [False, True], ids=["inference", "with gradients"])
@given(ids=token_ids(), data=st.data())
def test_a_later_token_never_changes_an_earlier_prediction(training, ids, official_data):
    t = official_data.draw(st.integers(0, ids.shape[1] - 1))
    changed = ids.clone()
    changed[:, t:] = official_data.draw(token_ids(rows=len(ids), least=CONTEXT))[:, : ids.shape[1] - t]
    with torch.set_grad_enabled(training):
        torch.testing.assert_close(MODEL(ids)[:, :t], MODEL(changed)[:, :t], rtol=0, atol=1e-6)


def test_every_earlier_token_changes_a_prediction():
    ids = torch.arange(CONTEXT)[None]
    for t in range(CONTEXT):
        changed = ids.clone()
        changed[0, t] = 30
        assert ((MODEL(ids) - MODEL(changed))[0, t:].abs().amax(-1) > 1e-6).all()


@given(ids=token_ids(most=8), padding=token_ids(most=4, rows=3))
def test_padding_on_the_right_changes_nothing(ids, padding):
    padded = torch.cat([ids, padding[: len(ids)]], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(MODEL(padded)[:, : ids.shape[1]], MODEL(ids), rtol=0, atol=1e-5)


@given(ids=token_ids(rows=3))
def test_a_row_alone_and_in_a_batch_gives_the_same(ids):
    with torch.no_grad():
        alone = torch.cat([MODEL(row[None]) for row in ids])
        torch.testing.assert_close(MODEL(ids), alone, rtol=0, atol=1e-5)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(UserError, match="13 tokens are more than the 12 positions"):
        MODEL(torch.zeros(1, CONTEXT + 1, dtype=torch.int64))


@pytest.mark.parametrize("special_tokens", [0, 3])
def test_the_number_of_weights_is_the_one_that_the_config_says(special_tokens: int):
    config = GPTConfig(VOCABULARY, 3, 2, 16, CONTEXT, special_tokens=special_tokens)
    assert sum(p.numel() for p in GPT(config).parameters()) == config.n_parameters


def test_fresh_weights_are_drawn_as_in_the_paper():
    torch.manual_seed(0)
    for name, p in GPT(GPTConfig(2000, 2, 4, 128, 128)).named_parameters():
        if p.dim() > 1:
            assert p.mean().item() == pytest.approx(0, abs=6e-4), name
            assert p.std().item() == pytest.approx(0.02, rel=0.03), name
        else:
            assert (p == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name


# ---- training


def loss_of(model: GPT, ids: Tensor) -> Tensor:
    return l1(model, PretrainMicroBatch(ids, ids[:, 1:].numel())).total


IDS = torch.randint(0, VOCABULARY, (6, CONTEXT + 1), generator=torch.Generator().manual_seed(0))


def test_activations_computed_again_in_the_backward_pass_give_the_same_gradients():
    found = []
    for checkpointing in (False, True):
        model = tiny(dropout=0.3).train()
        model.activation_checkpointing = checkpointing
        torch.manual_seed(1)
        loss_of(model, IDS).backward()
        found.append(gradients_of(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-7, msg=name)


def test_dropout_acts_in_training_only():
    model = tiny(dropout=0.3)
    assert torch.equal(model(IDS[:, :-1]), model(IDS[:, :-1]))
    model.train()
    assert not torch.equal(model(IDS[:, :-1]), model(IDS[:, :-1]))
    model.set_dropout(0.0)
    torch.testing.assert_close(model(IDS[:, :-1]), model.eval()(IDS[:, :-1]))


def test_dropout_leaves_the_mean_of_the_loss_gradient_where_it_was():
    """Small dropout is small noise: over many draws the gradients point where those without dropout do."""
    model = tiny(dropout=0.02).train()
    torch.manual_seed(0)
    for _ in range(60):
        loss_of(model, IDS).backward()
    noisy = torch.cat([g.flatten() for g in gradients_of(model).values()])
    model.zero_grad()
    model.eval()
    loss_of(model, IDS).backward()
    plain = torch.cat([g.flatten() for g in gradients_of(model).values()])
    assert torch.cosine_similarity(noisy, plain, dim=0) > 0.97
    assert float(noisy.norm() / 60 / plain.norm()) == pytest.approx(1, abs=0.1)


def test_bf16_activations_give_the_loss_and_the_gradients_of_fp32_within_their_precision():
    model = tiny()
    plain = loss_of(model, IDS)
    plain.backward()
    expected = gradients_of(model)
    model.zero_grad()
    model.activation_dtype = torch.bfloat16
    rough = loss_of(model, IDS)
    rough.backward()
    assert rough.item() == pytest.approx(plain.item(), rel=0.01)
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    for name, gradient in gradients_of(model).items():
        assert (gradient - expected[name]).norm() <= 0.1 * expected[name].norm() + 1e-4, name


# ---- generation


def continued_plainly(model: GPT, ids: list[int], n: int) -> list[int]:
    """Greedy, every token computed from nothing. Beyond the context the model goes on from the last half of it."""
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
def test_generation_with_a_cache_is_plain_recomputation_also_beyond_the_context(context, official_data, new):
    model = tiny(seed=3, context=context)
    ids = official_data.draw(token_ids(most=2 * context, rows=1))
    assert model.generate(ids, new, temperature=0)[0].tolist() == continued_plainly(model, ids[0].tolist(), new)


@given(ids=token_ids(rows=3))
def test_prompts_continued_together_continue_as_they_do_alone(ids):
    together = MODEL.generate(ids, 8, temperature=0)
    assert together.tolist() == [MODEL.generate(row[None], 8, temperature=0)[0].tolist() for row in ids]


@pytest.mark.parametrize(
    "narrow", [{"temperature": 0.0}, {"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}, {"temperature": 1e-39}]
)
def test_every_way_to_leave_one_choice_is_greedy(narrow: dict[str, float]):
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(MODEL.generate(ids, 15, **narrow), MODEL.generate(ids, 15, temperature=0))  # type: ignore[arg-type]


def test_the_same_generator_draws_the_same_text():
    ids = torch.tensor([[1, 2, 3]])
    draws = [MODEL.generate(ids, 20, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_special_token_is_never_generated():
    model = tiny()
    model.add_special_tokens()
    with torch.no_grad():
        model.tokens.weight[VOCABULARY:] *= 100  # their logits are now the largest, one way or the other
    ids = torch.arange(8)[:, None]
    assert model(ids).argmax(-1).max() >= VOCABULARY
    for temperature in (0.0, 1.0, 3.0):
        assert model.generate(ids, 20, temperature=temperature).max() < VOCABULARY


def test_a_model_in_training_writes_without_dropout_and_stays_in_training():
    model, ids = tiny(), torch.tensor([[1, 2, 3]])
    expected = model.eval().generate(ids, 20, temperature=0)
    model.train().set_dropout(0.5)
    assert torch.equal(model.generate(ids, 20, temperature=0), expected)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_prompt_without_tokens_is_refused():
    with pytest.raises(UserError, match="prompt has no tokens"):
        MODEL.generate(torch.empty(1, 0, dtype=torch.int64), 3)


# ---- special tokens and heads


def test_special_tokens_are_three_more_rows_and_leave_the_rest_alone():
    model = tiny()
    before = model(IDS[:, :-1])
    model.add_special_tokens()
    after = model(IDS[:, :-1])
    assert (model.config.special_tokens, after.shape[-1]) == (3, VOCABULARY + 3)
    assert torch.equal(after[..., :VOCABULARY], before)
    added = model.tokens.weight.clone()
    model.add_special_tokens()
    assert torch.equal(model.tokens.weight, added)  # once is enough


@given(counts=st.lists(st.integers(2, 5), min_size=1, max_size=4), data=st.data())
def test_probabilities_of_answers_follow_their_order(counts, official_data):
    torch.manual_seed(sum(counts))
    head = Head(8, 1, each=True).eval()
    example = torch.tensor([n for n, count in enumerate(counts) for _ in range(count)])
    states = torch.randn(len(example), 8)
    order, first = [], 0
    for count in counts:
        order += [first + i for i in official_data.draw(st.permutations(range(count)))]
        first += count
    with torch.no_grad():
        straight, shuffled = head(states, example).softmax(-1), head(states[order], example).softmax(-1)
    first = 0
    for n, count in enumerate(counts):
        assert straight[n, count:].sum() == 0  # no probability for answers that are not there
        moved = straight[n, [i - first for i in order[first : first + count]]]
        torch.testing.assert_close(shuffled[n, :count], moved)
        first += count


def test_a_head_adds_the_states_of_both_orders():
    torch.manual_seed(0)
    head = Head(8, 3, each=False).eval()
    states = torch.randn(4, 8)
    expected = head.linear(torch.stack([states[0] + states[1], states[2] + states[3]]))
    torch.testing.assert_close(head(states, torch.tensor([0, 0, 1, 1])), expected)


def test_a_fresh_head_is_drawn_as_in_the_release():
    torch.manual_seed(0)
    head = Head(768, 20, each=False)
    assert head.linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert (head.linear.bias == 0).all()


def test_head_dropout_takes_one_mask_for_all_the_answers_of_an_example():
    torch.manual_seed(0)
    head = Head(64, 1, each=True, p=0.5).train()
    states = torch.randn(1, 64).expand(6, -1)  # every answer has the same state
    logits = head(states, torch.tensor([0, 0, 0, 1, 1, 1]))
    torch.testing.assert_close(logits, logits[:, :1].expand(-1, 3))
    assert (logits[0, 0] - logits[1, 0]).abs() > 1e-3  # another example, another mask


def test_head_dropout_acts_in_training_only():
    torch.manual_seed(0)
    head = Head(64, 2, each=False, p=0.5).train()
    states, example = torch.randn(3, 64), torch.arange(3)
    assert not torch.equal(head(states, example), head(states, example))
    head.eval()
    assert torch.equal(head(states, example), head(states, example))


@given(ids=token_ids(rows=3, most=8), data=st.data())
def test_a_task_model_reads_the_state_at_each_sequences_last_token(ids, official_data):
    model = TaskModel(MODEL, Head(16, 2, each=False)).eval()
    lengths = [official_data.draw(st.integers(1, ids.shape[1])) for _ in ids]
    packed = torch.cat([row[:length] for row, length in zip(ids, lengths, strict=True)])
    with torch.no_grad():
        found = model(packed, Packing([PackedRow(0, (length,)) for length in lengths]), torch.arange(3))
        for row, length, logits in zip(ids, lengths, found, strict=True):
            state = MODEL.hidden_states(row[None, :length])[0, -1]
            torch.testing.assert_close(logits, model.head.linear(state), rtol=0, atol=1e-5)


def test_a_model_is_its_folder(tmp_path: Path):
    MODEL.save(tmp_path)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == MODEL.config
    assert not again.training
    assert torch.equal(again(IDS[:, :-1]), MODEL(IDS[:, :-1]))
    assert all(p.requires_grad for p in again.parameters())
