"""Of how many numbers a model is made, worked out from its configuration. No torch is needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters by part, over all layers, biases included.

    Args:
        token_embeddings: what ids are looked up in.
        position_embeddings: learned positions; 0 where positions are computed.
        attention: its projections.
        feed_forward: its projections.
        norms: of the blocks, and the final one.
        head: the output projection; 0 where it shares the token embeddings.
    """

    token_embeddings: int
    position_embeddings: int
    attention: int
    feed_forward: int
    norms: int
    head: int

    @property
    def total(self) -> int:
        """All of them, a shared one counted once."""
        return sum(dataclasses.astuple(self))

    @property
    def without_embeddings(self) -> int:
        """All but token and position embeddings, and the head: N of Kaplan et al.

        Reference: Kaplan et al., "Scaling Laws for Neural Language Models",
        arXiv:2001.08361, section 1.3.
        """
        return self.attention + self.feed_forward + self.norms


@dataclass(frozen=True, kw_only=True)
class KeptNumbers:
    """What a training forward keeps of each token for the backward; of pairs of tokens apart.

    Args:
        residual: in each block, float32 whatever the precision: what its norms read,
            with a mean and a deviation for each norm.
        products: in each block, in the precision of training: what projections and
            the activation read; queries, keys and values.
        dropped: in each block, outputs that dropout takes some from.
        outside: float32, once: what a final norm reads.
        dropped_embeddings: once, likewise.
        attention_dropout: whether attention weights are dropped, which several
            kernels cannot do without keeping all of them.
    """

    residual: int
    products: int
    dropped: int
    outside: int
    dropped_embeddings: int
    attention_dropout: bool
