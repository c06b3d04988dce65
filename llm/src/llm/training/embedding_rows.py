"""The gradient of tied embeddings, without a second matrix of the vocabulary's size.

PyTorch's gradient of an embedding is a matrix (V, C), zeros but for the rows of the batch's tokens.
Where the head has the same weight, its own gradient is such a matrix already, and these rows are
added to it: of GPT-2 that saves 154 MB, which a CPU would have to be given, fill and add, a tenth
of the time of a small step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from llm.core.base_model import BaseModel
from llm.core.token_embeddings import TokenEmbeddings
from llm.training.config import TrainingConfig


def adds_rows(config: TrainingConfig, num_ranks: int) -> bool:
    """Whether a training's steps are to be taken within `rows_into_gradient`.

    A compiler, and the exchange between processes, need a gradient that autograd knows of.
    """
    return num_ranks == 1 and not config.compile


@contextmanager
def rows_into_gradient(model: BaseModel) -> Iterator[None]:
    """Within it, a backward adds rows to `.grad` of embeddings that are tied to the head.

    What wants the gradient otherwise, such as `torch.autograd.grad`, or the hooks by which several
    processes share gradients, would not see those rows: for one process's `backward` alone.
    Embeddings that are not tied, not trained, not on a CPU or have hooks stay as they are.
    """
    embeddings = model.decoder.token_embeddings
    weight = embeddings.weight
    fits = (
        type(embeddings) is TokenEmbeddings
        and weight is model.lm_head.weight
        and weight.requires_grad
        and weight.is_cpu
        # a hook is to see, and may change, the whole gradient
        and not weight._backward_hooks
        and not getattr(weight, "_post_accumulate_grad_hooks", None)
    )
    if not fits:
        yield
        return
    embeddings.__class__ = _RowGradient
    try:
        yield
    finally:
        embeddings.__class__ = TokenEmbeddings


class _RowGradient(TokenEmbeddings):
    """Embeddings whose backward adds to `.grad`, once those of what comes after have."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, T) -> (B, T, C)."""
        # in place of the weight, which would wait for a gradient from here
        trained = torch.empty(0, requires_grad=torch.is_grad_enabled())
        return cast(Tensor, _Rows.apply(trained, input, self))


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, trained: Tensor, ids: Tensor, embeddings: TokenEmbeddings) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.embeddings = embeddings
        return F.embedding(ids, embeddings.weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (ids,), weight = ctx.saved_tensors, ctx.embeddings.weight
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, ids.flatten(), grads[0].flatten(0, 1))
        return None, None, None
