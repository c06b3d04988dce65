"""The decoder, and its blocks: one class for each order of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm.core.kv_cache import Cache
from llm.core.multi_head_attention import AttentionKernel, attention_kernel
from llm.core.token_embeddings import TokenEmbeddings


class Decoder(nn.Module):
    """x = tokens + positions; x = block(x), block by block; final_norm(x).

    Args:
        token_embeddings: (B, T) -> (B, T, C).
        position_embeddings: of position ids, (B, T) -> (B, T, C).
        embedding_dropout: probability in [0, 1), after the embeddings.
        blocks: called as `block(x, mask=..., cache=..., kernel=...)`, (B, T, C) -> (B, T, C).
        final_norm: `nn.Identity()` for none.

    With `recompute_blocks` set, training keeps each block's input only, and
    runs the block again in the backward (Chen et al., "Training Deep Nets with
    Sublinear Memory Cost", arXiv:1604.06174).
    """

    def __init__(
        self,
        *,
        token_embeddings: TokenEmbeddings,
        position_embeddings: nn.Module,
        embedding_dropout: float,
        blocks: Sequence[nn.Module],
        final_norm: nn.Module,
    ) -> None:
        super().__init__()
        self.token_embeddings = token_embeddings
        self.position_embeddings = position_embeddings
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = final_norm
        # not `gradient_checkpointing`: transformers sets that name on whatever part has it
        self.recompute_blocks = False

    def forward(
        self,
        embeddings: Tensor,
        *,
        position_ids: Tensor,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        kernel: AttentionKernel = attention_kernel,
    ) -> Tensor:
        """Run the blocks over embedded tokens.

        Args:
            embeddings: what `token_embeddings` gave, (B, T, C).
            position_ids: int64 (B, T) or (1, T).
            mask: handed to the kernel as it is.
            cache: of the tokens before these, which are added to it.
            kernel: computes the attention of every layer.

        Returns:
            (B, T, C).
        """
        # tools that spread a model over devices may part the two
        x = embeddings + self.position_embeddings(position_ids).to(embeddings.device)
        x = self.embedding_dropout(x)
        for block in self.blocks:
            run: Callable[..., Tensor] = block
            if self.recompute_blocks and self.training:
                run = partial(checkpoint, block, use_reentrant=False)
            x = run(x, mask=mask, cache=cache, kernel=kernel)
        return cast(Tensor, self.final_norm(x))


class DecoderBlock(nn.Module):
    """Attention and feed-forward around a residual stream; the order is the subclass's.

    Args:
        attention: called as `attention(x, mask=..., cache=..., kernel=...)`,
            (B, T, C) -> (B, T, C).
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
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        kernel: AttentionKernel = attention_kernel,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); the keywords are those of the attention."""
        x = self.attention_norm(x + self.attention(x, mask=mask, cache=cache, kernel=kernel))
        return cast(Tensor, self.feed_forward_norm(x + self.feed_forward(x)))


class PreNormBlock(DecoderBlock):
    """x = x + attention(norm(x)); x = x + feed_forward(norm(x)).

    Reference: Radford et al., "Language Models are Unsupervised Multitask
    Learners" (GPT-2), section 2.3.
    """

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        kernel: AttentionKernel = attention_kernel,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); the keywords are those of the attention."""
        x = x + self.attention(self.attention_norm(x), mask=mask, cache=cache, kernel=kernel)
        return x + cast(Tensor, self.feed_forward(self.feed_forward_norm(x)))
