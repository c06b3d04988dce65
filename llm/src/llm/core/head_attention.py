"""One attention head, written as the equation."""

from __future__ import annotations

import math

from torch import Tensor, nn

from llm.core.attention_mask import causal_mask


class HeadAttention(nn.Module):
    """softmax(q kᵀ / √D) v, with the weights returned.

    The readable form: `MultiHeadAttention` is the fast one and is tested
    against it.

    Args:
        embed_dim: width of the input, C.
        head_dim: width of the head, D.
        bias: the projections have biases.

    Reference: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762,
    equation 1.
    """

    def __init__(self, *, embed_dim: int, head_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.q_proj = nn.Linear(embed_dim, head_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, head_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, head_dim, bias=bias)

    def forward(self, x: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from every token of x (B, T, C) to itself and those before it.

        Args:
            x: (B, T, C).
            mask: boolean, broadcastable to (B, T, T), True = may attend; None
                for the causal one.

        Returns:
            The head's output (B, T, D) and its weights (B, T, T).
        """
        if mask is None:
            mask = causal_mask(x.shape[1], x.shape[1], device=x.device)
        query, key, value = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # (B, T, D)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])  # (B, T, T)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
        return weights @ value, weights
