"""In which numbers a model is trained: autocast, TF32, and the scale of a loss in half precision.

Weights, their gradients and the optimizer stay in float32; the products of a forward and
backward are computed in 16 bits. Bfloat16 has the range of float32. The range of float16 ends at
6e-8 to 65504: the loss is multiplied by a scale before the backward, and the gradient divided by
it after, so that small gradients do not vanish; where they overflow instead, the step is left out
and the scale halved.

Reference: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# those of PyTorch's GradScaler
FIRST_LOSS_SCALE = 2.0**16
_GROWTH_INTERVAL = 2000
# that of float32, whose gradients the scale must not take out of range either
_LARGEST_LOSS_SCALE = 2.0**24


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError if the device cannot train in that precision."""
    if precision != "fp32" and not torch.amp.is_autocast_available(device.type):
        raise ValueError(f"precision={precision!r} is not to be had on {device}: use 'fp32'")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError(f"precision='bf16' is not to be had on {device}: use 'fp16'")


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Where the operations that gain by it are computed in `precision`."""
    dtype = PRECISIONS[precision]
    if dtype == torch.float32:
        return nullcontext()
    return cast(AbstractContextManager[None], torch.autocast(device.type, dtype=dtype))


def next_loss_scale(scale: float, good_steps: int, *, overflow: bool) -> tuple[float, int]:
    """The scale for the next step, and the steps without overflow since it last changed."""
    if overflow:
        return max(scale / 2, 1.0), 0
    if good_steps + 1 < _GROWTH_INTERVAL:
        return scale, good_steps + 1
    return min(scale * 2, _LARGEST_LOSS_SCALE), 0


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Let NVIDIA's tensor cores round the factors of float32 products to 10 bits.

    Nothing happens on other devices; other code gets the setting back that it had.
    """
    if not enabled:
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
