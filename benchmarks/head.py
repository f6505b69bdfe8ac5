"""Training the head only, 3 epochs: gpt1 runs the backbone once and trains on the features. The peer is transformers'
classifier with a frozen backbone, which its Trainer runs again in every epoch.

The reference is one forward pass over the rows, as in `gpt1 predict`.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.finetuning import BATCH, pad_batch, sst2_setup, transformers_classifier
from benchmarks.measure import BenchmarkResult, Workload, comparison_table, interleave
from benchmarks.models_and_data import describe_size, sst2_rows, transformers_step
from gpt1.config import FinetuneConfig, merge_settings
from gpt1.corpus.order import batch_indices, steps_per_epoch
from gpt1.devices import prepare_model
from gpt1.inference.task_logits import compute_task_logits
from gpt1.progress import Progress
from gpt1.recipes import HEAD_ONLY_DEFAULTS
from gpt1.training.finetune_setup import FinetuneSetup
from gpt1.training.head_only import HeadOnlySource
from gpt1.training.loop import train_step
from gpt1.training.optimizers import OPTIMIZERS

EPOCHS, ROUNDS = 3, 3


def run(rounds: int, quick: bool) -> BenchmarkResult:
    rows = sst2_rows(64 if quick else 512)
    work = sst2_setup(rows, quick, train="head")
    settings = {"train": "head", "epochs": EPOCHS, "batch_size": BATCH, "cache_features": False}
    config = merge_settings(FinetuneConfig, HEAD_ONLY_DEFAULTS, settings)
    frozen, plain = transformers_classifier(work), transformers_classifier(work, dropout=0.0)
    features = build_head_source(work, config)  # in fp32
    same = {"transformers' states at the extract tokens are ours, fp32": states_agree(work, features, plain)}
    prepare_model(work.model, work.device, torch.bfloat16)
    features = build_head_source(work, config)

    whole = {
        "gpt1": lambda: train_head(work, build_head_source(work, config), config),
        "one forward pass of the rows": lambda: compute_task_logits(
            work.model.eval(), work.train_examples, work.device
        ),
        "transformers, frozen backbone": transformers_workload(work, frozen),
        "transformers, frozen backbone, dropout 0": transformers_workload(work, plain),
    }
    warm_up = {
        name: transformers_workload(work, peer, steps=1)
        for name, peer in zip(list(whole)[2:], (frozen, plain), strict=True)
    }
    size = describe_size(work.model.gpt.config)
    title = f"The head only, {size}, bf16, {EPOCHS} epochs, {len(rows.ids)} {rows.source}"
    table, ratios = comparison_table(title, interleave(whole, rounds, warm_up=warm_up), ["gpt1"])

    part = {
        "gpt1, on the features": lambda: train_head(work, features, config),
        "scikit-learn on the features": sklearn_workload(features),
    }
    title = "Training the head alone (scikit-learn's LogisticRegression runs until it converges)"
    part_table, part_ratios = comparison_table(title, interleave(part, rounds), ["gpt1, on the features"])
    return BenchmarkResult([table, part_table], ratios | part_ratios, same)


def build_head_source(setup: FinetuneSetup, config: FinetuneConfig) -> HeadOnlySource:
    """One pass of the backbone: the features of all rows."""
    source = setup.make_source(config, Progress())
    assert isinstance(source, HeadOnlySource)
    return source


def train_head(setup: FinetuneSetup, features: HeadOnlySource, config: FinetuneConfig) -> None:
    """All steps, as in the training loop."""
    stage = setup.make_stage(config, features)
    optimizer = OPTIMIZERS[config.optimizer](stage.trainable_parameters(), config)
    stage.model.train()
    for step in range(stage.total_steps):
        train_step(stage, optimizer, config, stage.step_batch(step), step, config.peak_lr)


def transformers_workload(setup: FinetuneSetup, peer: Any, steps: int | None = None) -> Workload:
    peer.transformer.requires_grad_(False)
    step_fn = transformers_step(peer, lr=HEAD_ONLY_DEFAULTS["peak_lr"])
    n = len(setup.train_examples)

    def epochs() -> None:
        for step in range(steps or EPOCHS * steps_per_epoch(n, BATCH)):
            step_fn(**pad_batch(setup, batch_indices(step, n, BATCH, 0)[1].tolist()))

    return epochs


def sklearn_workload(features: HeadOnlySource) -> Workload:
    from sklearn.linear_model import LogisticRegression

    states, labels = torch.cat(list(features.features)).float().cpu().numpy(), features.targets.numpy()
    return lambda: LogisticRegression(max_iter=1000).fit(states, labels)


@torch.no_grad()
def states_agree(setup: FinetuneSetup, features: HeadOnlySource, peer: Any) -> bool:
    """On the first 32 rows, in fp32."""
    peer.eval()
    batch = pad_batch(setup, list(range(BATCH)))
    states = peer.transformer(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    theirs = states[torch.arange(BATCH), batch["attention_mask"].sum(1) - 1]
    return torch.allclose(torch.cat(list(features.features[:BATCH])), theirs, atol=1e-3)
