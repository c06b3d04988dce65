"""Counting chunks equals counting them with a dictionary, in any number of threads."""

import json
import random
import threading
import time
import warnings
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.tokenizers import BPETokenizer, _blocks, _chunk_table, _count_chunks
from llm.tokenizers._count_chunks import count_chunks
from llm.tokenizers._pretokenize import GPT2_PATTERN, PreTokenizer, Split

OTHER_PATTERN = r"\p{L}+|\p{N}{1,3}|\s+|[^\s\p{L}\p{N}]+"


def counted(texts, pattern=GPT2_PATTERN, num_threads=1):
    data, lengths, counts = count_chunks(texts, PreTokenizer([Split(pattern)]), num_threads)
    assert (data.dtype, lengths.dtype, counts.dtype) == (np.uint8, np.int64, np.int64)
    assert len(lengths) == len(counts)
    ends = np.cumsum([0, *lengths]).tolist()
    assert ends[-1] == len(data)
    chunks = [data[start:end].tobytes() for start, end in pairwise(ends)]
    assert len(set(chunks)) == len(chunks)
    return Counter(dict(zip(chunks, counts.tolist(), strict=True)))


def counted_by_dictionary(texts, pattern=GPT2_PATTERN):
    split = Split(pattern)
    return Counter(chunk.encode() for text in texts for chunk in split(text))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("pattern", [GPT2_PATTERN, OTHER_PATTERN])
@pytest.mark.parametrize("block_chars", [1, 500, 1 << 18])
def test_counts_are_those_of_a_dictionary(
    monkeypatch, corpus, hard_texts, pattern, num_threads, block_chars
):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", block_chars)
    texts = [
        corpus[0][: 3000 if block_chars == 1 else None],
        corpus[1] * 2,
        *hard_texts,
        "",
        corpus[2],
    ]
    assert counted(iter(texts), pattern, num_threads) == counted_by_dictionary(texts, pattern)


@given(data=st.data())
def test_counts_of_any_texts_are_those_of_a_dictionary(data, any_text):
    texts = data.draw(st.lists(any_text))
    assert counted(texts) == counted_by_dictionary(texts)
    assert counted(texts, num_threads=2) == counted_by_dictionary(texts)


def test_chunks_of_all_lengths_are_counted(monkeypatch):
    rng = random.Random(0)
    words = ["".join(rng.choices("ab\0", k=length)).replace("\0", "é") for length in range(1, 80)]
    texts = [" ".join(rng.choices(words, k=50)) for _ in range(100)] + [
        "\0" * k for k in range(1, 60)
    ]
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 1000)
    for num_threads in (1, 3):
        assert counted(texts, num_threads=num_threads) == counted_by_dictionary(texts)


def test_counts_of_equal_hashes_are_right_in_sum(monkeypatch):
    def same_hash(words, starts, lengths):
        return np.full(len(starts), 1 << 63, dtype=np.uint64)

    monkeypatch.setattr(_chunk_table, "_hash", same_hash)
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 100)
    texts = ["first-word secondword thirdwords " * 30] * 5
    for num_threads in (1, 2):
        data, lengths, counts = count_chunks(
            texts, PreTokenizer([Split(GPT2_PATTERN)]), num_threads
        )
        ends, total = np.cumsum([0, *lengths]).tolist(), Counter()
        for (start, end), count in zip(pairwise(ends), counts.tolist(), strict=True):
            total[data[start:end].tobytes()] += count
        assert total == counted_by_dictionary(texts)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("pattern", [GPT2_PATTERN, OTHER_PATTERN])
def test_no_text_has_no_chunk(texts, num_threads, pattern):
    assert counted(texts, pattern, num_threads) == {}


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, OTHER_PATTERN])
def test_surrogates_count_as_what_they_become(pattern):
    texts = ["\ud83d\ude00 \ud800", "a\udc00"]
    assert counted(texts, pattern) == counted_by_dictionary(["😀 \ufffd", "a\ufffd"], pattern)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_texts_are_read_one_after_another(counted_text, monkeypatch, num_threads):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 1000)

    tokenizer = BPETokenizer()
    tokenizer.train(
        (counted_text(f"text {number} " * 10) for number in range(500)),
        300,
        num_threads=num_threads,
        show_progress=False,
    )
    assert counted_text.most <= 3


