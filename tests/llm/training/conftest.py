"""Tiny models, data and runs to train."""

import pytest
import torch

from llm.models.gpt import GPT, GPT2
from llm.tokenizers import BPETokenizer
from llm.training import TextDataset, TrainingConfig

TEXTS = [
    "The cat sat on the mat, and the dog sat on the log.",
    "Кошка сидела на окне, а собака лежала у двери.",
    "A function is a rule that gives every input one output.",
    "Язык — это система знаков, и он меняется каждый день.",
]


@pytest.fixture(scope="session")
def tokenizer():
    tokenizer = BPETokenizer()
    tokenizer.train(TEXTS, 300, ["<pad>", "<unk>", "<bos>", "<eos>"], show_progress=False)
    return tokenizer


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture
def dataset(tokenizer):
    return TextDataset.from_texts(TEXTS, tokenizer, block_size=16, stride=15, show_progress=False)


@pytest.fixture
def make_model(tokenizer):
    def make(model_class=GPT2, *, seed=0, dropout=0.1, **changes):
        torch.manual_seed(seed)
        config = {
            "vocab_size": len(tokenizer),
            "embed_dim": 16,
            "num_heads": 2,
            "num_layers": 2,
            "max_position_embeddings": 16,
            "dropout": dropout,
            "eos_token_id": tokenizer.eos_token_id,
        }
        return model_class({**config, **changes})

    return make


@pytest.fixture(params=[GPT, GPT2])
def model_class(request):
    return request.param


@pytest.fixture
def make_config():
    def make(**changes):
        fields = {"steps": 4, "batch_size": 4, "log_every": 1, "device": "cpu"}
        return TrainingConfig(**{**fields, **changes})

    return make
