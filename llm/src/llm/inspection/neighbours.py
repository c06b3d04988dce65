"""Which tokens a model embeds alike."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from llm.core.base_model import BaseModel
from llm.core.config import check_count
from llm.inspection.tokens import check_model, token_texts
from llm.tokenizers import BaseTokenizer


@dataclass(frozen=True, eq=False, kw_only=True)
class Neighbours:
    """The tokens whose embeddings point most nearly where a token's does.

    Args:
        token: text of the token.
        tokens: texts of its k neighbours, the nearest first.
        token_ids: int64 (k,).
        similarities: float32 (k,), cosines, in [-1, 1], falling.
    """

    token: str
    tokens: tuple[str, ...]
    token_ids: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float32]


def embedding_neighbours(
    model: BaseModel, tokenizer: BaseTokenizer, token: str | int, *, k: int = 10
) -> Neighbours:
    """The k tokens nearest to a token by the cosine of their input embeddings.

    Args:
        model: any model of this project; left as it is.
        tokenizer: the one that the model was trained with.
        token: a text that is a single token, its space in front included, or an id.
        k: at least 1, below the size of the vocabulary.

    Raises:
        ValueError: the text is not one token, or an argument is outside its range.
    """
    check_model(model)
    # a padded vocabulary ends in rows that are no token's
    num_tokens = min(len(tokenizer), model.config.vocab_size)
    token_id = _single_id(tokenizer, token) if isinstance(token, str) else operator.index(token)
    check_count("token", token_id, minimum=0, maximum=num_tokens - 1)
    check_count("k", k, maximum=num_tokens - 1)
    embeddings = model.decoder.token_embeddings.weight.detach()[:num_tokens].float()  # (V, C)
    cosines = F.cosine_similarity(embeddings, embeddings[token_id], dim=-1)  # (V,)
    cosines[token_id] = -torch.inf
    top = cosines.topk(k)
    ids = top.indices.tolist()
    return Neighbours(
        token=token_texts(tokenizer, [token_id])[0],
        tokens=token_texts(tokenizer, ids),
        token_ids=np.array(ids, dtype=np.int64),
        similarities=top.values.cpu().numpy(),
    )


def _single_id(tokenizer: BaseTokenizer, token: str) -> int:
    ids = tokenizer.encode(token, add_special_tokens=False, allowed_special="all")
    if len(ids) != 1:
        raise ValueError(
            f"{token!r} is {len(ids)} tokens, not one: {list(token_texts(tokenizer, ids))}"
        )
    return ids[0]
