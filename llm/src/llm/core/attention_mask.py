"""Boolean attention masks: True = may attend.

Masks speak of sequence slots, positions of what fills them: with left padding,
slot 3 may hold position 0.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(
    query_length: int, key_length: int, *, device: torch.device | str | None = None
) -> Tensor:
    """Query i stands at slot `key_length - query_length + i` and sees no later slot.

    Returns:
        Boolean (T, S).
    """
    past = key_length - query_length
    return torch.ones(query_length, key_length, dtype=torch.bool, device=device).tril(past)


def build_attention_mask(
    attention_mask: Tensor | None, *, query_length: int, past_length: int, device: torch.device
) -> Tensor | None:
    """The mask that every block attends with, worked out once a forward.

    Args:
        attention_mask: None, a padding mask (B, S) with 1 = real token, or a
            ready boolean mask (B, 1, T, S), which is passed through.
        query_length: T, tokens of this forward.
        past_length: tokens already in the cache; S = past_length + T.
        device: where to build it.

    Returns:
        Boolean (B, 1, T, S) or (T, S), or None where plain causal attention
        needs no mask: nothing is padded, and the queries are all of the
        sequence or its last token.
    """
    if attention_mask is not None and attention_mask.dim() == 4:
        return attention_mask
    if attention_mask is None and (past_length == 0 or query_length == 1):
        return None
    key_length = past_length + query_length
    causal = causal_mask(query_length, key_length, device=device)
    if attention_mask is None:
        return causal
    real = attention_mask.to(torch.bool)[:, None, None, :]  # (B, 1, 1, S)
    # a padding token sees itself: a row that may attend to nothing has no softmax
    itself = torch.zeros_like(causal)
    itself.diagonal(past_length).fill_(True)
    return (causal & real) | itself  # (B, 1, T, S)


def position_ids_from_mask(attention_mask: Tensor, *, query_length: int) -> Tensor:
    """Positions counted over the real tokens of a padding mask.

    Args:
        attention_mask: (B, S), 1 = real token.
        query_length: T, tokens of this forward, the last of the S slots.

    Returns:
        int64 (B, T); padding before the first real token is at position 0.
    """
    positions = attention_mask.to(torch.bool).cumsum(-1) - 1
    return positions[:, -query_length:].clamp(min=0)


def extend_mask(attention_mask: Tensor | None, num_tokens: int) -> Tensor | None:
    """A padding mask (B, S), or None for none, of `num_tokens` real tokens more."""
    if attention_mask is None or num_tokens == 0:
        return attention_mask
    more = attention_mask.new_ones(len(attention_mask), num_tokens)
    return torch.cat([attention_mask, more], dim=1)


def check_attention_mask(
    attention_mask: Tensor,
    *,
    batch_size: int,
    query_length: int,
    key_length: int,
    may_be_longer: bool = False,
) -> None:
    """Raise unless it is a padding mask (B, S) or a ready boolean mask (B, 1, T, S).

    `may_be_longer` lets a ready mask cover the empty slots of a cache of fixed
    size.

    Raises:
        ValueError: its shape or dtype is another.
    """
    shape = tuple(attention_mask.shape)
    if attention_mask.dim() == 2:
        if shape != (batch_size, key_length):
            raise ValueError(
                f"attention_mask of shape {shape} must cover {batch_size} rows of {key_length} "
                "tokens, the cached ones included"
            )
        if attention_mask.is_floating_point():
            raise ValueError(
                f"a padding mask is boolean or whole numbers, not {attention_mask.dtype}"
            )
    elif attention_mask.dim() == 4:
        if attention_mask.dtype != torch.bool:
            raise ValueError(
                f"a ready attention mask must be boolean, True = may attend, not "
                f"{attention_mask.dtype}"
            )
        fits = shape[3] == key_length or (may_be_longer and shape[3] > key_length)
        if shape[0] not in (1, batch_size) or shape[1:3] != (1, query_length) or not fits:
            raise ValueError(
                f"attention_mask of shape {shape} must be (batch, 1, queries, keys) = "
                f"({batch_size}, 1, {query_length}, {key_length})"
            )
    else:
        raise ValueError(f"attention_mask of shape {shape} must have 2 or 4 dimensions")
