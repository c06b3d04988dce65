"""Neighbours of an embedding, against a plain loop."""

import math

import numpy as np
import pytest
import torch

from llm.inspection import embedding_neighbours, token_texts


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


@pytest.mark.parametrize("vocab_size", [300, 333])
def test_neighbours_are_the_largest_cosines(make_model, tokenizer, model_type, vocab_size):
    """Rows beyond the tokenizer's vocabulary are no tokens, however near."""
    model = make_model(model_type, vocab_size=vocab_size)
    weight = model.decoder.token_embeddings.weight
    before = weight.detach().clone()
    rows = weight.double().tolist()
    for token_id in (0, 7, 299):
        others = [i for i in range(300) if i != token_id]
        expected = sorted(others, key=lambda i: -cosine(rows[token_id], rows[i]))[:6]
        got = embedding_neighbours(model, tokenizer, np.int64(token_id), k=6)
        assert got.token_ids.tolist() == expected
        assert got.tokens == token_texts(tokenizer, expected)
        np.testing.assert_allclose(
            got.similarities, [cosine(rows[token_id], rows[i]) for i in expected], atol=1e-6
        )
    assert torch.equal(weight, before)


def test_a_token_may_be_named_by_its_text(model, tokenizer):
    (token_id,) = tokenizer.encode("ка", add_special_tokens=False)
    by_text, by_id = (embedding_neighbours(model, tokenizer, t) for t in ("ка", token_id))
    assert by_text.token == by_id.token == "ка"
    assert by_text.token_ids.tolist() == by_id.token_ids.tolist()
    assert len(by_id.tokens) == 10
    assert embedding_neighbours(model, tokenizer, "<eos>", k=299).token == "<eos>"


@pytest.mark.parametrize(
    ("token", "k", "message"),
    [
        ("щ", 3, r"'щ' is 2 tokens.*xd1.*x89"),
        ("", 3, "'' is 0 tokens"),
        (300, 3, "token=300"),
        (-1, 3, "token=-1"),
        (3, 0, "k=0"),
        (3, 300, "k=300"),
    ],
)
def test_what_is_out_of_range_is_named(model, tokenizer, token, k, message):
    with pytest.raises(ValueError, match=message):
        embedding_neighbours(model, tokenizer, token, k=k)
