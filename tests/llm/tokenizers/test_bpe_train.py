"""Learning merges: equal to tokenizers' BpeTrainer, ties included."""

import json
import pydoc_data.topics
import random
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.tokenizers import BPETokenizer, _bpe_train
from llm.tokenizers._bpe_train import learn_merges
from llm.tokenizers._byte_level import ALPHABET


def our_model(texts, vocab_size, special_tokens, tmp_path):
    tokenizer = BPETokenizer()
    tokenizer.train(texts, vocab_size, special_tokens, show_progress=False)
    tokenizer.save(tmp_path / "tokenizer.json")
    model = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]
    assert model["vocab"] == tokenizer.get_vocab()
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@pytest.mark.parametrize("vocab_size", [256, 300, 777, 2000])
@pytest.mark.parametrize("special_tokens", [[], ["<pad>", "<unk>", "<bos>", "<eos>"], ["<начало>"]])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_merges_and_vocabulary_are_those_of_bpe_trainer(
    library_model, corpus, part, vocab_size, special_tokens, tmp_path, recwarn
):
    vocab_size += len(special_tokens)
    ours = our_model([corpus[part]], vocab_size, special_tokens, tmp_path)
    assert ours == library_model([corpus[part]], vocab_size, special_tokens)


@pytest.mark.parametrize("alphabet", ["ab", "abc", "ая", "ab ", "аб в\n", "0a.ЯЖ "])
def test_ties_and_runs_are_those_of_bpe_trainer(library_model, alphabet, tmp_path, recwarn):
    # few letters: many ties, many runs of one letter
    rng = random.Random(alphabet)
    for _ in range(8):
        texts = [
            "".join(rng.choices(alphabet, k=rng.choice([3, 40, 300, 1500]))) for _ in range(10)
        ]
        vocab_size = 256 + rng.randrange(300)
        assert our_model(texts, vocab_size, [], tmp_path) == library_model(texts, vocab_size)


def test_random_unicode_gives_the_merges_of_bpe_trainer(library_model, hard_texts, tmp_path):
    ours = our_model(hard_texts, 900, [], tmp_path)
    assert ours == library_model(hard_texts, 900)


@pytest.mark.parametrize("vocab_size", [1000, 7000])
def test_a_larger_corpus_gives_the_merges_of_bpe_trainer(
    library_model, corpus, vocab_size, tmp_path, recwarn
):
    # later batches are of dozens of pairs
    texts = [*pydoc_data.topics.topics.values(), corpus[1]]
    ours = our_model(texts, vocab_size, [], tmp_path)
    assert ours == library_model(texts, vocab_size)


def learn(chunk_counts, vocab_size, first_id=0, reserved=()):
    return learn_merges(
        np.frombuffer(b"".join(chunk_counts), dtype=np.uint8),
        np.array([len(chunk) for chunk in chunk_counts], dtype=np.int64),
        np.array(list(chunk_counts.values()), dtype=np.int64),
        vocab_size=vocab_size,
        first_id=first_id,
        reserved=reserved,
        show_progress=False,
    )


def learn_by_recounting(chunk_counts, vocab_size, first_id=0, reserved=()):
    """The textbook's loop: count all pairs, merge the most frequent, begin again."""
    tokens = [bytes([byte]) for byte in ALPHABET]
    words = [[tokens.index(bytes([byte])) for byte in chunk] for chunk in chunk_counts]
    merges = []
    while len(tokens) < vocab_size - first_id:
        pair_counts = Counter()
        for word, count in zip(words, chunk_counts.values(), strict=True):
            for pair in pairwise(word):
                if tokens[pair[0]] + tokens[pair[1]] not in reserved:
                    pair_counts[pair] += count
        if not pair_counts:
            break
        best = min(pair_counts, key=lambda pair: (-pair_counts[pair], pair))
        for word in words:
            start = 0
            while start < len(word) - 1:
                if (word[start], word[start + 1]) == best:
                    word[start : start + 2] = [len(tokens)]
                start += 1
        tokens.append(tokens[best[0]] + tokens[best[1]])
        merges.append((best[0] + first_id, best[1] + first_id))
    return tokens, merges


@st.composite
def chunk_counts_of_few_letters(draw):
    letters = draw(st.sampled_from([b"a", b"ab", b"abc", b"abcdef", bytes(range(97, 117))]))
    chunks = st.lists(st.sampled_from(letters), min_size=1, max_size=30).map(bytes)
    counts = st.integers(1, draw(st.sampled_from([1, 2, 5, 2**33])))
    return draw(st.dictionaries(chunks, counts, min_size=1, max_size=12))


