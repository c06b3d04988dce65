"""`MultiHeadAttention` against its `HeadAttention`s, and those against a loop."""

import math

import pytest
import torch

from llm.core.attention_mask import causal_mask
from llm.core.head_attention import HeadAttention
from llm.core.kv_cache import KVCache
from llm.core.multi_head_attention import MultiHeadAttention, sdpa_attention

SIZES = [(12, 1), (12, 3), (8, 8), (40, 5)]


def heads_of(attention):
    """The heads of a `MultiHeadAttention`, each with its slice of the fused projection."""
    num_heads = attention.num_heads
    embed_dim = attention.out_proj.weight.shape[0]
    head_dim = embed_dim // num_heads
    bias = attention.qkv_proj.bias
    heads = []
    for h in range(num_heads):
        head = HeadAttention(embed_dim=embed_dim, head_dim=head_dim, bias=bias is not None)
        for part, projection in enumerate((head.q_proj, head.k_proj, head.v_proj)):
            rows = slice(part * embed_dim + h * head_dim, part * embed_dim + (h + 1) * head_dim)
            projection.weight.data = attention.qkv_proj.weight.data[rows].clone()
            if bias is not None:
                projection.bias.data = bias.data[rows].clone()
        heads.append(head)
    return heads


@pytest.fixture
def make_attention(shaken):
    def make(embed_dim=12, num_heads=3, **options):
        attention = MultiHeadAttention(embed_dim=embed_dim, num_heads=num_heads, **options)
        return shaken(attention, std=1 / math.sqrt(embed_dim)).eval()

    return make


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("embed_dim", "num_heads"), SIZES)
def test_multi_head_attention_is_its_heads_concatenated_and_projected(
    make_attention, embed_dim, num_heads, bias, masked
):
    attention = make_attention(embed_dim, num_heads, bias=bias)
    x = inputs(2, 7, embed_dim)
    mask = causal_mask(7, 7)
    if masked:
        mask = (torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(1)) > 0.4) | torch.eye(
            7, dtype=torch.bool
        )
    outputs = [head(x, mask=mask if masked else None)[0] for head in heads_of(attention)]
    expected = attention.out_proj(torch.cat(outputs, dim=-1))
    got = attention(x, mask=mask[:, None] if masked else None)
    assert got.shape == (2, 7, embed_dim)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_a_head_is_the_equation_written_as_a_loop(shaken):
    head = shaken(HeadAttention(embed_dim=6, head_dim=3), std=0.5)
    x = inputs(2, 5, 6)
    output, weights = head(x)
    assert output.shape == (2, 5, 3)
    assert weights.shape == (2, 5, 5)
    for b in range(2):
        queries, keys, values = (
            [[row.item() for row in projection(x[b, t])] for t in range(5)]
            for projection in (head.q_proj, head.k_proj, head.v_proj)
        )
        for t in range(5):
            scores = [
                math.exp(
                    sum(q * k for q, k in zip(queries[t], keys[s], strict=True)) / math.sqrt(3)
                )
                for s in range(t + 1)
            ]
            for s in range(5):
                expected = scores[s] / sum(scores) if s <= t else 0.0
                assert weights[b, t, s].item() == pytest.approx(expected, abs=1e-6)
            for d in range(3):
                expected = sum(scores[s] / sum(scores) * values[s][d] for s in range(t + 1))
                assert output[b, t, d].item() == pytest.approx(expected, abs=1e-5)


def test_a_heads_weights_are_a_distribution_over_what_the_mask_allows(shaken):
    head = shaken(HeadAttention(embed_dim=6, head_dim=3), std=0.5)
    mask = (torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(3)) > 0.5) | torch.eye(
        5, dtype=torch.bool
    )
    _, weights = head(inputs(2, 5, 6), mask=mask)
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("chunks", [[7], [1] * 7, [3, 4], [2, 1, 4], [6, 1]])
def test_without_a_mask_attention_stays_causal_over_a_cache(make_attention, chunks):
    """`is_causal` of SDPA is aligned top-left: wrong for every chunk but the first."""
    attention = make_attention(layer_idx=0)
    x = inputs(2, 7, 12)
    cache = KVCache(
        num_layers=1,
        batch_size=2,
        num_kv_heads=3,
        max_length=7,
        head_dim=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    outputs = [attention(chunk, cache=cache) for chunk in x.split(chunks, dim=1)]
    torch.testing.assert_close(torch.cat(outputs, dim=1), attention(x), atol=1e-5, rtol=0)


def test_the_mask_given_is_the_mask_used(make_attention):
    """A query that may see only slot s has the value of slot s, later or not."""
    attention = make_attention()
    x = inputs(1, 4, 12)
    value = attention.qkv_proj(x)[..., 24:]
    target = torch.tensor([2, 0, 3, 1])
    mask = torch.nn.functional.one_hot(target, 4).bool()[None, None]
    expected = attention.out_proj(value[:, target])
    torch.testing.assert_close(attention(x, mask=mask), expected, atol=1e-5, rtol=0)


def explicit_attention(query, key, value, mask):
    scores = query.double() @ key.double().transpose(-1, -2) / math.sqrt(query.shape[-1])
    return (scores.masked_fill(~mask, -math.inf).softmax(-1) @ value.double()).to(query.dtype)


@pytest.mark.parametrize(("length", "key_length"), [(5, 5), (1, 6)])
def test_sdpa_attention_without_a_mask_is_causal(length, key_length):
    query, key, value = (
        inputs(2, 3, size, 4, seed=seed)
        for seed, size in enumerate((length, key_length, key_length))
    )
    expected = explicit_attention(query, key, value, causal_mask(length, key_length))
    got = sdpa_attention(query, key, value, mask=None, dropout=0.0)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_sdpa_attention_with_a_mask_is_softmax_over_what_it_allows():
    query, key, value = (inputs(2, 3, size, 4, seed=seed) for seed, size in enumerate((3, 6, 6)))
    mask = torch.rand(2, 1, 3, 6, generator=torch.Generator().manual_seed(5)) > 0.5
    mask[..., 0] = True
    got = sdpa_attention(query, key, value, mask=mask, dropout=0.0)
    torch.testing.assert_close(got, explicit_attention(query, key, value, mask), atol=1e-5, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_the_kernel_is_a_part_that_can_be_handed_in(make_attention, training):
    attention = make_attention(dropout=0.25).train(training)
    calls = []

    def kernel(query, key, value, *, mask, dropout, layer_idx):
        calls.append((query.shape, key.shape, value.shape, mask, dropout, layer_idx))
        return torch.zeros_like(query)

    attention.layer_idx = 7
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    out = attention(inputs(2, 5, 12), mask=mask, kernel=kernel)
    ((query, key, value, given, dropout, layer_idx),) = calls
    assert layer_idx == 7
    assert query == key == value == (2, 3, 5, 4)
    assert given is mask
    assert dropout == (0.25 if training else 0.0)
    torch.testing.assert_close(out, attention.out_proj(torch.zeros(2, 5, 12)))


def test_an_indivisible_width_is_an_error_with_the_numbers():
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b10\b)(?=.*\b3\b)"):
        MultiHeadAttention(embed_dim=10, num_heads=3)
