"""What a model must beat to have learnt anything."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llm.training.dataset import IGNORE_INDEX, ExampleSource
from llm.training.validation import ValidationResult


def unigram_loss(
    train_dataset: ExampleSource, validation_dataset: ExampleSource, *, vocab_size: int
) -> ValidationResult:
    """Predict every validation target by how often it is a target in training.

    Counts are smoothed by one, so that no target is impossible.

    Args:
        train_dataset: what is counted.
        validation_dataset: what is predicted.
        vocab_size: V, above every token id.
    """
    counts = _target_counts(train_dataset, vocab_size) + 1
    targets = _target_counts(validation_dataset, vocab_size)
    nats = -np.log(counts / counts.sum())
    return ValidationResult(total_loss=float(targets @ nats), num_targets=int(targets.sum()))


def _target_counts(dataset: ExampleSource, vocab_size: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(vocab_size, dtype=np.int64)
    for index in range(len(dataset)):
        labels = dataset[index]["labels"][1:].numpy()
        counts += np.bincount(labels[labels != IGNORE_INDEX], minlength=vocab_size)
    return counts
