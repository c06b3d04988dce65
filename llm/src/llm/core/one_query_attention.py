"""Attention of one query to a long past on a CPU: generation's, token by token.

It is bound by the memory that keys and values are read from, of which PyTorch's fused kernel
draws less than half. The keys are read by products of a matrix and a vector. The output, a sum
of rows by their weights, is what `embedding_bag` computes, which fetches the rows ahead.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# numbers of the keys, below which they come from caches and calls cost more than memory
MIN_KEYS = 2**18


def one_query_attention_pays(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether `one_query_attention` computes this attention, and faster than PyTorch's kernel."""
    return (
        query.shape[2] == 1
        and key.numel() >= MIN_KEYS
        and dropout == 0
        and query.device.type == "cpu"
        # of no subclass, such as FakeTensor, which the places of rows are not
        and type(query) is type(key) is type(value) is Tensor
        and query.dtype == key.dtype == value.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not (query.requires_grad or key.requires_grad or value.requires_grad)
        and key.shape == value.shape
        and _are_rows(key)
        and _are_rows(value)
    )


def one_query_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q Kᵀ / √D) V, without dropout and gradients.

    Args:
        query: (B, H, 1, D).
        key: (B, H, S, D).
        value: (B, H, S, D): a tensor of that shape, or the first tokens of one.
        mask: boolean, broadcastable to (B, H, 1, S), True = may attend; None for all.

    Returns:
        (B, H, 1, D); zero where the mask leaves nothing to attend to, as PyTorch's kernel.
    """
    batch_size, num_heads, length, head_dim = key.shape
    scaled = (query * head_dim**-0.5).reshape(-1, 1, head_dim)
    scores = torch.bmm(key.flatten(0, 1), scaled.transpose(1, 2))  # (B·H, S, 1)
    scores = scores.view(batch_size, num_heads, 1, length)
    if mask is None:
        weights = scores.softmax(-1)
    else:
        # zero at the end too: of nothing, the softmax is no number
        weights = scores.masked_fill_(~mask, float("-inf")).softmax(-1).masked_fill_(~mask, 0.0)
    # the rows of all heads one after another, those of tokens to come between them
    head_rows = value.stride(1) // head_dim
    num_rows = (batch_size * num_heads - 1) * head_rows + length
    rows = value.as_strided((num_rows, head_dim), (head_dim, 1))
    places, starts = _bags(batch_size * num_heads, head_rows, length)
    output = F.embedding_bag(
        places, rows, starts, mode="sum", per_sample_weights=weights.flatten()
    )  # (B·H, D)
    return output.view(query.shape)


# the layers of a token share it
@lru_cache(maxsize=1)
def _bags(num_bags: int, distance: int, length: int) -> tuple[Tensor, Tensor]:
    """Bags of `length` rows each that begin `distance` rows apart.

    Returns:
        The places of their rows, bag by bag, and where in these each bag begins.
    """
    first = torch.arange(num_bags, device="cpu")
    places = first[:, None] * distance + torch.arange(length, device="cpu")
    return places.flatten(), first * length


def _are_rows(x: Tensor) -> bool:
    """Whether the heads of x (B, H, S, D) are rows of one matrix, equally far apart."""
    _, num_heads, length, head_dim = x.shape
    of_batch, of_head, of_row, of_number = x.stride()
    return (
        (of_number, of_row, of_batch) == (1, head_dim, num_heads * of_head)
        and of_head % head_dim == 0
        and of_head >= length * head_dim
    )
