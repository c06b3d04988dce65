"""Metrics as TensorBoard shows them: `tensorboard --logdir checkpoints`."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.training.metric_loggers import flat_line
from llm.training.run_folder import TENSORBOARD_FOLDER


class TensorBoardLogger:
    """Writes event files into the run's `tensorboard/`: numbers as scalars, texts as text.

    Every line is flushed, so that a crash loses none. `SummaryWriter`'s own way to resume,
    `purge_step`, hides steps of older files from readers: it cannot restore what is missing
    there, nor tell the lines of a step from before its checkpoint from those after. So a new
    file takes the place of the old ones, which are emptied. They are not deleted, because a
    TensorBoard that reads one would look for it forever; `purge_step=0` has it forget them.
    """

    def begin(self, run_folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
        """Write these lines, at the times that their speed tells."""
        from torch.utils.tensorboard import SummaryWriter

        folder = run_folder / TENSORBOARD_FOLDER
        for old in folder.glob("events.out.tfevents.*"):
            os.truncate(old, 0)
        self._writer = SummaryWriter(folder, purge_step=0)
        now = time.time()
        for line, seconds in zip(lines, _training_seconds(lines), strict=True):
            self._add(line, now + seconds)
        self._writer.flush()

    def log(self, line: Mapping[str, Any]) -> None:
        """Write a line, at this time."""
        self._add(line, time.time())
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, line: Mapping[str, Any], at: float) -> None:
        numbers, texts = flat_line(line)
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, line["step"], walltime=at)
        for name, text in texts.items():
            # as it is: TensorBoard takes text for Markdown, and this for code
            verbatim = textwrap.indent(text, "    ", lambda _: True)
            self._writer.add_text(name, verbatim, line["step"], walltime=at)


def _training_seconds(lines: Sequence[Mapping[str, Any]]) -> Iterator[float]:
    """When each line was measured: seconds of training before the last, ≤ 0.

    The lines do not say when, but how fast the tokens since the last speed were trained on.
    """
    tokens, seconds, moments = 0, 0.0, []
    for line in lines:
        if speed := line.get("tokens_per_second"):
            seconds += (line["tokens"] - tokens) / speed
            tokens = line["tokens"]
        moments.append(seconds)
    return (moment - seconds for moment in moments)
