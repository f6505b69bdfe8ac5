"""The trained part (`--train`): all parameters, the head, or the last K blocks and the head."""

from __future__ import annotations

import re

from gpt1.config import FinetuneConfig
from gpt1.errors import UserError, did_you_mean
from gpt1.formatting import count_parameters
from gpt1.model.head import TaskModel


def freeze(model: TaskModel, train: str) -> None:
    """Freeze all parameters except those that `--train` selects."""
    if train == "all":
        return
    model.gpt.requires_grad_(False)
    n_layer = model.gpt.config.n_layer
    for block in model.gpt.blocks[n_layer - parse_last_blocks(train) :]:
        block.requires_grad_(True)


def parse_last_blocks(train: str) -> int:
    """K of `last:K`; 0 for anything else."""
    match = re.fullmatch(r"last:(\d+)", train)
    return int(match[1]) if match else 0


def check_train_scope(cfg: FinetuneConfig, n_layer: int) -> None:
    """Raise UserError if the settings contradict each other or the model; called before the rows are read."""
    if cfg.train not in ("all", "head") and not 1 <= parse_last_blocks(cfg.train) <= n_layer:
        problem = f"--train {cfg.train} is not a valid choice.{did_you_mean(cfg.train, ('all', 'head', 'last:1'))}"
        raise UserError(problem, f"Use all, head, or last:K with K from 1 to {n_layer}.")
    if cfg.transfer_layers > n_layer:
        problem = f"--transfer-layers {cfg.transfer_layers}: the model has {n_layer} blocks."
        raise UserError(problem, f"Use 0 to {n_layer}; -1 transfers all of them.")
    if cfg.from_scratch and cfg.transfer_layers >= 0:
        raise UserError(
            "--transfer-layers has no effect with --from-scratch: no weights are transferred.", "Use one of them."
        )
    if cfg.long == "windows" and cfg.cut == "shares":
        raise UserError(
            "--long windows with --cut shares is not supported: shares limit each field to one window.",
            "Use --cut longest with --long windows.",
        )
    if cfg.head_first and (cfg.keep_head or cfg.train == "head"):
        other = "--keep-head" if cfg.keep_head else "--train head"
        raise UserError(f"--head-first has no effect with {other}.", "Remove --head-first.")
    if cfg.keep_head and (cfg.from_scratch or cfg.transfer_layers >= 0):
        flag = "--from-scratch" if cfg.from_scratch else "--transfer-layers"
        raise UserError(f"--keep-head with {flag}: the output layer belongs to the weights.", f"Remove {flag}.")
    if cfg.train != "all" and cfg.embedding_lr_factor != 1:
        raise UserError(
            f"--embedding-lr-factor has no effect with --train {cfg.train}: the token embedding is not trained.",
            "Remove --embedding-lr-factor, or use --train all.",
        )
    if cfg.train == "head" and cfg.lm_coef:
        raise UserError(
            f"--lm-coef {cfg.lm_coef:g} has no effect with --train head: the language model is not trained.",
            "Remove --lm-coef, or use --train all.",
        )


def describe_trained(train: str, parameters: int) -> str:
    """The trained part in words, with its number of parameters."""
    if train == "head":
        return f"the head ({parameters:,} parameters)"
    count = count_parameters(parameters)
    if train == "all":
        return f"all {count}"
    blocks = parse_last_blocks(train)
    return f"the last {f'{blocks} blocks' if blocks > 1 else 'block'} and the head ({count})"
