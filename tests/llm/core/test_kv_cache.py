"""The cache returns what concatenation would, from storage allocated once."""

import pytest
import torch

from llm.core.kv_cache import KVCache


@pytest.fixture
def make_cache():
    def make(**overrides):
        sizes = {
            "num_layers": 2,
            "batch_size": 3,
            "num_kv_heads": 2,
            "max_length": 9,
            "head_dim": 4,
        }
        sizes.update(overrides)
        return KVCache(**sizes, dtype=torch.float32, device=torch.device("cpu"))

    return make


def random_keys(length, seed, batch_size=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, 2, length, 4, generator=generator)


@pytest.mark.parametrize("lengths", [[9], [4, 5], [1] * 9, [3, 1, 2]])
def test_updates_return_the_concatenation_of_all_of_the_layers_updates(make_cache, lengths):
    cache = make_cache()
    given = {0: ([], []), 1: ([], [])}
    for step, length in enumerate(lengths):
        for layer in (0, 1):
            keys = random_keys(length, seed=10 * step + layer)
            values = random_keys(length, seed=1000 + 10 * step + layer)
            given[layer][0].append(keys)
            given[layer][1].append(values)
            got_keys, got_values = cache.update(keys, values, layer)
            assert torch.equal(got_keys, torch.cat(given[layer][0], dim=2))
            assert torch.equal(got_values, torch.cat(given[layer][1], dim=2))
        assert cache.get_seq_length() == sum(lengths[: step + 1])


def test_a_new_cache_is_empty(make_cache):
    assert make_cache().get_seq_length() == 0


def test_storage_is_allocated_once_and_written_in_place(make_cache):
    cache = make_cache()
    first = cache.update(random_keys(2, 0), random_keys(2, 1), 0)
    second = cache.update(random_keys(3, 2), random_keys(3, 3), 0)
    for before, after in zip(first, second, strict=True):
        assert before.data_ptr() == after.data_ptr()


def test_what_is_given_is_copied(make_cache):
    cache = make_cache()
    keys = random_keys(2, 0)
    kept = keys.clone()
    got, _ = cache.update(keys, keys, 0)
    keys.zero_()
    assert torch.equal(got, kept)


def test_overfilling_is_an_error_with_the_numbers(make_cache):
    cache = make_cache()
    for layer in (0, 1):
        cache.update(random_keys(7, 0), random_keys(7, 1), layer)
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b9\b)(?=.*\b(7|10)\b)"):
        cache.update(random_keys(3, 2), random_keys(3, 3), 0)
    assert cache.get_seq_length() == 7


def test_another_batch_size_is_an_error_with_the_numbers(make_cache):
    with pytest.raises(ValueError, match=r"(?s)(?=.*\b3\b)(?=.*\b1\b)"):
        make_cache().update(random_keys(2, 0, batch_size=1), random_keys(2, 1, batch_size=1), 0)


def test_every_layer_of_a_forward_sees_the_same_past(make_model, random_ids):
    """The length is that before the forward under way until the last layer has written."""
    model = make_model("gpt2")
    cache = model.make_cache(batch_size=1, max_length=6)
    lengths = []
    for block in model.decoder.blocks:
        block.register_forward_pre_hook(lambda *_: lengths.append(cache.get_seq_length()))
    ids = random_ids(model.config.vocab_size, 1, 5)
    model(ids[:, :3], cache=cache)
    model(ids[:, 3:], cache=cache)
    assert lengths[0] == 0
    assert lengths[len(model.decoder.blocks)] == 3
    assert cache.get_seq_length() == 5


def test_what_is_cut_off_is_written_anew(make_cache):
    cache = make_cache(batch_size=1, num_kv_heads=1, max_length=4, head_dim=1)
    tokens = torch.arange(4.0).view(1, 1, 4, 1)
    for layer in range(2):
        cache.update(tokens[:, :, :3], -tokens[:, :, :3], layer)
    cache.truncate(1)
    assert cache.get_seq_length() == 1
    for layer in range(2):
        keys, values = cache.update(tokens[:, :, 3:], -tokens[:, :, 3:], layer)
        assert keys.flatten().tolist() == [0, 3]
        assert values.flatten().tolist() == [0, -3]
    for length in (-1, 3):
        with pytest.raises(ValueError, match=f"2 tokens cannot be cut down to {length}"):
            cache.truncate(length)


def test_keys_and_values_may_be_replaced(make_cache):
    """As a search over several texts does, to go on with some of them."""
    cache = make_cache(num_layers=1, batch_size=2, num_kv_heads=1, head_dim=1)
    rows = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    cache.update(rows, rows, 0)
    cache.keys, cache.values = cache.keys[:, [1, 0]], cache.values[:, [1, 0]]
    keys, values = cache.update(rows, rows, 0)
    assert keys.flatten().tolist() == values.flatten().tolist() == [2, 1, 1, 2]
