"""The hash table equals a dictionary."""

import random

import numpy as np
import pytest

from llm.tokenizers import _key_table
from llm.tokenizers._key_table import KeyTable

EXTREMES = [0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
# With the first three, keys meet in few slots; the last is odd, as drawn ones are.
MULTIPLIERS = [0, 1, 1 << 63, 0x9E3779B97F4A7C15]


def array(values, dtype):
    return np.array(values, dtype=dtype)


def make_keys(kind, count, rng):
    if kind == "random":
        keys = {rng.getrandbits(64) for _ in range(count)}
    elif kind == "small":
        keys = set(range(count))
    else:
        keys = {number << 40 for number in range(count)}
    keys = [*(keys - set(EXTREMES)), *EXTREMES]
    rng.shuffle(keys)
    return keys


@pytest.mark.parametrize("multiplier", [None, *MULTIPLIERS])
@pytest.mark.parametrize("kind", ["random", "small", "high"])
def test_a_table_finds_what_a_dictionary_finds(monkeypatch, multiplier, kind):
    if multiplier is not None:
        monkeypatch.setattr(_key_table, "MULTIPLIER", np.uint64(multiplier))
    rng = random.Random(0)
    keys = make_keys(kind, 1500 if multiplier in (0, 1, 1 << 63) else 20_000, rng)
    asked = [*keys, *(rng.getrandbits(64) for _ in range(500)), *range(2000)]
    table, known = KeyTable(), {}
    while keys:
        assert table.find(array(asked, np.uint64)).tolist() == [known.get(key, -1) for key in asked]
        size = rng.choice([0, 1, 7, 500, 9000])
        new, keys = keys[:size], keys[size:]
        values = [rng.choice([0, 2**31 - 1, rng.randrange(2**31)]) for _ in new]
        table.add(array(new, np.uint64), array(values, np.int32))
        known.update(zip(new, values, strict=True))
    found = table.find(array(asked, np.uint64))
    assert found.dtype == np.int32
    assert found.tolist() == [known.get(key, -1) for key in asked]


def test_a_key_may_be_asked_for_many_times_in_one_call():
    table = KeyTable()
    table.add(array([5, 0], np.uint64), array([7, 8], np.int32))
    assert table.find(array([5, 6, 5, 0, 5], np.uint64)).tolist() == [7, -1, 7, 8, 7]


def test_an_empty_table_has_no_key_and_none_may_be_asked_for():
    table = KeyTable()
    assert table.find(array(EXTREMES, np.uint64)).tolist() == [-1] * len(EXTREMES)
    assert table.find(array([], np.uint64)).tolist() == []
    table.add(array([], np.uint64), array([], np.int32))
    assert table.find(array([0], np.uint64)).tolist() == [-1]


@pytest.mark.parametrize("slots_per_key", [2, 16])
def test_as_many_slots_stay_empty_as_asked_for(slots_per_key):
    table = KeyTable(slots_per_key)
    for first in range(0, 5000, 50):
        table.add(np.arange(first, first + 50, dtype=np.uint64), np.arange(50, dtype=np.int32))
        assert len(table._keys) >= slots_per_key * (first + 50)
    assert len(table._keys) <= 2 * slots_per_key * 5000


def test_finding_leaves_the_keys_as_they_are():
    table = KeyTable()
    table.add(np.arange(600, dtype=np.uint64), np.arange(600, dtype=np.int32))
    keys = np.arange(1200, dtype=np.uint64)
    table.find(keys)
    assert np.array_equal(keys, np.arange(1200))


def test_the_multiplier_is_odd_and_another_in_every_process():
    # an even one would send keys to half of the slots, a known one lets keys be chosen
    assert int(_key_table.MULTIPLIER) % 2 == 1
    assert int(_key_table.MULTIPLIER).bit_length() > 32
