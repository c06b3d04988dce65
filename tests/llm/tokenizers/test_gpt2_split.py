"""GPT-2's pattern over blocks: the boundaries that regular expressions find."""

from itertools import pairwise, product

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from llm.tokenizers._gpt2_split import PADDING, SEPARATOR, chunk_starts, make_block
from llm.tokenizers._pretokenize import GPT2_PATTERN, Split
from llm.tokenizers._unicode_classes import WHITE_SPACE, class_members

LIBRARY = pre_tokenizers.Split(Regex(GPT2_PATTERN), "isolated")
# of two and of three bytes, and what only Python takes for white space
WIDE_SPACES = "\x85\xa0\u2000\u2028\u3000\u1680"
CONTRACTIONS = ["'s", "'d", "'m", "'t", "'ll", "'ve", "'re"]


def pieces_by_regex(text):
    """The plain reference: the pattern as it stands, on the `regex` module."""
    split = Split(GPT2_PATTERN)
    split._find_in_bmp = None
    return list(split(text))


def pieces_by_library(text):
    return [piece for piece, _ in LIBRARY.pre_tokenize_str(text)]


def pieces_of_block(texts):
    """Pieces of each text, out of one block."""
    block = make_block(text.encode() for text in texts)
    assert block[-PADDING:].tolist() == [0] * PADDING
    starts = chunk_starts(block).tolist()
    assert starts[0] == 0
    assert starts[-1] == len(block) - PADDING
    pieces = [[]]
    for start, end in pairwise(starts):
        chunk = block[start:end].tobytes()
        if chunk == bytes([SEPARATOR]):
            pieces.append([])
        else:
            pieces[-1].append(chunk.decode())  # an error if a character is cut
    assert pieces.pop() == []
    return pieces


def assert_cut_as_by_regex(texts):
    expected = [pieces_by_regex(text) for text in texts]
    assert pieces_of_block(texts) == expected
    assert [list(Split(GPT2_PATTERN)(text)) for text in texts] == expected
    assert [pieces_by_library(text) for text in texts] == expected


TRICKY_PIECES = [
    *(
        "a",
        "b",
        "1",
        "²",
        " ",
        ".",
        "'",
        "\n",
        "\t",
        "é",
        "й",
        "日",
        "٣",
        "Ⅷ",
        "№",
        "€",
        "😀",
        "𝟘",
        "𐀀",
    ),
    *("'S", "'LL", "'l", "'v", "'r", "  ", "\x00", "\x1c", "\u200b", "\u0301", "ſ"),
    *WIDE_SPACES,
    *CONTRACTIONS,
]
TRICKY = st.lists(st.sampled_from(TRICKY_PIECES), max_size=12).map("".join)


@given(texts=st.lists(st.one_of(TRICKY, st.text(st.characters(exclude_categories=["Cs"])))))
def test_a_block_is_cut_where_the_pattern_cuts_its_texts(texts):
    assert_cut_as_by_regex(texts)


@given(data=st.data())
def test_any_texts_are_cut_as_by_the_pattern(data, any_text):
    assert_cut_as_by_regex(data.draw(st.lists(any_text)))


def test_corpora_are_cut_as_by_the_pattern(corpus, hard_texts):
    assert_cut_as_by_regex([*corpus, *hard_texts])


