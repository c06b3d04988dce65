"""What a model must beat to have learnt anything: counts of tokens."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Nats = npt.NDArray[np.float64]


class Pairs(NamedTuple):
    """Targets, int64 (N,), and the token before each, int64 (N,)."""

    before: Counts
    targets: Counts


class Baseline(ABC):
    """Predicts a token from the one before it, by counts.

    Args:
        vocab_size: V, above every id.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def add(self, pairs: Pairs) -> None:
        """Count the targets of training text.

        Raises:
            ValueError: an id is not below V, or there are not as many ids before.
        """
        self._add(self._checked(pairs))

    def nats(self, pairs: Pairs) -> Nats:
        """-log p of each target, (N,).

        Raises:
            ValueError: as `add`.
        """
        return self._nats(self._checked(pairs))

    @abstractmethod
    def _add(self, pairs: Pairs) -> None:
        """Count pairs that are in order."""

    @abstractmethod
    def _nats(self, pairs: Pairs) -> Nats:
        """Score pairs that are in order."""

    def _checked(self, pairs: Pairs) -> Pairs:
        # narrower ids would overflow the bigram's keys
        wide = Pairs(*(np.asarray(ids, dtype=np.int64) for ids in pairs))
        if wide.before.shape != wide.targets.shape:
            raise ValueError(
                f"{len(wide.before)} ids before {len(wide.targets)} targets: one is for each"
            )
        for ids in wide:
            wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
            if wrong.size:
                raise ValueError(f"id {wrong[0]} is outside the vocabulary of {self.vocab_size}")
        return wide


class Uniform(Baseline):
    """p(w) = 1 / V."""

    def _add(self, pairs: Pairs) -> None:
        pass  # nothing is learnt

    def _nats(self, pairs: Pairs) -> Nats:
        return np.full(len(pairs.targets), math.log(self.vocab_size))


class Unigram(Baseline):
    """p(w) = (c(w) + 1) / (N + V): no token is impossible."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.counts: Counts = np.zeros(vocab_size, dtype=np.int64)

    def _add(self, pairs: Pairs) -> None:
        self.counts += np.bincount(pairs.targets, minlength=self.vocab_size)

    def probabilities(self) -> Nats:
        """Probabilities of all tokens, (V,)."""
        counts = self.counts + 1
        return np.asarray(counts / counts.sum())

    def _nats(self, pairs: Pairs) -> Nats:
        return np.asarray(-np.log(self.probabilities()[pairs.targets]))


class _Tables(NamedTuple):
    """What the counts come to, each (V,): p(w), and c(v), the discount and α(v) by the first."""

    unigram: Nats
    total: Nats
    discount: Nats
    alpha: Nats


class Bigram(Baseline):
    """p(w | v) = (c(v, w) - d) / c(v) where v w was seen, else α(v) p(w).

    Absolute discounting, backing off to the unigrams: d = n1 / (n1 + 2 n2) of the
    numbers of pairs seen once and twice (one added to each, which keeps d between
    0 and 1), and α(v) makes the probabilities after v add up to 1. After a v that
    was never seen, p(w).

    Reference: Ney, Essen and Kneser, "On structuring probabilistic dependences in
    stochastic language modelling" (1994); Katz (1987) for backing off.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.unigram = Unigram(vocab_size)
        # pairs that were seen, as v · V + w in ascending order, and how often
        self._seen: Counts = np.empty(0, dtype=np.int64)
        self._counts: Counts = np.empty(0, dtype=np.int64)
        # made when first asked for after the last count
        self._tables: _Tables | None = None

    def _add(self, pairs: Pairs) -> None:
        self.unigram.add(pairs)
        new, counts = np.unique(self._keys(pairs), return_counts=True)
        self._seen, place = np.unique(np.concatenate([self._seen, new]), return_inverse=True)
        both = np.concatenate([self._counts, counts])
        self._counts = np.bincount(place, weights=both).astype(np.int64)
        self._tables = None

    def _nats(self, pairs: Pairs) -> Nats:
        if self._tables is None:
            self._tables = self._count_up()
        unigram, total, discount, alpha = self._tables
        p = alpha[pairs.before] * unigram[pairs.targets]
        keys = self._keys(pairs)
        place = np.searchsorted(self._seen, keys)
        found = np.isin(keys, self._seen)
        before = pairs.before[found]
        p[found] = (self._counts[place[found]] - discount[before]) / total[before]
        return np.asarray(-np.log(p))

    def _count_up(self) -> _Tables:
        unigram = self.unigram.probabilities()
        v, w = np.divmod(self._seen, self.vocab_size)
        total = np.bincount(v, weights=self._counts, minlength=self.vocab_size).astype(np.float64)
        followers = np.bincount(v, minlength=self.vocab_size)
        # where every token has followed, there is none to save probability for
        open_ended = (total > 0) & (followers < self.vocab_size)
        once, twice = (int((self._counts == n).sum()) + 1 for n in (1, 2))
        discount = np.where(open_ended, once / (once + 2 * twice), 0)
        followed = np.bincount(v, weights=unigram[w], minlength=self.vocab_size)
        alpha = np.ones(self.vocab_size)
        np.divide(discount * followers, total * (1 - followed), out=alpha, where=open_ended)
        return _Tables(unigram, total, discount, alpha)

    def _keys(self, pairs: Pairs) -> Counts:
        return pairs.before * self.vocab_size + pairs.targets
