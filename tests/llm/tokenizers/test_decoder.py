"""Decoding equals joining the bytes of the tokens."""

import array
import random

import numpy as np
import pytest
import torch

from llm.tokenizers._decoder import _FEW_IDS, _IDS_AT_ONCE, Decoder


def decode_with(tokens, skipped, ids, skip=False):
    return bytes(Decoder(tokens, skipped)(ids, skip))


def make_tokens(lengths, seed=0):
    """Tokens of these lengths, no two of which agree in many bytes."""
    rng = random.Random(seed)
    return [rng.randbytes(length) for length in lengths]


TOKENS = make_tokens([1] * 256 + [2, 3, 5, 8] * 20 + [0, 15, 16, 17, 31, 32, 33, 47, 48, 49, 100])
LONG = range(len(TOKENS) - 11, len(TOKENS))
SKIPPED = {3, 250, len(TOKENS) - 1, len(TOKENS) - 2, len(TOKENS) - 8}


def joined(ids, skipped=()):
    return b"".join(TOKENS[index] for index in ids if index not in skipped)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("count", [0, 1, _FEW_IDS, _FEW_IDS + 1, 1000, 3000])
@pytest.mark.parametrize("share_of_long", [0.02, 0.5, 1])
def test_bytes_are_those_of_the_tokens_in_order(count, share_of_long, skip):
    for seed in range(5):
        rng = random.Random(seed)
        ids = [
            rng.choice(LONG) if rng.random() < share_of_long else rng.randrange(len(TOKENS))
            for _ in range(count)
        ]
        expected = joined(ids, SKIPPED if skip else ())
        assert decode_with(TOKENS, SKIPPED, ids, skip) == expected
        assert decode_with(TOKENS, SKIPPED, np.array(ids, dtype=np.int64), skip) == expected


@pytest.mark.parametrize("last", range(len(TOKENS) - 13, len(TOKENS)))
def test_any_token_may_be_the_last_or_the_first(last):
    for ids in ([last, *range(100)], [*range(100), last], [last] * 100, [last, 5] * 50):
        assert decode_with(TOKENS, (), ids) == joined(ids)


@pytest.mark.parametrize("length", [1, 4, 16, 17, 40, 100, 255, 256, 70_000])
@pytest.mark.parametrize("other", [1, 20, 50])
def test_skipped_tokens_leave_no_byte(length, other):
    tokens = make_tokens([length, other])
    for ids in ([0] * 200, [0] * 99 + [1], [1] + [0] * 99, [1, 0, 0, 0] * 50, [0, 1, 1] * 40):
        assert decode_with(tokens, {0}, ids, True) == tokens[1] * ids.count(1)
        assert decode_with(tokens, {0}, ids) == b"".join(tokens[index] for index in ids)


@pytest.mark.parametrize("count", [_IDS_AT_ONCE - 1, _IDS_AT_ONCE, _IDS_AT_ONCE + 1, 100_000])
def test_as_many_ids_as_one_likes(count):
    rng = random.Random(count)
    ids = rng.choices(range(len(TOKENS)), k=count)
    assert decode_with(TOKENS, SKIPPED, ids, skip=True) == joined(ids, SKIPPED)
    assert decode_with(TOKENS, SKIPPED, ids) == joined(ids)


@pytest.mark.parametrize("tokens", [[b"a"], [b"", b""], [b"x" * 50, b""], [b"", b"y" * 16]])
def test_a_vocabulary_may_be_of_few_tokens_or_of_empty_ones(tokens):
    ids = [index % len(tokens) for index in range(200)]
    assert decode_with(tokens, (), ids) == b"".join(tokens[index] for index in ids)


def test_ids_beyond_16_bits_are_those_of_the_tokens():
    tokens = [str(number).encode() for number in range(70_000)]
    ids = [*range(0, 70_000, 7), 69_999, 32_768, 65_536]
    expected = b"".join(tokens[index] for index in ids)
    assert decode_with(tokens, (), ids) == expected
    assert decode_with(tokens, (), np.array(ids, dtype=np.int32)) == expected


INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("count", [0, 5, 100])
def test_ids_may_be_of_any_form_that_is_integers(count):
    ids = [random.Random(0).randrange(100) for _ in range(count)]
    tensors = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    wide = np.repeat(np.array(ids, dtype=np.int32), 2)
    forms = [
        *(ids, tuple(ids), iter(ids), (index for index in ids), dict.fromkeys(ids), map(int, ids)),
        *(np.array(ids, dtype=dtype) for dtype in INTEGERS),
        *([dtype(index) for index in ids] for dtype in INTEGERS),
        *(torch.tensor(ids, dtype=dtype) for dtype in tensors),
        *(array.array("q", ids), array.array("b", ids), bytes(ids), bytearray(ids)),
        *(memoryview(bytes(ids)), wide[::2], wide[::-2][::-1], np.array(ids, dtype=">i4")),
        [torch.tensor(index) for index in ids],
    ]
    for form in forms:
        expected = joined(dict.fromkeys(ids) if isinstance(form, dict) else ids)
        assert decode_with(TOKENS, (), form) == expected


