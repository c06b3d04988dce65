"""Causal attention by blocks of queries, for training in bfloat16 on a CPU.

PyTorch's fused kernel is made for float32 there; in bfloat16 it takes 1.5 to 3.7
times as long, forward and backward, as the products of which attention is made.
A block of queries at a time, the keys after its last query need not be looked
at. The products and the softmax are float32 inside and bfloat16 between, as in
transformers' eager attention: a score of 8 is exact to 1/32, where PyTorch's kernel
keeps the scores in float32.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# queries at a time; of 64 to 512 the fastest, or close to it, at contexts of 128 to 1024
BLOCK_SIZE = 128


def block_attention_pays(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Whether `block_attention` computes this attention, and faster than PyTorch's kernel."""
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and mask is None
        and query.shape[2] == key.shape[2] > 1
        # the backward is where it gains; without one, all wrappers of a model compute alike
        and query.requires_grad
        # a compiler has kernels of its own
        and not torch.compiler.is_compiling()
    )


def block_attention(query: Tensor, key: Tensor, value: Tensor, *, dropout: float) -> Tensor:
    """softmax(Q Kᵀ / √D + causal mask) V, for query, key and value (B, H, T, D)."""
    batch_size, num_heads, length, head_dim = query.shape
    queries, keys, values = (x.flatten(0, 1) for x in (query, key, value))  # (B·H, T, D)
    outputs = []
    for start in range(0, length, BLOCK_SIZE):
        end = min(start + BLOCK_SIZE, length)
        later = torch.full((end - start, end), -math.inf, dtype=query.dtype).triu(start + 1)
        scores = torch.baddbmm(
            later.expand(batch_size * num_heads, -1, -1),
            queries[:, start:end],
            keys[:, :end].transpose(1, 2),
            alpha=head_dim**-0.5,
        )  # (B·H, block, end)
        weights = F.dropout(scores.softmax(-1), dropout)
        outputs.append(weights @ values[:, :end])
    return torch.cat(outputs, 1).view(query.shape)
