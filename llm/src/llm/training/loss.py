"""Next-token cross entropy, without the logits of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llm.training.dataset import IGNORE_INDEX

# rows of logits that exist at a time: 512 × 50257 × 4 bytes are 100 MB
CHUNK_SIZE = 512
# float32 numbers that fit a core's cache, of which a CPU makes gradients from one end to the other
CACHED_NUMBERS = 2**18


def count_targets(labels: Tensor) -> int:
    """Tokens of labels (B, T) that the loss predicts: all but the first and the ignored."""
    return int((labels[:, 1:] != IGNORE_INDEX).sum())


def next_token_loss(
    hidden_states: Tensor,
    lm_head: Tensor,
    labels: Tensor,
    *,
    num_targets: float = 1,
    linear: Callable[[Tensor, Tensor], Tensor] = F.linear,
) -> Tensor:
    """Sum over the targets of -log p(label), in nats, divided by `num_targets`.

    The shift happens here, once: position t predicts label t + 1. Under autocast the
    products are in its precision, and the gradient of `lm_head` is summed in float32.

    Args:
        hidden_states: (B, T, C).
        lm_head: weight of the output projection, (V, C).
        labels: int64 (B, T), unshifted; -100 is not predicted.
        num_targets: those of the whole optimizer step, not of this batch alone,
            so that accumulation does not change the gradient; 1 for the sum. In
            half precision, divided by the scale of the loss.
        linear: computes logits; `llm.core.fast_linear.fast_linear` where that is
            faster. The products of the gradients are as fast either way.

    Returns:
        Scalar, float32.
    """
    rows = hidden_states[:, :-1].flatten(0, 1)  # (B·(T-1), C)
    targets = labels[:, 1:].flatten()  # (B·(T-1),)
    return cast(Tensor, _ChunkedCrossEntropy.apply(rows, lm_head, targets, num_targets, linear))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross entropy of rows · weightᵀ, a chunk of rows at a time.

    The gradients are made in the forward, where a chunk's logits are at hand;
    what is kept for the backward is of the size of its inputs. They are made at
    their final scale and summed in float32, as half precision would overflow or
    lose what a chunk adds.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        targets: Tensor,
        num_targets: float,
        linear: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        dtypes, device = (rows.dtype, weight.dtype), rows.device.type
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            rows, weight = rows.to(dtype), weight.to(dtype)
        needs_rows, needs_weight = ctx.needs_input_grad[:2]
        # nothing of ignored rows
        scales = (targets != IGNORE_INDEX) / num_targets if needs_rows or needs_weight else None
        total = torch.zeros((), dtype=torch.float32, device=rows.device)
        grad_rows = torch.empty_like(rows) if needs_rows else None
        grad_weight = None
        # of no rows, the gradient is zero
        for start in range(0, max(1, len(rows)), CHUNK_SIZE):
            chunk = slice(start, start + CHUNK_SIZE)
            logits = linear(rows[chunk], weight)
            total += _cross_entropy_(
                logits, targets[chunk], None if scales is None else scales[chunk]
            )
            grad = logits
            if grad_rows is not None:
                torch.mm(grad, weight, out=grad_rows[chunk])
            if grad_weight is not None:
                _add_product_(grad_weight, grad.t(), rows[chunk])
            elif needs_weight:
                grad_weight = (grad.t() @ rows[chunk]).float()
            # so that the next chunk's logits can take their place
            del logits, grad
        ctx.save_for_backward(
            None if grad_rows is None else grad_rows.to(dtypes[0]),
            None if grad_weight is None else grad_weight.to(dtypes[1]),
        )
        return total / num_targets

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (scale,) = grad_outputs
        grad_rows, grad_weight = ctx.saved_tensors
        # asked of an accelerator, the question would wait for it
        if scale.device.type != "cpu" or scale != 1:
            grad_rows, grad_weight = (
                None if grad is None else grad * scale.to(grad.dtype)
                for grad in (grad_rows, grad_weight)
            )
        return grad_rows, grad_weight, None, None, None


def _cross_entropy_(logits: Tensor, targets: Tensor, scales: Tensor | None) -> Tensor:
    """The sum of the losses of logits (N, V), which become their gradients times `scales` (N,)."""
    size = CACHED_NUMBERS // logits.shape[1] if logits.is_cpu else len(logits)
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    for start in range(0, len(logits), max(1, size)):
        part = slice(start, start + max(1, size))
        log_probabilities = F.log_softmax(logits[part], -1, dtype=torch.float32)
        total += F.nll_loss(
            log_probabilities, targets[part], ignore_index=IGNORE_INDEX, reduction="sum"
        )
        if scales is None:
            continue
        # d loss / d logits = p - 1 at the target
        grad = log_probabilities.exp_()
        at_target = targets[part].clamp(min=0)[:, None]
        grad.scatter_add_(1, at_target, torch.full_like(at_target, -1, dtype=grad.dtype))
        logits[part] = grad.mul_(scales[part, None])
    return total


def _add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Adds a · b to a float32 total (V, C); the factors have this or another precision."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
        return
    # a sum of two dtypes would first make a float32 copy of the whole product
    size = max(1, CACHED_NUMBERS // total.shape[1])
    for part, term in zip(torch.split(total, size), torch.split(a @ b, size), strict=True):
        part += term
