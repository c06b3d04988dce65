"""Masks and positions against loops over their definitions."""

import pytest
import torch

from llm.core.attention_mask import build_attention_mask, causal_mask, position_ids_from_mask

CPU = torch.device("cpu")


@pytest.mark.parametrize(("past", "length"), [(0, 1), (0, 6), (3, 1), (3, 4), (7, 2)])
def test_causal_mask_lets_a_query_see_its_own_slot_and_the_earlier_ones(past, length):
    mask = causal_mask(length, past + length)
    assert mask.dtype == torch.bool
    assert mask.shape == (length, past + length)
    for query in range(length):
        for key in range(past + length):
            assert mask[query, key].item() == (key <= past + query)


PADDING = torch.tensor(
    [
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1],
    ]
)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32])
@pytest.mark.parametrize("past", [0, 2, 5, 6])
def test_real_queries_see_the_real_tokens_up_to_their_own(past, dtype):
    length = PADDING.shape[1] - past
    mask = build_attention_mask(
        PADDING.to(dtype), query_length=length, past_length=past, device=CPU
    )
    assert mask.dtype == torch.bool
    mask = mask.expand(PADDING.shape[0], 1, length, PADDING.shape[1])
    for row in range(PADDING.shape[0]):
        for query in range(length):
            if not PADDING[row, past + query]:
                continue
            for key in range(PADDING.shape[1]):
                expected = key <= past + query and bool(PADDING[row, key])
                assert mask[row, 0, query, key].item() == expected


@pytest.mark.parametrize("past", [0, 2, 5, 6])
def test_padding_queries_see_something_and_nothing_later(past):
    length = PADDING.shape[1] - past
    mask = build_attention_mask(PADDING, query_length=length, past_length=past, device=CPU)
    mask = mask.expand(PADDING.shape[0], 1, length, PADDING.shape[1])
    assert mask.any(-1).all()
    assert not (mask & ~causal_mask(length, PADDING.shape[1])).any()


def test_without_padding_and_cache_no_mask_is_built():
    assert build_attention_mask(None, query_length=5, past_length=0, device=CPU) is None


@pytest.mark.parametrize(("past", "length"), [(4, 3), (1, 2)])
def test_without_padding_but_with_a_past_the_mask_is_causal_over_slots(past, length):
    mask = build_attention_mask(None, query_length=length, past_length=past, device=CPU)
    expected = causal_mask(length, past + length)
    assert torch.equal(mask.expand(2, 1, -1, -1)[1, 0], expected)


def test_one_new_token_without_padding_sees_the_whole_past():
    mask = build_attention_mask(None, query_length=1, past_length=4, device=CPU)
    assert mask is None or mask.all()


def test_a_ready_mask_passes_through():
    ready = torch.rand(2, 1, 3, 5) > 0.5
    mask = build_attention_mask(ready, query_length=3, past_length=2, device=CPU)
    assert torch.equal(mask, ready)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32])
@pytest.mark.parametrize("length", [1, 3, 7])
def test_positions_count_the_real_tokens(length, dtype):
    positions = position_ids_from_mask(PADDING.to(dtype), query_length=length)
    assert positions.dtype == torch.int64
    assert positions.shape == (PADDING.shape[0], length)
    for row in range(PADDING.shape[0]):
        for query in range(length):
            slot = PADDING.shape[1] - length + query
            seen = sum(int(PADDING[row, key]) for key in range(slot + 1))
            assert positions[row, query].item() == max(seen - 1, 0)
