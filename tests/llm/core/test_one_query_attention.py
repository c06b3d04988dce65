"""Attention of one query to a long past is attention."""

import pytest
import torch
import torch.nn.functional as F

from llm.core import one_query_attention as module
from llm.core.kv_cache import KVCache
from llm.core.multi_head_attention import attention_kernel, sdpa_attention
from llm.core.one_query_attention import one_query_attention, one_query_attention_pays


def inputs(batch_size, num_heads, length, head_dim=16, dtype=torch.float64, room=0):
    """A query, and keys and values that are the first of a cache with room for more."""
    generator = torch.Generator().manual_seed(length)
    shape = (batch_size, num_heads, length + room, head_dim)
    query, keys, values = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(3))
    # what comes after is not to be seen
    keys[:, :, length:], values[:, :, length:] = float("nan"), float("nan")
    return query[:, :, :1], keys[:, :, :length], values[:, :, :length]


@pytest.mark.parametrize("room", [0, 1, 9])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 2), (2, 1, 7), (3, 4, 33)], ids=str)
def test_it_is_attention(shape, room):
    query, key, value = inputs(*shape, room=room)
    expected = F.scaled_dot_product_attention(query, key, value)
    got = one_query_attention(query, key, value, None)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_mask_hides_padding(rows):
    query, key, value = inputs(3, 4, 33, room=2)
    mask = torch.ones(rows, 1, 1, 33, dtype=torch.bool)
    mask[0, :, :, :5] = False
    mask[-1, :, :, 7] = False
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    got = one_query_attention(query, key, value, mask)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_a_row_that_may_attend_to_nothing_is_zero():
    query, key, value = inputs(3, 4, 33)
    mask = torch.ones(3, 1, 1, 33, dtype=torch.bool)
    mask[1] = False
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    got = one_query_attention(query, key, value, mask)
    assert not got[1].any()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_its_places_are_those_of_the_shape_at_hand():
    """They are kept from one call to the next, of the same shape alone."""
    for shape, room in [((2, 3, 9), 4), ((2, 3, 9), 5), ((3, 2, 9), 4), ((2, 3, 8), 4)] * 2:
        query, key, value = inputs(*shape, room=room)
        expected = F.scaled_dot_product_attention(query, key, value)
        torch.testing.assert_close(one_query_attention(query, key, value, None), expected)


def test_what_inference_mode_has_kept_serves_outside_of_it():
    query, key, value = inputs(2, 3, 11)
    with torch.inference_mode():
        expected = one_query_attention(query, key, value, None)
    assert torch.equal(one_query_attention(query, key, value, None), expected)


def test_float32_is_as_exact_as_pytorch():
    query, key, value = inputs(2, 4, 700, head_dim=64, dtype=torch.float32, room=30)
    assert one_query_attention_pays(query, key, value, 0.0)
    exact, theirs = (
        sdpa_attention(*(x.to(dtype) for x in (query, key, value)), mask=None, dropout=0.0)
        for dtype in (torch.float64, torch.float32)
    )
    ours = attention_kernel(query, key, value, mask=None, dropout=0.0, layer_idx=0)
    assert not torch.equal(ours, theirs)
    assert (ours - exact).norm() < 2 * (theirs - exact).norm()


def test_where_it_is_used(monkeypatch):
    monkeypatch.setattr(module, "MIN_KEYS", 2 * 3 * 8 * 16)
    query, key, value = inputs(2, 3, 8, dtype=torch.float32, room=4)
    assert one_query_attention_pays(query, key, value, 0.0)
    assert one_query_attention_pays(query, key.contiguous(), value.contiguous(), 0.0)
    # of some dropout, several queries, fewer keys, another dtype or device, and for a gradient
    assert not one_query_attention_pays(query, key, value, 0.1)
    assert not one_query_attention_pays(key, key, value, 0.0)
    assert not one_query_attention_pays(query, key[:, :, 1:], value[:, :, 1:], 0.0)
    assert not one_query_attention_pays(query.double(), key.double(), value.double(), 0.0)
    meta = (x.to("meta") for x in (query, key, value))
    assert not one_query_attention_pays(*meta, 0.0)
    for i in range(3):
        tensors = [x.clone().requires_grad_(i == j) for j, x in enumerate((query, key, value))]
        assert not one_query_attention_pays(*tensors, 0.0)
    # layouts that are no rows of a matrix: heads beside each other, and heads that are one
    beside = value.transpose(1, 2).contiguous().transpose(1, 2)
    assert not one_query_attention_pays(query, key, beside, 0.0)
    assert not one_query_attention_pays(query, beside, value, 0.0)
    shared = value[:, :1].expand(-1, 3, -1, -1)
    assert not one_query_attention_pays(query, key, shared, 0.0)
    assert not one_query_attention_pays(query, key, inputs(2, 3, 8, 32, torch.float32)[2], 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert not one_query_attention_pays(query, key, value, 0.0)


def test_it_minds_no_default_device(monkeypatch):
    query, key, value = inputs(2, 3, 10)
    expected = F.scaled_dot_product_attention(query, key, value)
    monkeypatch.setattr(module, "_bags", module._bags.__wrapped__)
    with torch.device("meta"):
        got = one_query_attention(query, key, value, None)
    torch.testing.assert_close(got, expected)


def test_it_is_left_to_a_compiler(monkeypatch):
    monkeypatch.setattr(module, "MIN_KEYS", 1)
    query, key, value = inputs(2, 3, 8, dtype=torch.float32)
    compiled = torch.compile(attention_kernel, backend="eager", fullgraph=True)
    expected = sdpa_attention(query, key, value, mask=None, dropout=0.0)
    assert torch.equal(compiled(query, key, value, mask=None, dropout=0.0), expected)


def test_a_cache_has_the_layout_it_asks_for(monkeypatch):
    monkeypatch.setattr(module, "MIN_KEYS", 1)
    cache = KVCache(
        num_layers=2, batch_size=2, num_kv_heads=3, max_length=20, head_dim=16,
        dtype=torch.float32, device=torch.device("cpu"),
    )  # fmt: skip
    for length in (5, 1):
        query = torch.randn(2, 3, length, 16)
        key, value = cache.update(torch.randn_like(query), torch.randn_like(query), 1)
    assert one_query_attention_pays(query, key, value, 0.0)
