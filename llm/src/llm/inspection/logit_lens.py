"""What the model would predict if it stopped after each block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.core.base_model import BaseModel
from llm.core.config import check_count
from llm.core.eval_mode import eval_mode
from llm.inspection.tokens import choose, read_text, token_texts
from llm.tokenizers import BaseTokenizer


@dataclass(frozen=True, eq=False, kw_only=True)
class LogitLens:
    """Predictions of the next token from the residual stream at several depths.

    Args:
        tokens: texts of the T tokens.
        depths: blocks behind each row: 0 are the embeddings.
        logits: float32 (len(depths), T, V).
        top_ids: int64 (len(depths), T, k), the likeliest first.
        top_probabilities: float32 (len(depths), T, k), in [0, 1].
        top_tokens: their texts, `top_tokens[row][t][rank]`.
    """

    tokens: tuple[str, ...]
    depths: tuple[int, ...]
    logits: npt.NDArray[np.float32]
    top_ids: npt.NDArray[np.int64]
    top_probabilities: npt.NDArray[np.float32]
    top_tokens: tuple[tuple[tuple[str, ...], ...], ...]


def logit_lens(
    model: BaseModel,
    tokenizer: BaseTokenizer,
    text: str | Sequence[int],
    *,
    depths: Sequence[int] | None = None,
    top_k: int = 5,
) -> LogitLens:
    """lm_head(final_norm(x)) of the residual stream x before and after each block.

    At the last depth these are the model's logits, to the bit. In a post-norm model,
    which has no final norm, x is what a block's own norm gave.

    Args:
        model: any model of this project; left as it is.
        tokenizer: the one that the model was trained with.
        text: of 1 to `max_position_embeddings` tokens; or their ids.
        depths: in [0, num_layers]; None for all. A depth takes 4 · T · V bytes.
        top_k: how many likeliest tokens to name, in [1, V].

    Raises:
        ValueError: the text does not fit the model, or an argument is outside its range.

    Reference: nostalgebraist, "interpreting GPT: the logit lens", LessWrong, 2020.
    """
    input_ids, tokens = read_text(model, tokenizer, text)
    chosen = choose("depth", depths, model.config.num_layers + 1)
    check_count("top_k", top_k, maximum=model.config.vocab_size)
    with torch.no_grad(), eval_mode(model):
        with recorded_residual_stream(model) as stream:
            model.hidden_states(input_ids)
        logits = torch.empty(len(chosen), len(tokens), model.config.vocab_size)
        for row, depth in zip(logits, chosen, strict=True):
            row.copy_(model.lm_head(model.decoder.final_norm(stream[depth]))[0])
    top = [row.softmax(-1).topk(top_k, dim=-1) for row in logits]  # each (T, k)
    top_ids = torch.stack([row.indices for row in top])
    return LogitLens(
        tokens=tokens,
        depths=chosen,
        logits=logits.numpy(),
        top_ids=top_ids.numpy(),
        top_probabilities=torch.stack([row.values for row in top]).numpy(),
        top_tokens=tuple(
            tuple(token_texts(tokenizer, ids) for ids in row) for row in top_ids.tolist()
        ),
    )


@contextmanager
def recorded_residual_stream(model: BaseModel) -> Iterator[list[Tensor]]:
    """Inside, a forward leaves the residual stream in the list.

    Args:
        model: any model of this project.

    Returns:
        (B, T, C) before the first block, then after each: `num_layers + 1` tensors
        after one forward.
    """
    stream: list[Tensor] = []
    blocks = model.decoder.blocks
    with ExitStack() as hooks:
        hooks.enter_context(
            blocks[0].register_forward_pre_hook(lambda block, args: stream.append(args[0]))
        )
        for block in blocks:
            hooks.enter_context(
                block.register_forward_hook(lambda block, args, output: stream.append(output))
            )
        yield stream
