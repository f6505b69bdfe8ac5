"""GPT-1, equation 2 of the paper, from the bottom up: Linear, LayerNorm, Attention, MLP, Block, GPT.

    h_0 = U W_e + W_p;   h_l = block(h_{l-1}), l = 1..n;   P(u) = softmax(h_n W_eᵀ)

Weights are float32. Activations have the type `GPT.activation_dtype` (float32 or bfloat16): each layer casts its
weights to the type of its input, so there is no autocast and every line says what it computes in.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gpt1.config import GPTConfig
from gpt1.errors import UserError
from gpt1.kernels.attention import causal_attention
from gpt1.kernels.dropout import dropout, residual_dropout
from gpt1.kernels.embedding import embedding
from gpt1.kernels.gelu import gelu
from gpt1.kernels.kv_cache import KVCache, LayerCache, cached_attention
from gpt1.kernels.linear import linear, unpack_weight
from gpt1.kernels.meta_init import meta_init
from gpt1.kernels.packing import Packing
from gpt1.model.lstm import LSTM
from gpt1.model.weights import read_model, verify_model, write_model

if TYPE_CHECKING:
    from gpt1.model.head import Head

INIT_STD = 0.02  # N(0, 0.02) for every weight except biases and LayerNorm parameters (paper 4.1)


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
    """(x − mean) / √(variance + 1e-5) · gain + bias over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # [..., width] → the same
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5)


class Attention(nn.Module):
    """Causal multi-head self-attention: softmax(q kᵀ / √(head width) + mask) v, the mask −∞ on later positions."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.p = config.dropout
        self.qkv = Linear(config.n_embd, 3 * config.n_embd)
        self.out = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, *, kv_cache: LayerCache | None = None, packing: Packing | None = None) -> Tensor:
        """[batch, time, n_embd] → the same; with a packing [tokens, n_embd]."""
        qkv = self.qkv(x)  # [batch, time, 3 · n_embd]: q, k and v of all heads side by side
        attention = partial(causal_attention, n_head=self.n_head, dropout_p=self.p if self.training else 0.0)
        if kv_cache:
            y = cached_attention(qkv, self.n_head, kv_cache)
        elif packing:
            y = packing.apply_by_group(attention, qkv)
        else:
            y = attention(qkv)  # softmax(q kᵀ / √(head width) + mask) v: [batch, time, n_embd]
        return self.out(y)


class MLP(nn.Module):
    """Position-wise feed-forward layer: GELU(x W_1 + b_1) W_2 + b_2, four times as wide inside, tanh form of GELU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.widen = Linear(config.n_embd, 4 * config.n_embd)
        self.narrow = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:  # [..., n_embd] → the same
        return self.narrow(gelu(self.widen(x)))


