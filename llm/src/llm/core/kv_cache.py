"""Keys and values of the tokens already seen."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What a model asks of a cache; transformers' `Cache` answers to the same names."""

    def get_seq_length(self) -> int:
        """Tokens in it before the forward under way."""
        ...

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Add keys and values (B, K, T, D) of a layer; return all of its (B, K, S, D)."""
        ...


class KVCache:
    """Preallocated keys and values, written in place: a `Cache`.

    It belongs to the caller, for one generation.

    Args:
        num_layers: attention layers that write to it.
        batch_size: B.
        num_kv_heads: key/value heads, K.
        max_length: tokens it can hold a row.
        head_dim: D.
        dtype: of keys and values.
        device: of keys and values.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        num_kv_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, batch_size, num_kv_heads, max_length, head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.lengths = [0] * num_layers

    def get_seq_length(self) -> int:
        """Tokens seen so far, before the forward under way."""
        # layer 0 moves first in a forward, and models ask before it does
        return self.lengths[0]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Append the keys and values of T tokens, each (B, K, T, D).

        Returns:
            Keys and values of all S tokens so far, each (B, K, S, D): views,
            valid until the next `update`.

        Raises:
            ValueError: they do not fit.
        """
        start = self.lengths[layer_idx]
        end = start + keys.shape[2]
        room = self.keys[layer_idx]  # (B, K, max_length, D)
        if end > room.shape[2]:
            raise ValueError(
                f"the cache holds {room.shape[2]} tokens: {start} are in it and "
                f"{keys.shape[2]} more do not fit; make it with a larger max_length"
            )
        if keys.shape[:2] != room.shape[:2] or keys.shape[3] != room.shape[3]:
            raise ValueError(
                f"keys of shape {tuple(keys.shape)} do not fit a cache made for "
                f"(batch, heads, tokens, head_dim) = {tuple(room.shape)}"
            )
        self.lengths[layer_idx] = end
        values_room = self.values[layer_idx]
        # slicing with brackets takes three times as long, for each layer and token
        room.narrow(2, start, keys.shape[2]).copy_(keys)
        values_room.narrow(2, start, keys.shape[2]).copy_(values)
        return room.narrow(2, 0, end), values_room.narrow(2, 0, end)

    def truncate(self, length: int) -> None:
        """Forget the tokens after the first `length`.

        Raises:
            ValueError: there are fewer in it.
        """
        if not 0 <= length <= self.get_seq_length():
            raise ValueError(
                f"a cache of {self.get_seq_length()} tokens cannot be cut down to {length}"
            )
        self.lengths = [length] * len(self.lengths)
