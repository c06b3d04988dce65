"""Next-token cross entropy, without the logits of the whole batch."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llm.core.fast_linear import fast_linear, transposed_product
from llm.core.processor_cache import numbers_in_caches
from llm.training.dataset import IGNORE_INDEX

# rows of logits that exist at a time: 512 × 50257 × 4 bytes are 100 MB
CHUNK_SIZE = 512
# on a CPU half of them, if the logits are more numbers than these: 32 MiB in 16 bits, above which
# glibc asks the system for fresh pages each time
CHUNK_NUMBERS = 2**24


def count_targets(labels: Tensor) -> int:
    """Tokens of labels (B, T) that the loss predicts: all but the first and the ignored."""
    return int((labels[:, 1:] != IGNORE_INDEX).sum())


def next_token_loss(
    hidden_states: Tensor,
    lm_head: Tensor,
    labels: Tensor,
    *,
    num_targets: float = 1,
    fast: bool = False,
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
        fast: multiply by oneDNN, as `llm.core.fast_linear` does.

    Returns:
        Scalar, float32.
    """
    rows = hidden_states[:, :-1].flatten(0, 1)  # (B·(T-1), C)
    targets = labels[:, 1:].flatten()  # (B·(T-1),)
    return cast(Tensor, _ChunkedCrossEntropy.apply(rows, lm_head, targets, num_targets, fast))


def chunk_size(num_rows: int, vocab_size: int, device: str) -> int:
    """How many rows of logits the loss has at a time: of equal chunks, but for the last."""
    most = CHUNK_SIZE
    if device == "cpu" and most * vocab_size > CHUNK_NUMBERS:
        most = max(1, most // 2)
    return math.ceil(max(1, num_rows) / math.ceil(max(1, num_rows) / most))


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
        fast: bool,
    ) -> Tensor:
        linear = fast_linear if fast else F.linear
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
        size = chunk_size(len(rows), len(weight), device)
        # of no rows, the gradient is zero
        for start in range(0, max(1, len(rows)), size):
            chunk = slice(start, start + size)
            logits = linear(rows[chunk], weight)
            total += _cross_entropy_(
                logits, targets[chunk], None if scales is None else scales[chunk]
            )
            grad = logits
            if grad_rows is not None:
                grad_rows[chunk] = linear(grad, weight.t())
            if needs_weight:
                grad_weight = _add_product(grad_weight, grad, rows[chunk], fast)
            # so that the next chunk's logits can take their place
            del logits, grad
        # it may be a copy in half precision, which nobody needs any more
        del weight
        ctx.save_for_backward(
            None if grad_rows is None else grad_rows.to(dtypes[0]),
            None if grad_weight is None else grad_weight.to(dtypes[1]).contiguous(),
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
    # on a CPU from one end to the other while they are in its caches
    size = numbers_in_caches() // logits.shape[1] if logits.is_cpu else len(logits)
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


def _add_product(total: Tensor | None, grad: Tensor, rows: Tensor, fast: bool) -> Tensor:
    """The float32 total (V, C), or none yet, and gradᵀ · rows, whatever precision those have."""
    if not grad.is_cpu or (fast and grad.dtype == torch.float32):
        product = transposed_product(grad, rows) if fast else grad.t() @ rows
        return product.float() if total is None else total.add_(product)
    # a part that fits the caches at a time, in place of the product as a whole
    size = max(1, numbers_in_caches() // rows.shape[1])
    is_first = total is None
    if total is None:
        total = torch.empty(grad.shape[1], rows.shape[1], dtype=torch.float32)
    for part, columns in zip(torch.split(total, size), torch.split(grad, size, 1), strict=True):
        write = part.copy_ if is_first else part.add_
        write(columns.t() @ rows)
    return total
