"""Encoding ordinary text: cutting it into chunks, and these into tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from llm.tokenizers._batch_merger import BatchMerger
from llm.tokenizers._block_encoder import BlockEncoder, EncodedBlock
from llm.tokenizers._blocks import blocks_of
from llm.tokenizers._bpe_encode import ByteMerger
from llm.tokenizers._pretokenize import PreTokenizer, gpt2_in_bmp
from llm.tokenizers._threads import Pool

# Shorter texts take less time chunk by chunk than in a block.
_SHORT_TEXT = 4000
# Encoders that are kept when nobody encodes: each may remember up to some 100 MB of chunks.
_MOST_IDLE = 4
# Chunks are words, mostly: a few tens of thousands of them are nearly all of a text.
_MOST_CHUNKS = 1 << 17
_LONGEST_KEPT_CHUNK = 64  # characters
_MOST_KEPT_IDS = 16


class TextEncoder:
    """Ids of text that holds no special token.

    GPT-2's pattern is applied to blocks of text; another pattern, or to a short text, chunk by
    chunk through a regular expression and a dictionary. Threads may share an encoder.
    """

    def __init__(
        self,
        pre_tokenize: PreTokenizer,
        byte_ids: Sequence[int],
        merges: Sequence[tuple[int, int, int]],
        whole: Mapping[bytes, int],
        num_ids: int,
    ) -> None:
        """Prepare the tables.

        Args:
            pre_tokenize: cuts a text into chunks.
            byte_ids: id of each of the 256 bytes, `NO_TOKEN` where there is none.
            merges: (left id, right id, merged id) in order of rank.
            whole: chunks that are one token whatever the merges say.
            num_ids: size of the vocabulary.
        """
        self.is_gpt2 = pre_tokenize.is_gpt2
        self._cut = pre_tokenize
        self._cut_ascii = gpt2_in_bmp().findall if self.is_gpt2 else pre_tokenize
        self._merge = ByteMerger(byte_ids, merges, whole)
        self._byte_ids, self._merges, self._whole = byte_ids, merges, whole
        # Lists share these integers, in place of one of 28 bytes for every token of a text.
        self._ints = np.arange(num_ids).astype(object)
        self._ids_of_chunk: dict[str, tuple[int, ...]] = {}
        self._idle = Pool(self._make_block_encoder, _MOST_IDLE)

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises:
            ValueError: the vocabulary lacks a byte of the text.
            UnicodeEncodeError: the text holds a surrogate, and is cut chunk by chunk.
        """
        if len(text) < _SHORT_TEXT or not self.is_gpt2:
            return self._encode_chunks(text)
        ids: list[int] = []
        for encoded in self._encode_blocks([text]):
            ids += self._ints.take(encoded.ids).tolist()
        return ids

    def encode_numpy(self, text: str) -> NDArray[np.int32]:
        """As `encode`, the ids in an array."""
        if len(text) < _SHORT_TEXT or not self.is_gpt2:
            return np.array(self.encode(text), dtype=np.int32)
        return np.concatenate([encoded.ids for encoded in self._encode_blocks([text])])

    def encode_batch(self, texts: Iterable[str], num_threads: int) -> list[list[int]]:
        """As `encode`, of many texts; the pattern has to be GPT-2's, surrogates do not matter."""
        batch: list[list[int]] = []
        goes_on = False
        for encoded in self._encode_blocks(texts, num_threads):
            ids = self._ints.take(encoded.ids)
            bounds = pairwise([0, *encoded.ends.tolist()])
            pieces: list[list[int]] = [ids[begin:end].tolist() for begin, end in bounds]
            if goes_on:
                batch[-1] += pieces.pop(0)
            batch += pieces
            goes_on = encoded.goes_on
        return batch

    def _encode_chunks(self, text: str) -> list[int]:
        # The plainest loop over the plainest dictionary: Python has instructions of its own for
        # a key of a dict (not of a subclass) and for a try that nothing is raised in.
        known = self._ids_of_chunk
        ids: list[int] = []
        for chunk in self._cut_ascii(text) if text.isascii() else self._cut(text):
            try:
                ids += known[chunk]
                continue
            except KeyError:
                pass  # an error of the merge shall not be one "during handling" of this one
            ids += self._encode_new(chunk)
        return ids

    def _encode_new(self, chunk: str) -> list[int]:
        """Merge a chunk, and keep its ids."""
        ids = self._merge(chunk.encode())
        if len(chunk) <= _LONGEST_KEPT_CHUNK and len(ids) <= _MOST_KEPT_IDS:
            if len(self._ids_of_chunk) >= _MOST_CHUNKS:
                self._ids_of_chunk.clear()
            self._ids_of_chunk[chunk] = tuple(ids)
        return ids

    def _encode_blocks(self, texts: Iterable[str], num_threads: int = 1) -> Iterator[EncodedBlock]:
        with self._idle.borrow() as encoder:
            yield from encoder.encode(blocks_of(texts), num_threads)

    @cached_property
    def _merge_many(self) -> BatchMerger:
        # Only blocks need its tables, which take time to make.
        return BatchMerger(self._byte_ids, self._merges)

    def _make_block_encoder(self) -> BlockEncoder:
        return BlockEncoder(self._merge, self._merge_many, self._whole)
