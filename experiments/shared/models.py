"""A tokenizer and a model as the scripts' settings describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from experiments.shared.configs import SPECIAL_TOKENS, ModelSettings

if TYPE_CHECKING:
    from llm.core.base_model import BaseModel
    from llm.tokenizers import BPETokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """A byte-level BPE tokenizer of the training texts."""
    from llm.tokenizers import BPETokenizer

    tokenizer = BPETokenizer()
    tokenizer.train(texts, vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS))
    return tokenizer


def make_model(settings: ModelSettings, tokenizer: BPETokenizer) -> BaseModel:
    """A new model of the architecture asked for, with the tokenizer's vocabulary."""
    from llm.models import ARCHITECTURES

    fields = dict(vars(settings))
    architecture = ARCHITECTURES[fields.pop("model_type")]
    return architecture.model(
        {
            **fields,
            "vocab_size": len(tokenizer),
            # a document begins after the end of another, as in GPT-2
            "bos_token_id": tokenizer.eos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
