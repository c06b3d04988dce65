"""What a probe is: a task with right answers, a supply of examples and a chance level."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from llm.core.config import check_count, check_seed
from llm.training.dataset import IGNORE_INDEX, Batch

# draws in a row that bring nothing new, after which the task counts as exhausted
MAX_REPEATS = 10_000


@dataclass(frozen=True, kw_only=True)
class Probe(ABC):
    """A synthetic task, whose tokens are numbers from 0 to `vocab_size - 1`.

    An example is a sequence in the format of the trainer, `input_ids` and `labels`,
    each int64 (T,). Labels are the answers and nothing else, so that only these are
    trained and scored: whatever comes before is given.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Token ids that the model needs to have, V."""

    @property
    @abstractmethod
    def max_length(self) -> int:
        """Tokens of the longest example."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Expected accuracy of guessing alike among the answers that an example leaves open."""

    @abstractmethod
    def example(self, rng: np.random.Generator) -> Batch:
        """An example to train on."""

    def held_out_example(self, rng: np.random.Generator) -> Batch:
        """An example to score; of the same kind, unless the probe says otherwise."""
        return self.example(rng)


def answer_example(tokens: Sequence[int], answers: Sequence[int]) -> Batch:
    """An example in which only some of the tokens are answers.

    Args:
        tokens: of the whole sequence, (T,).
        answers: places of the answers, each ≥ 1 and below T.
    """
    input_ids = torch.tensor(tokens, dtype=torch.int64)
    labels = torch.full_like(input_ids, IGNORE_INDEX)
    labels[list(answers)] = input_ids[list(answers)]
    return {"input_ids": input_ids, "labels": labels}


def draw_examples(
    probe: Probe, *, num_train: int, num_held_out: int, seed: int
) -> tuple[list[Batch], list[Batch]]:
    """Examples to train on and others to score, all different from one another.

    The held-out ones are drawn first, so that they do not change with `num_train`.

    Args:
        probe: what they are of.
        num_train: examples to train on, ≥ 1.
        num_held_out: examples to score, ≥ 1.
        seed: decides all of them.

    Raises:
        ValueError: a number is outside its range, or there are not so many
            different examples.
    """
    check_count("num_train", num_train)
    check_count("num_held_out", num_held_out)
    check_seed(seed)
    rng = np.random.default_rng(seed)
    seen: set[bytes] = set()

    def draw(make: Callable[[np.random.Generator], Batch], number: int) -> list[Batch]:
        examples: list[Batch] = []
        repeats = 0
        while len(examples) < number:
            example = make(rng)
            key = example["input_ids"].numpy().tobytes()
            if key not in seen:
                seen.add(key)
                examples.append(example)
                repeats = 0
            elif (repeats := repeats + 1) == MAX_REPEATS:
                raise ValueError(
                    f"num_train={num_train} and num_held_out={num_held_out} are more than the "
                    f"probe {probe.name} has: {MAX_REPEATS} draws brought no example besides "
                    f"{len(seen)}"
                )
        return examples

    held_out = draw(probe.held_out_example, num_held_out)
    return draw(probe.example, num_train), held_out
