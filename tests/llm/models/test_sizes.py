"""The published sizes, counted on the meta device."""

import dataclasses
import re

import pytest
import torch
import transformers

from llm.models import ARCHITECTURES
from llm.models.gpt import GPT, GPT2, GPT2Config, GPTConfig, hf_format

SIZES = [
    (GPT, GPTConfig.gpt1, 116_534_784),
    (GPT2, GPT2Config.gpt2_small, 124_439_808),
    (GPT2, GPT2Config.gpt2_medium, 354_823_168),
    (GPT2, GPT2Config.gpt2_large, 774_030_080),
    (GPT2, GPT2Config.gpt2_xl, 1_557_611_200),
]


@pytest.mark.parametrize(("model", "config", "count"), SIZES)
def test_published_sizes_have_the_published_parameter_counts(model, config, count):
    with torch.device("meta"):
        built = model(config())
    assert {parameter.device.type for parameter in built.parameters()} == {"meta"}
    assert built.num_parameters() == count
    assert sum(parameter.numel() for parameter in built.parameters()) == count


@pytest.mark.parametrize(("model", "config", "count"), SIZES)
def test_a_configuration_counts_parameters_without_the_model(model, config, count):
    assert config().num_parameters == count
    changes = {"embed_dim": 24, "num_heads": 2, "num_layers": 3, "vocab_size": 50}
    # tokens of the published vocabulary are none of this one
    changes |= {"eos_token_id": None, "bos_token_id": None}
    for more in ({}, {"intermediate_dim": 7}, {"tie_embeddings": False}):
        small = config(**changes, **more)
        with torch.device("meta"):
            assert model(small).num_parameters() == small.num_parameters


@pytest.mark.parametrize(("model", "config", "count"), SIZES)
def test_transformers_counts_the_same_for_the_exported_configuration(model, config, count):
    exported = (hf_format.GPT_FORMAT if model is GPT else hf_format.GPT2_FORMAT).config_to_hf(
        config()
    )
    with torch.device("meta"):
        stock = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**exported)
        )
    assert stock.num_parameters() == count
    assert {name: tuple(t.shape) for name, t in stock.state_dict().items()}.items() >= {
        "lm_head.weight": (config().vocab_size, config().embed_dim)
    }.items()


def test_the_smallest_sizes_are_transformers_defaults():
    for config, stock in (
        (GPTConfig.gpt1(), transformers.OpenAIGPTConfig()),
        (GPT2Config.gpt2_small(), transformers.GPT2Config()),
    ):
        assert config.vocab_size == stock.vocab_size
        assert config.embed_dim == stock.n_embd
        assert config.num_layers == stock.n_layer
        assert config.num_heads == stock.n_head
        assert config.max_position_embeddings == stock.n_positions


@pytest.mark.parametrize(
    ("config", "layers", "heads", "width"),
    [
        (GPT2Config.gpt2_small, 12, 12, 768),
        (GPT2Config.gpt2_medium, 24, 16, 1024),
        (GPT2Config.gpt2_large, 36, 20, 1280),
        (GPT2Config.gpt2_xl, 48, 25, 1600),
    ],
)
def test_gpt2_sizes_are_table_2_of_the_paper(config, layers, heads, width):
    size = config()
    assert (size.num_layers, size.num_heads, size.embed_dim) == (layers, heads, width)
    assert (size.vocab_size, size.max_position_embeddings) == (50257, 1024)


PARTS = {
    "token_embeddings": r"decoder\.token_embeddings\.",
    "position_embeddings": r"decoder\.position_embeddings\.",
    "attention": r"\.attention\.",
    "feed_forward": r"\.feed_forward\.",
    "norms": r"_norm\.",
    "head": r"lm_head\.",
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("inner", [None, 7])
def test_the_parts_are_those_of_the_built_model(model_type, tiny, tied, inner):
    architecture = ARCHITECTURES[model_type]
    config = architecture.config.from_dict(
        tiny(model_type, tie_embeddings=tied, intermediate_dim=inner)
    )
    model = architecture.model(config)
    found = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        (part,) = (part for part, pattern in PARTS.items() if re.search(pattern, name))
        found[part] += parameter.numel()
    assert dataclasses.asdict(config.parameters) == found
    assert config.num_parameters == model.num_parameters()
    blocks = [*model.decoder.blocks.parameters(), *model.decoder.final_norm.parameters()]
    assert config.parameters.without_embeddings == sum(p.numel() for p in blocks)


def test_a_token_leaves_in_the_cache_what_the_configuration_says(model_type, make_model):
    model = make_model(model_type)
    cache = model.make_cache(batch_size=3, max_length=5)
    numbers = cache.keys.numel() + cache.values.numel()
    assert numbers == 3 * 5 * model.config.cached_numbers
