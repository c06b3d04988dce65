"""How long a run takes, by a few of its steps."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch

from llm.core.config import check_count
from llm.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class StepTimes:
    """Steps that were measured.

    Args:
        seconds: of each step.
        num_targets: tokens that each predicted.
    """

    seconds: tuple[float, ...]
    num_targets: tuple[int, ...]

    @property
    def tokens_per_second(self) -> float:
        """Predicted, in the step of median time a token."""
        each = zip(self.seconds, self.num_targets, strict=True)
        return 1 / median(seconds / targets for seconds, targets in each)

    def run_seconds(self, steps: int) -> float:
        """Of so many steps, without validation, samples and checkpoints."""
        return steps * median(self.seconds)


def time_steps(trainer: Trainer, num_steps: int = 5) -> StepTimes:
    """Train a few steps, after one that does not count, and take the time of each.

    The first allocates, and compiles if that is asked for. The trainer has made
    these steps then: measure with one of its own, without a run folder.

    Args:
        trainer: whose model is moved.
        num_steps: that count, ≥ 1.

    Raises:
        ValueError: the number is not one, or the trainer has a run folder.
        OutOfMemoryError: a step does not fit.
    """
    check_count("num_steps", num_steps)
    if trainer.run is not None:
        raise ValueError("steps are timed without a run_folder: the trainer has moved after them")
    trainer.model.train()
    trainer.train_step()
    seconds, num_targets = [], []
    for _ in range(num_steps):
        _wait(trainer.device)
        started = time.perf_counter()
        _, _, targets = trainer.train_step()
        _wait(trainer.device)
        seconds.append(time.perf_counter() - started)
        num_targets.append(targets)
    return StepTimes(seconds=tuple(seconds), num_targets=tuple(num_targets))


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
