"""Which documents are held out: decided by the text of each alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from llm.core.config import check_number, check_seed

Document = TypeVar("Document", bound="str | Iterable[str]")


@dataclass(frozen=True, kw_only=True)
class DocumentSplit:
    """A validation split that cannot leak: equal texts fall on the same side.

    The side is a function of a document's text and the seed, so it stays the
    same when the corpus grows, comes in another order or repeats itself.

    Args:
        validation_fraction: share of the distinct documents to validate on, in [0, 1].
        seed: decides which.
    """

    validation_fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("validation_fraction", self.validation_fraction, low=0, high=1, inclusive=True)
        check_seed(self.seed)

    def is_validation(self, document: str | Iterable[str]) -> bool:
        """The side of a text, or of one in parts, however it is cut."""
        digest = hashlib.blake2b(digest_size=8, key=self.seed.to_bytes(8, "little"))
        for part in [document] if isinstance(document, str) else document:
            digest.update(part.encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest(), "little") < self.validation_fraction * 2**64

    def train(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents to train on, in their order."""
        return (document for document in documents if not self.is_validation(document))

    def validation(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents to validate on, in their order."""
        return (document for document in documents if self.is_validation(document))
