"""Bits per byte and the unigram baseline."""

import math
from collections import Counter

import pytest

from llm.evaluation import bits_per_byte, unigram_loss
from llm.training import TextDataset


def test_a_uniform_byte_model_needs_eight_bits():
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8)


def test_no_bytes_is_an_error():
    with pytest.raises(ValueError, match="num_bytes=0"):
        bits_per_byte(1.0, 0)


def test_unigram_is_the_smoothed_frequency_of_training_targets():
    train_ids = [0, 1, 1, 2, 1, 0, 1]
    validation_ids = [2, 1, 3, 0]
    train = TextDataset(train_ids, block_size=3, stride=2)
    validation = TextDataset(validation_ids, block_size=2, stride=1)
    counts = Counter(train_ids[1:])
    nats = -sum(math.log((counts[t] + 1) / (len(train_ids) - 1 + 5)) for t in validation_ids[1:])
    result = unigram_loss(train, validation, vocab_size=5)
    assert result.num_targets == 3
    assert result.total_loss == pytest.approx(nats)
    assert result.loss == pytest.approx(nats / 3)
    assert result.perplexity == pytest.approx(math.exp(nats / 3))
