"""Where a training run stands, apart from weights and optimizer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm.core.config import build, check_count, check_number


@dataclass(kw_only=True)
class TrainerState:
    """What a checkpoint keeps in `trainer_state.json`.

    Args:
        step: optimizer steps done; it decides which examples come next, and the
            learning rate.
        tokens: that were predicted.
        seconds: spent in `Trainer.train`.
        skipped_steps: of those done, how many were left out for a number that is
            not finite.
        best_loss: lowest validation loss of a checkpoint; infinite before one.
        best_step: the step of that checkpoint.
        window_loss: sum of the losses since the last line of metrics, in nats.
        window_targets: tokens predicted since then.
        mean_loss: of the steps before, the newer ones weighing more.
        metrics_bytes: length of the metrics file.
        random: states of the random generators, by device.

    Raises:
        ValueError: a field is of the wrong type or outside its range.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped_steps: int = 0
    best_loss: float = math.inf
    best_step: int | None = None
    window_loss: float = 0.0
    window_targets: int = 0
    mean_loss: float = 0.0
    metrics_bytes: int = 0
    random: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("step", "tokens", "skipped_steps", "window_targets", "metrics_bytes"):
            check_count(name, getattr(self, name), minimum=0)
            check_number(name, getattr(self, name), low=0, high=2**63, inclusive=False)
        check_number("seconds", self.seconds, low=0, high=math.inf, inclusive=False)
        # of a gain as well: rounding may bring a loss of nothing below zero
        for name in ("window_loss", "mean_loss"):
            check_number(name, getattr(self, name), low=-1e300, high=math.inf, inclusive=False)
        if self.best_step is not None:
            check_count("best_step", self.best_step, minimum=0)
            check_number("best_loss", self.best_loss, low=-1e300, high=math.inf, inclusive=False)
        if not isinstance(self.random, dict) or not all(
            isinstance(text, str) for text in self.random.values()
        ):
            raise ValueError("random has to map devices to text")

    def add_to_mean_loss(self, loss: float, *, over: int) -> None:
        """Count the loss of one more step: the mean of all, then about that of the last `over`."""
        num_steps = self.step - self.skipped_steps
        self.mean_loss += (loss - self.mean_loss) / min(num_steps, over)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON, which knows no infinity."""
        fields = dataclasses.asdict(self)
        return {**fields, "best_loss": None if self.best_step is None else self.best_loss}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TrainerState:
        """The state that `to_json` wrote.

        Raises:
            ValueError: a field is missing, unknown, or as above.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        missing = [name for name in names if name not in content]
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
        best_loss = math.inf if content["best_step"] is None else content["best_loss"]
        return build(cls, {**content, "best_loss": best_loss})
