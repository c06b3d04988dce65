"""How well a model predicts tokens: the one place where logits become figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from llm.evaluation.text_model import TextModel, TokenIds


class Row(NamedTuple):
    """Ids of which the last `num_targets` are predicted, each from all before it."""

    ids: TokenIds
    num_targets: int


class TokenScores(NamedTuple):
    """Of the targets of a row.

    Args:
        nats: -log p(target), float64 (N,).
        is_greedy: whether the target is the likeliest token, bool (N,).
    """

    nats: Tensor
    is_greedy: Tensor


@torch.no_grad()
def score_rows(model: TextModel, rows: Sequence[Row]) -> list[TokenScores]:
    """Predict the targets of each row, in one batch; the model has to be in eval mode.

    Args:
        model: what predicts.
        rows: each of 2 ids at least, its targets fewer than its ids.
    """
    longest = max(len(row.ids) for row in rows) - 1
    # padding is on the right, where causal attention never looks
    ids = np.zeros((len(rows), longest + 1), dtype=np.int64)
    where = np.zeros((len(rows), longest), dtype=bool)
    for i, (row_ids, num_targets) in enumerate(rows):
        ids[i, : len(row_ids)] = row_ids
        where[i, len(row_ids) - 1 - num_targets : len(row_ids) - 1] = True
    inputs = torch.from_numpy(ids[:, :-1]).to(model.device)  # (B, T)
    targets = torch.from_numpy(ids[:, 1:][where]).to(model.device)  # (N,)
    pieces: list[TokenScores] = []
    done = 0
    for logits in model.logits(inputs, torch.from_numpy(where).to(model.device)):
        pieces.append(_score(logits, targets[done : done + len(logits)]))
        done += len(logits)
    scores = TokenScores(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))
    sizes = [row.num_targets for row in rows]
    return [
        TokenScores(nats, is_greedy)
        for nats, is_greedy in zip(*(torch.split(part, sizes) for part in scores), strict=True)
    ]


def _score(logits: Tensor, targets: Tensor) -> TokenScores:
    """Of logits (n, V) and targets (n,), on the CPU."""
    logits = logits.float()
    largest, likeliest = logits.max(-1)
    exponentials = (logits - largest[:, None]).exp_().sum(-1)
    behind = largest - logits.gather(-1, targets[:, None])[:, 0]
    # in float64 from here, so that the sum of a long text loses nothing; MPS has none
    nats = exponentials.cpu().double().log() + behind.cpu().double()
    return TokenScores(nats, (likeliest == targets).cpu())
