"""Positional embeddings."""

from __future__ import annotations

from torch import nn


class LearnedPositionalEmbeddings(nn.Embedding):
    """A learned vector for each absolute position: (B, T) -> (B, T, C).

    Args:
        max_position_embeddings: longest sequence, in tokens.
        embed_dim: residual width, C.

    Reference: Radford et al., "Improving Language Understanding by Generative
    Pre-Training" (GPT), section 3.1, equation 2.
    """

    def __init__(self, max_position_embeddings: int, embed_dim: int) -> None:
        super().__init__(max_position_embeddings, embed_dim)
