"""A bilingual tokenizer, and models of its vocabulary."""

import pytest

from llm.tokenizers import BPETokenizer

TEXTS = [
    "The cat sat on the mat, and the dog sat on the log.",
    "Кошка сидела на окне, а собака лежала у двери.",
]


@pytest.fixture(scope="session")
def tokenizer():
    tokenizer = BPETokenizer()
    tokenizer.train(TEXTS, 300, ["<eos>"], show_progress=False)
    return tokenizer


@pytest.fixture
def text():
    """More than one token, and tokens that are parts of characters, within every context."""
    return "Кошка ест щи"


@pytest.fixture
def model(model_type, make_model, tokenizer):
    """A tiny model of each architecture, with dropout, in eval mode."""
    return make_model(model_type, vocab_size=len(tokenizer), dropout=0.2)
