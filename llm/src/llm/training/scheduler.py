"""Learning-rate schedules with warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from llm.core.config import check_count, check_number


def linear_schedule(
    optimizer: Optimizer, *, warmup_steps: int, total_steps: int, min_ratio: float = 0.0
) -> LambdaLR:
    """Up to the learning rate over the warm-up, then down in a straight line.

    Args:
        optimizer: whose learning rate is the peak.
        warmup_steps: optimizer steps, in [0, total_steps].
        total_steps: optimizer steps; the floor is reached after the last.
        min_ratio: the floor, as a share of the peak, in [0, 1].

    Raises:
        ValueError: an argument is outside its range.
    """
    return _schedule(optimizer, warmup_steps, total_steps, min_ratio, lambda done: 1 - done)


def cosine_schedule(
    optimizer: Optimizer, *, warmup_steps: int, total_steps: int, min_ratio: float = 0.0
) -> LambdaLR:
    """Up to the learning rate over the warm-up, then down half a cosine.

    The arguments are those of `linear_schedule`.

    Reference: Loshchilov and Hutter, "SGDR", arXiv:1608.03983, equation 5,
    without restarts.
    """
    return _schedule(
        optimizer,
        warmup_steps,
        total_steps,
        min_ratio,
        lambda done: 0.5 * (1 + math.cos(math.pi * done)),
    )


def _schedule(
    optimizer: Optimizer,
    warmup_steps: int,
    total_steps: int,
    min_ratio: float,
    decay: Callable[[float], float],
) -> LambdaLR:
    check_count("total_steps", total_steps)
    check_count("warmup_steps", warmup_steps, minimum=0)
    if warmup_steps > total_steps:
        raise ValueError(f"warmup_steps={warmup_steps} is more than total_steps={total_steps}")
    check_number("min_ratio", min_ratio, low=0, high=1, inclusive=True)

    def ratio(step: int) -> float:
        if step < warmup_steps:
            # the first step already moves: a learning rate of zero would waste it
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return min_ratio + (1 - min_ratio) * decay(done)

    return LambdaLR(optimizer, ratio)


def move_schedule(schedule: LambdaLR, step: int) -> None:
    """Put a schedule, and its optimizer's learning rates, where `step` steps bring them."""
    rates = [
        rate * ratio(step)
        for rate, ratio in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    schedule.load_state_dict(
        {
            **schedule.state_dict(),
            "last_epoch": step,
            "_step_count": step + 1,
            "_last_lr": rates,
        }
    )
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


SCHEDULES = {"linear": linear_schedule, "cosine": cosine_schedule}
