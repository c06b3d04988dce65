"""The memory of generation: weights and cache to the byte."""

import pytest
import torch

from llm.models.gpt import GPT2Config
from llm.preflight import generation_memory, kv_bytes_per_token


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_weights_and_cache_are_those_of_the_model(model_type, make_model, precision, dtype):
    model = make_model(model_type).to(dtype)
    cache = model.make_cache(3, 11)
    memory = generation_memory(
        model.config, batch_size=3, prompt_length=5, max_new_tokens=6, precision=precision
    )
    assert memory.weights == sum(p.nbytes for p in model.parameters())
    assert memory.cache == cache.keys.nbytes + cache.values.nbytes
    assert kv_bytes_per_token(model.config, precision=precision) * 33 == memory.cache
    assert memory.total > memory.weights + memory.cache


def test_the_cache_ends_with_the_context():
    config = GPT2Config.gpt2_small()
    inside = generation_memory(config, prompt_length=1000, max_new_tokens=24)
    beyond = generation_memory(config, prompt_length=1000, max_new_tokens=500)
    assert beyond.cache == inside.cache == 1024 * 12 * 2 * 768 * 4
    # the window is read anew
    assert beyond.working > inside.working


def test_bad_arguments_are_named():
    config = GPT2Config.gpt2_small()
    for name, value in (("batch_size", 0), ("prompt_length", 0), ("max_new_tokens", -1)):
        options = {"prompt_length": 1, "max_new_tokens": 1, name: value}
        with pytest.raises(ValueError, match=f"{name}="):
            generation_memory(config, **options)
    with pytest.raises(ValueError, match="precision='int8'"):
        kv_bytes_per_token(config, precision="int8")
