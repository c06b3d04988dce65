"""Blocks: cutting texts changes neither their bytes nor their chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.tokenizers import _blocks
from llm.tokenizers._blocks import blocks_of
from llm.tokenizers._gpt2_split import PADDING, SEPARATOR
from llm.tokenizers._pretokenize import GPT2_PATTERN, Split

CUT_OFTEN = st.lists(
    st.sampled_from(
        [*"ab1.' \n\t\r", "'s", "  ", "\x1c", "\x85", "\xa0", "\u3000", "😀", *"字，。,{я"]
    )
).map("".join)


def pieces_of(blocks):
    """Pieces of each text."""
    texts = [[]]
    for data, goes_on in blocks:
        *pieces, rest = data[:-PADDING].tobytes().split(bytes([SEPARATOR]))
        assert rest == b""
        for piece in pieces:
            texts[-1].append(piece.decode())
            texts.append([])
        if goes_on:
            texts.pop()
    assert texts.pop() == []
    return texts


@pytest.mark.parametrize("size", [1, 2, 7])
@given(data=st.data())
def test_cut_texts_have_the_chunks_of_whole_ones(size, data, any_text):
    texts = data.draw(st.lists(st.one_of(CUT_OFTEN, any_text)))
    split = Split(GPT2_PATTERN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "BLOCK_CHARS", size)
        cut_texts = pieces_of(blocks_of(texts))
    assert ["".join(pieces) for pieces in cut_texts] == texts
    for text, pieces in zip(texts, cut_texts, strict=True):
        assert [chunk for piece in pieces for chunk in split(piece)] == list(split(text))


def test_blocks_are_about_of_the_size_asked_for(monkeypatch, corpus):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 1000)
    words = ["word " * 10] * 215
    text = corpus[0]
    for texts, most in (([text], 1100), (words, 1100), ([*words, text, *words], 2100)):
        sizes = [len(block.data) - PADDING for block in blocks_of(texts)]
        assert max(sizes) < most
        assert min(sizes[:-1]) >= 1000


def test_a_text_that_fits_is_not_cut(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 10)
    assert pieces_of(blocks_of(["a b c d ef"])) == [["a b c d ef"]]
    assert pieces_of(blocks_of(["a b c d e f"])) == [["a b c d e f"]]
    assert pieces_of(blocks_of(["a b c d e\tf g"])) == [["a b c d e\tf", " g"]]


@pytest.mark.parametrize("text", ['{"key":[1,2,3],"x":"y"},' * 50, "這是一個，句子。" * 100])
def test_a_text_without_white_space_is_cut_at_punctuation(monkeypatch, text):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 100)
    [pieces] = pieces_of(blocks_of([text]))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) < 120


def test_empty_texts_fill_a_block(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 10)
    assert len(list(blocks_of([""] * 100))) == 10


def test_texts_are_read_as_blocks_are_asked_for(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", 10)
    texts = iter(["four"] * 9)
    blocks = blocks_of(texts)
    assert pieces_of([next(blocks)]) == [["four"]] * 2
    assert len(list(texts)) == 7


def test_no_text_makes_no_block_and_an_empty_one_a_piece():
    assert list(blocks_of([])) == []
    assert pieces_of(blocks_of([""])) == [[""]]
    assert pieces_of(blocks_of(["", "", "a"])) == [[""], [""], ["a"]]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_surrogates_are_replaced_before_cutting(monkeypatch, size):
    monkeypatch.setattr(_blocks, "BLOCK_CHARS", size)
    texts = pieces_of(blocks_of(["a \ud83d\ude00 b", "\ud800 \udc00", "x"]))
    assert ["".join(pieces) for pieces in texts] == ["a 😀 b", "\ufffd \ufffd", "x"]
