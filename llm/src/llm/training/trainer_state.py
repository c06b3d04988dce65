"""Where a training run stands, apart from weights and optimizer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm.core.config import build, check_count, check_number
from llm.training.precision import FIRST_LOSS_SCALE


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
        loss_scale: of half precision, ≥ 1.
        steps_at_loss_scale: since it last changed.
        max_tokens: the most of a forward; 0 for no bound.
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
    loss_scale: float = FIRST_LOSS_SCALE
    steps_at_loss_scale: int = 0
    max_tokens: int = 0
    metrics_bytes: int = 0
    random: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = ("step", "tokens", "skipped_steps", "window_targets", "steps_at_loss_scale")
        for name in (*counts, "max_tokens", "metrics_bytes"):
            check_count(name, getattr(self, name), minimum=0)
            check_number(name, getattr(self, name), low=0, high=2**63, inclusive=False)
        check_number("seconds", self.seconds, low=0, high=math.inf, inclusive=False)
        check_number("loss_scale", self.loss_scale, low=1, high=2**64, inclusive=True)
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

    @property
    def good_steps(self) -> int:
        """Those that were not skipped."""
        return self.step - self.skipped_steps

    def add_step(self, loss: float, num_targets: int, *, mean_over: int) -> None:
        """Count the step that was just taken.

        Args:
            loss: in nats a token.
            num_targets: tokens predicted.
            mean_over: `mean_loss` is of all steps at first, then of about so many.
        """
        self.tokens += num_targets
        self.window_loss += loss * num_targets
        self.window_targets += num_targets
        self.mean_loss += (loss - self.mean_loss) / min(self.good_steps, mean_over)

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
