"""Counts that predict: against plain dictionaries, and as probabilities."""

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluation import (
    Bigram,
    Pairs,
    Uniform,
    Unigram,
    count_baselines,
    evaluate_baselines,
    text_model,
)
from llm.models.gpt import GPT2
from llm.tokenizers import BPETokenizer

VOCAB_SIZE = 6
STREAM = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=2, max_size=60)


def pairs_of(ids):
    ids = np.array(ids, dtype=np.int64)
    return Pairs(ids[:-1], ids[1:])


def every_target(before):
    return Pairs(np.full(VOCAB_SIZE, before), np.arange(VOCAB_SIZE))


def plain_bigram(stream):
    """Absolute discounting with backing-off, one pair at a time."""
    counts, followers = Counter(pairwise(stream)), defaultdict(Counter)
    for (before, target), count in counts.items():
        followers[before][target] = count
    unigram = Counter(stream[1:])
    total = len(stream) - 1 + VOCAB_SIZE
    once, twice = (sum(count == n for count in counts.values()) + 1 for n in (1, 2))

    def probability(before, target):
        backed_off = (unigram[target] + 1) / total
        seen = followers[before]
        if not seen:
            return backed_off
        d = once / (once + 2 * twice) if len(seen) < VOCAB_SIZE else 0.0
        if target in seen:
            return (seen[target] - d) / sum(seen.values())
        unseen = sum(
            (unigram[other] + 1) / total for other in range(VOCAB_SIZE) if other not in seen
        )
        return d * len(seen) / sum(seen.values()) * backed_off / unseen

    return probability


@given(STREAM, STREAM)
def test_bigrams_are_those_of_plain_dictionaries(trained, scored):
    model, plain = Bigram(VOCAB_SIZE), plain_bigram(trained)
    half = len(trained) // 2
    # in two parts, as long texts come
    model.add(pairs_of(trained[: half + 1]))
    model.add(pairs_of(trained[half:]))
    expected = [-math.log(plain(*pair)) for pair in pairwise(scored)]
    np.testing.assert_allclose(model.nats(pairs_of(scored)), expected, rtol=1e-9)


@given(STREAM)
def test_probabilities_add_up_to_one_after_every_token_seen_or_not(trained):
    for kind in (Uniform, Unigram, Bigram):
        model = kind(VOCAB_SIZE)
        model.add(pairs_of(trained))
        for before in range(VOCAB_SIZE):
            assert np.exp(-model.nats(every_target(before))).sum() == pytest.approx(1)


def test_a_language_of_pairs_is_known_to_the_bigram_alone():
    stream = [0, 1, 2, 3, 4, 5] * 200
    losses = []
    for kind in (Uniform, Unigram, Bigram):
        model = kind(VOCAB_SIZE)
        model.add(pairs_of(stream))
        losses.append(model.nats(pairs_of(stream)).mean())
    assert losses[0] == math.log(VOCAB_SIZE)
    assert losses[1] == pytest.approx(math.log(VOCAB_SIZE), rel=1e-3)
    assert losses[2] < 0.01


def test_narrow_ids_of_a_large_vocabulary_are_told_apart():
    # 70,000 · 70,000 pairs: more than 32 bits can number
    stream = [69_999, 61_000, 69_999, 5, 61_000, 5]
    wide, narrow = Bigram(70_000), Bigram(70_000)
    pairs = pairs_of(stream)
    wide.add(pairs)
    narrow.add(Pairs(*(ids.astype(np.int32) for ids in pairs)))
    narrow_pairs = Pairs(*(ids.astype(np.uint32) for ids in pairs))
    np.testing.assert_array_equal(narrow.nats(narrow_pairs), wide.nats(pairs))


def test_what_is_counted_later_counts():
    model = Bigram(VOCAB_SIZE)
    model.add(pairs_of([0, 1, 0, 2]))
    before = model.nats(pairs_of([0, 3]))
    model.add(pairs_of([0, 3, 0, 3]))
    assert model.nats(pairs_of([0, 3])) < before


@pytest.mark.parametrize("kind", [Uniform, Unigram, Bigram])
@pytest.mark.parametrize(
    ("stream", "message"),
    [([0, VOCAB_SIZE], f"id {VOCAB_SIZE} is outside"), ([-1, 0], "id -1 is outside")],
)
def test_ids_outside_the_vocabulary_are_refused(kind, stream, message):
    model = kind(VOCAB_SIZE)
    for use in (model.add, model.nats):
        with pytest.raises(ValueError, match=message):
            use(pairs_of(stream))
        with pytest.raises(ValueError, match="1 ids before 2 targets"):
            use(Pairs(np.array([0]), np.array([1, 2])))


def test_texts_are_counted_and_scored_document_by_document():
    texts = ["the cat sat", "Кошка сидела", "the cat"]
    tokenizer = BPETokenizer()
    tokenizer.train(texts, 280, ["<eos>"], show_progress=False)
    sizes = {"embed_dim": 8, "num_heads": 1, "num_layers": 1, "max_position_embeddings": 8}
    model = text_model(GPT2({"vocab_size": 300, "bos_token_id": 0, **sizes}), tokenizer)
    counted = count_baselines(model, texts)
    ids = [[0, *tokenizer.encode(text)] for text in texts]
    scores = evaluate_baselines(counted, model, texts)
    by_hand = Bigram(300)
    for document in ids:
        by_hand.add(pairs_of(document))
    expected = sum(by_hand.nats(pairs_of(document)).sum() for document in ids)
    assert scores["bigram"].total_loss == pytest.approx(expected)
    num_targets = sum(len(document) - 1 for document in ids)
    for name, score in scores.items():
        assert score.num_targets == num_targets, name
        assert score.num_bytes == sum(len(text.encode("utf-8")) for text in texts)
    assert scores["uniform"].loss == pytest.approx(math.log(300))
    few = count_baselines(model, texts, max_tokens=3)
    assert few["unigram"].counts.sum() == 3
    with pytest.raises(ValueError, match="no text"):
        evaluate_baselines(counted, model, [""])
