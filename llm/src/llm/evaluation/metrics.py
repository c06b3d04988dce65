"""Units that compare, and how certain a mean is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def bits_per_byte(total_loss: float, num_bytes: int) -> float:
    """Bits that the model needs for a byte of UTF-8 text.

    Unlike nats a token, it compares across tokenizers.

    Args:
        total_loss: nats over the whole text.
        num_bytes: of the text that was predicted, ≥ 1.

    Raises:
        ValueError: there are no bytes.
    """
    if num_bytes < 1:
        raise ValueError(f"num_bytes={num_bytes}: no text was predicted")
    return total_loss / math.log(2) / num_bytes


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of n values: s / √n, with s² of n - 1 degrees of freedom.

    None where one value does not show how they spread.
    """
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values))
