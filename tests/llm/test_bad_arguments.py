"""Arguments of a wrong type: a ValueError that names the argument, before any kernel runs."""

import numpy as np
import pytest
import torch

from llm.generation import SamplingConfig, generate, generate_text
from llm.models.gpt import GPT
from llm.tokenizers import BPETokenizer

IDS = torch.tensor([[1, 2, 3]])
CONFIG = {
    "vocab_size": 262,
    "embed_dim": 8,
    "num_heads": 2,
    "num_layers": 1,
    "max_position_embeddings": 8,
}


@pytest.fixture(scope="module")
def model():
    return GPT(CONFIG).eval()


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = BPETokenizer()
    tokenizer.train(["the cat sat"], 262, ["<eos>"], show_progress=False)
    return tokenizer


@pytest.mark.parametrize("ids", [[[1, 2]], np.array([[1]]), None, "text", 3])
def test_what_is_no_tensor_is_named(model, ids):
    with pytest.raises(ValueError, match=f"input_ids must be a tensor, not a {type(ids).__name__}"):
        model(ids)
    with pytest.raises(ValueError, match=f"input_ids must be a tensor, not a {type(ids).__name__}"):
        generate(model, ids, max_new_tokens=1)


@pytest.mark.parametrize("name", ["attention_mask", "position_ids"])
def test_a_list_in_the_place_of_a_tensor_is_named(model, name):
    with pytest.raises(ValueError, match=f"{name} must be a tensor, not a list"):
        model(IDS, **{name: [[1, 1, 1]]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_mask": [[1, 1, 1]]}, "attention_mask must be a tensor, not a list"),
        ({"do_sample": "no"}, "do_sample='no' must be true or false"),
        ({"do_sample": 1}, "do_sample=1 must be true or false"),
        ({"use_cache": "no"}, "use_cache='no' must be true or false"),
        ({"use_cache": None}, "use_cache=None must be true or false"),
        ({"generator": 3}, "generator=3 must be a torch.Generator"),
        ({"eos_token_id": 1.0}, r"eos_token_id=1\.0 must be a whole number"),
        ({"eos_token_id": ["x"]}, "eos_token_id='x' must be a whole number"),
        ({"eos_token_id": True}, "eos_token_id=True must be a whole number"),
        ({"eos_token_id": 10**30}, "eos_token_id 10+ is outside 0 to 261"),
        ({"pad_token_id": 10**30}, "pad_token_id 10+ is outside 0 to 261"),
        ({"pad_token_id": -1}, "pad_token_id=-1"),
        ({"max_new_tokens": 1.5}, r"max_new_tokens=1\.5"),
        ({"max_new_tokens": None}, "max_new_tokens=None"),
        ({"do_sample": True, "temperature": "1"}, "temperature='1'"),
        ({"do_sample": True, "temperature": 1e7}, "temperature=1"),
        ({"do_sample": True, "top_k": 1.5}, r"top_k=1\.5"),
        ({"repetition_penalty": 1e7}, "repetition_penalty=1"),
    ],
)
def test_an_option_of_a_wrong_type_or_size_is_named(model, options, message):
    with pytest.raises(ValueError, match=message):
        generate(model, IDS, **{"max_new_tokens": 1, **options})


@pytest.mark.parametrize("stop", [3, [3], ["a", None], b"x"])
def test_a_stop_that_is_no_text_is_named(model, tokenizer, stop):
    with pytest.raises(ValueError, match=r"stop=.* must be text, or a list of texts"):
        generate_text(model, tokenizer, "the", max_new_tokens=1, stop=stop)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embed_dim", 8.0),
        ("embed_dim", torch.tensor(8)),
        ("vocab_size", "262"),
        ("vocab_size", None),
        ("num_layers", True),
        ("dropout", "0"),
        ("tie_embeddings", "yes"),
        ("activation", ["gelu"]),
        ("n_embd", 8),
        (3, 8),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value):
    with pytest.raises(ValueError, match=str(field)):
        GPT({**CONFIG, field: value})


def test_flags_are_checked_without_a_model():
    with pytest.raises(ValueError, match="do_sample='yes'"):
        SamplingConfig(do_sample="yes")
