"""What a run's metrics say of its course."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# tokens trained on, seconds of training, nats per token
CurvePoint = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Losses of a run, in order.

    Args:
        training: means over the steps since the point before.
        validation: of all the validation text.
    """

    training: tuple[CurvePoint, ...]
    validation: tuple[CurvePoint, ...]


def read_curve(metrics: Iterable[Mapping[str, Any]]) -> Curve:
    """The curve of the lines of a `metrics.jsonl`.

    A line has no clock: its time is the sum of tokens / tokens_per_second of those before
    it, which counts the training steps and neither validation nor a pause.
    """
    tokens, seconds = 0.0, 0.0
    training: list[CurvePoint] = []
    validation: list[CurvePoint] = []
    for line in metrics:
        if speed := line.get("tokens_per_second"):
            seconds += (line["tokens"] - tokens) / speed
            tokens = line["tokens"]
        for key, points in (("loss", training), ("validation_loss", validation)):
            if line.get(key) is not None:
                points.append((line["tokens"], seconds, line[key]))
    return Curve(training=tuple(training), validation=tuple(validation))
