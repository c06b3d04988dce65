"""Configurations are strict, frozen, and survive a trip through a mapping."""

import dataclasses
import json

import pytest

from llm.core.config import ModelConfig
from llm.models import ARCHITECTURES
from llm.models.gpt import GPT, GPT2, GPT2Config, GPTConfig


def test_every_architecture_has_a_tiny_configuration_for_the_contract_tests(tiny):
    for model_type, architecture in ARCHITECTURES.items():
        config = architecture.config.of(tiny(model_type))
        assert isinstance(config, ModelConfig)
        assert config.model_type == model_type


def test_the_table_names_the_classes():
    assert ARCHITECTURES["gpt"].config is GPTConfig
    assert ARCHITECTURES["gpt"].model is GPT
    assert ARCHITECTURES["gpt2"].config is GPT2Config
    assert ARCHITECTURES["gpt2"].model is GPT2


def test_a_mapping_and_the_dataclass_make_the_same_model_configuration(model_type, tiny):
    architecture = ARCHITECTURES[model_type]
    config = architecture.config(**tiny(model_type))
    assert architecture.config.of(config) is config
    assert architecture.config.of(tiny(model_type)) == config
    assert architecture.config.from_dict(tiny(model_type)) == config
    assert architecture.model(tiny(model_type)).config == config
    assert architecture.model(config).config == config


def test_defaults_are_those_of_the_interface(model_type, tiny):
    sizes = tiny(model_type)
    required = ("vocab_size", "embed_dim", "num_heads", "num_layers", "max_position_embeddings")
    config = ARCHITECTURES[model_type].config(**{name: sizes[name] for name in required})
    assert config.activation == "gelu_tanh"
    assert config.dropout == 0.1
    assert config.norm_eps == 1e-5
    assert config.initializer_range == 0.02
    assert config.tie_embeddings is True
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)


def test_to_dict_and_back_is_the_same_even_through_json(model_type, tiny):
    architecture = ARCHITECTURES[model_type]
    config = architecture.config(
        **tiny(
            model_type,
            attention_dropout=0.3,
            activation="silu",
            eos_token_id=7,
            tie_embeddings=False,
        )
    )
    assert architecture.config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_key_is_an_error_naming_it_and_the_nearest(model_type, tiny):
    fields = tiny(model_type)
    fields["num_head"] = fields.pop("num_heads")
    with pytest.raises(ValueError, match=r"(?s)num_head\b.*num_heads"):
        ARCHITECTURES[model_type].config.from_dict(fields)


@pytest.mark.parametrize("name", ["vocab_size", "embed_dim", "num_heads", "num_layers"])
def test_a_missing_size_is_an_error_naming_it(model_type, tiny, name):
    fields = tiny(model_type)
    del fields[name]
    with pytest.raises((ValueError, TypeError), match=name):
        ARCHITECTURES[model_type].config.from_dict(fields)


def test_a_configuration_is_frozen_and_keyword_only(model_type, tiny):
    config_class = ARCHITECTURES[model_type].config
    config = config_class(**tiny(model_type))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.embed_dim = 8
    with pytest.raises(TypeError):
        config_class(41, 24, 3, 2, 20)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", -3),
        ("embed_dim", 0),
        ("num_heads", 0),
        ("num_layers", 0),
        ("max_position_embeddings", 0),
        ("intermediate_dim", 0),
        ("dropout", -0.1),
        ("dropout", 1.5),
        ("attention_dropout", 1.5),
        ("embedding_dropout", -1.0),
        ("residual_dropout", 2.0),
        ("norm_eps", -1e-5),
        ("initializer_range", -0.02),
        ("vocab_size", 40.5),
        ("num_layers", "2"),
        ("dropout", float("nan")),
    ],
)
def test_an_impossible_value_is_an_error_naming_field_and_value(model_type, tiny, field, value):
    with pytest.raises(ValueError, match=rf"(?s){field}.*{value}"):
        ARCHITECTURES[model_type].config(**tiny(model_type, **{field: value}))


def test_an_unknown_activation_is_an_error_naming_it_and_the_known_ones(model_type, tiny):
    with pytest.raises(ValueError, match=r"(?s)activation.*gelu_tnah.*gelu_tanh.*relu"):
        ARCHITECTURES[model_type].config(**tiny(model_type, activation="gelu_tnah"))


def test_heads_that_do_not_divide_the_width_are_an_error_with_the_numbers(model_type, tiny):
    with pytest.raises(ValueError, match=r"embed_dim.*\b24\b.*num_heads.*\b7\b"):
        ARCHITECTURES[model_type].config(**tiny(model_type, embed_dim=24, num_heads=7))


@pytest.mark.parametrize(("model", "config"), [(GPT, GPT2Config), (GPT2, GPTConfig)])
def test_the_configuration_of_another_architecture_is_an_error(tiny, model, config):
    with pytest.raises((ValueError, TypeError), match=r"GPT2?Config"):
        model(config(**tiny(config.model_type)))
