"""Next-token cross entropy, without the logits of the whole batch."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.training.dataset import IGNORE_INDEX

# rows of logits that exist at a time: 512 × 50257 × 4 bytes are 100 MB
CHUNK_SIZE = 512


def count_targets(labels: Tensor) -> int:
    """Tokens of labels (B, T) that the loss predicts: all but the first and the ignored."""
    return int((labels[:, 1:] != IGNORE_INDEX).sum())


def next_token_loss(hidden_states: Tensor, lm_head: Tensor, labels: Tensor) -> Tensor:
    """Sum over the targets of -log p(label), in nats.

    The shift happens here, once: position t predicts label t + 1. Divide by the
    targets of the whole optimizer step, not of one batch, so that accumulation
    does not change the gradient.

    Args:
        hidden_states: (B, T, C).
        lm_head: weight of the output projection, (V, C).
        labels: int64 (B, T), unshifted; -100 is not predicted.

    Returns:
        Scalar, float32.
    """
    rows = hidden_states[:, :-1].flatten(0, 1)  # (B·(T-1), C)
    targets = labels[:, 1:].flatten()  # (B·(T-1),)
    return cast(Tensor, _ChunkedCrossEntropy.apply(rows, lm_head, targets))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross entropy of rows · weightᵀ, summed, a chunk of rows at a time.

    The gradients are made in the forward, where a chunk's logits are at hand;
    what is kept for the backward is of the size of its inputs.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for start in range(0, len(rows), CHUNK_SIZE):
            chunk = slice(start, start + CHUNK_SIZE)
            log_probabilities = F.log_softmax(rows[chunk] @ weight.t(), -1, dtype=torch.float32)
            total += F.nll_loss(
                log_probabilities, targets[chunk], ignore_index=IGNORE_INDEX, reduction="sum"
            )
            if grad_rows is None and grad_weight is None:
                continue
            # d loss / d logits = p - 1 at the target, and nothing in ignored rows
            real = targets[chunk] != IGNORE_INDEX
            grad = log_probabilities.exp_()
            at_target = targets[chunk].clamp(min=0)[:, None]
            grad.scatter_add_(1, at_target, torch.full_like(at_target, -1, dtype=grad.dtype))
            grad = grad.mul_(real[:, None]).to(rows.dtype)
            if grad_rows is not None:
                torch.mm(grad, weight, out=grad_rows[chunk])
            if grad_weight is not None:
                grad_weight.addmm_(grad.t(), rows[chunk])
        ctx.save_for_backward(grad_rows, grad_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (scale,) = grad_outputs
        grad_rows, grad_weight = ctx.saved_tensors
        return (
            None if grad_rows is None else grad_rows * scale.to(grad_rows.dtype),
            None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype),
            None,
        )
