"""Texts of tokens, and what every function says of a text that does not fit."""

import numpy as np
import pytest
import torch

from llm.inspection import (
    attention_maps,
    embedding_neighbours,
    logit_lens,
    token_losses,
    token_texts,
    weight_norms,
)

OF_TEXT = [attention_maps, logit_lens, token_losses]


def test_a_token_of_half_a_character_shows_what_is_readable(tokenizer):
    half = tokenizer.encode("щ", add_special_tokens=False)
    assert [tokenizer.decode_bytes([i]) for i in half] == [b"\xd1", b"\x89"]
    assert token_texts(tokenizer, half) == ("\\xd1", "\\x89")
    mixed = [i for i in range(300) if tokenizer.decode_bytes([i]) == b" \xd0"]
    assert token_texts(tokenizer, mixed) == (" \\xd0",)
    eos = tokenizer.eos_token_id
    assert token_texts(tokenizer, [eos, 305]) == ("<eos>", "<305>")


@pytest.mark.parametrize("inspect", OF_TEXT)
def test_tokens_are_those_of_the_text_in_order(model, tokenizer, text, inspect):
    ids = tokenizer.encode(text, add_special_tokens=False)
    result = inspect(model, tokenizer, text)
    assert "".join(result.tokens).count("ка") == 1
    assert result.tokens == token_texts(tokenizer, ids)
    assert inspect(model, tokenizer, ids).tokens == result.tokens
    assert inspect(model, tokenizer, np.array(ids)).tokens == result.tokens


@pytest.mark.parametrize("inspect", OF_TEXT)
def test_a_text_that_does_not_fit_is_an_error_with_the_numbers(model, tokenizer, inspect):
    longest = model.config.max_position_embeddings
    with pytest.raises(ValueError, match=rf"{longest + 1} tokens.*{longest}.*max_position"):
        inspect(model, tokenizer, [1] * (longest + 1))
    with pytest.raises(ValueError, match="0 tokens"):
        inspect(model, tokenizer, "")
    with pytest.raises(ValueError, match="token id 300"):
        inspect(model, tokenizer, [1, 300])
    with pytest.raises(ValueError, match="token id -1"):
        inspect(model, tokenizer, [1, -1])
    with pytest.raises(TypeError, match="float"):
        inspect(model, tokenizer, [1.0, 2.5])


def test_something_that_is_no_model_of_ours_is_an_error(tokenizer):
    for call in (
        lambda: attention_maps(torch.nn.Linear(1, 1), tokenizer, "a"),
        lambda: embedding_neighbours(torch.nn.Linear(1, 1), tokenizer, "a"),
        lambda: weight_norms(torch.nn.Linear(1, 1)),
    ):
        with pytest.raises(TypeError, match=r"Linear.*to_llm_model"):
            call()
