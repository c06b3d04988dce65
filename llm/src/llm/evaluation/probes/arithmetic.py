"""A probe of finding a rule behind examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm.core.config import check_count
from llm.evaluation.probes.probe import Probe, answer_example
from llm.training.dataset import Batch


@dataclass(frozen=True, kw_only=True)
class ModularAddition(Probe):
    """a + b = c, where c is the sum modulo p: five tokens, of which c is the answer.

    There are p² examples. A model that learns those it is trained on by heart scores
    nothing on the others, until it finds the rule; strong weight decay helps, and that
    may take many times as long ("grokking").

    Args:
        modulus: p, ≥ 2.

    Reference: Power et al., "Grokking: Generalization Beyond Overfitting on Small
    Algorithmic Datasets", arXiv:2201.02177.
    """

    name = "modular addition"
    modulus: int = 29

    def __post_init__(self) -> None:
        check_count("modulus", self.modulus, minimum=2)

    @property
    def vocab_size(self) -> int:
        """The numbers, then the signs + and =."""
        return self.modulus + 2

    @property
    def max_length(self) -> int:
        """Of every example."""
        return 5

    @property
    def chance(self) -> float:
        """That of guessing among the numbers."""
        return 1 / self.modulus

    def example(self, rng: np.random.Generator) -> Batch:
        """A sum of two numbers."""
        a, b = rng.integers(self.modulus, size=2).tolist()
        plus, equals = self.modulus, self.modulus + 1
        return answer_example([a, plus, b, equals, (a + b) % self.modulus], [4])
