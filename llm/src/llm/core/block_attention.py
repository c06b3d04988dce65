"""Causal attention by blocks of queries on a CPU, where PyTorch's fused kernel is slower.

That kernel is made for training in float32. In bfloat16 it takes 1.5 to 3.7 times as long,
forward and backward, as the products of which attention is made; without gradients, in
float32, 1.1 to 1.5 times. A block of queries at a time, the keys after its last query need not
be looked at.

In bfloat16 the products and the softmax are float32 inside and bfloat16 between, as in
transformers' eager attention: a score of 8 is exact to 1/32, where PyTorch's kernel keeps
the scores in float32.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.core.processor_cache import numbers_in_caches

# queries at a time; of 64 to 512 the fastest, or close to it, at contexts of 128 to 1024
BLOCK_SIZE = 128
# tokens from which blocks are the faster in float32
MIN_LENGTH = 256


def block_attention_pays(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Whether `block_attention` computes this attention, and faster than PyTorch's kernel."""
    length = query.shape[2]
    return (
        mask is None
        and query.device.type == "cpu"
        and length == key.shape[2] > 1
        # in bfloat16 it gains in the backward; in float32 PyTorch's own backward is the faster one
        and (
            (query.dtype == torch.bfloat16 and query.requires_grad)
            or (query.dtype == torch.float32 and length >= MIN_LENGTH and not query.requires_grad)
        )
    )


def block_attention(query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> Tensor:
    """softmax(Q Kᵀ / √D + causal mask) V, for query, key and value (B, H, T, D)."""
    queries, keys, values = (x.flatten(0, 1) for x in (query, key, value))  # (B·H, T, D)
    if query.requires_grad:
        # the scores of all are kept
        return _attend(queries, keys, values, dropout).view(query.shape)
    # as many heads at a time as the caches hold the scores of
    size = max(1, numbers_in_caches() // (BLOCK_SIZE * query.shape[2]))
    parts = zip(*(torch.split(x, size) for x in (queries, keys, values)), strict=True)
    return torch.cat([_attend(q, k, v, dropout) for q, k, v in parts]).view(query.shape)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, dropout: float) -> Tensor:
    """Of some heads, (N, T, D)."""
    num_heads, _, head_dim = queries.shape
    outputs = []
    # from the last block on, so that gradients of keys are summed over no more than a block saw
    for block in reversed(torch.split(queries, BLOCK_SIZE, dim=1)):
        size, seen = block.shape[1], keys.shape[1]
        later = block.new_full((size, seen), -math.inf).triu(seen - size + 1)
        scores = torch.baddbmm(
            later.expand(num_heads, -1, -1),
            block,
            keys.transpose(1, 2),
            alpha=head_dim**-0.5,
        )  # (N, block, seen)
        weights = F.dropout(scores.softmax(-1), dropout)
        outputs.append(weights @ values)
        keys, values = keys[:, : seen - size], values[:, : seen - size]
    return torch.cat(outputs[::-1], 1)
