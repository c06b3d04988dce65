"""The published sizes, counted on the meta device."""

import pytest
import torch
import transformers

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
