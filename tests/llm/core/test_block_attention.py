"""Attention by blocks is attention."""

import pytest
import torch
import torch.nn.functional as F

from llm.core import block_attention as module
from llm.core.block_attention import block_attention, block_attention_pays
from llm.core.multi_head_attention import (
    MultiHeadAttention,
    attention_kernel,
    sdpa_attention,
)


def inputs(length, dtype, heads=3, head_dim=16):
    generator = torch.Generator().manual_seed(length)
    shape = (2, heads, length, head_dim)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]


def output_and_gradients(kernel, tensors):
    output = kernel(*tensors)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(output.shape, generator=generator).to(output.dtype)
    return output, *torch.autograd.grad(output, tensors, weights)


def error(ours, exact):
    return ((ours.double() - exact.double()).norm() / exact.double().norm()).item()


# a block, less, exactly two, and a rest
LENGTHS = [2, 7, 8, 16, 37]


@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_causal_attention(length, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_SIZE", 8)
    tensors = inputs(length, torch.float64)
    ours = output_and_gradients(lambda *x: block_attention(*x, dropout=0.0), tensors)
    theirs = output_and_gradients(lambda *x: sdpa_attention(*x, mask=None, dropout=0.0), tensors)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("scores", [1, 8 * 37 * 2, 10**9], ids=["head", "two heads", "all"])
def test_without_gradients_it_goes_by_heads_that_fit_the_cache(length, scores, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_SIZE", 8)
    monkeypatch.setattr(module, "numbers_in_caches", lambda: scores)
    tensors = [x.detach() for x in inputs(length, torch.float64)]
    ours = block_attention(*tensors, dropout=0.0)
    theirs = sdpa_attention(*tensors, mask=None, dropout=0.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_float32_without_gradients_is_as_exact_as_pytorch():
    length = module.MIN_LENGTH + 50
    tensors = [x.detach() for x in inputs(length, torch.float32, head_dim=64)]
    exact = sdpa_attention(*(x.double() for x in tensors), mask=None, dropout=0.0)
    theirs = sdpa_attention(*tensors, mask=None, dropout=0.0)
    ours = attention_kernel(*tensors, mask=None, dropout=0.0)
    assert not torch.equal(ours, theirs)
    assert error(ours, exact) < 2 * error(theirs, exact)


@pytest.mark.parametrize("length", [64, 300])
def test_bfloat16_is_as_exact_as_its_numbers(length):
    tensors = inputs(length, torch.bfloat16, head_dim=64)
    exact = output_and_gradients(
        lambda *x: sdpa_attention(*x, mask=None, dropout=0.0),
        [x.detach().double().requires_grad_() for x in tensors],
    )
    ours = output_and_gradients(lambda *x: attention_kernel(*x, mask=None, dropout=0.0), tensors)
    # two roundings to eight bits: of a weight and of what comes out
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert error(a, b) < 2 * 2**-8


def test_dropout_drops_weights_and_keeps_their_sum():
    torch.manual_seed(0)
    query, key, _ = inputs(200, torch.float32)
    value = torch.ones_like(query)
    dropped = block_attention(query, key, value, dropout=0.25)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    # the first query has one weight, which is dropped or scaled
    first = dropped[:, :, 0].unique()
    assert all(x in (0.0, pytest.approx(4 / 3)) for x in first.tolist())
    assert torch.equal(block_attention(query, key, value, dropout=1.0), torch.zeros_like(query))


def test_where_it_is_used():
    query, key, _ = inputs(8, torch.bfloat16)
    assert block_attention_pays(query, key, None)
    assert not block_attention_pays(query, key, torch.ones(8, 8, dtype=torch.bool))
    assert not block_attention_pays(query[:, :, -1:], key, None)
    assert not block_attention_pays(query[:, :, -3:], key, None)
    assert not block_attention_pays(query.float(), key.float(), None)
    assert not block_attention_pays(query.to("meta"), key.to("meta"), None)
    # without a backward it gains little
    assert not block_attention_pays(query.detach(), key, None)
    # and there alone in float32, from some length on
    query, key, _ = (x.detach() for x in inputs(module.MIN_LENGTH, torch.float32))
    assert block_attention_pays(query, key, None)
    assert not block_attention_pays(query.requires_grad_(), key, None)
    assert not block_attention_pays(query.detach()[:, :, 1:], key[:, :, 1:], None)
    assert not block_attention_pays(query.detach().double(), key.double(), None)


def test_elsewhere_the_kernel_is_that_of_pytorch():
    query, key, value = inputs(8, torch.float32)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.equal(attention_kernel(query, key, value, mask=None, dropout=0.0), expected)


def test_it_minds_no_default_device():
    tensors = inputs(9, torch.float64)
    expected = sdpa_attention(*tensors, mask=None, dropout=0.0)
    with torch.device("meta"):
        got = block_attention(*tensors, dropout=0.0)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_it_is_left_to_a_compiler_which_takes_all_lengths():
    compiled = torch.compile(attention_kernel, backend="eager", fullgraph=True, dynamic=True)
    for length in (8, 1, 9):
        tensors = inputs(length, torch.bfloat16)
        expected = sdpa_attention(*tensors, mask=None, dropout=0.0)
        assert torch.equal(compiled(*tensors, mask=None, dropout=0.0), expected)


def test_what_is_exported_takes_texts_of_all_lengths():
    attention = MultiHeadAttention(embed_dim=8, num_heads=2)
    length = torch.export.Dim("length", min=2, max=1024)
    exported = torch.export.export(
        attention, (torch.randn(1, 7, 8),), dynamic_shapes={"x": {1: length}}
    )
    x = torch.randn(1, module.MIN_LENGTH + 1, 8)
    torch.testing.assert_close(exported.module()(x), attention(x))
