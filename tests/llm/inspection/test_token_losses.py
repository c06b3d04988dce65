"""Loss and entropy of each token, against the loss of training and against plain sums."""

import math

import numpy as np
import pytest
import torch

from llm.inspection import token_losses
from llm.training import next_token_loss


def test_losses_sum_to_the_models_loss(model, tokenizer, text):
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        expected = next_token_loss(model.hidden_states(ids), model.lm_head.weight, ids).item()
    result = token_losses(model, tokenizer, text)
    assert result.losses.shape == result.entropies.shape == (ids.shape[1],)
    assert result.token_ids.tolist() == ids[0].tolist()
    assert np.nansum(result.losses.astype(np.float64)) == pytest.approx(expected, rel=1e-6)
    assert np.isnan(result.losses).tolist() == [True] + [False] * (ids.shape[1] - 1)


def test_each_token_has_the_loss_and_entropy_of_what_stands_before_it(model, tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    result = token_losses(model, tokenizer, text)
    assert np.isnan(result.entropies[0])
    for t in range(1, len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:t]]))[0, -1].double().tolist()
        total = sum(math.exp(logit) for logit in logits)
        probabilities = [math.exp(logit) / total for logit in logits]
        assert result.losses[t] == pytest.approx(-math.log(probabilities[ids[t]]), abs=1e-4)
        entropy = -sum(p * math.log(p) for p in probabilities)
        assert result.entropies[t] == pytest.approx(entropy, abs=1e-4)


def test_a_uniform_model_has_entropy_and_loss_log_v(model, tokenizer, text):
    torch.nn.init.zeros_(model.lm_head.weight)
    result = token_losses(model, tokenizer, text)
    np.testing.assert_allclose(result.entropies[1:], math.log(300), rtol=1e-6)
    np.testing.assert_allclose(result.losses[1:], math.log(300), rtol=1e-6)


def test_a_certain_model_has_entropy_zero(model, tokenizer):
    """A probability that underflows adds nothing, and no NaN."""
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    result = token_losses(model, tokenizer, [1, 2, 3])
    np.testing.assert_allclose(result.entropies[1:], 0, atol=1e-6)


def test_one_token_predicts_nothing(model, tokenizer):
    with pytest.raises(ValueError, match="1 tokens, and must have 2"):
        token_losses(model, tokenizer, [1])


def test_half_precision_gives_float32(model, tokenizer, text):
    expected = token_losses(model, tokenizer, text)
    got = token_losses(model.bfloat16(), tokenizer, text)
    assert got.losses.dtype == got.entropies.dtype == np.float32
    np.testing.assert_allclose(got.losses[1:], expected.losses[1:], atol=0.2)
