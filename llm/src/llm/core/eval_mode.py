"""Running a model without dropout, for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module | Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode, and then for each part the mode that it was in.

    A loop may look the parts up once and give `list(model.modules())`.
    """
    modules = model.modules() if isinstance(model, nn.Module) else model
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
