"""GPT-1, equation 2 of the paper, from the bottom up: Linear, LayerNorm, Attention, MLP, Block, GPT.

    h_0 = U W_e + W_p;   h_l = block(h_{l-1}), l = 1..n;   P(u) = softmax(h_n W_eᵀ)

Weights are float32. Activations have the dtype `GPT.activation_dtype` (float32 or bfloat16). Each layer casts its
weights to the dtype of its input, so there is no autocast.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

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
from gpt1.model.foreign_weights import read_any_model
from gpt1.model.init import INIT_STD, rescale_weights, resolve_init_std
from gpt1.model.lstm import LSTM
from gpt1.model.weights import verify_model, write_model
from gpt1.runs.folder import find_model_folder


class Linear(nn.Module):
    """x Wᵀ + b in the dtype of x."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))
        nn.init.normal_(self.weight, std=INIT_STD)

    def forward(self, x: Tensor) -> Tensor:  # [..., n_in] → [..., n_out]
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """(x − mean) / √(variance + 1e-5) · weight + bias over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:  # [..., width] → the same
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5)


class Attention(nn.Module):
    """Causal multi-head self-attention: softmax(q kᵀ / √(head width) + mask) v; the mask is −∞ at later positions."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout_p = config.dropout
        self.qkv = Linear(config.n_embd, 3 * config.n_embd)
        self.out = Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, *, kv_cache: LayerCache | None = None, packing: Packing | None = None) -> Tensor:
        """[batch, time, n_embd] → the same; with a packing [tokens, n_embd]."""
        qkv = self.qkv(x)  # [batch, time, 3 · n_embd]: q, k and v of all heads side by side
        attention = partial(causal_attention, n_head=self.n_head, dropout_p=self.dropout_p if self.training else 0.0)
        if kv_cache:
            y = cached_attention(qkv, self.n_head, kv_cache)
        elif packing:
            y = packing.apply_by_group(attention, qkv)
        else:
            y = attention(qkv)  # softmax(q kᵀ / √(head width) + mask) v: [batch, time, n_embd]
        return self.out(y)


class MLP(nn.Module):
    """Position-wise feed-forward layer: GELU(x W_1 + b_1) W_2 + b_2, hidden width 4 · n_embd, tanh form of GELU."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.widen = Linear(config.n_embd, 4 * config.n_embd)
        self.narrow = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:  # [..., n_embd] → the same
        return self.narrow(gelu(self.widen(x)))


class Block(nn.Module):
    """Transformer block with LayerNorm after each residual sum (post-LN, as in the paper; GPT-2 is pre-LN).

    x ← LN(x + Attention(x));  x ← LN(x + MLP(x))                                   paper, eq. 2
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout_p = config.dropout
        self.attention = Attention(config)
        self.norm_1 = LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.norm_2 = LayerNorm(config.n_embd)

    def forward(self, x: Tensor, *, kv_cache: LayerCache | None = None, packing: Packing | None = None) -> Tensor:
        """[batch, time, n_embd] → the same; with a packing [tokens, n_embd]."""
        p = self.dropout_p if self.training else 0.0
        x = self.norm_1(residual_dropout(x, self.attention(x, kv_cache=kv_cache, packing=packing), p))
        return self.norm_2(residual_dropout(x, self.mlp(x), p))