def test_texts_are_read_as_they_are_counted(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 10)
    split, num_read, read_by_then = _count_chunks.chunk_starts, 0, []

    def texts():
        nonlocal num_read
        for number in range(1000):
            num_read += 1
            yield f"text of number {number}"

    def watched(block):
        read_by_then.append(num_read)
        return split(block)

    monkeypatch.setattr(_count_chunks, "chunk_starts", watched)
    for num_threads in (1, 3):
        num_read = 0
        read_by_then.clear()
        counted(texts(), num_threads=num_threads)
        assert num_read == 1000
        assert read_by_then[0] <= 50


def test_threads_count_at_once_each_in_a_table_of_its_own(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 10)
    add, add_all = _count_chunks._Counter.add, _count_chunks._Counter.add_all
    inside, used, is_merging = threading.Barrier(2, timeout=30), [], False

    def watched(counter, *args):
        if not is_merging:
            used.append(counter)
            inside.wait()
        add(counter, *args)

    def merge(counter, other):
        nonlocal is_merging
        is_merging = True
        add_all(counter, other)

    monkeypatch.setattr(_count_chunks._Counter, "add", watched)
    monkeypatch.setattr(_count_chunks._Counter, "add_all", merge)
    texts = ["atextwithoutspaces"] * 8
    assert counted(texts, num_threads=2) == counted_by_dictionary(texts)
    assert len({id(counter) for counter in used}) == 2


# training


def model_of(tokenizer):
    model = json.loads(tokenizer.to_json())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@pytest.mark.parametrize("block_chars", [200, 1 << 18])
def test_training_in_threads_gives_the_model_of_bpe_trainer(
    library_model, monkeypatch, corpus, hard_texts, block_chars
):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", block_chars)
    texts = [*corpus, *hard_texts]
    expected = library_model(texts, 1200, ["<eos>"])
    for num_threads in (1, 2, 3):
        tokenizer = BPETokenizer()
        tokenizer.train(iter(texts), 1200, ["<eos>"], num_threads=num_threads, show_progress=False)
        assert model_of(tokenizer) == expected


@pytest.mark.parametrize(
    "texts",
    [
        ["a" * 5000] * 3,  # one chunk that overlaps itself
        [" word" * 1000, "\0" * 1000, "ab" * 1000],
        [f" {number:x}" * (number % 3) for number in range(3000)],  # most chunks are new
        ["longerthansevenbytes " * 50, "longerthansevenbytez " * 50, "y" * 31 + " " + "y" * 32] * 9,
        ["\ud800 \U0001f600é" * 200] * 5,
    ],
)
def test_training_in_threads_is_training_in_one(monkeypatch, texts):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 300)
    models = []
    for num_threads in (1, 2, 3):
        tokenizer = BPETokenizer()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # too few pairs
            tokenizer.train(texts, 600, num_threads=num_threads, show_progress=False)
        models.append(model_of(tokenizer))
    assert models[0] == models[1] == models[2]


@pytest.mark.parametrize("num_threads", [0, -1])
def test_fewer_threads_than_one_are_an_error(num_threads):
    with pytest.raises(ValueError, match=f"num_threads={num_threads} has to be at least 1"):
        BPETokenizer().train(["a b"], 300, num_threads=num_threads, show_progress=False)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_a_text_that_is_none_is_an_error_and_the_old_vocabulary_stays(corpus, num_threads):
    tokenizer = BPETokenizer()
    tokenizer.train(corpus, 300, show_progress=False)
    before = tokenizer.fingerprint()
    for bad in (None, b"bytes", 3):
        with pytest.raises(
            TypeError, match=rf"texts\[3\] has to be a str, not {type(bad).__name__}"
        ):
            tokenizer.train(
                [*corpus, bad, *corpus], 300, num_threads=num_threads, show_progress=False
            )
    assert tokenizer.fingerprint() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda number: " " * 100_000,
        lambda number: "\n" * 100_000,
        lambda number: "'s" * 100_000,
        lambda number: f" word{number}" * 10_000,
        lambda number: " ".join(map(str, range(number * 20_000, (number + 1) * 20_000))),
    ],
)
def test_any_text_of_megabytes_is_counted_in_seconds(make):
    texts = [make(number) for number in range(10)]
    start = time.perf_counter()
    assert counted(texts).total() == counted_by_dictionary(texts).total()
    assert time.perf_counter() - start < 30
