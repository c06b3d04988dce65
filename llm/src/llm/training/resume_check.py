"""A proof that a run of yours, stopped and resumed, is the run that was never stopped."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llm.core.config import check_count
from llm.training.random_state import random_state
from llm.training.run_folder import METRICS_FILE
from llm.training.trainer import Trainer

# What depends on the clock.
_TIMED_METRICS = ("tokens_per_second", "mfu")
_TIMED_STATE = ("seconds", "metrics_bytes")
# What depends on which checkpoints there are: more, where a run was stopped.
_SAVED_STATE = ("random", "best_loss", "best_step")


class ResumeMismatchError(AssertionError):
    """A resumed run came out different; the message says after which step, and what differs."""


def verify_resume(make_trainer: Callable[[Path], Trainer], *, steps: int = 3) -> None:
    """Train some steps both ways, stopping after each of them, and compare every bit.

    Args:
        make_trainer: makes a new trainer, with a new model, on the run folder
            that it is given. It is called twice for each step.
        steps: how many to train, from the second to all of the trainer's.

    Raises:
        ResumeMismatchError: weights, optimizer, random state or metrics differ.
        ValueError: `steps` is outside its range, or a trainer has another folder.
    """
    check_count("steps", steps, minimum=2)
    with tempfile.TemporaryDirectory() as folder:

        def make(name: str) -> Trainer:
            path = Path(folder) / name
            trainer = make_trainer(path)
            if trainer.run is None or trainer.run.path != path:
                raise ValueError("make_trainer has to use the run folder that it is given")
            if steps > trainer.config.steps:
                raise ValueError(f"steps={steps} is more than the trainer's {trainer.config.steps}")
            return trainer

        whole = make("whole")
        whole.train(until=steps)
        expected = _outcome(whole)
        for stop in range(1, steps):
            make(f"stopped-{stop}").train(until=stop)
            resumed = make(f"stopped-{stop}")
            resumed.resume()
            resumed.train(until=steps)
            outcome = _outcome(resumed)
            different = [name for name in expected if not _same(outcome[name], expected[name])]
            if different:
                raise ResumeMismatchError(
                    f"stopped after step {stop} and resumed, step {steps} has another "
                    f"{', '.join(different)}"
                )


def _outcome(trainer: Trainer) -> dict[str, Any]:
    assert trainer.run is not None
    lines = (trainer.run.path / METRICS_FILE).read_text(encoding="utf-8").splitlines()
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "state of the trainer": _without(
            dataclasses.asdict(trainer.state), _TIMED_STATE + _SAVED_STATE
        ),
        "state of a random generator": random_state(trainer.device, trainer.ranks),
        "average of the weights": None if trainer.average is None else trainer.average.weights,
        "metrics": [_without(json.loads(line), _TIMED_METRICS) for line in lines],
    }


def _without(content: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


def _same(left: Any, right: Any) -> bool:
    """Whether two structures of tensors and values are equal to the bit."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
