"""Bilingual text, a tokenizer of it, and models of its vocabulary."""

import pytest

from llm.tokenizers import BPETokenizer

TEXTS = [
    "The cat sat on the mat, and the dog sat on the log. Nobody asked them why.",
    "Кошка сидела на окне, а собака лежала у двери. Никто не спросил их, почему.",
]


@pytest.fixture(scope="session")
def tokenizer():
    tokenizer = BPETokenizer()
    tokenizer.train(TEXTS, 300, ["<eos>"], show_progress=False)
    return tokenizer


@pytest.fixture(scope="session")
def text():
    """Several windows of every tiny model, in characters of 1, 2, 3 and 4 bytes."""
    return " ".join(TEXTS) + " Щи да каша — пища наша: 42 € 😀 the end"


@pytest.fixture
def model(model_type, make_model, tokenizer):
    """A tiny model of each architecture, with dropout, in eval mode."""
    return make_model(model_type, vocab_size=len(tokenizer), dropout=0.2)
