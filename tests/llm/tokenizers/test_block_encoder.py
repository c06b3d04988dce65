"""Encoding blocks, whatever the encoder remembers."""

import itertools
import random
import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest

from llm.tokenizers import _block_encoder, _chunk_table
from llm.tokenizers._batch_merger import BatchMerger
from llm.tokenizers._block_encoder import BlockEncoder
from llm.tokenizers._blocks import Block
from llm.tokenizers._bpe_encode import NO_TOKEN, ByteMerger
from llm.tokenizers._gpt2_split import make_block
from llm.tokenizers._pretokenize import GPT2_PATTERN, Split

# " a", "ab", "aba", " aba", "bb"
MERGES = [(32, 97, 256), (97, 98, 257), (257, 97, 258), (256, 257, 259), (98, 98, 260)]


WHOLE = {
    b"ab": 305,
    b" bba": 303,
    b"ba" * 7: 300,
    b" " + b"ab" * 20: 304,
    b"\xff": 302,
    b"\xff\xff": 301,
}


def block_of(texts, goes_on=False):
    return Block(make_block(text.encode() for text in texts), goes_on)


class Parts:
    """An encoder, what it is made of, and the plain form."""

    def __init__(self, byte_ids=range(256), merges=MERGES, whole=None):
        self.whole = whole or {}
        self.merge_one = ByteMerger(byte_ids, merges, self.whole)
        self.merge_many = BatchMerger(list(byte_ids), merges)
        self.num_merged = 0
        self.error = None
        self.encoder = BlockEncoder(self.watched_merger(), self.merge_many_watched, self.whole)

    def watched_merger(self):
        parts = self

        class Watched(ByteMerger):
            def __call__(self, chunk):
                parts.watch(1)
                return super().__call__(chunk)

        watched = Watched((), (), self.whole)
        watched.__dict__.update(self.merge_one.__dict__)
        return watched

    def merge_many_watched(self, data, lengths):
        self.watch(len(lengths))
        return self.merge_many(data, lengths)

    def watch(self, num_chunks):
        if self.error is not None:
            raise self.error
        self.num_merged += num_chunks

    def encode(self, *blocks, num_threads=1):
        """Ids of each text of each block."""
        encoded = self.encoder.encode(map(block_of, blocks), num_threads)
        ids_of_texts = []
        for texts, (ids, ends, goes_on) in zip(blocks, encoded, strict=True):
            assert not goes_on
            assert ids.dtype == np.int32
            assert len(texts) == len(ends)
            bounds = [0, *ends.tolist()]
            assert bounds[-1] == len(ids)
            ids_of_texts += [ids[begin:end].tolist() for begin, end in pairwise(bounds)]
        return ids_of_texts

    def by_definition(self, texts):
        split = Split(GPT2_PATTERN)
        return [
            [token for chunk in split(text) for token in self.merge_one(chunk.encode())]
            for text in texts
        ]


