"""Random small transformers models and ours with the same weights."""

import functools
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import transformers

from llm.models import ARCHITECTURES
from llm.models.gpt import hf_format

# (vocabulary, context, width, layers, heads, epsilon, more of the configuration)
GPT2_SHAPES = [
    (97, 32, 32, 2, 4, 1e-5, {}),
    (61, 19, 48, 3, 3, 1e-3, {"n_inner": 100, "activation_function": "gelu"}),
    (130, 24, 20, 1, 1, 1e-6, {"n_inner": 33, "activation_function": "relu"}),
    (50, 40, 64, 4, 8, 1e-5, {"n_inner": 64, "activation_function": "silu"}),
    (71, 23, 12, 2, 12, 1e-5, {"tie_word_embeddings": False}),
]
GPT_SHAPES = [
    (97, 32, 32, 2, 4, 1e-5, {}),
    (61, 19, 48, 3, 3, 1e-3, {"afn": "silu"}),
    (130, 24, 20, 1, 1, 1e-6, {"afn": "relu"}),
    (50, 40, 64, 4, 8, 1e-5, {}),
    (71, 23, 12, 2, 12, 1e-5, {"tie_word_embeddings": False}),
]
PAIRS = [("gpt", i) for i in range(len(GPT_SHAPES))]
PAIRS += [("gpt2", i) for i in range(len(GPT2_SHAPES))]


@pytest.fixture(scope="session")
def formats():
    """The format object of each model type."""
    return {"gpt": hf_format.GPT_FORMAT, "gpt2": hf_format.GPT2_FORMAT}


@pytest.fixture(scope="session")
def make_stock(shaken):
    """A transformers model of a shape, with lively weights and without dropout."""

    def make(model_type, shape=0, **overrides):
        shapes = GPT_SHAPES if model_type == "gpt" else GPT2_SHAPES
        vocab_size, context, width, layers, heads, eps, more = shapes[shape]
        config_class, model_class = (
            (transformers.OpenAIGPTConfig, transformers.OpenAIGPTLMHeadModel)
            if model_type == "gpt"
            else (transformers.GPT2Config, transformers.GPT2LMHeadModel)
        )
        settings = {
            "vocab_size": vocab_size,
            "n_positions": context,
            "n_embd": width,
            "n_layer": layers,
            "n_head": heads,
            "layer_norm_epsilon": eps,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "bos_token_id": None,
            "eos_token_id": None,
            # the plain equations, not the kernel that ours calls
            "attn_implementation": "eager",
        }
        stock = model_class(config_class(**{**settings, **more, **overrides}))
        stock = shaken(stock, seed=shape).eval()
        positions = (
            stock.transformer.positions_embed if model_type == "gpt" else stock.transformer.wpe
        )
        positions.weight.data.mul_(4)  # for continuations that vary
        return stock

    return make


@pytest.fixture(scope="session")
def ours_like(formats):
    """Our model with the configuration and the weights of a transformers model."""

    def make(model_type, stock):
        convert = formats[model_type]
        config = convert.config_from_hf(stock.config.to_dict())
        model = ARCHITECTURES[model_type].model(config)
        model.load_state_dict(convert.weights_from_hf(config, stock.state_dict()))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def cached_pair(make_stock, ours_like):
    @functools.cache
    def make(model_type, shape):
        stock = make_stock(model_type, shape)
        return stock, ours_like(model_type, stock)

    return make


@pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def pair(request, cached_pair):
    """(model_type, transformers' model, ours), for every shape; not to be changed."""
    return request.param[0], *cached_pair(*request.param)
