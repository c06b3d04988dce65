"""How surprised a model is by each token, and how unsure it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from llm.core.base_model import BaseModel
from llm.core.eval_mode import eval_mode
from llm.inspection.tokens import read_text
from llm.tokenizers import BaseTokenizer


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenLosses:
    """Loss and entropy of each token of a text; both are NaN at the first, which none predicts.

    Args:
        tokens: texts of the T tokens.
        token_ids: int64 (T,).
        losses: float32 (T,), -log p(token | those before it), in nats, ≥ 0.
        entropies: float32 (T,), of the distribution that predicted the token, in nats,
            in [0, log V]: the loss that the model expected.
    """

    tokens: tuple[str, ...]
    token_ids: npt.NDArray[np.int64]
    losses: npt.NDArray[np.float32]
    entropies: npt.NDArray[np.float32]


def token_losses(
    model: BaseModel, tokenizer: BaseTokenizer, text: str | Sequence[int]
) -> TokenLosses:
    """Loss and entropy of each token of a text.

    Args:
        model: any model of this project; left as it is.
        tokenizer: the one that the model was trained with.
        text: of 2 to `max_position_embeddings` tokens; or their ids.

    Raises:
        ValueError: the text does not fit the model.
    """
    input_ids, tokens = read_text(model, tokenizer, text, min_tokens=2)
    with torch.no_grad(), eval_mode(model):
        logits = model(input_ids)[0, :-1]  # (T-1, V)
    log_probabilities = logits.log_softmax(-1, dtype=torch.float32)
    nan = logits.new_full((1,), torch.nan, dtype=torch.float32)
    losses = -log_probabilities.gather(1, input_ids[0, 1:, None])[:, 0]  # (T-1,)
    entropies = torch.special.entr(log_probabilities.exp()).sum(-1)  # (T-1,)
    return TokenLosses(
        tokens=tokens,
        token_ids=input_ids[0].cpu().numpy(),
        losses=torch.cat([nan, losses]).cpu().numpy(),
        entropies=torch.cat([nan, entropies]).cpu().numpy(),
    )