def test_a_tensor_that_numpy_cannot_see_is_asked_for_a_list():
    class OnAnotherDevice:
        def __array__(self, *args, **kwargs):
            raise TypeError("can't convert a device's tensor to numpy")

        def tolist(self):
            return [5, 6, 7]

    assert decode_with(TOKENS, (), OnAnotherDevice()) == joined([5, 6, 7])


def test_an_array_of_ids_may_be_read_only_and_stays_as_it_is():
    ids = np.arange(100, dtype=np.int32)
    ids.setflags(write=False)
    assert decode_with(TOKENS, {5}, ids, skip=True) == joined(range(100), {5})
    assert ids.tolist() == list(range(100))


@pytest.mark.parametrize("count", [3, 100])
def test_booleans_are_zero_and_one(count):
    flags = [True, False, True] * (count // 3)
    for form in (flags, np.array(flags), torch.tensor(flags)):
        assert decode_with(TOKENS, (), form) == joined(map(int, flags))


@pytest.mark.parametrize("empty", [[], (), np.array([]), torch.tensor([]), b"", iter(())])
def test_nothing_decodes_to_nothing(empty):
    assert decode_with(TOKENS, (), empty) == b""


@pytest.mark.parametrize("position", [0, 50, 99])
def test_an_id_out_of_range_is_named(position):
    decode = Decoder(TOKENS, ())
    size = len(TOKENS)
    for bad in (-1, -size, size, size + 1, 2**31, -(2**63), 2**63 - 1):
        ids = [1] * 100
        ids[position] = bad
        for form in (ids, np.array(ids, dtype=np.int64), torch.tensor(ids), ids[position:][:1]):
            with pytest.raises(ValueError, match=rf"id {bad} is not in \[0, {size}\)"):
                decode(form, False)
    for dtype, bad in ((np.int8, -1), (np.uint16, 65535), (np.uint64, 2**64 - 1)):
        ids = np.ones(100, dtype=dtype)
        ids[position] = bad
        with pytest.raises(ValueError, match=rf"id {bad} is not in"):
            decode(ids, False)


@pytest.mark.parametrize("bad", [2**63, 2**70, -(2**63) - 1, -(2**70)])
def test_a_huge_id_is_out_of_range(bad):
    for ids in ([bad], [1] * 99 + [bad]):
        with pytest.raises(ValueError, match=rf"is not in \[0, {len(TOKENS)}\)"):
            Decoder(TOKENS, ())(ids, False)


@pytest.mark.parametrize(
    "ids",
    [
        *([1.0], [1, 2.5], ["1"], "1", "", [None], None, 3, np.int64(3), np.array(3), [[1]]),
        *([[1, 2], [3, 4]], np.zeros((2, 2), dtype=np.int64), torch.zeros(1, 1, dtype=torch.int64)),
        *(np.array([1.0, 2.0]), torch.tensor([1.0]), np.array(["1"]), [1j], np.array([1j])),
        *([np.float32(1)], [np.array([1, 2])], np.array(["2020-01-01"], dtype="datetime64[D]")),
        *(array.array("d", [1.0]), [b"1"], np.array([1.0] * 100), [1] * 99 + [1.0]),
    ],
    ids=repr,
)
def test_what_is_not_integers_in_one_dimension_is_an_error(ids):
    with pytest.raises(TypeError, match="ids have to be integers in one dimension"):
        Decoder(TOKENS, ())(ids, False)


def test_an_error_while_ids_are_made_is_that_of_the_maker():
    def ids():
        yield 1
        raise RuntimeError("the maker's")

    with pytest.raises(RuntimeError, match="the maker's"):
        Decoder(TOKENS, ())(ids(), False)


@pytest.mark.parametrize("count", [0, 3, 1000])
def test_a_tokenizer_gives_bytes_and_a_str_of_their_own_type(tokenizer, count):
    ids = tokenizer.encode("é") * count
    for form in (ids, np.array(ids, dtype=np.int32)):
        decoded = tokenizer.decode_bytes(form), tokenizer.decode(form)
        assert decoded == ("é".encode() * count, "é" * count)
        assert list(map(type, decoded)) == [bytes, str]