@settings(max_examples=400)
@given(
    chunk_counts=chunk_counts_of_few_letters(),
    num_merges=st.integers(0, 60),
    first_id=st.sampled_from([0, 4]),
    reserved=st.sets(
        st.lists(st.sampled_from(b"abc"), min_size=2, max_size=4).map(bytes), max_size=3
    ),
)
def test_merges_are_those_of_recounting_after_each(chunk_counts, num_merges, first_id, reserved):
    vocab_size = first_id + 256 + num_merges
    ours = learn(chunk_counts, vocab_size, first_id, reserved)
    assert ours == learn_by_recounting(chunk_counts, vocab_size, first_id, reserved)


def random_words(num_letters, num_words, seed):
    """Words of random syllables: batches grow to many pairs, often cut by overlaps."""
    rng = random.Random(seed)
    letters = bytes(range(97, 97 + num_letters))
    syllables = [bytes(rng.choices(letters, k=rng.randint(1, 3))) for _ in range(40)]
    words = [b"".join(rng.choices(syllables, k=rng.randint(1, 6))) for _ in range(num_words)]
    return {word: rng.choice([1, 1, 2, 3, 50]) for word in words}


@pytest.mark.parametrize("reserved", [(), (b"ab", b"abc", b"dd", b"ea")])
@pytest.mark.parametrize("num_letters", [2, 5, 20])
def test_large_batches_give_the_merges_of_recounting(num_letters, reserved):
    for seed in range(3):
        chunk_counts = random_words(num_letters, 60, seed)
        # the second is cut by the size of the vocabulary, the third by the end of the pairs
        for vocab_size in (256, 300, 600):
            ours = learn(chunk_counts, vocab_size, 0, reserved)
            assert ours == learn_by_recounting(chunk_counts, vocab_size, 0, reserved)


def test_little_room_gives_the_same_merges(monkeypatch):
    # stale occurrences are dropped often, hot pairs run out often, few are gathered at once
    chunk_counts = random_words(20, 300, seed=0)
    expected = learn(chunk_counts, 1000)
    monkeypatch.setattr(_bpe_train, "_FEW_OCCURRENCES", 1)
    monkeypatch.setattr(_bpe_train, "_FEW_HOT_PAIRS", 1)
    monkeypatch.setattr(_bpe_train, "_MAX_BATCH", 3)
    room = 1.3
    make = _bpe_train._Corpus.__init__

    def make_with_little_room(corpus, *args, **kwargs):
        make(corpus, *args, **kwargs)
        corpus._occurrence = corpus._occurrence[: int(room * len(corpus._symbol))].copy()

    monkeypatch.setattr(_bpe_train._Corpus, "__init__", make_with_little_room)
    assert learn(chunk_counts, 1000) == expected


def test_merges_do_not_cross_texts():
    tokenizer = BPETokenizer()
    with pytest.warns(UserWarning, match="too few pairs"):
        tokenizer.train(["a", "b"] * 50, 300, show_progress=False)
    assert tokenizer.vocab_size == 256


def test_no_merge_spells_a_special_token(tmp_path):
    tokenizer = BPETokenizer()
    with pytest.warns(UserWarning, match="too few pairs"):
        tokenizer.train(["pad pad pad", "ёж"], 300, ["pad", "Ġpad", "ёж"], show_progress=False)
    specials = {0, 1, 2}
    text = "pad pad Ġpad ёж"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.save(tmp_path / "t.json")
    assert BPETokenizer.load(tmp_path / "t.json") == tokenizer
    assert not specials & set(tokenizer.encode(text))
    assert tokenizer.encode("padёж", allowed_special="all") == [0, 2]


@pytest.mark.parametrize(("letters", "length"), [("a", 400_000), ("abcdefgh", 100_000)])
def test_a_huge_chunk_is_trained_and_encoded_in_seconds(letters, length, recwarn):
    text = "".join(random.Random(0).choices(letters, k=length))
    start = time.perf_counter()
    tokenizer = BPETokenizer()
    tokenizer.train([text], 400, show_progress=False)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    # quadratic work would be hours
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("letters", [b"a", bytes(range(97, 123))])
def test_merges_of_a_chunk_of_megabytes_are_learned_in_seconds(letters):
    chunk = bytes(random.Random(0).choices(letters, k=2_000_000))
    start = time.process_time()
    tokens, merges = learn({chunk: 1}, 700)
    assert time.process_time() - start < 10
    if letters == b"a":
        # 2,000,000 = 2**7 * 15625; then the odd ones at the end are merged, at one each
        assert tokens[256:263] == [b"a" * 2**power for power in range(1, 8)]
    assert len(tokens) == 256 + len(merges)


def test_too_large_a_corpus_is_refused():
    # as broadcast views, neither takes memory
    chunks = np.broadcast_to(np.uint8(97), 2**31)
    lengths = counts = np.ones(1, dtype=np.int64)
    with pytest.raises(ValueError, match=r"2147483648 bytes; fewer than 2\*\*31"):
        learn_merges(chunks, lengths, counts, vocab_size=300, first_id=0, show_progress=False)
