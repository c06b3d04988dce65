"""Learning merges: equal to tokenizers' BpeTrainer, ties included."""

import json
import random
import time

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llm.tokenizers import BPETokenizer, _bpe_train


def library_model(texts, vocab_size, special_tokens=()):
    """Vocabulary and merges that BpeTrainer learns."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(texts, trainer)
    model = json.loads(library.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


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
    corpus, part, vocab_size, special_tokens, tmp_path, recwarn
):
    vocab_size += len(special_tokens)
    ours = our_model([corpus[part]], vocab_size, special_tokens, tmp_path)
    assert ours == library_model([corpus[part]], vocab_size, special_tokens)


@pytest.mark.parametrize("long_word", [_bpe_train._LONG_WORD, 1])
@pytest.mark.parametrize("alphabet", ["ab", "abc", "ая", "ab ", "аб в\n", "0a.ЯЖ "])
def test_ties_and_runs_are_those_of_bpe_trainer(
    alphabet, long_word, tmp_path, monkeypatch, recwarn
):
    # few letters: many ties, many runs of one letter
    monkeypatch.setattr(_bpe_train, "_LONG_WORD", long_word)
    rng = random.Random(alphabet)
    for _ in range(8):
        texts = [
            "".join(rng.choices(alphabet, k=rng.choice([3, 40, 300, 1500]))) for _ in range(10)
        ]
        vocab_size = 256 + rng.randrange(300)
        assert our_model(texts, vocab_size, [], tmp_path) == library_model(texts, vocab_size)


def test_random_unicode_gives_the_merges_of_bpe_trainer(hard_texts, tmp_path):
    ours = our_model(hard_texts, 900, [], tmp_path)
    assert ours == library_model(hard_texts, 900)


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
