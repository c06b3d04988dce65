"""Cutting text into chunks: as tokenizers' engine does, or an error that names the construct."""

import re

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from llm.tokenizers import _pretokenize
from llm.tokenizers._pretokenize import GPT2_PATTERN, Digits, Split, from_tiktoken_pattern
from llm.tokenizers._unicode_classes import class_members, disputed

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K_OF_TIKTOKEN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
OTHERS = [
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"\p{L}+$|\p{L}|\s+",  # the end of a line
    r"\s++\z",
    r"(\d)(\D)|\P{L}\p{^L}",
    r"(?<=a)b|(?<!a)c|(?>a+)b|a(?=d)",
    r"[^\S\r\n]+|[\P{N}]",
    r"{|}|x{2,}|\{\}|\x41\u0416",
    r"(?i:k)|(?i:[stdm])",
    r".",
]
PATTERNS = [GPT2_PATTERN, LLAMA3, QWEN2, QWEN3_5, O200K, DEEPSEEK, *OTHERS]


def library_pieces(pattern, text):
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pieces_are_those_of_tokenizers(pattern, corpus, hard_texts):
    split = Split(pattern)
    for text in [*corpus, *hard_texts]:
        assert list(split(text)) == library_pieces(pattern, text)


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, LLAMA3, O200K])
@given(data=st.data())
def test_pieces_of_any_text_are_those_of_tokenizers(pattern, any_text, data):
    text = data.draw(any_text)
    assert list(Split(pattern)(text)) == library_pieces(pattern, text)


def test_code_points_that_regex_classes_otherwise_are_cut_as_by_tokenizers():
    unlike = disputed(("L", "N"))
    for first in range(0x80, 0x110000, 0x100):
        codes = range(first, min(first + 0x100, 0x110000))
        block = unlike.findall("".join(chr(code) for code in codes if code >> 11 != 0x1B))
        text = "".join(f"{char}a1 " for char in block)
        assert list(Split(GPT2_PATTERN)(text)) == library_pieces(GPT2_PATTERN, text)


def test_a_long_text_is_cut_lazily_into_the_same_pieces(monkeypatch, corpus):
    pieces = [list(Split(O200K)(text)) for text in corpus]
    monkeypatch.setattr(_pretokenize, "_LONG_TEXT", 0)
    lazy = [Split(O200K)(text) for text in corpus]
    assert not any(isinstance(result, list) for result in lazy)
    assert [list(result) for result in lazy] == pieces


@pytest.mark.parametrize("individual", [True, False])
def test_digits_are_those_of_tokenizers(individual, hard_texts):
    library = pre_tokenizers.Digits(individual_digits=individual)
    codes = np.flatnonzero(class_members("N") | class_members("digits") | class_members("M"))
    characters = [chr(code) for code in codes.tolist()]
    characters += disputed(("N",)).findall("".join(map(chr, range(0xE000, 0x110000))))
    every_number = "".join(f"x{char}{char}" for char in characters)
    for text in [every_number, *hard_texts]:
        expected = [piece for piece, _ in library.pre_tokenize_str(text)]
        assert list(Digits(individual=individual)(text)) == expected


def tiktoken_pieces(pattern, text):
    """Pieces that tiktoken cuts: with every one of them a token, an id is a piece."""
    pieces = {piece.encode() for piece in Split(from_tiktoken_pattern(pattern))(text)}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for piece in sorted(pieces):
        ranks.setdefault(piece, len(ranks))
    encoding = tiktoken.Encoding(
        "pieces", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
    )
    return [encoding.decode_bytes([index]).decode() for index in encoding.encode_ordinary(text)]


@pytest.mark.parametrize("pattern", [CL100K_OF_TIKTOKEN, O200K, GPT2_PATTERN])
def test_a_tiktoken_pattern_cuts_as_tiktoken_does(pattern, corpus, hard_texts):
    translated = from_tiktoken_pattern(pattern)
    for text in [*corpus, *hard_texts, "1234567 \n \n", "a \n"]:
        pieces = list(Split(translated)(text))
        assert pieces == tiktoken_pieces(pattern, text)
        assert pieces == library_pieces(translated, text)


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        (r"\w+", r"\w+"),
        (r"a\b", r"\b"),
        (r"\p{Greek}", r"\p{Greek}"),
        (r"\p{Letter}", r"\p{Letter}"),
        (r"\pL", r"\pL"),
        (r"[[:alpha:]]", "[[:a"),
        (r"[a[b]]", "[b"),
        (r"[\p{L}&&[a-z]]", "&&"),
        (r"[]a]", "[]a]"),
        (r"^a", "^a"),
        (r"a]", "]"),
        (r"(?s:.)", "(?s:"),
        (r"(?<name>a)", "(?<n"),
        (r"(?i:\p{L})", r"\p{L}"),
        (r"(?i:[a-z])", "-"),
        (r"(?i:ж)", "ж"),
        (r"(?i:ss)", "s"),
        (r"\p{N}{1,3}+", "{1,3}+"),
        (r"(a)\1", r"\1"),
        (r"\xe9", r"\xe9"),
        (r"a)", ")"),
        ("a\\", "\\"),
        (r"(a", "does not compile"),
        (r"[a", "does not compile"),
        (r"*", "does not compile"),
        (r"a*", "matches the empty string"),
        (r"", "matches the empty string"),
    ],
)
def test_what_is_not_supported_is_an_error_that_names_it(pattern, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        Split(pattern)


def test_a_possessive_repetition_before_the_end_of_an_alternative_is_an_error():
    for pattern in (r"\p{N}{1,3}+a", r"(?:\p{N}{1,3}+)"):
        with pytest.raises(ValueError, match=re.escape("{1,3}+")):
            from_tiktoken_pattern(pattern)
