"""Multi-head attention with one fused projection."""

from __future__ import annotations

from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.core.attention_mask import causal_mask
from llm.core.block_attention import block_attention, block_attention_pays
from llm.core.kv_cache import Cache
from llm.core.one_query_attention import one_query_attention, one_query_attention_pays


class AttentionKernel(Protocol):
    """Computes attention of all heads: the part of it that back-ends replace."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: Tensor | None,
        dropout: float,
        layer_idx: int,
    ) -> Tensor:
        """Attend with query (B, H, T, D) to key and value (B, H, S, D).

        A `mask` of None means causal attention, the queries being the last T
        of the S slots. `layer_idx` says whose attention it is.
        """
        ...


def sdpa_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None,
    dropout: float,
    layer_idx: int = 0,
) -> Tensor:
    """PyTorch's fused scaled dot-product attention, (B, H, T, D)."""
    query_length, key_length = query.shape[2], key.shape[2]
    # PyTorch's is_causal puts the first query at the first slot, whatever is cached
    if mask is None and 1 < query_length < key_length:
        mask = causal_mask(query_length, key_length, device=query.device)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        # the length first: of a compiler's symbol, `and` makes a plain answer
        is_causal=query_length > 1 and mask is None,
    )


def attention_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None,
    dropout: float,
    layer_idx: int = 0,
) -> Tensor:
    """The fastest kernel there is for these, (B, H, T, D)."""
    # a compiler has kernels of its own, and makes promises of what is asked here of shapes
    if not torch.compiler.is_compiling():
        if block_attention_pays(query, key, mask):
            return block_attention(query, key, value, dropout=dropout)
        if one_query_attention_pays(query, key, value, dropout):
            return one_query_attention(query, key, value, mask)
    return sdpa_attention(query, key, value, mask=mask, dropout=dropout, layer_idx=layer_idx)


class MultiHeadAttention(nn.Module):
    """concat(head_1, …, head_H) W_out, each head as in `HeadAttention`.

    Args:
        embed_dim: residual width, C.
        num_heads: H; divides `embed_dim`.
        dropout: probability in [0, 1) of dropping an attention weight.
        output_dropout: probability in [0, 1) of dropping an output.
        layer_idx: which layer of the cache is this one's.
        bias: the projections have biases.

    Reference: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762,
    section 3.2.2.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        output_dropout: float = 0.0,
        layer_idx: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} is not divisible by num_heads={num_heads}")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        # a module, though the kernel applies it: tools that switch dropout off look for these
        self.attention_dropout = nn.Dropout(dropout)
        self.layer_idx = layer_idx
        self.qkv_proj = nn.Linear(embed_dim, 3 * embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.output_dropout = nn.Dropout(output_dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        kernel: AttentionKernel = attention_kernel,
    ) -> Tensor:
        """Attend from x (B, T, C) to itself and to what the cache holds.

        Args:
            x: (B, T, C).
            mask: boolean, broadcastable to (B, H, T, S), True = may attend;
                None for causal attention (see `AttentionKernel`).
            cache: keys and values of the tokens before; those of x are added.
            kernel: computes the heads; what it takes as a mask is its own affair.

        Returns:
            (B, T, C).
        """
        qkv = self.qkv_proj(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # 3 × (B, H, T, D)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)  # (B, H, S, D)
        dropout = self.attention_dropout.p if self.training else 0.0
        heads = kernel(
            query, key, value, mask=mask, dropout=dropout, layer_idx=self.layer_idx
        )  # (B, H, T, D)
        output = self.out_proj(heads.transpose(1, 2).flatten(2))  # (B, T, C)
        return cast(Tensor, self.output_dropout(output))
