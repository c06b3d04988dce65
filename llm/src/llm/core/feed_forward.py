"""The feed-forward network of a decoder block."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from llm.core.config import check_choice


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, the form that GPT and GPT-2 were trained with.

    Reference: Hendrycks and Gimpel, "Gaussian Error Linear Units",
    arXiv:1606.08415, section 2.
    """
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


class FeedForward(nn.Module):
    """dropout(down(activation(up(x)))).

    Args:
        embed_dim: residual width, C.
        intermediate_dim: inner width, F.
        activation: a name of `ACTIVATIONS`.
        dropout: probability in [0, 1) of dropping an output.
        bias: the projections have biases.

    Reference: Vaswani et al., "Attention Is All You Need", arXiv:1706.03762,
    section 3.3.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        intermediate_dim: int,
        activation: str,
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        check_choice("activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        self.up_proj = nn.Linear(embed_dim, intermediate_dim, bias=bias)
        self.down_proj = nn.Linear(intermediate_dim, embed_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C), each token by itself."""
        output: Tensor = self.dropout(self.down_proj(self.activation(self.up_proj(x))))
        return output
