"""GPT-1, equation 2 of the paper, from the bottom up: Linear, Attention, MLP, Block, GPT, Head, TaskModel.

    h_0 = U W_e + W_p;   h_l = block(h_{l-1}), l = 1..n;   P(u) = softmax(h_n W_eᵀ)

Weights are float32. Activations have the type of `GPT.activations` (float32 or bfloat16): each layer casts its weights
to the type of what it is given, so no autocast is in play and every line says what it computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.generation.decoding import continued, worth_laying_out
from gpt1.generation.sampling import Choice
from gpt1.kernels.attention import causal_attention
from gpt1.kernels.cached_attention import Cache, cached_attention
from gpt1.kernels.dropout import dropout, residual_dropout
from gpt1.kernels.embedding import embedding
from gpt1.kernels.gelu import gelu
from gpt1.kernels.int4 import FourBits, four_bits_fit
from gpt1.kernels.linear import dense, linear, packed
from gpt1.kernels.meta_init import unfilled
from gpt1.kernels.packing import Packing
from gpt1.kernels.to_device import moved
from gpt1.model.lstm import LSTM
from gpt1.model.weights import read_model, verify_model, write_model

MANY_WEIGHTS = 20_000_000  # from here on, a pass over few tokens is bound by the reading of the weights
INIT_STD = 0.02  # N(0, 0.02) for every weight that is no bias or gain (paper 4.1)


class Linear(nn.Module):
    """x Wᵀ + b in the type of x."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.normal_(self.weight, std=INIT_STD)

    def forward(self, x: Tensor) -> Tensor:  # [..., n_in] → [..., n_out]
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """(x − mean) / sqrt(variance + 1e-5) · gain + bias over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # [..., width] → the same
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5)


class Attention(nn.Module):
    """Masked multi-head self-attention: softmax(q kᵀ / sqrt(head width)) v over this and earlier positions."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.p = config.dropout
        self.qkv = Linear(config.n_embd, 3 * config.n_embd)
        self.out = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, beside: Cache | Packing | None = None, layer: int = 0) -> Tensor:
        """[batch, time, n_embd] → the same; with a packing [tokens, n_embd]."""
        qkv = self.qkv(x)  # [..., 3 · n_embd]: queries, keys, values of all heads side by side
        if isinstance(beside, Cache):
            keys, values = beside.keys[layer], beside.values[layer]
            return self.out(cached_attention(qkv, self.n_head, keys, values, beside.length, beside.places))
        p = self.p if self.training else 0.0
        if beside is not None:
            return self.out(beside.grouped(partial(causal_attention, n_head=self.n_head, p=p), qkv))
        return self.out(causal_attention(qkv, self.n_head, p))


class MLP(nn.Module):
    """Position-wise feed-forward layer, four times as wide inside, GELU (tanh form)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.widen = Linear(config.n_embd, 4 * config.n_embd)
        self.narrow = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:  # [..., n_embd] → the same
        return self.narrow(gelu(self.widen(x)))


class Block(nn.Module):
    """A Transformer block, LayerNorm after each residual sum (post-LN, as in the paper; GPT-2 moved it before).

    x ← LN(x + Attention(x));  x ← LN(x + MLP(x))                                   paper, eq. 2
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.p = config.dropout
        self.attention = Attention(config)
        self.norm_1 = LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.norm_2 = LayerNorm(config.n_embd)

    def forward(self, x: Tensor, beside: Cache | Packing | None = None, layer: int = 0) -> Tensor:
        """[batch, time, n_embd] → the same; with a packing [tokens, n_embd]."""
        p = self.p if self.training else 0.0
        x = self.norm_1(residual_dropout(x, self.attention(x, beside, layer), p))
        return self.norm_2(residual_dropout(x, self.mlp(x), p))