class Block(nn.Module):
    """A Transformer block with LayerNorm after each residual sum (post-LN, as in the paper; GPT-2 moved it before).

    x ← LN(x + Attention(x));  x ← LN(x + MLP(x))                                   paper, eq. 2
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.p = config.dropout
        self.attention = Attention(config)
        self.norm_1 = LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.norm_2 = LayerNorm(config.n_embd)

    def forward(self, x: Tensor, *, kv_cache: LayerCache | None = None, packing: Packing | None = None) -> Tensor:
        """[batch, time, n_embd] → the same; with a packing [tokens, n_embd]."""
        p = self.p if self.training else 0.0
        x = self.norm_1(residual_dropout(x, self.attention(x, kv_cache=kv_cache, packing=packing), p))
        return self.norm_2(residual_dropout(x, self.mlp(x), p))


class GPT(nn.Module):
    """The decoder-only Transformer, or the LSTM of table 5. The output matrix is the token embedding (tied).

    >>> GPT(GPTConfig(100, n_layer=2, n_head=2, n_embd=32, context=16))(torch.zeros(1, 8, dtype=torch.long)).shape
    torch.Size([1, 8, 100])
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.embedding_rows, config.n_embd)  # W_e
        nn.init.normal_(self.tokens.weight, std=INIT_STD)
        self.recurrent = config.architecture == "lstm"
        if not self.recurrent:
            self.positions = nn.Embedding(config.context, config.n_embd)  # W_p
            nn.init.normal_(self.positions.weight, std=INIT_STD)
        self.blocks = nn.ModuleList((LSTM if self.recurrent else Block)(config) for _ in range(config.n_layer))
        self.activation_dtype = torch.float32
        self.activation_checkpointing = False  # keep each block's input only, compute the rest again when needed

    def forward(self, ids: Tensor) -> Tensor:  # [batch, time] → [batch, time, rows]
        """Logits of the token that follows each position, float32."""
        return self.logits(self.hidden_states(ids))

    def hidden_states(self, ids: Tensor, *, kv_cache: KVCache | None = None, packing: Packing | None = None) -> Tensor:
        """h_n, the last block's output (paper, eq. 2).

        Args:
            ids: [batch, time]; with a packing [tokens], sequences one after another without padding.
            kv_cache: What precedes `ids`; they are added to it.
            packing: Where the sequences of packed `ids` begin and end.

        Returns:
            [batch, time, n_embd], or [tokens, n_embd].

        Raises:
            UserError: for more tokens than the model has positions.
        """
        past, time = (kv_cache.length if kv_cache else 0), (packing.max_length if packing else ids.shape[1])
        if past + time > self.config.context:
            raise UserError(
                f"{past + time} tokens are more than the {self.config.context} positions of the model.",
                "Cut the text, or pre-train with a longer --context.",
            )
        h = embedding(ids, self.tokens.weight)  # U W_e
        if not self.recurrent:
            h = h + self.position_embeddings(past, time, kv_cache, packing)  # + W_p
        h = h.to(self.activation_dtype)
        if self.training:
            h = dropout(h, self.config.dropout)
        if packing:
            h = packing.pad(h)
        for index, block in enumerate(self.blocks):
            run = partial(block, kv_cache=kv_cache.layer(index) if kv_cache else None, packing=packing)
            if self.activation_checkpointing and self.training:
                h = checkpoint(run, h, use_reentrant=False)
            else:
                h = run(h)
        if kv_cache:
            kv_cache.length += time
        return packing.unpad(h) if packing else h

    def position_embeddings(self, past: int, time: int, kv_cache: KVCache | None, packing: Packing | None) -> Tensor:
        """W_p at the positions of the tokens: [time, n_embd], [batch, 1, n_embd] or [tokens, n_embd]."""
        positions = packing.positions if packing else kv_cache.row_lengths if kv_cache else None
        if positions is None:
            return self.positions.weight[past : past + time]
        return embedding(positions, self.positions.weight)

    def logits(self, hidden_states: Tensor) -> Tensor:  # [..., n_embd] → [..., rows], float32
        """h_n W_eᵀ."""
        return linear(hidden_states, self.tokens.weight).float()

    def generate(
        self,
        ids: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continue ids [batch, time] → [batch, time + max_new_tokens]: see `gpt1.generation.decoding.generate`."""
        from gpt1.generation.decoding import generate  # the one call upward: the public name is the model's

        return generate(self, ids, max_new_tokens, temperature, top_k, top_p, generator)

    def new_kv_cache(self, batch: int, size: int | None = None) -> KVCache:
        """An empty cache of `size` positions, by default the context."""
        return KVCache(self.config, batch, self.tokens.weight, size)

    def add_special_tokens(self) -> None:
        """Append the rows of start, delimiter and extract, N(0, 0.02), unless the model has them."""
        if self.config.special_tokens:
            return
        new = torch.empty(3, self.config.n_embd, device=self.tokens.weight.device).normal_(std=INIT_STD)
        self.config = replace(self.config, special_tokens=3)
        self.tokens.weight = nn.Parameter(torch.cat([self.tokens.weight.detach(), new]))
        self.tokens.num_embeddings = self.config.embedding_rows

    def set_dropout(self, p: float) -> None:
        self.config = replace(self.config, dropout=p)
        for module in self.modules():
            if isinstance(module, Block | Attention | LSTM):
                module.dropout_p = p

    @classmethod
    def from_pretrained(cls, folder: str | Path, verify: bool = True) -> GPT:
        """A model folder of ours, a Hugging Face openai-gpt folder, or OpenAI's params_*.npy; in eval mode.

        `verify` compares the folder with the SHA-256 sums in its manifest.json, if it has one.
        """
        if verify:
            verify_model(Path(folder))
        config, weights = read_model(Path(folder))
        with meta_init():
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        return model.eval()

    def save(self, folder: str | Path, head: Head | None = None, tokenizer: str | None = None) -> None:
        """Write config.json and model.safetensors into `folder`, with the head of a fine-tuned model.

        `tokenizer` is the fingerprint of the one that the model was trained with; loading refuses another one.
        """
        weights = {name: unpack_weight(w) for name, w in self.state_dict().items()}
        write_model(Path(folder), self.config, weights, head.state_dict() if head else None, tokenizer)