class GPT(nn.Module):
    """The decoder-only Transformer, or the LSTM of table 5 of the paper. The output matrix is the token embedding.

    >>> GPT(GPTConfig(100, n_layer=2, n_head=2, n_embd=32, context=16))(torch.zeros(1, 8, dtype=torch.long)).shape
    torch.Size([1, 8, 100])
    """

    def __init__(self, config: GPTConfig, init_std: float = INIT_STD) -> None:  # 0: by width, see model/init.py
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.embedding_rows, config.n_embd)  # W_e
        nn.init.normal_(self.tokens.weight, std=INIT_STD)
        self.recurrent = config.architecture == "lstm"
        if not self.recurrent:
            self.positions = nn.Embedding(config.context, config.n_embd)  # W_p
            nn.init.normal_(self.positions.weight, std=INIT_STD)
        self.blocks = nn.ModuleList((LSTM if self.recurrent else Block)(config) for _ in range(config.n_layer))
        rescale_weights(self, resolve_init_std(config, init_std))
        self.activation_dtype = torch.float32
        self.activation_checkpointing = False  # keep only the input of each block for the backward pass

    def forward(self, ids: Tensor) -> Tensor:  # [batch, time] → [batch, time, rows]
        """Logits of the next token at each position, float32."""
        return self.logits(self.hidden_states(ids))

    def hidden_states(self, ids: Tensor, *, kv_cache: KVCache | None = None, packing: Packing | None = None) -> Tensor:
        """h_n, the last block's output (paper, eq. 2).

        Args:
            ids: [batch, time]; with `packing` [tokens], the packed sequences.
            kv_cache: Keys and values of the positions before `ids`; those of `ids` are appended.
            packing: Where the packed sequences begin and end.

        Returns:
            [batch, time, n_embd], or [tokens, n_embd] with `packing`.

        Raises:
            UserError: There are more tokens than the model has positions.
        """
        past, time = (kv_cache.length if kv_cache else 0), (packing.max_length if packing else ids.shape[1])
        if past + time > self.config.context:
            problem = f"{past + time} tokens exceed the {self.config.context} positions of the model."
            raise UserError(problem, "Use a shorter text, or pre-train with a larger --context.")
        h = embedding(ids, self.tokens.weight)  # U W_e
        if not self.recurrent:
            h = h + self.position_embeddings(past, time, kv_cache, packing)  # + W_p
        h = h.to(self.activation_dtype)
        if self.training:
            h = dropout(h, self.config.dropout)
        if packing:
            h = packing.pad(h)
        for index, block in enumerate(self.blocks):
            run_block = partial(block, kv_cache=kv_cache.layer(index) if kv_cache else None, packing=packing)
            checkpointed = self.activation_checkpointing and self.training
            h = checkpoint(run_block, h, use_reentrant=False) if checkpointed else run_block(h)
        if kv_cache:
            kv_cache.length += time
        return packing.unpad(h) if packing else h

    def position_embeddings(self, past: int, time: int, kv_cache: KVCache | None, packing: Packing | None) -> Tensor:
        """Rows of W_p for the tokens: [time, n_embd], [batch, 1, n_embd] or [tokens, n_embd]."""
        positions = packing.positions if packing else kv_cache.positions if kv_cache else None
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
        """Generate text after ids [batch, time] → [batch, time + max_new_tokens]; see generation.decoding.generate."""
        from gpt1.generation.decoding import generate  # an import at the top would be circular

        return generate(self, ids, max_new_tokens, temperature, top_k, top_p, generator)

    def new_kv_cache(self, batch: int, size: int | None = None) -> KVCache:
        """An empty KV cache for `batch` sequences of `size` positions (by default the context)."""
        return KVCache(self.config, batch, self.tokens.weight, size)

    def add_special_tokens(self, init_std: float = INIT_STD) -> None:
        """Add the embeddings of the start, delimiter and extract tokens, N(0, init_std), unless the model has them."""
        if self.config.special_tokens:
            return
        std = resolve_init_std(self.config, init_std)
        new = torch.empty(3, self.config.n_embd, device=self.tokens.weight.device).normal_(std=std)
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
        """Load a gpt1 or Hugging Face openai-gpt folder, or OpenAI's params_*.npy, in eval mode.

        `folder` may be any RUN of the commands. `verify` compares the files with the SHA-256 in manifest.json, if any.
        Raises UserError for invalid folders.
        """
        path = find_model_folder(folder)
        if verify:
            verify_model(path)
        config, weights = read_any_model(path)
        with meta_init():
            model = cls(config)
        model.load_state_dict(weights, assign=True)
        return model.requires_grad_(True).eval()

    def save(self, folder: str | Path, head: nn.Module | None = None, tokenizer: str | None = None) -> None:
        """Write config.json and model.safetensors, with the head of a fine-tuned model.

        `tokenizer` is the fingerprint of the tokenizer that the model was trained with; loading checks it.
        """
        weights = {name: unpack_weight(w) for name, w in self.state_dict().items()}
        write_model(Path(folder), self.config, weights, head.state_dict() if head else None, tokenizer)
