"""Decoder blocks: one class for each order of operations."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from llm.core.kv_cache import Cache


class DecoderBlock(nn.Module):
    """Attention and feed-forward around a residual stream; the order is the subclass's.

    Args:
        attention: called as `attention(x, mask=..., cache=...)`, (B, T, C) -> (B, T, C).
        feed_forward: (B, T, C) -> (B, T, C).
        attention_norm: the norm that goes with attention.
        feed_forward_norm: the norm that goes with the feed-forward network.
    """

    def __init__(
        self,
        *,
        attention: nn.Module,
        feed_forward: nn.Module,
        attention_norm: nn.Module,
        feed_forward_norm: nn.Module,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward
        self.attention_norm = attention_norm
        self.feed_forward_norm = feed_forward_norm


class PostNormBlock(DecoderBlock):
    """x = norm(x + attention(x)); x = norm(x + feed_forward(x)).

    Reference: Radford et al., "Improving Language Understanding by Generative
    Pre-Training" (GPT), section 3.1, after Vaswani et al., arXiv:1706.03762.
    """

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); mask and cache as in the attention."""
        x = self.attention_norm(x + self.attention(x, mask=mask, cache=cache))
        return cast(Tensor, self.feed_forward_norm(x + self.feed_forward(x)))


class PreNormBlock(DecoderBlock):
    """x = x + attention(norm(x)); x = x + feed_forward(norm(x)).

    Reference: Radford et al., "Language Models are Unsupervised Multitask
    Learners" (GPT-2), section 2.3.
    """

    def forward(
        self, x: Tensor, *, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); mask and cache as in the attention."""
        x = x + self.attention(self.attention_norm(x), mask=mask, cache=cache)
        return x + cast(Tensor, self.feed_forward(self.feed_forward_norm(x)))
