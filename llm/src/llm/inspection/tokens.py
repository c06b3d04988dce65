"""Texts as the functions here take them, and tokens as they name them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llm.core.base_model import BaseModel, check_range
from llm.core.config import check_count
from llm.tokenizers import BaseTokenizer


def token_texts(tokenizer: BaseTokenizer, token_ids: Iterable[int]) -> tuple[str, ...]:
    r"""Text of each token by itself, whatever its bytes.

    A byte-level token may hold part of a character: what is readable is text, and any
    other byte is written as `\xd0`. An id that the tokenizer lacks, in a vocabulary that
    was padded, is written as `<50300>`.

    Args:
        tokenizer: of the model.
        token_ids: each ≥ 0.
    """
    return tuple(
        (
            tokenizer.decode_bytes([token_id]).decode("utf-8", "backslashreplace")
            if token_id < len(tokenizer)
            else f"<{token_id}>"
        )
        for token_id in token_ids
    )


def read_text(
    model: BaseModel, tokenizer: BaseTokenizer, text: str | Sequence[int], *, min_tokens: int = 1
) -> tuple[Tensor, tuple[str, ...]]:
    """Token ids (1, T) on the model's device, and the text of each.

    Args:
        model: whose ids.
        tokenizer: the one that the model was trained with.
        text: encoded without special tokens; or the ids themselves.
        min_tokens: least T.

    Raises:
        TypeError: `model` is no model of this project, or an id is no whole number.
        ValueError: there are too few tokens or more than the model's context, or one
            is outside its vocabulary.
    """
    check_model(model)
    if isinstance(text, str):
        ids = tokenizer.encode(text, add_special_tokens=False)
    else:
        ids = [operator.index(token_id) for token_id in text]
    longest = model.config.max_position_embeddings
    if not min_tokens <= len(ids) <= longest:
        raise ValueError(
            f"the text has {len(ids)} tokens, and must have {min_tokens} to {longest}, the "
            "model's max_position_embeddings"
        )
    input_ids = torch.tensor([ids], dtype=torch.int64)
    check_range("token id", input_ids, model.config.vocab_size)
    return input_ids.to(model.decoder.token_embeddings.weight.device), token_texts(tokenizer, ids)


def choose(name: str, given: Iterable[int] | None, size: int) -> tuple[int, ...]:
    """The numbers given, each in [0, size); None for all of them.

    Raises:
        ValueError: one is outside its range, or there is none.
    """
    chosen = tuple(range(size) if given is None else map(operator.index, given))
    if not chosen:
        raise ValueError(f"{name}s is empty")
    for number in chosen:
        check_count(name, number, minimum=0, maximum=size - 1)
    return chosen


def check_model(model: object) -> None:
    """Raise TypeError unless it is a model of this project, and not one in an adapter."""
    if not isinstance(model, BaseModel):
        raise TypeError(
            f"expected a model of llm, not {type(model).__name__}; an HFAdapter has one: "
            "to_llm_model()"
        )
