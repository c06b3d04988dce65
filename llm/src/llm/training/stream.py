"""Examples by position over endless epochs: what a step sees is a function of its number."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping

from llm.core.config import check_number, check_seed
from llm.data.order import BijectiveOrder, Permutation
from llm.training.dataset import Batch, ExampleSource

# weights are whole shares of this
WHOLE = 2**32
# positions that are shuffled among themselves, so that the corpora do not alternate in step
# with the ranks
WINDOW = 256


class ExampleStream(ABC):
    """Endless examples, each a function of its position alone."""

    @abstractmethod
    def __getitem__(self, position: int) -> Batch:
        """The example at a position ≥ 0."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Equal for streams of equal examples; SHA-256 where the sources have one."""


class ShuffledStream(ExampleStream):
    """A dataset, epoch after epoch, in another order each.

    Args:
        source: at least one example.
        seed: decides the orders.
    """

    def __init__(self, source: ExampleSource, seed: int) -> None:
        self.source = source
        self.order = BijectiveOrder(len(source), seed)

    def __getitem__(self, position: int) -> Batch:
        return self.source[self.order[position]]

    def fingerprint(self) -> str:
        """Of the source, where it has one, and the seed."""
        source = self.source
        of_source = source.fingerprint() if hasattr(source, "fingerprint") else len(source)
        return hashlib.sha256(f"{of_source} {self.order.seed}".encode()).hexdigest()


class Mixture(ExampleStream):
    """Several corpora by weights; each goes through its own epochs.

    Of the first n examples, a corpus has its share to within the number of
    corpora, if n is a multiple of 256.

    Args:
        corpora: by name, a stream and its weight, > 0; weights are relative.
        seed: decides which position takes from which.

    Raises:
        ValueError: there is no corpus, or a weight is outside its range; names it.
    """

    def __init__(self, corpora: Mapping[str, tuple[ExampleStream, float]], seed: int) -> None:
        if not corpora:
            raise ValueError("a mixture needs at least one corpus")
        check_seed(seed)
        for name, (_, weight) in corpora.items():
            check_number(f"weight of {name}", weight, low=0, high=float("inf"), inclusive=False)
            if weight == 0:
                raise ValueError(f"the weight of {name} is 0: leave it out instead")
        self.seed = seed
        self.streams = {name: stream for name, (stream, _) in corpora.items()}
        rest = sum(weight for _, weight in corpora.values())
        # of what the corpora before leave
        self._shares: dict[str, int] = {}
        for name, (_, weight) in corpora.items():
            self._shares[name] = min(WHOLE, round(weight / rest * WHOLE)) if rest > 0 else WHOLE
            rest -= weight
        self._shares[name] = WHOLE  # the last takes all that is left

    def __getitem__(self, position: int) -> Batch:
        name, place = self.place(position)
        return self.streams[name][place]

    def fingerprint(self) -> str:
        """Of the corpora, their shares and the seed."""
        parts = [
            f"{name} {self._shares[name]} {stream.fingerprint()}"
            for name, stream in self.streams.items()
        ]
        return hashlib.sha256("\n".join([str(self.seed), *parts]).encode()).hexdigest()

    def place(self, position: int) -> tuple[str, int]:
        """The corpus that a position takes from, and the position in that corpus."""
        window, inside = divmod(position, WINDOW)
        place = window * WINDOW + Permutation(WINDOW, (self.seed, window))(inside)
        for name, share in self._shares.items():
            # of the first n places, floor(n · share) are this corpus's
            taken = place * share // WHOLE
            if (place + 1) * share // WHOLE > taken:
                return name, taken
            place -= taken
        raise AssertionError("the last corpus takes all that is left")
