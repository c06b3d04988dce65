"""Text as ids, a part at a time, with its bytes counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from llm.data import Text, TextFile, text_pieces
from llm.evaluation.text_model import TextModel, TokenIds


class EncodedText:
    """Documents, each as arrays of ids, of which the very first is no target.

    It is the model's prefix. Where there is none, it is the document's own first
    token, whose bytes do not count. The documents are read once, and their bytes
    are counted meanwhile.

    Args:
        model: encodes.
        documents: texts, or their parts in order, such as a `TextFile`.

    Raises:
        ValueError: the prefix is no id of the model; while it is read, text that
            is not Unicode.
        TypeError: `documents` is a single string; while it is read, no text.
    """

    def __init__(self, model: TextModel, documents: Iterable[Text]) -> None:
        if isinstance(documents, str):
            raise TypeError("documents is one string; give an iterable of texts, such as [text]")
        self._model, self._documents = model, documents
        self._prefix = model.checked_prefix
        self.num_bytes = 0

    def __iter__(self) -> Iterator[Iterator[TokenIds]]:
        return map(self._encode, self._documents)

    def _encode(self, document: Text) -> Iterator[TokenIds]:
        has_begun = self._prefix is not None
        if has_begun:
            yield np.array([self._prefix])
        for piece in text_pieces(document):
            ids = self._model.encode(piece)
            self.num_bytes += _count_bytes(piece)
            if not has_begun and len(ids):
                self.num_bytes -= self._model.first_token_bytes(piece, int(ids[0]))
                has_begun = True
            yield ids


def as_documents(text: str | Path | Iterable[str | Path]) -> Iterator[Text]:
    """One text, a UTF-8 file, or several of either, as documents.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(text, (str, Path)):
        text = [text]
    if not isinstance(text, Iterable):
        raise TypeError(f"text must be a str, a Path or several, not {type(text).__name__}")
    for index, document in enumerate(text):
        if not isinstance(document, (str, Path)):
            raise TypeError(
                f"document {index} must be a str or a Path, not {type(document).__name__}"
            )
        yield TextFile(document) if isinstance(document, Path) else document


def _count_bytes(piece: str) -> int:
    try:
        return len(piece.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds {error.object[error.start]!r}, half of a character, which "
            "UTF-8 cannot express: its bytes cannot be counted"
        ) from None
