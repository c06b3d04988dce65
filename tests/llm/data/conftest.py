"""A tokenizer for the shards of the tests."""

import pytest

from llm.tokenizers import BPETokenizer


@pytest.fixture(scope="session")
def tokenizer():
    tokenizer = BPETokenizer()
    texts = ["the cat sat on the mat, and the dog sat on the log", "Кошка сидела на окне"]
    tokenizer.train(texts, 290, ["<pad>", "<eos>"], show_progress=False)
    return tokenizer
