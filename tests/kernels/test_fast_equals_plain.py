"""The fast path (bf16, fast dropout, chunked loss, fused optimizer, fast weight gradients) has the losses of a plain
one (transformers in float32, eager, torch's dropout and AdamW), within noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gpt1.config import PretrainConfig
from gpt1.corpus.corpus import Corpus
from gpt1.corpus.windows import split_corpus
from gpt1.model.gpt import GPT
from gpt1.model.losses import PretrainMicroBatch, l1
from gpt1.training.optimizers import AdamW, clip_coefficient, global_norm

STEPS, BATCH, CONTEXT, PEAK_LR, DECAY, DROPOUT = 200, 8, 32, 2e-3, 0.01, 0.1
SEEDS = range(3)


def learning_rate(step: int) -> float:
    """Warm-up over 50 steps, then constant: the curves are steep here, where a difference would be visible."""
    return PEAK_LR * min(1.0, (step + 1) / 50)


def batches(corpus: Path, seed: int) -> list[Tensor]:
    training, _ = split_corpus(Corpus.open(corpus), CONTEXT, 0.0)
    return [torch.from_numpy(training.training_batch(step, BATCH, seed)[1]) for step in range(STEPS)]


def make_plain_update(folder: Path, seed: int) -> Callable[[Tensor, int], Tensor]:
    from transformers import OpenAIGPTLMHeadModel

    model = OpenAIGPTLMHeadModel.from_pretrained(folder, attn_implementation="eager").train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_LR, fused=False, foreach=False)

    def update(windows: Tensor, step: int) -> Tensor:
        torch.manual_seed(1000 * seed + step)
        logits = model(windows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
        return loss.detach()

    return update


def make_fast_update(folder: Path, seed: int, activations: torch.dtype) -> Callable[[Tensor, int], Tensor]:
    model = GPT.from_pretrained(folder).train()
    model.set_dropout(DROPOUT)
    model.activation_dtype = activations
    optimizer = AdamW(model.named_parameters(), PretrainConfig(weight_decay=DECAY, beta1=0.9, beta2=0.999))

    def update(windows: Tensor, step: int) -> Tensor:
        torch.manual_seed(1000 * seed + step)
        losses = l1(model, PretrainMicroBatch(windows, BATCH * CONTEXT))
        losses.total.backward()
        optimizer.step(learning_rate(step), clip_coefficient(global_norm(model.parameters()), 1.0))
        for parameter in model.parameters():
            parameter.grad = None
        return losses.total.detach()

    return update


def write_initial_weights(folder: Path, vocab_size: int, seed: int) -> Path:
    """The same initial weights for all, in a folder of transformers."""
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(seed)
    shape = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": CONTEXT}
    rates = {"resid_pdrop": DROPOUT, "embd_pdrop": DROPOUT, "attn_pdrop": DROPOUT}
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=vocab_size, **shape, **rates)).save_pretrained(folder / str(seed))
    return folder / str(seed)


def measure_curves(make: Callable[[Path, int], Callable[[Tensor, int], Tensor]], corpus: Path, folder: Path) -> Tensor:
    """Mean losses [seeds, quarters of the steps]."""
    found = []
    for seed in SEEDS:
        update = make(write_initial_weights(folder, Corpus.open(corpus).vocab_size, seed), seed)
        losses = torch.stack([update(windows, step) for step, windows in enumerate(batches(corpus, seed))])
        found.append(losses.view(4, -1).mean(1))
    return torch.stack(found).double()


@pytest.fixture(scope="module")
def expected(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return measure_curves(make_plain_update, corpus, tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize("activations", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_two_hundred_steps_have_the_losses_of_the_plain_path(
    activations: torch.dtype, expected: Tensor, corpus: Path, tmp_path: Path
):
    found = measure_curves(lambda folder, seed: make_fast_update(folder, seed, activations), corpus, tmp_path)
    assert expected[:, 0].mean() - expected[:, -1].mean() > 1.0  # the model learns, so that the curves can differ
    # Dropout masks differ, so the curves of a seed differ by noise, and their means by less.
    noise = (found - expected).std(0) / len(SEEDS) ** 0.5
    gap = (found.mean(0) - expected.mean(0)).abs()
    # In the first quarter there is little noise: half the dropout would differ by 0.005.
    assert (gap <= 3 * noise + 0.003).all(), (gap, noise)
    assert (gap < 0.03).all(), gap
