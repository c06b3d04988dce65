"""What came of a run, and where it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from llm.training.checkpoint import checkpoint_folder
from llm.training.run_folder import FINAL_FOLDER, LOG_FOLDERS, METRICS_FILE, RunFolder
from llm.training.trainer_state import TrainerState


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What came of a run, all its resumptions together, and where it is; text as a string.

    Args:
        steps: optimizer steps done.
        tokens: predicted.
        seconds: spent in `Trainer.train`, but for what was lost in crashes.
        skipped_steps: of those done, how many changed nothing.
        best_loss: lowest validation loss that the metrics have, in nats a token; None
            without one.
        best_loss_step: the step that it was measured after.
        run_folder: where all is; None if nothing was written.
        final_model: the trained model; None before the last step.
        best_checkpoint: of those that were validated, the best; None without one.
        metrics: what was measured.
        logs: the folders of TensorBoard and trackio that there are.
    """

    steps: int
    tokens: int
    seconds: float
    skipped_steps: int
    best_loss: float | None
    best_loss_step: int | None
    run_folder: Path | None
    final_model: Path | None
    best_checkpoint: Path | None
    metrics: Path | None
    logs: tuple[Path, ...]

    @classmethod
    def of(cls, state: TrainerState, run: RunFolder | None, *, is_finished: bool) -> RunSummary:
        """The summary of a run that stands there, as far as this machine has its folder."""
        best_loss, best_loss_step = math.inf, None
        for line in [] if run is None else run.metrics():
            if line.get("validation_loss", math.inf) < best_loss:
                best_loss, best_loss_step = line["validation_loss"], line["step"]

        def found(path: Path) -> Path | None:
            return path if path.exists() else None

        folder = None if run is None else run.path
        best = state.best_step
        return cls(
            steps=state.step,
            tokens=state.tokens,
            seconds=state.seconds,
            skipped_steps=state.skipped_steps,
            best_loss=None if best_loss_step is None else best_loss,
            best_loss_step=best_loss_step,
            run_folder=folder,
            final_model=found(folder / FINAL_FOLDER) if folder and is_finished else None,
            best_checkpoint=(
                found(checkpoint_folder(folder, best)) if folder and best is not None else None
            ),
            metrics=found(folder / METRICS_FILE) if folder else None,
            logs=tuple(filter(Path.exists, map(folder.joinpath, LOG_FOLDERS))) if folder else (),
        )

    @property
    def tokens_per_second(self) -> float:
        """Of the whole time: validation, samples and checkpoints included."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        lines = [
            f"Trained {self.steps:,} steps, {self.tokens:,} tokens, in {self.seconds:,.0f} s: "
            f"{self.tokens_per_second:,.0f} tokens/s"
        ]
        if self.skipped_steps:
            lines.append(f"Skipped steps: {self.skipped_steps:,}")
        if self.best_loss is not None:
            lines.append(
                f"Best validation loss: {self.best_loss:.3f} nats/token, after step "
                f"{self.best_loss_step:,}"
            )
        if self.run_folder is not None:
            lines.append(f"The run is in {self.run_folder}:")
            places = {
                "the trained model": self.final_model,
                "the best checkpoint": self.best_checkpoint,
                "what was measured": self.metrics,
                **{f"the same, for {log.name}": log for log in self.logs},
            }
            lines += [
                f"  {path.name + '/' * path.is_dir():16}{what}"
                for what, path in places.items()
                if path is not None
            ]
        return "\n".join(lines)
