"""Attention maps against `HeadAttention`, and that recording changes nothing."""

import numpy as np
import pytest
import torch

from llm.core.head_attention import HeadAttention
from llm.inspection import attention_maps, recorded_attention


def head_of(attention, number):
    """One head of a `MultiHeadAttention`, as the equation."""
    width, size = attention.out_proj.weight.shape[0], attention.head_dim
    head = HeadAttention(embed_dim=width, head_dim=size)
    for part, projection in enumerate((head.q_proj, head.k_proj, head.v_proj)):
        rows = slice(part * width + number * size, part * width + (number + 1) * size)
        projection.weight.data = attention.qkv_proj.weight.data[rows]
        projection.bias.data = attention.qkv_proj.bias.data[rows]
    return head


def test_every_map_is_that_of_its_head(model, tokenizer, text):
    inputs = []
    hooks = [
        block.attention.register_forward_pre_hook(lambda part, args: inputs.append(args[0]))
        for block in model.decoder.blocks
    ]
    model(torch.tensor([tokenizer.encode(text, add_special_tokens=False)]))
    for hook in hooks:
        hook.remove()
    maps = attention_maps(model, tokenizer, text)
    length, config = len(maps.tokens), model.config
    assert maps.layers == tuple(range(config.num_layers))
    assert maps.weights.shape == (config.num_layers, config.num_heads, length, length)
    assert maps.weights.dtype == np.float32
    for layer, block in enumerate(model.decoder.blocks):
        for number in range(config.num_heads):
            _, expected = head_of(block.attention, number)(inputs[layer])
            got = maps.head(layer, number)
            np.testing.assert_allclose(got, expected[0].detach().numpy(), atol=1e-6, rtol=0)
            assert np.ptp(got[-1]) > 0.005, "too even a map to show a difference"


def test_chosen_layers_come_in_the_order_asked_for(model, tokenizer, text):
    every = attention_maps(model, tokenizer, text)
    some = attention_maps(model, tokenizer, text, layers=[1, 0])
    assert some.layers == (1, 0)
    np.testing.assert_array_equal(some.weights, every.weights[[1, 0]])
    np.testing.assert_array_equal(some.layer(0), every.layer(0))
    one = attention_maps(model, tokenizer, text, layers=np.array([1]))
    np.testing.assert_array_equal(one.head(np.int64(1), np.int64(0)), every.head(1, 0))
    with pytest.raises(ValueError, match=r"layer=0.*\[1\]"):
        one.layer(0)


def test_the_forward_computes_with_what_is_recorded(model, random_ids, left_pad):
    """The logits are those without recording, padding and cache included."""
    ids, mask = left_pad([[5, 6, 7, 8, 9, 10], [11, 12, 13]])
    with torch.no_grad(), recorded_attention(model, [0, 1]) as weights:
        got = model(ids, attention_mask=mask)
    expected = model(ids, attention_mask=mask)
    torch.testing.assert_close(got[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=0)
    assert weights[0].shape == (2, model.config.num_heads, 6, 6)
    # padding is attended to by none but itself
    assert (weights[0][1, :, 3:, :3] == 0).all()
    cache = model.make_cache(1, 6)
    with torch.no_grad(), recorded_attention(model, [1]) as weights:
        steps = [model(part, cache=cache) for part in ids[:1].split([4, 2], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected[:1], atol=1e-5, rtol=0)
    assert weights[1].shape == (1, model.config.num_heads, 2, 6)
    assert (weights[1][:, :, 0, 5] == 0).all()


def test_dropout_is_never_part_of_a_recording(model, random_ids):
    model.train()
    with recorded_attention(model, [0]), pytest.raises(ValueError, match="eval mode"):
        model(random_ids(300, 1, 4))
    model.eval()(random_ids(300, 1, 4))


@pytest.mark.parametrize("layers", [[-1], [5], []])
def test_a_layer_that_is_not_there_is_an_error(model, tokenizer, text, layers):
    with pytest.raises(ValueError, match="layer"):
        attention_maps(model, tokenizer, text, layers=layers)


def test_a_head_that_is_not_there_is_an_error(model, tokenizer, text):
    maps = attention_maps(model, tokenizer, text)
    for head in (-1, model.config.num_heads):
        with pytest.raises(ValueError, match=f"head={head}"):
            maps.head(0, head)
