"""What GPT and GPT-2 are both assembled from."""

from __future__ import annotations

from torch import nn

from llm.core.config import default
from llm.core.decoder import Decoder, DecoderBlock
from llm.core.feed_forward import FeedForward
from llm.core.multi_head_attention import MultiHeadAttention
from llm.core.positional_embeddings import LearnedPositionalEmbeddings
from llm.core.token_embeddings import TokenEmbeddings
from llm.models.gpt.config import GPTFamilyConfig


def gpt_decoder(
    config: GPTFamilyConfig, block_class: type[DecoderBlock], final_norm: nn.Module
) -> Decoder:
    """Learned positions and alike blocks; their class decides where the norms stand."""
    return Decoder(
        token_embeddings=TokenEmbeddings(config.vocab_size, config.embed_dim),
        position_embeddings=LearnedPositionalEmbeddings(
            config.max_position_embeddings, config.embed_dim
        ),
        embedding_dropout=default(config.embedding_dropout, config.dropout),
        blocks=[gpt_block(config, block_class, i) for i in range(config.num_layers)],
        final_norm=final_norm,
    )


def gpt_block(
    config: GPTFamilyConfig, block_class: type[DecoderBlock], layer_idx: int
) -> DecoderBlock:
    """The block of a layer."""
    residual_dropout = default(config.residual_dropout, config.dropout)
    return block_class(
        attention=MultiHeadAttention(
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            dropout=default(config.attention_dropout, config.dropout),
            output_dropout=residual_dropout,
            layer_idx=layer_idx,
        ),
        feed_forward=FeedForward(
            embed_dim=config.embed_dim,
            intermediate_dim=config.inner_dim,
            activation=config.activation,
            dropout=residual_dropout,
        ),
        attention_norm=nn.LayerNorm(config.embed_dim, eps=config.norm_eps),
        feed_forward_norm=nn.LayerNorm(config.embed_dim, eps=config.norm_eps),
    )


def init_normal(part: nn.Module, config: GPTFamilyConfig) -> None:
    """N(0, initializer_range) for a matrix, zero for a bias, one for the gain of a norm."""
    if isinstance(part, (nn.Linear, nn.Embedding)):
        nn.init.normal_(part.weight, std=config.initializer_range)
    if isinstance(part, nn.LayerNorm):
        nn.init.ones_(part.weight)
    if isinstance(part, (nn.Linear, nn.LayerNorm)) and part.bias is not None:
        nn.init.zeros_(part.bias)
