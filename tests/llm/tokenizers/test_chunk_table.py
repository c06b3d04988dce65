"""Numbering chunks equals numbering them with a dictionary."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.tokenizers import _chunk_table
from llm.tokenizers._chunk_table import ChunkTable


def number(table, chunks):
    data = b"".join([*chunks, bytes(32)])
    bounds = np.cumsum([0, *map(len, chunks)])
    return table.number(np.frombuffer(data, dtype=np.uint8), bounds[:-1], np.diff(bounds)).tolist()


def kept(table, first=0):
    data, lengths = table.chunks(first)
    ends = np.cumsum([0, *lengths]).tolist()
    assert len(data) == ends[-1]
    return [data[start:end].tobytes() for start, end in pairwise(ends)]


def assert_numbers_are_a_dictionary_s(blocks):
    """Equal chunks have equal numbers, others others; the table keeps the bytes."""
    table, known = ChunkTable(), {}
    for chunks in blocks:
        numbers = number(table, chunks)
        for chunk, its_number in zip(chunks, numbers, strict=True):
            assert known.setdefault(chunk, its_number) == its_number
        assert sorted(known.values()) == list(range(len(known))) == list(range(len(table)))
        assert kept(table) == sorted(known, key=known.get)
        assert table.num_bytes == sum(map(len, known))
    return table


LENGTHS = [1, 2, 6, 7, 8, 9, 15, 16, 17, 23, 24, 25, 30, 31, 32, 33, 40, 64, 65, 300]


@pytest.mark.parametrize("letters", [b"\0", b"a", b"\0a", b"\0\xff", b"ab", bytes(range(256))])
def test_chunks_of_all_lengths_are_numbered_as_by_a_dictionary(letters):
    rng = random.Random(0)
    blocks = [
        [
            bytes(rng.choices(letters, k=rng.choice(LENGTHS)))
            for _ in range(rng.choice([1, 40, 400]))
        ]
        for _ in range(12)
    ]
    assert_numbers_are_a_dictionary_s(blocks)


def test_chunks_that_differ_in_one_byte_or_in_length_only_have_numbers_of_their_own():
    chunks = [bytes(length) for length in range(1, 70)]
    for length in range(1, 70):
        for letter in (b"a", b"\x80", b"\x01", b"\x08", b"\x0f"):
            chunks += [bytes(at) + letter + bytes(length - at - 1) for at in range(length)]
    random.Random(0).shuffle(chunks)
    table = assert_numbers_are_a_dictionary_s([chunks[:1000], chunks, chunks[::-1]])
    assert len(table) == len(set(chunks))


@given(
    blocks=st.lists(
        st.lists(
            st.one_of(
                st.binary(min_size=1, max_size=40),
                st.integers(1, 40).map(lambda length: b"abcdefgh" * 5 + b"x" * length),
                st.integers(1, 40).map(lambda length: (b"abcdefgh" * 5)[:length]),
            )
        ),
        max_size=4,
    )
)
def test_any_chunks_are_numbered_as_by_a_dictionary(blocks):
    assert_numbers_are_a_dictionary_s(blocks)


def test_what_follows_a_chunk_is_no_part_of_it():
    table = ChunkTable()
    for length in LENGTHS:
        chunk = bytes(range(65, 65 + 26)) * 12
        first = number(table, [chunk[:length]])
        assert number(table, [chunk[:length], b"zzzzzzzzz"])[0] == first[0]
        assert number(table, [b"q", chunk[:length], chunk])[1] == first[0]


def test_numbers_may_be_asked_from_any_on():
    table = ChunkTable()
    chunks = [b"a", b"bc", b"d" * 8, b"e" * 31, b"f" * 50]
    for chunk in chunks:
        number(table, [chunk])
    for first in range(len(chunks) + 1):
        assert kept(table, first) == chunks[first:]


def test_a_block_of_no_chunk_changes_nothing():
    table = ChunkTable()
    assert number(table, []) == []
    assert (len(table), table.num_bytes, kept(table)) == (0, 0, [])


def assert_no_chunk_is_taken_for_another(table, blocks):
    for chunks in blocks:
        numbers = number(table, chunks)
        all_kept = kept(table)
        assert [all_kept[its_number] for its_number in numbers] == chunks


def test_chunks_of_one_hash_are_never_taken_for_each_other(monkeypatch):
    def same_hash(words, starts, lengths):
        return np.full(len(starts), 1 << 63, dtype=np.uint64)

    monkeypatch.setattr(_chunk_table, "_hash", same_hash)
    rng = random.Random(0)
    chunks = [bytes(rng.choices(b"ab\0", k=length)) for length in LENGTHS for _ in range(20)]
    chunks += [chunk + bytes(1) for chunk in chunks] + [b"x" * length for length in range(1, 70)]
    blocks = [rng.choices(chunks, k=200) for _ in range(6)]
    assert_no_chunk_is_taken_for_another(ChunkTable(), blocks)
    # those that differ in one byte only, wherever it is, are compared to the last
    for at in range(31):
        one, other = b"x" * 31, b"x" * at + b"y" + b"x" * (30 - at)
        assert_no_chunk_is_taken_for_another(ChunkTable(), [[one, other], [other, one]])
    # those that are no hash, and the first that has it, keep their numbers all the same
    table = ChunkTable()
    small = [b"a" * 8, *(chunk for chunk in chunks if not 8 <= len(chunk) <= 31)]
    assert number(table, small) == number(table, small)
    assert len(table) == len(set(small))


def test_hashes_of_a_few_bits_do_no_harm(monkeypatch):
    exact = _chunk_table._hash
    monkeypatch.setattr(
        _chunk_table,
        "_hash",
        lambda *args: exact(*args) & np.uint64(7) | np.uint64(1 << 63),
    )
    rng = random.Random(0)
    chunks = [bytes(rng.choices(b"ab", k=rng.choice(LENGTHS))) for _ in range(300)]
    assert_no_chunk_is_taken_for_another(
        ChunkTable(), [rng.choices(chunks, k=100) for _ in range(20)]
    )


def hashes_of(chunks):
    block = np.frombuffer(b"".join([*chunks, bytes(32)]), dtype=np.uint8)
    lengths = np.array(list(map(len, chunks)))
    return _chunk_table._hash(_chunk_table.words_at(block), np.cumsum(lengths) - lengths, lengths)


@pytest.mark.parametrize(
    "chunks",
    [
        (b"abcdefghijklmnop", b"abcdefgHijkLmnoP"),
        (b"!!!!!!!!!!", b" !!!!!!!!!\0"),
        (b"abcdefghijklmnop", b"abcdefghijklmno\xf0"),
        (b"abcdefghijklmnop" + b"qrstuvwx", b"abcdefgHijkLmnoP" + b"qrstuvwx"),
    ],
)
def test_nobody_can_write_down_chunks_that_share_a_hash(monkeypatch, chunks):
    # such a chunk gets a new number wherever it occurs: memory without bound
    shared = 0
    for seed in range(50):
        multiplier = random.Random(seed).getrandbits(64) | 1
        monkeypatch.setattr(_chunk_table, "MULTIPLIER", np.uint64(multiplier))
        first, second = hashes_of(chunks).tolist()
        shared += first == second
    assert shared == 0


def test_a_hash_is_never_the_key_of_a_short_chunk():
    # which holds its bytes and, highest, its length
    chunks = [b"x" * 8 + str(number).encode() for number in range(1000)]
    assert hashes_of(chunks).min() >= 1 << 63
