"""Putting the bytes of tokens together."""

from __future__ import annotations

import array
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._arrays import starts_of

# Up to so many ids, joining their bytes one by one takes less time than calls on arrays.
_FEW_IDS = 64
# So many at a time: their arrays stay in the processor's cache.
_IDS_AT_ONCE = 1 << 16
# Tokens are written in pieces of so many bytes, of a type that is nothing but bytes.
_PIECE = 16
_PIECE_TYPE = np.dtype((np.void, _PIECE))


class Decoder:
    """Bytes of ids.

    The first 16 bytes of all tokens are written in one step, in order: what a shorter token has
    written too much, the tokens after it overwrite. The next 16 bytes of the few long tokens are
    written before that, and so on: what they write too much is within 15 bytes after their end,
    and so among the first 16 bytes of other tokens.
    """

    def __init__(self, tokens: Sequence[bytes], skipped: Collection[int]) -> None:
        """Prepare the tables.

        Args:
            tokens: bytes of each id.
            skipped: ids that `skip_special_tokens` leaves out.
        """
        self._tokens = tokens
        lengths = np.array([len(token) for token in tokens], dtype=np.int64)
        # As small as can be: the table and what is taken from it stay in the cache.
        self._lengths = lengths.astype(np.min_scalar_type(lengths.max(initial=0)))
        self._lengths_unless_skipped = self._lengths.copy()
        self._lengths_unless_skipped[list(skipped)] = 0
        num_pieces = -(-lengths // _PIECE)
        padded = [token.ljust(_PIECE * -(-len(token) // _PIECE), b"\0") for token in tokens]
        # One piece more, of which tokens of no bytes may write.
        self._pieces = np.frombuffer(b"".join([*padded, bytes(_PIECE)]), dtype=_PIECE_TYPE)
        self._first_index = starts_of(num_pieces)
        self._first_piece = self._pieces[self._first_index]

    def __call__(self, ids: Any, skip_special_tokens: bool) -> bytes | memoryview:
        """Bytes of ids.

        Raises:
            ValueError: an id is out of range.
            TypeError: `ids` are not integers in one dimension.
        """
        checked = self._check(ids)
        all_lengths = self._lengths_unless_skipped if skip_special_tokens else self._lengths
        if len(checked) <= _FEW_IDS:
            return b"".join([self._tokens[i] for i in checked.tolist() if all_lengths[i]])
        parts = [
            checked[begin : begin + _IDS_AT_ONCE].astype(np.intp, copy=False)
            for begin in range(0, len(checked), _IDS_AT_ONCE)
        ]
        lengths = [all_lengths.take(part) for part in parts]
        num_bytes = sum(int(of_part.sum(dtype=np.int64)) for of_part in lengths)
        written = np.empty(num_bytes + _PIECE, dtype=np.uint8)
        begin = 0
        for part, of_part in zip(parts, lengths, strict=True):
            ends = np.cumsum(of_part, dtype=np.int64)
            ends += begin
            self._write(part, ends - of_part, of_part, written)
            begin = int(ends[-1])
        return written[:num_bytes].data

    def _write(
        self,
        ids: NDArray[np.intp],
        starts: NDArray[np.int64],
        lengths: NDArray[np.unsignedinteger[Any]],
        written: NDArray[np.uint8],
    ) -> None:
        """Write the first `lengths` bytes of tokens, from `starts` on."""
        # The 16 bytes from each byte on.
        places = np.ndarray((len(written) - _PIECE + 1,), _PIECE_TYPE, written, strides=(1,))
        # Which tokens have more than 16 bytes, which of these more than 32, and so on.
        longer = [np.flatnonzero(lengths > _PIECE)]
        while len(longer[-1]):
            longer.append(longer[-1][lengths[longer[-1]] > _PIECE * (len(longer) + 1)])
        for index in range(len(longer) - 1, 0, -1):
            long = longer[index - 1]
            pieces = self._pieces[self._first_index[ids[long]] + index]
            places[starts[long] + _PIECE * index] = pieces
        places[starts] = self._first_piece.take(ids)

    def _check(self, ids: Any) -> NDArray[Any]:
        """Ids as an array."""
        try:
            checked = _as_array(ids)
        except TypeError as error:
            raise TypeError(f"ids have to be integers in one dimension: {error}") from error
        except OverflowError as error:
            raise ValueError(f"an id is not in [0, {len(self._tokens)}): {error}") from error
        if len(checked):
            for token_id in (checked.min(), checked.max()):
                if not 0 <= token_id < len(self._tokens):
                    raise ValueError(
                        f"id {token_id} is not in [0, {len(self._tokens)}), the vocabulary"
                    )
        return checked


def _as_array(ids: Any) -> NDArray[Any]:
    if hasattr(ids, "tolist") and not isinstance(ids, np.ndarray):
        try:
            ids = np.asarray(ids)
        except TypeError:  # a tensor that is not in the processor's memory
            ids = ids.tolist()
    if isinstance(ids, np.ndarray):
        if ids.ndim != 1 or (ids.dtype.kind not in "iub" and len(ids)):
            raise TypeError(f"these are {ids.dtype} in {ids.ndim} dimensions")
        return ids.astype(np.int64) if ids.dtype.kind == "b" or not len(ids) else ids
    if isinstance(ids, (bytes, bytearray)):  # which array would take for the memory of its entries
        ids = list(ids)
    return np.frombuffer(array.array("q", ids), dtype=np.int64)
