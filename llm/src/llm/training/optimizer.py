"""Optimizers, with weight decay where it belongs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from llm.core.config import check_choice, check_number

# numbers that each remembers of a weight: means of gradients and their squares, or a momentum
STATES_PER_WEIGHT = {"adamw": 2, "adam": 2, "sgd": 1}
OPTIMIZERS = tuple(STATES_PER_WEIGHT)

# PyTorch has one fused kernel for all parameters on these
FUSED_DEVICES = {"cpu", "cuda", "mps"}


def get_optimizer(
    model: nn.Module,
    name: str = "adamw",
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    momentum: float = 0.9,
) -> Optimizer:
    """An optimizer over the trainable parameters of a model.

    Matrices decay; biases and norms, which are vectors, do not. The fused
    implementation is used where there is one.

    Args:
        model: whose parameters, on the device they will stay on.
        name: "adamw", "adam" or "sgd"; decay is decoupled from the gradient in
            "adamw" and added to it in the other two.
        learning_rate: at the top of the schedule, > 0.
        weight_decay: ≥ 0.
        betas: of the Adams, each in [0, 1).
        eps: of the Adams, > 0.
        momentum: of "sgd", in [0, 1).

    Raises:
        ValueError: an argument is outside its range, or nothing is trainable.

    Reference: Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
    arXiv:1711.05101.
    """
    check_choice("optimizer", name, OPTIMIZERS)
    for argument, value in {"learning_rate": learning_rate, "weight_decay": weight_decay}.items():
        check_number(argument, value, low=0, high=float("inf"), inclusive=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameters")
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = {p.device.type for p in parameters} <= FUSED_DEVICES
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=fused)
    if name == "adam":
        return torch.optim.Adam(groups, lr=learning_rate, betas=betas, eps=eps, fused=fused)
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, fused=fused)
