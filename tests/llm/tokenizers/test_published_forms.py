"""Other published forms: GPT-2's files and tiktoken's encodings."""

import json
import random

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llm.tokenizers import BPETokenizer
from llm.tokenizers._pretokenize import GPT2_PATTERN

GPT2_OF_TIKTOKEN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)
CL100K_OF_TIKTOKEN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def encoding_of(tokenizer, pattern=GPT2_PATTERN):
    """The tiktoken encoding with the same merges: a rank is an id, in the order of merges."""
    specials = {name: tokenizer.token_to_id(name) for name in tokenizer.special_tokens}
    ranks = {
        tokenizer.decode_bytes([token_id]): token_id
        for token, token_id in tokenizer.get_vocab().items()
        if token not in specials
    }
    return tiktoken.Encoding(
        "ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials
    )


@given(data=st.data())
def test_ids_of_any_text_are_those_of_tiktoken_with_the_same_merges(data, any_text, tokenizer):
    text = data.draw(any_text)
    encoding = encoding_of(tokenizer)
    assert tokenizer.encode(text) == encoding.encode_ordinary(text)
    ids = encoding.encode(text, allowed_special="all")
    assert tokenizer.encode(text, allowed_special="all") == ids
    assert tokenizer.decode(ids) == encoding.decode(ids)


def test_ids_of_the_corpus_are_those_of_tiktoken(tokenizer, corpus, hard_texts):
    encoding = encoding_of(tokenizer)
    for text in [*corpus, *hard_texts, "a\ud800b \ud83d\ude00"]:
        assert tokenizer.encode(text) == encoding.encode(text, disallowed_special=())


@pytest.mark.parametrize("pattern", [GPT2_OF_TIKTOKEN, CL100K_OF_TIKTOKEN])
def test_a_tiktoken_encoding_gives_its_ids_here_and_in_tokenizers(
    pattern, tokenizer, corpus, hard_texts, tmp_path
):
    encoding = encoding_of(tokenizer, pattern)
    ours = BPETokenizer.from_tiktoken(encoding)
    ours.save(tmp_path / "t.json")
    assert BPETokenizer.load(tmp_path / "t.json") == ours
    library = Tokenizer.from_file(str(tmp_path / "t.json"))
    for text in [*corpus, *hard_texts]:
        ids = encoding.encode(text, allowed_special="all")
        assert ours.encode(text, allowed_special="all") == ids
        assert library.encode(text).ids == ids
        assert ours.encode(text) == encoding.encode_ordinary(text)


@pytest.mark.parametrize("seed", range(20))
def test_tiktoken_vocabularies_that_no_training_gave_are_read_exactly(seed, tmp_path):
    # ranks at random: parts above their wholes, tokens that merging never reaches, unused ids
    rng = random.Random(seed)
    alphabet = rng.choice([b"ab", b"abc", b"ab "])
    tokens = sorted({bytes(rng.choices(alphabet, k=rng.randrange(2, 8))) for _ in range(80)})
    rng.shuffle(tokens)
    ids = iter(rng.sample(range(400), 340))
    ranks = {token: next(ids) for token in [*(bytes([byte]) for byte in range(256)), *tokens]}
    specials = {"<|endoftext|>": 400, "<|low|>": next(ids)}
    encoding = tiktoken.Encoding(
        "random", pat_str=CL100K_OF_TIKTOKEN, mergeable_ranks=ranks, special_tokens=specials
    )
    ours = BPETokenizer.from_tiktoken(encoding)
    assert ours.vocab_size == 401
    assert ours.eos_token_id == 400
    ours.save(tmp_path / "t.json")
    library = Tokenizer.from_file(str(tmp_path / "t.json"))
    for _ in range(60):
        text = bytes(rng.choices(alphabet, k=rng.choice([3, 20, 600]))).decode()
        text += rng.choice(["", "<|low|>x", " \n \n", "12345"])
        expected = encoding.encode(text, allowed_special="all")
        assert ours.encode(text, allowed_special="all") == expected
        assert library.encode(text).ids == expected
        assert ours.decode(expected) == encoding.decode(expected)


def test_ids_that_an_encoding_leaves_unused_are_reserved():
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "holes", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 258}
    )
    tokenizer = BPETokenizer.from_tiktoken(encoding)
    reserved = ["<|reserved_256|>", "<|reserved_257|>"]
    assert tokenizer.special_tokens == [*reserved, "<|endoftext|>"]
    assert len(tokenizer) == encoding.n_vocab == 259


def test_a_tiktoken_encoding_that_cannot_be_read_is_an_error():
    ranks = {bytes([byte]): byte for byte in range(256)}
    unknown = tiktoken.Encoding("words", pat_str=r"\w+", mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(ValueError, match=r"tiktoken encoding 'words': .*\\w\+"):
        BPETokenizer.from_tiktoken(unknown)
    del ranks[b"a"]
    ranks = {token: rank for rank, token in enumerate(ranks)}
    partial = tiktoken.Encoding("partial", pat_str=r".", mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(ValueError, match=r"tiktoken encoding 'partial'.* lacks the byte 'a'"):
        BPETokenizer.from_tiktoken(partial)


@pytest.fixture
def gpt2_files(tokenizer, tmp_path):
    """A tokenizer in the form of GPT-2's files."""
    tokenizer.save(tmp_path / "tokenizer.json")
    model = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]
    encoder_json, vocab_bpe = tmp_path / "encoder.json", tmp_path / "vocab.bpe"
    encoder_json.write_text(json.dumps(model["vocab"]), "utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in model["merges"]), ""]
    vocab_bpe.write_text("\n".join(lines), "utf-8")
    return encoder_json, vocab_bpe


def test_gpt2_files_give_the_same_tokenizer(gpt2_files, tokenizer):
    assert BPETokenizer.from_gpt2_files(*gpt2_files) == tokenizer


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("vocab.bpe", lambda text: text + "a b c\n", "vocab.bpe: line .* is 'a b c'"),
        ("vocab.bpe", lambda text: text + "alone\n", "vocab.bpe: line .* is 'alone'"),
        ("vocab.bpe", lambda text: text + "Ġ Ċ\n", r"merges\[740\]: 'ĠĊ' is not in the vocabulary"),
        ("encoder.json", lambda text: text[:-9], "encoder.json is not valid JSON"),
        ("encoder.json", lambda text: "[1]", "encoder.json: vocab is .*not an object"),
        ("encoder.json", lambda text: text.replace("0", '"0"', 1), "encoder.json: vocab"),
        ("encoder.json", lambda text: text.replace(": 9,", ": 8,"), "id 8 is both"),
    ],
)
def test_damaged_gpt2_files_are_errors(gpt2_files, name, damage, message):
    path = gpt2_files[0].parent / name
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(ValueError, match=message):
        BPETokenizer.from_gpt2_files(*gpt2_files)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"{name} is not UTF-8"):
        BPETokenizer.from_gpt2_files(*gpt2_files)