class GPT(nn.Module):
    """The decoder-only Transformer, or the LSTM of table 5. Its output matrix is its token embedding (tied)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.rows, config.n_embd)
        nn.init.normal_(self.tokens.weight, std=INIT_STD)
        self.recurrent = config.architecture == "lstm"
        if not self.recurrent:
            self.positions = nn.Embedding(config.context, config.n_embd)
            nn.init.normal_(self.positions.weight, std=INIT_STD)
        self.blocks = nn.ModuleList((LSTM if self.recurrent else Block)(config) for _ in range(config.n_layer))
        self.activations = torch.float32
        self.readout: Callable[[Tensor], Tensor] | None = None  # the product with W_e, where that is `laid_out`
        self.recompute = False  # drop activations in the forward pass and compute them again in the backward pass

    def states(self, ids: Tensor, cache: Cache | None = None, packing: Packing | None = None) -> Tensor:
        """h_n, the last block's output: ids [batch, time] → [batch, time, n_embd].

        With a cache, `ids` continue what the cache holds and are added to it. With a packing, they are sequences one
        after another, nothing padded: [tokens] → [tokens, n_embd].
        """
        past, time = (cache.length if cache else 0), (packing.most if packing else ids.shape[1])
        if past + time > self.config.context:
            raise UserError(
                f"{past + time} tokens are more than the {self.config.context} positions of the model.",
                "Cut the text, or pre-train with a longer --context.",
            )
        h = embedding(ids, self.tokens.weight)
        if not self.recurrent:
            where = packing.position if packing else cache.places if cache else None
            place = None if where is None else embedding(where, self.positions.weight)
            h = h + (self.positions.weight[past : past + time] if place is None else place)
        h = h.to(self.activations)
        if self.training:
            h = dropout(h, self.config.dropout)
        if packing:
            h = packing.begin(h)
        beside = packing or (cache.memory if cache and self.recurrent else cache)
        for layer, block in enumerate(self.blocks):
            if self.recompute and self.training:
                h = checkpoint(block, h, beside, layer, use_reentrant=False)
            else:
                h = block(h, beside, layer)
        if cache:
            cache.length += time
        return packing.end(h) if packing else h

    def logits(self, states: Tensor) -> Tensor:  # [..., n_embd] → [..., rows], float32
        return (self.readout(states) if self.readout else linear(states, self.tokens.weight)).float()

    def forward(self, ids: Tensor) -> Tensor:  # [batch, time] → [batch, time, rows]
        """Logits of the token that follows each position."""
        return self.logits(self.states(ids))

    @torch.inference_mode()
    def generate(
        self,
        ids: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:  # [batch, time] → [batch, time + max_new_tokens]
        """Continue `ids` (at least one token each). Temperature 0 takes the likeliest token.

        Beyond the context, the model goes on from the last half of it: a rule that costs one pass every context / 2
        tokens and never lets the past shrink below context / 2.

        One text of some length is written with guesses (speculative decoding: Leviathan et al., 2023): the draft runs
        ahead, one pass of the model says what comes after each of its tokens, and they count as far as they agree.
        """
        if ids.shape[1] == 0:
            raise UserError("there is nothing to continue: the prompt has no tokens.", "Give at least one word.")
        choice = Choice(temperature, top_k, top_p, generator)
        one, worth = len(ids) == 1, worth_laying_out(len(ids), max_new_tokens)
        model, draft = self.writer(guesses=one) if worth else (self.cast_once(), None)
        return continued(model, ids, max_new_tokens, choice, draft)

    def cache(self, batch: int, size: int | None = None) -> Cache:
        """An empty cache of `size` positions, the context if it is not said."""
        return Cache(self.config, batch, self.tokens.weight, size)

    def cast_once(self) -> GPT:
        """The model for use, its weights in the type of its activations, which else every token would cast anew: this
        one, if they have it already and it is not in training."""
        if self.tokens.weight.dtype != self.activations:
            return self.laid_out()
        return self.holding(self.state_dict()) if self.training else self

    def laid_out(self) -> GPT:
        """The model for use, in the type of its activations, its matrices laid out for products with few vectors. What
        has that type already and is no matrix is shared with this one."""
        if self.readout:
            return self
        model = self.holding({name: w.to(self.activations) for name, w in self.state_dict().items()})
        for module in model.modules():
            if isinstance(module, Linear):
                module.weight = nn.Parameter(packed(module.weight), requires_grad=False)
        model.activations, model.readout = self.activations, partial(linear, weight=packed(model.tokens.weight))
        return model

    def writer(self, guesses: bool = True) -> tuple[GPT, GPT | None]:
        """(the model for writing, the draft that guesses for it): where a token is bound by the reading of the weights,
        the model laid out and, for guesses, a copy in four bits an entry, which says nearly always the same; else the
        model alone."""
        matrices = [w for w in self.parameters() if w.dim() == 2]
        if self.recurrent or sum(w.numel() for w in matrices) < MANY_WEIGHTS or not four_bits_fit(matrices):
            return self.cast_once(), None
        return self.laid_out(), self.rounded() if guesses else None

    def rounded(self) -> GPT:
        """The model for use, its matrices rounded to four bits an entry, activations in bfloat16."""
        draft = self.holding({name: w.bfloat16() if w.dim() == 1 else w for name, w in self.state_dict().items()})
        for parent in [*draft.modules()]:
            for name, child in parent.named_children():
                if isinstance(child, Linear):
                    setattr(parent, name, FourBits(dense(child.weight), child.bias))
        draft.activations, draft.readout = torch.bfloat16, FourBits(draft.tokens.weight)
        return draft

    def holding(self, weights: dict[str, Tensor]) -> GPT:
        """A model for use like this one, with other weights, which are not copied."""
        with unfilled():
            model = GPT(self.config)
        model.load_state_dict(weights, assign=True)
        return model.requires_grad_(False).eval()

    def add_special_tokens(self) -> None:
        """Append the rows of start, delimiter and extract, N(0, 0.02), unless the model has them."""
        if self.config.special_tokens:
            return
        new = torch.empty(3, self.config.n_embd, device=self.tokens.weight.device).normal_(std=INIT_STD)
        self.config = replace(self.config, special_tokens=3)
        self.tokens.weight = nn.Parameter(torch.cat([self.tokens.weight.detach(), new]))
        self.tokens.num_embeddings = self.config.rows

    def set_dropout(self, p: float) -> None:
        self.config = replace(self.config, dropout=p)
        for module in self.modules():
            if isinstance(module, Block | Attention | LSTM):
                module.p = p

    @classmethod
    def from_pretrained(cls, folder: str | Path, verify: bool = True) -> GPT:
        """A model folder of ours, a Hugging Face openai-gpt folder, or OpenAI's params_*.npy; ready to use (eval).
        verify: compare the folder with the SHA-256 sums in its manifest.json, if it has one."""
        if verify:
            verify_model(Path(folder))
        config, weights = read_model(Path(folder))
        with unfilled():
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model.eval()

    def save(self, folder: str | Path, head: Head | None = None, tokenizer: str | None = None) -> None:
        """Write config.json and model.safetensors into `folder`, with a fine-tuned model's head. tokenizer: the
        fingerprint of the one that the model was trained with; another one is refused."""
        weights = {name: dense(w) for name, w in self.state_dict().items()}
        write_model(Path(folder), self.config, weights, head.state_dict() if head else None, tokenizer)


class Head(nn.Module):
    """The new layer of stage 2: dropout and a linear map of the state at the extract token (paper, eq. 3).

    `each` is multiple choice: one output a sequence, the sequences of an example stand side by side. Otherwise the
    states of an example's sequences are added (one sequence, or both orders of a pair) and mapped to `outputs`.
    """

    def __init__(self, n_embd: int, outputs: int, each: bool, p: float = 0.1) -> None:
        super().__init__()
        self.each = each
        self.p = p
        self.linear = Linear(n_embd, outputs)

    def forward(self, states: Tensor, example: Tensor) -> Tensor:
        """states [sequences, n_embd], example [sequences]: which example a sequence belongs to, ascending from 0
        → [examples, outputs], for `each` [examples, most answers] with −inf where an example has fewer.

        Shapes are taken from `example`: in the processor's memory nothing has to wait for the states."""
        states = states.float()
        counts = torch.bincount(example)  # sequences of each example
        n, place = len(counts), moved(example, states.device)
        if self.each:
            if self.training and self.p:  # one mask for all the answers of an example, as in the release
                states = states * dropout(states.new_ones(n, states.shape[1]), self.p)[place]
            first = counts.cumsum(0) - counts
            answer = torch.arange(len(example), device=example.device) - first[example]
            logits = states.new_full((n, int(counts.max())), -torch.inf)
            return logits.index_put((place, moved(answer, states.device)), self.linear(states)[:, 0])
        summed = states.new_zeros(n, states.shape[1]).index_add(0, place, states)
        return self.linear(dropout(summed, self.p) if self.training else summed)


class TaskModel(nn.Module):
    """A GPT and a head: stage 2."""

    def __init__(self, gpt: GPT, head: Head) -> None:
        super().__init__()
        self.gpt = gpt
        self.head = head

    def features(self, ids: Tensor, packing: Packing) -> Tensor:  # [tokens] → [sequences, n_embd]
        """The states at the extract tokens, the last of each sequence."""
        return self.gpt.states(ids, packing=packing)[packing.last]

    def forward(self, ids: Tensor, packing: Packing, example: Tensor) -> Tensor:  # → as the head
        return self.head(self.features(ids, packing), example)