def test_corpora_are_cut_as_by_tiktoken(corpus, hard_texts):
    texts = [*corpus, *hard_texts]
    pieces = pieces_of_block(texts)
    # with every piece a token, an id of tiktoken's is a piece
    ranks = {bytes([byte]): byte for byte in range(256)}
    for piece in sorted({piece.encode() for pieces in pieces for piece in pieces}):
        ranks.setdefault(piece, len(ranks))
    encoding = tiktoken.Encoding(
        "pieces", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    for text, expected in zip(texts, pieces, strict=True):
        ids = encoding.encode_ordinary(text)
        assert [encoding.decode_bytes([token_id]).decode() for token_id in ids] == expected


def test_every_text_of_three_kinds_of_characters_is_cut_as_by_the_pattern():
    kinds = ["a", "й", "1", "٣", ".", "€", "'", "s", " ", "\n", "\xa0", "\u3000", "😀"]
    texts = ["".join(text) for text in product(kinds, repeat=3)]
    expected = [pieces_by_regex(text) for text in texts]
    assert pieces_of_block(texts) == expected
    # the last character of a text is the neighbour of the next one
    assert pieces_of_block(reversed(texts)) == expected[::-1]


@pytest.mark.parametrize("template", ["a{c}1 {c}'s\n{c} ", "{c}{c}a {c}1{c}", " {c}  {c}.{c}"])
def test_every_code_point_is_cut_as_its_class_is(template):
    codes = np.array([code for code in range(0x80, 0x110000) if code >> 11 != 0x1B])
    block = make_block(template.format(c=chr(code)).encode() for code in codes.tolist())
    data = block[:-PADDING]
    starts = chunk_starts(block)[:-1]
    is_first_byte = data & 0xC0 != 0x80
    assert is_first_byte[starts].all()
    # one row a text, one column a character, the separator the last
    cut = np.zeros(np.count_nonzero(is_first_byte), dtype=bool)
    cut[np.cumsum(is_first_byte)[starts] - 1] = True
    cut = cut.reshape(len(codes), -1)

    spaces = np.isin(codes, [ord(char) for char in WHITE_SPACE])
    letters, numbers = class_members("L")[codes], class_members("N")[codes]
    for char, members in {
        "é": letters,
        "½": numbers,
        "\u3000": spaces,
        "€": ~(letters | numbers | spaces),
    }.items():
        pieces = pieces_by_library(template.format(c=char))
        expected = np.zeros(cut.shape[1], dtype=bool)
        expected[np.cumsum([0, *map(len, pieces)])] = True
        unlike = (cut[members] != expected).any(axis=1)
        assert codes[members][unlike].tolist() == []


def test_every_ascii_character_is_cut_as_by_the_pattern():
    contexts = [
        "a{c}1 {c}'s\n{c} ",
        "{c}",
        "{c}{c}s",
        "'{c}",
        "'{c}{c}x",
        " '{c}",
        "l{c}{c}",
        "'l{c}",
    ]
    assert_cut_as_by_regex(
        [context.format(c=chr(code)) for code in range(0x80) for context in contexts]
    )


@pytest.mark.parametrize("space", WIDE_SPACES + "\x1c")
def test_wide_white_space_is_cut_as_by_the_pattern_wherever_it_stands(space):
    assert_cut_as_by_regex(
        [
            *(f"{space}", f"{space}a", f"a{space}", f"a{space}b", f"a{space}{space}b"),
            *(f"{space}{space}", f" {space}", f"{space} ", f"a {space}b", f"a{space} b"),
            *(f"1{space}1", f".{space}.", f"{space}'s", f"й{space}й", f"{space}\n{space}😀"),
        ]
    )


@pytest.mark.parametrize("contraction", CONTRACTIONS)
def test_contractions_end_among_letters_where_the_pattern_says(contraction):
    c, upper, title = contraction, contraction.upper(), contraction.title()
    assert_cut_as_by_regex(
        [
            *(c, f"it{c}", f"it{c} ", f"it{c}x", f"{c}{c}", f"{c}{c}a", f"1{c}1", f"1{c}{c}"),
            *(f" {c}", f"  {c}a", f"\n{c}a", f"\xa0{c}a", f"й{c}й", f"'{c}a", f"''{c}", f".{c}a"),
            *(f"{c}'", f"{c}'s", f"{c} 's", f"{c}1", f"{c}.", f"{c}\xa0", f"{c}😀", f"{c}é"),
            *(upper, f"it{upper}a", f" {upper}", title, f"a{title}b", f"a{c[:2]}", f"a{c[:1]}"),
            *(f"a{c[:2]}.", f"a{c[:2]}й", f"\u2019{c[1:]}", f"{c[0]} {c[1:]}"),
        ]
    )


def test_texts_of_a_block_do_not_see_their_neighbours():
    texts = [
        "a",
        "b",
        " ",
        " ",
        "c",
        "'",
        "s",
        "l",
        "'",
        "ll",
        "",
        "",
        "\xa0",
        "\u3000",
        "",
        "1",
        "2",
    ]
    assert pieces_of_block(texts) == [[text] if text else [] for text in texts]
    assert pieces_of_block(["a ", "b", "\n\n", "b"]) == [["a", " "], ["b"], ["\n\n"], ["b"]]


def test_a_block_may_be_of_no_text_or_of_empty_ones():
    assert pieces_of_block([]) == []
    assert pieces_of_block([""]) == [[]]
    assert pieces_of_block(["", "", ""]) == [[], [], []]


@given(data=st.data())
def test_the_form_for_the_basic_plane_cuts_as_the_plain_pattern(data, any_text):
    text = data.draw(st.one_of(any_text, TRICKY, st.text()))  # the last has surrogates
    assert list(Split(GPT2_PATTERN)(text)) == pieces_by_regex(text)


def test_the_form_for_the_basic_plane_cuts_every_character_of_it_as_blocks_do():
    characters = (chr(code) for code in range(0x10000) if code >> 11 != 0x1B)
    text = "".join(f"a{char}1{char} {char}" for char in characters)
    assert [list(Split(GPT2_PATTERN)(text))] == pieces_of_block([text])


def test_characters_beyond_the_basic_plane_are_cut_as_by_the_pattern():
    planes = "\U00010000\U0001d7d8\U0001fbf0\U00020000\U000e0100\U0010fffd"
    assert_cut_as_by_regex([f"a{char}a1{char}1 {char}.{char} " for char in planes])
