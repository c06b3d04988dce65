"""Configurations map both ways, and what cannot be expressed raises, naming the field."""

import dataclasses

import pytest
import transformers

from llm.models import ARCHITECTURES
from llm.models.gpt import GPT2Config, GPTConfig

PUBLISHED_GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
PUBLISHED_GPT = {
    "afn": "gelu",
    "architectures": ["OpenAIGPTLMHeadModel"],
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "openai-gpt",
    "n_ctx": 512,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 512,
    "n_special": 0,
    "predict_special_tokens": True,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 40478,
}
# what decides a model's logits, its training, or its generation
SHARED = [
    "model_type",
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "layer_norm_epsilon",
    "initializer_range",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
]
MATTERS = {"gpt": {*SHARED, "afn"}, "gpt2": {*SHARED, "activation_function", "n_inner"}}


@pytest.mark.parametrize(
    ("model_type", "published", "config"),
    [("gpt", PUBLISHED_GPT, GPTConfig.gpt1()), ("gpt2", PUBLISHED_GPT2, GPT2Config.gpt2_small())],
)
def test_the_published_configuration_reads_as_the_named_constructor(
    formats, model_type, published, config
):
    assert formats[model_type].model_type == published["model_type"]
    read = formats[model_type].config_from_hf(published)
    same = {"bos_token_id": read.bos_token_id, "eos_token_id": read.eos_token_id}
    same["intermediate_dim"] = read.intermediate_dim  # None or 4C, as read
    assert config.intermediate_dim in (None, 4 * config.embed_dim)
    assert read == dataclasses.replace(config, **same)
    assert read.eos_token_id == published.get("eos_token_id")


def test_every_key_that_matters_survives_the_way_there_and_back(pair, formats):
    model_type, stock, ours = pair
    given = stock.config.to_dict()
    back = formats[model_type].config_to_hf(ours.config)
    assert set(back) >= MATTERS[model_type] - {"n_inner"}
    for key in set(back) & set(given) - {"transformers_version", "dtype", "architectures"}:
        assert back[key] == given[key], key
    for key in MATTERS[model_type]:
        assert back.get(key) == given.get(key), key


def test_stock_reads_an_exported_configuration_as_the_original(pair, formats):
    model_type, stock, ours = pair
    exported = formats[model_type].config_to_hf(ours.config)
    read = transformers.AutoConfig.for_model(**exported).to_dict()
    given = stock.config.to_dict()
    for key in MATTERS[model_type]:
        assert read[key] == given[key], key


def test_every_field_survives_the_way_there_and_back(model_type, formats, tiny):
    fields = tiny(
        model_type,
        intermediate_dim=None,
        activation="silu",
        dropout=0.0,
        embedding_dropout=0.2,
        attention_dropout=0.3,
        residual_dropout=0.4,
        norm_eps=1e-4,
        initializer_range=0.03,
        tie_embeddings=False,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=4,
    )
    config = ARCHITECTURES[model_type].config(**fields)
    back = formats[model_type].config_from_hf(formats[model_type].config_to_hf(config))
    kinds = ("embedding_dropout", "attention_dropout", "residual_dropout")
    for name in set(fields) - {"dropout", "intermediate_dim", *kinds}:
        assert getattr(back, name) == fields[name], name
    for name in kinds:  # None is "as dropout"
        value = getattr(back, name)
        assert (back.dropout if value is None else value) == fields[name], name
    assert back.intermediate_dim in (None, 4 * config.embed_dim)
    assert formats[model_type].config_to_hf(back) == formats[model_type].config_to_hf(config)


@pytest.mark.parametrize("token", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_an_id_that_is_not_set_is_exported_as_none(model_type, formats, tiny, token):
    """Left out, stock GPT2Config would put in 50256."""
    exported = formats[model_type].config_to_hf(
        ARCHITECTURES[model_type].config(**tiny(model_type, intermediate_dim=None))
    )
    assert exported[token] is None
    assert getattr(transformers.AutoConfig.for_model(**exported), token) is None


@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_a_key_that_is_absent_has_transformers_default(formats, model_type):
    stock = transformers.OpenAIGPTConfig() if model_type == "gpt" else transformers.GPT2Config()
    convert = formats[model_type]
    minimal = convert.config_from_hf({"model_type": stock.model_type})
    assert minimal == convert.config_from_hf(stock.to_dict())


@pytest.mark.parametrize(
    ("model_type", "ours", "theirs"),
    [
        ("gpt", "gelu_tanh", "gelu"),
        ("gpt", "relu", "relu"),
        ("gpt", "silu", "silu"),
        ("gpt2", "gelu_tanh", "gelu_new"),
        ("gpt2", "gelu", "gelu"),
        ("gpt2", "relu", "relu"),
        ("gpt2", "silu", "silu"),
    ],
)
def test_activations_have_the_names_of_the_class(formats, tiny, model_type, ours, theirs):
    """In openai-gpt "gelu" is the tanh form."""
    key = "afn" if model_type == "gpt" else "activation_function"
    config = ARCHITECTURES[model_type].config(**tiny(model_type, activation=ours))
    exported = formats[model_type].config_to_hf(config)
    assert exported[key] == theirs
    assert formats[model_type].config_from_hf(exported).activation == ours


@pytest.mark.parametrize(("field", "value"), [("intermediate_dim", 100), ("activation", "gelu")])
def test_what_openai_gpt_cannot_express_is_an_error_naming_the_field(formats, tiny, field, value):
    config = GPTConfig(**tiny("gpt", **{field: value}))
    with pytest.raises(ValueError, match=rf"(?s){field}.*{value}"):
        formats["gpt"].config_to_hf(config)


@pytest.mark.parametrize("width", [None, 96])
def test_the_width_openai_gpt_has_is_not_an_error(formats, tiny, width):
    config = GPTConfig(**tiny("gpt", embed_dim=24, intermediate_dim=width))
    assert formats["gpt"].config_to_hf(config)["n_embd"] == 24


@pytest.mark.parametrize(
    ("model_type", "field", "value"),
    [
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "activation_function", "mish"),
        ("gpt", "afn", "mish"),
        ("gpt2", "eos_token_id", [3, 4]),
        ("gpt", "eos_token_id", [3, 4]),
    ],
)
def test_what_ours_cannot_express_is_an_error_naming_the_field(
    formats, make_stock, model_type, field, value
):
    given = {**make_stock(model_type).config.to_dict(), field: value}
    with pytest.raises(ValueError, match=field):
        formats[model_type].config_from_hf(given)


@pytest.mark.parametrize(("model_type", "other"), [("gpt", "gpt2"), ("gpt2", "openai-gpt")])
def test_another_model_type_is_an_error_naming_both(formats, make_stock, model_type, other):
    given = {**make_stock(model_type).config.to_dict(), "model_type": other}
    with pytest.raises(
        ValueError, match=rf"(?s)(?=.*{other})(?=.*{formats[model_type].model_type})"
    ):
        formats[model_type].config_from_hf(given)


def test_a_head_that_contradicts_the_tie_is_an_error_naming_it(make_stock, formats):
    for model_type, convert in formats.items():
        stock = make_stock(model_type)
        weights = {name: weight.clone() for name, weight in stock.state_dict().items()}
        weights["lm_head.weight"] += 1
        config = convert.config_from_hf(stock.config.to_dict())
        with pytest.raises(ValueError, match=r"lm_head\.weight"):
            convert.weights_from_hf(config, weights)
