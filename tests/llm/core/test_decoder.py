"""The blocks against their equations."""

import pytest
import torch
from torch import nn

from llm.core.attention_mask import causal_mask
from llm.core.decoder import PostNormBlock, PreNormBlock
from llm.core.feed_forward import FeedForward
from llm.core.multi_head_attention import MultiHeadAttention


@pytest.fixture
def make_block(shaken):
    def make(block):
        parts = {
            "attention": MultiHeadAttention(embed_dim=12, num_heads=3),
            "feed_forward": FeedForward(embed_dim=12, intermediate_dim=20, activation="relu"),
            "attention_norm": nn.LayerNorm(12),
            "feed_forward_norm": nn.LayerNorm(12),
        }
        return shaken(block(**parts), std=0.5).eval()

    return make


@pytest.mark.parametrize(
    "mask", [None, causal_mask(5, 5) & (torch.arange(5) > 1) | torch.eye(5).bool()]
)
@pytest.mark.parametrize("block_class", [PostNormBlock, PreNormBlock])
def test_a_block_is_its_equation(make_block, block_class, mask):
    block = make_block(block_class)
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    mask = mask if mask is None else mask.expand(2, 1, 5, 5)
    if block_class is PostNormBlock:
        middle = block.attention_norm(x + block.attention(x, mask=mask))
        expected = block.feed_forward_norm(middle + block.feed_forward(middle))
    else:
        middle = x + block.attention(block.attention_norm(x), mask=mask)
        expected = middle + block.feed_forward(block.feed_forward_norm(middle))
    torch.testing.assert_close(block(x, mask=mask), expected, atol=1e-6, rtol=0)


def test_gpt_is_post_norm_without_a_final_norm_and_gpt2_pre_norm_with_one(make_model):
    gpt, gpt2 = make_model("gpt"), make_model("gpt2")
    assert all(isinstance(block, PostNormBlock) for block in gpt.decoder.blocks)
    assert all(isinstance(block, PreNormBlock) for block in gpt2.decoder.blocks)
    assert not [name for name in gpt.state_dict() if "final_norm" in name]
    assert {"decoder.final_norm.weight", "decoder.final_norm.bias"} <= set(gpt2.state_dict())


def test_the_decoder_hands_mask_cache_and_kernel_to_every_layer(make_model):
    model = make_model("gpt2", num_layers=3)
    mask, cache, calls = object(), model.make_cache(1, 4), []

    def kernel(query, key, value, *, mask, dropout, layer_idx):
        calls.append((mask, layer_idx, key.shape[2]))
        return torch.zeros_like(query)

    embeddings = model.decoder.token_embeddings(torch.tensor([[1, 2, 3, 4]]))
    positions = torch.arange(4)[None]
    model.decoder(embeddings, position_ids=positions, mask=mask, cache=cache, kernel=kernel)
    assert calls == [(mask, layer_idx, 4) for layer_idx in range(3)]
    assert cache.get_seq_length() == 4
