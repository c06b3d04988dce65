"""Probes of repeating the context, of lengths that were trained on and of others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm.core.config import check_count
from llm.evaluation.probes.probe import Probe, answer_example
from llm.training.dataset import Batch


@dataclass(frozen=True, kw_only=True)
class Copying(Probe):
    """x1 … xn, a separator, and x1 … xn again, all of which is the answer.

    The symbols are drawn each by itself, and n is any from `min_length` to `length`. A
    model whose state is of fixed size can copy no more than fits into it.

    Args:
        min_length: the smallest n, ≥ 1. There are few short strings, and one that is
            held out is not trained on.
        length: the largest n.
        num_symbols: tokens there are besides the separator, ≥ 2.

    Reference: Jelassi et al., "Repeat After Me: Transformers are Better than State
    Space Models at Copying", arXiv:2402.01032.
    """

    name = "copying"
    min_length: int = 4
    length: int = 8
    num_symbols: int = 16

    def __post_init__(self) -> None:
        check_count("min_length", self.min_length)
        check_count("length", self.length, minimum=self.min_length)
        check_count("num_symbols", self.num_symbols, minimum=2)

    @property
    def vocab_size(self) -> int:
        """The symbols, and the separator after them."""
        return self.num_symbols + 1

    @property
    def max_length(self) -> int:
        """Of the longest string."""
        return 2 * self.length + 1

    @property
    def chance(self) -> float:
        """That of guessing among the symbols."""
        return 1 / self.num_symbols

    def example(self, rng: np.random.Generator) -> Batch:
        """A string of some length, twice."""
        return self._example(rng, self.min_length, self.length)

    def _example(self, rng: np.random.Generator, shortest: int, longest: int) -> Batch:
        length = int(rng.integers(shortest, longest + 1))
        string = rng.integers(self.num_symbols, size=length).tolist()
        return answer_example(
            [*string, self.num_symbols, *string], range(length + 1, 2 * length + 1)
        )


@dataclass(frozen=True, kw_only=True)
class LengthExtrapolation(Copying):
    """Copying, trained with strings of up to `length` tokens and scored with longer ones.

    Positions that are learnt one by one are not learnt at all beyond the training
    length, so that GPT and GPT-2 are expected to fail, however well they copy.

    Args:
        min_length: the shortest string in training, ≥ 1.
        length: the longest string in training.
        held_out_length: the longest string that is scored, > `length`; the shortest
            is one token longer than any in training.
        num_symbols: tokens there are besides the separator, ≥ 2.

    Reference: Press et al., "Train Short, Test Long: Attention with Linear Biases
    Enables Input Length Extrapolation", arXiv:2108.12409.
    """

    name = "length extrapolation"
    held_out_length: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("held_out_length", self.held_out_length, minimum=self.length + 1)

    @property
    def max_length(self) -> int:
        """Of the longest string that is scored."""
        return 2 * self.held_out_length + 1

    def held_out_example(self, rng: np.random.Generator) -> Batch:
        """A string longer than those in training, twice."""
        return self._example(rng, self.length + 1, self.held_out_length)
