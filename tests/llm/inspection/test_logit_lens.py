"""The lens at each depth is the model that ends there."""

import copy

import numpy as np
import pytest
import torch

from llm.inspection import logit_lens, token_texts


def ids_of(tokenizer, text):
    return torch.tensor([tokenizer.encode(text, add_special_tokens=False)])


def test_the_last_depth_is_the_models_logits_to_the_bit(model, tokenizer, text):
    lens = logit_lens(model, tokenizer, text)
    assert lens.depths == tuple(range(model.config.num_layers + 1))
    with torch.no_grad():
        np.testing.assert_array_equal(lens.logits[-1], model(ids_of(tokenizer, text))[0].numpy())


def test_each_depth_is_a_model_of_so_many_blocks(model, tokenizer, text):
    lens = logit_lens(model, tokenizer, text)
    for depth in lens.depths:
        shorter = copy.deepcopy(model)
        shorter.decoder.blocks = shorter.decoder.blocks[:depth]
        with torch.no_grad():
            expected = shorter(ids_of(tokenizer, text))[0].numpy()
        np.testing.assert_allclose(lens.logits[depth], expected, atol=1e-6, rtol=0)
    assert np.abs(np.diff(lens.logits, axis=0)).max(axis=(1, 2)).min() > 0.1


def test_the_likeliest_tokens_are_sorted_and_named(model, tokenizer, text):
    lens = logit_lens(model, tokenizer, text, depths=[2, 0], top_k=3)
    assert lens.depths == (2, 0)
    assert lens.logits.shape == (2, len(lens.tokens), 300)
    np.testing.assert_array_equal(lens.logits, logit_lens(model, tokenizer, text).logits[[2, 0]])
    for row in range(2):
        for t in range(len(lens.tokens)):
            logits = lens.logits[row, t].astype(np.float64)
            probabilities = np.exp(logits) / np.exp(logits).sum()
            order = sorted(range(300), key=lambda i: -probabilities[i])[:3]
            assert lens.top_ids[row, t].tolist() == order
            np.testing.assert_allclose(
                lens.top_probabilities[row, t], probabilities[order], rtol=1e-4
            )
            assert lens.top_tokens[row][t] == token_texts(tokenizer, order)


def test_a_vocabulary_larger_than_the_tokenizers_is_named_too(make_model, tokenizer, text):
    model = make_model("gpt2", vocab_size=320)
    lens = logit_lens(model, tokenizer, text, top_k=320)
    assert "<319>" in lens.top_tokens[0][0]


@pytest.mark.parametrize(
    "options", [{"depths": [9]}, {"depths": [-1]}, {"depths": []}, {"top_k": 0}, {"top_k": 301}]
)
def test_an_argument_out_of_range_is_an_error(model, tokenizer, text, options):
    with pytest.raises(ValueError, match=next(iter(options)).removesuffix("s")):
        logit_lens(model, tokenizer, text, **options)
