"""Training the head only, 3 epochs: gpt1 runs the backbone once, then trains on what it gave; the peer is transformers'
classifier with a frozen backbone, which its Trainer runs again in every epoch.

The yardstick is one forward pass over the rows, as `gpt1 predict` makes it.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.finetuning import BATCH, classifier, finetuning, padded
from benchmarks.material import called, sst2, trainer
from benchmarks.measure import Result, Work, compared, in_turn
from gpt1.config import HEAD_ONLY, FinetuneConfig, resolve
from gpt1.corpus.order import of_update, updates_per_epoch
from gpt1.devices import place
from gpt1.inference.predictor import task_logits
from gpt1.progress import Silent
from gpt1.training.finetune import Work as Finetuning
from gpt1.training.head_only import HeadOnly
from gpt1.training.loop import one_update
from gpt1.training.optimizers import OPTIMIZERS

EPOCHS, ROUNDS = 3, 3


def run(rounds: int, quick: bool) -> Result:
    rows = sst2(64 if quick else 512)
    work = finetuning(rows, quick, train="head")
    settings = {"train": "head", "epochs": EPOCHS, "batch_size": BATCH, "cache_features": False}
    config = resolve(FinetuneConfig, HEAD_ONLY, settings)
    frozen, plain = classifier(work), classifier(work, dropout=0.0)
    features = head_only(work, config)  # in fp32
    same = {"transformers' states at the extract tokens are ours, fp32": states_agree(work, features, plain)}
    place(work.model, work.device, torch.bfloat16)
    features = head_only(work, config)

    whole = {
        "gpt1": lambda: train(work, head_only(work, config), config),
        "one forward pass of the rows": lambda: task_logits(work.model.eval(), work.training, work.device),
        "transformers, frozen backbone": theirs(work, frozen),
        "transformers, frozen backbone, dropout 0": theirs(work, plain),
    }
    warm_up = {name: theirs(work, peer, steps=1) for name, peer in zip(list(whole)[2:], (frozen, plain), strict=True)}
    size = called(work.model.gpt.config)
    title = f"The head only, {size}, bf16, {EPOCHS} epochs, {len(rows.ids)} {rows.source}"
    table, ratios = compared(title, in_turn(whole, rounds, warm_up=warm_up), ["gpt1"])

    part = {
        "gpt1, on the features": lambda: train(work, features, config),
        "scikit-learn on the features": regression(features),
    }
    title = "The head's part alone (scikit-learn's LogisticRegression runs until it converges)"
    part_table, part_ratios = compared(title, in_turn(part, rounds), ["gpt1, on the features"])
    return Result([table, part_table], ratios | part_ratios, same)


def head_only(work: Finetuning, config: FinetuneConfig) -> HeadOnly:
    """The states of every row at its extract token: the backbone's one pass."""
    source = work.source(config, Silent())
    assert isinstance(source, HeadOnly)
    return source


def train(work: Finetuning, features: HeadOnly, config: FinetuneConfig) -> None:
    """All updates, as the training loop makes them."""
    stage = work.stage(config, features)
    optimizer = OPTIMIZERS[config.optimizer](stage.trained(), config)
    stage.model.train()
    for step in range(stage.steps):
        one_update(stage, optimizer, config, stage.update(step), step, config.peak_lr)


def theirs(work: Finetuning, peer: Any, steps: int | None = None) -> Work:
    peer.transformer.requires_grad_(False)
    update = trainer(peer, lr=HEAD_ONLY["peak_lr"])
    n = len(work.training)

    def epochs() -> None:
        for step in range(steps or EPOCHS * updates_per_epoch(n, BATCH)):
            update(**padded(work, of_update(step, n, BATCH, 0)[1].tolist()))

    return epochs


def regression(features: HeadOnly) -> Work:
    from sklearn.linear_model import LogisticRegression

    states, labels = torch.cat(list(features.features)).float().cpu().numpy(), features.targets.numpy()
    return lambda: LogisticRegression(max_iter=1000).fit(states, labels)


@torch.no_grad()
def states_agree(work: Finetuning, features: HeadOnly, peer: Any) -> bool:
    """On the first 32 rows, in fp32."""
    peer.eval()
    batch = padded(work, list(range(BATCH)))
    states = peer.transformer(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    theirs = states[torch.arange(BATCH), batch["attention_mask"].sum(1) - 1]
    return torch.allclose(torch.cat(list(features.features[:BATCH])), theirs, atol=1e-3)