def random_texts(rng, count):
    words = ["a", "ab", "aba", "abab", "bb", "c" * 7, "d" * 8, "ab" * 16, "ba" * 17, "e" * 500]
    words += ["".join(rng.choices("ab", k=rng.randint(1, 40))) for _ in range(60)]
    return [
        "".join(
            rng.choice(["", " ", "\n", "  "]) + rng.choice(words)
            for _ in range(rng.choice([0, 1, 9, 90]))
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("few", [0, 1, 10**9])
@pytest.mark.parametrize("seed", range(5))
def test_ids_are_those_of_merging_chunk_by_chunk(monkeypatch, few, seed):
    monkeypatch.setattr(_block_encoder, "_FEW_CHUNKS", few)
    parts, rng = Parts(), random.Random(seed)
    for _ in range(6):
        texts = random_texts(rng, rng.choice([0, 1, 2, 20]))
        assert parts.encode(texts) == parts.by_definition(texts)


def test_blocks_together_are_encoded_as_one_by_one():
    rng = random.Random(3)
    blocks = [random_texts(rng, count) for count in (3, 0, 1, 20, 2)]
    parts = Parts()
    assert parts.encode(*blocks) == [ids for texts in blocks for ids in parts.by_definition(texts)]
    assert parts.encode() == []


@pytest.mark.parametrize("at_once", [1, 2, 8])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_ids_of_many_blocks_do_not_depend_on_threads(monkeypatch, num_threads, at_once):
    monkeypatch.setattr(_block_encoder, "_BLOCKS_AT_ONCE", at_once)
    monkeypatch.setattr(_block_encoder, "_BLOCKS_FOR_A_THREAD", 1)
    # forgotten now and then: what was found ahead has numbers of before
    monkeypatch.setattr(_block_encoder, "_MOST_CHUNKS", 150)
    rng = random.Random(at_once)
    blocks = [random_texts(rng, rng.choice([0, 1, 1, 5, 40])) for _ in range(50)]
    blocks[7] = [""] * 3000
    parts = Parts(whole=WHOLE)
    expected = [ids for texts in blocks for ids in parts.by_definition(texts)]
    for _ in range(2):
        assert parts.encode(*blocks, num_threads=num_threads) == expected


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_blocks_are_read_and_dropped_as_they_are_asked_for(num_threads):
    alive, most_at_once = [], max(8, 6 * num_threads)

    num_read = 0

    def blocks():
        nonlocal num_read
        for number in range(10_000):
            num_read += 1
            block = block_of(["ab bb", str(number)])
            alive.append(weakref.ref(block.data))
            yield block

    encoded = Parts().encoder.encode(blocks(), num_threads)
    assert num_read == 0
    for index in range(200):
        next(encoded)
        assert num_read <= index + 2 * most_at_once + 1
        assert sum(data() is not None for data in alive) <= 3 * most_at_once
    encoded.close()


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_no_thread_is_left_when_nobody_wants_the_rest_or_blocks_cannot_be_read(num_threads):
    before = threading.active_count()
    parts = Parts()
    texts = random_texts(random.Random(0), 20)
    encoded = parts.encoder.encode([block_of(texts)] * 100, num_threads)
    next(encoded)
    encoded.close()
    assert threading.active_count() == before

    def blocks():
        yield from [block_of(texts)] * 30
        raise OSError("of the reader")

    with pytest.raises(OSError, match="of the reader"):
        list(parts.encoder.encode(blocks(), num_threads))
    assert threading.active_count() == before
    assert parts.encode(texts, num_threads=num_threads) == parts.by_definition(texts)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("step", ["_find", "_complete", "_learn", "_ids_of"])
def test_an_interrupt_in_any_step_leaves_the_encoder_usable(monkeypatch, step, num_threads):
    before = threading.active_count()
    parts = Parts()
    original, calls = getattr(BlockEncoder, step), itertools.count()

    def interrupted(*args):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    blocks = [random_texts(random.Random(seed), 4) for seed in range(40)]
    monkeypatch.setattr(BlockEncoder, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        parts.encode(*blocks, num_threads=num_threads)
    assert threading.active_count() == before
    expected = [ids for texts in blocks for ids in parts.by_definition(texts)]
    assert parts.encode(*blocks, num_threads=num_threads) == expected


def test_a_chunk_is_merged_once():
    parts = Parts()
    texts = random_texts(random.Random(0), 40)
    first = parts.encode(texts)
    chunks = {chunk for text in texts for chunk in Split(GPT2_PATTERN)(text)}
    assert parts.num_merged == len(chunks)
    assert parts.encode(texts[::-1]) == first[::-1]
    assert parts.num_merged == len(chunks)


@pytest.mark.parametrize(
    ("most_chunks", "most_bytes"), [(0, 10**9), (5, 10**9), (10**9, 0), (10**9, 60)]
)
def test_what_is_remembered_is_bounded_and_ids_stay_the_same(monkeypatch, most_chunks, most_bytes):
    monkeypatch.setattr(_block_encoder, "_MOST_CHUNKS", most_chunks)
    monkeypatch.setattr(_block_encoder, "_MOST_BYTES", most_bytes)
    parts, rng = Parts(whole={b" aba": 3, b"dddddddd": 4, b"e" * 500: 5}), random.Random(1)
    forgotten = 0
    num_whole = len(parts.encoder._chunks)
    for _ in range(40):
        texts = random_texts(rng, 2)
        before = len(parts.encoder._chunks)
        assert parts.encode(texts) == parts.by_definition(texts)
        after = len(parts.encoder._chunks)
        forgotten += after < before or (before == num_whole == after)
        assert after <= most_chunks + num_whole
        assert parts.encoder._chunks.num_bytes <= most_bytes + 1000
    assert forgotten > 2


@pytest.mark.parametrize("num_words", [1, 500])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ValueError("no byte")])
def test_an_error_in_merging_leaves_the_encoder_usable(error, num_words):
    parts = Parts()
    texts = [" ".join("ab" * number for number in range(1, num_words + 1))]
    known = parts.encode(["aba ab"])
    parts.error = error
    with pytest.raises(type(error)):
        parts.encode(texts)
    parts.error = None
    assert parts.encode(texts) == parts.by_definition(texts)
    assert parts.encode(["aba ab"]) == known


def test_an_interrupt_while_ids_are_kept_leaves_the_encoder_usable():
    parts = Parts()

    def interrupt(values):
        raise KeyboardInterrupt

    parts.encoder._num_ids.append = interrupt
    with pytest.raises(KeyboardInterrupt):
        parts.encode(["aba ab"])
    texts = ["ab bb", "aba ab"]
    assert parts.encode(texts) == parts.by_definition(texts)


@pytest.mark.parametrize("num_words", [1, 300])
def test_a_byte_without_a_token_is_an_error_and_other_texts_are_encoded(num_words):
    byte_ids = [NO_TOKEN if byte == ord("z") else byte for byte in range(256)]
    parts = Parts(byte_ids)
    words = ["a" * length for length in range(1, num_words + 1)]
    for _ in range(2):
        with pytest.raises(ValueError, match="no token for the byte 0x7a of ' zab'"):
            parts.encode([" ".join([*words, "zab"])])
        text = " ".join(words)
        assert parts.encode([text, "", "ab"]) == parts.by_definition([text, "", "ab"])


def test_whole_chunks_are_one_token_whatever_the_merges():
    parts = Parts(whole=WHOLE)
    texts = ["ab", "ab bba", "ba" * 7 + " " + "ab" * 20, "abab", "ab" * 20, "", "bba"]
    texts += [" ".join("ab" * number for number in range(100))]
    ids = parts.encode(texts)
    assert ids == parts.by_definition(texts)
    assert ids[:3] == [[305], [305, 303], [300, 304]]


def test_equal_hashes_change_no_id(monkeypatch):
    def same_hash(words, starts, lengths):
        return np.full(len(starts), 1 << 63, dtype=np.uint64)

    monkeypatch.setattr(_chunk_table, "_hash", same_hash)
    rng = random.Random(0)
    whole = {b"d" * 8: 300, b"ba" * 8: 301, b"ab" * 8: 302, b" aaaaaaaaa": 303}
    parts = Parts(whole=whole)
    for _ in range(5):
        texts = [*random_texts(rng, 10), "d" * 8, "ab" * 8, "ba" * 8, " aaaaaaaaa"]
        assert parts.encode(texts) == parts.by_definition(texts)


def test_ids_belong_to_the_caller():
    parts = Parts()
    block = block_of(["aba ab"])
    first, again = (encoded.ids for encoded in parts.encoder.encode([block, block]))
    expected = first.tolist()
    first[:] = -7
    assert again.tolist() == expected
    assert next(parts.encoder.encode([block])).ids.tolist() == expected
