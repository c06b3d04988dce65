"""Probes of finding something in the context by what stands before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm.core.config import check_count
from llm.evaluation.probes.probe import Probe, answer_example
from llm.training.dataset import Batch


@dataclass(frozen=True, kw_only=True)
class AssociativeRecall(Probe):
    """k1 v1 k2 v2 … kn vn, then queries: a key, and its value as the answer.

    Keys and values are of two halves of the vocabulary, and in an example all keys
    differ, and all values. Queries are drawn from the keys, each by itself.
    Attention can find a key directly; what has a state of fixed size must remember
    all pairs.

    Args:
        num_pairs: n, pairs in the context, ≥ 2.
        num_queries: answers an example.
        num_symbols: keys there are, and values, each ≥ `num_pairs`.

    Reference: Arora et al., "Zoology: Measuring and Improving Recall in Efficient
    Language Models", arXiv:2312.04927 (multi-query associative recall).
    """

    name = "associative recall"
    num_pairs: int = 4
    num_queries: int = 16
    num_symbols: int = 16

    def __post_init__(self) -> None:
        check_count("num_pairs", self.num_pairs, minimum=2)
        check_count("num_queries", self.num_queries)
        check_count("num_symbols", self.num_symbols, minimum=self.num_pairs)

    @property
    def vocab_size(self) -> int:
        """Keys from 0, values from `num_symbols`."""
        return 2 * self.num_symbols

    @property
    def max_length(self) -> int:
        """Of every example."""
        return 2 * (self.num_pairs + self.num_queries)

    @property
    def chance(self) -> float:
        """That of guessing among the values of the context."""
        return 1 / self.num_pairs

    def example(self, rng: np.random.Generator) -> Batch:
        """Pairs, and queries about them."""
        keys = rng.permutation(self.num_symbols)[: self.num_pairs]
        values = self.num_symbols + rng.permutation(self.num_symbols)[: self.num_pairs]
        queries = rng.integers(self.num_pairs, size=self.num_queries)
        order = np.concatenate([np.arange(self.num_pairs), queries])
        tokens = np.stack([keys[order], values[order]], axis=1).ravel()
        return answer_example(tokens.tolist(), range(2 * self.num_pairs + 1, len(tokens), 2))


@dataclass(frozen=True, kw_only=True)
class Induction(Probe):
    """… A B … A -> B: a token of the context comes again, and so does the one after it.

    The context is `length` different tokens; then come queries, each a token of the
    context but the last, drawn by itself, and its successor there as the answer. There
    are no pairs as in associative recall: any token follows one and precedes another,
    so that an answer needs both a look-up and a step to the right. Of a transformer
    that takes two layers.

    Args:
        length: tokens of the context, ≥ 3.
        num_queries: answers an example.
        num_symbols: tokens there are, ≥ `length`.

    Reference: Olsson et al., "In-context Learning and Induction Heads",
    arXiv:2209.11895.
    """

    name = "induction"
    length: int = 8
    num_queries: int = 12
    num_symbols: int = 16

    def __post_init__(self) -> None:
        check_count("length", self.length, minimum=3)
        check_count("num_queries", self.num_queries)
        check_count("num_symbols", self.num_symbols, minimum=self.length)

    @property
    def vocab_size(self) -> int:
        """The symbols."""
        return self.num_symbols

    @property
    def max_length(self) -> int:
        """Of every example."""
        return self.length + 2 * self.num_queries

    @property
    def chance(self) -> float:
        """That of guessing among the tokens of the context that follow one."""
        return 1 / (self.length - 1)

    def example(self, rng: np.random.Generator) -> Batch:
        """A context, and queries about it."""
        context = rng.permutation(self.num_symbols)[: self.length]
        queries = rng.integers(self.length - 1, size=self.num_queries)
        asked = np.stack([context[queries], context[queries + 1]], axis=1).ravel()
        tokens = np.concatenate([context, asked])
        return answer_example(tokens.tolist(), range(self.length + 1, len(tokens), 2))
