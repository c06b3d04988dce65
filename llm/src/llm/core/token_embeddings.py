"""Token embeddings."""

from __future__ import annotations

from torch import nn


class TokenEmbeddings(nn.Embedding):
    """A learned vector for each token id: (B, T) -> (B, T, C).

    Args:
        vocab_size: number of token ids, V.
        embed_dim: residual width, C.
    """

    def __init__(self, vocab_size: int, embed_dim: int) -> None:
        super().__init__(vocab_size, embed_dim)
