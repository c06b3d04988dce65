"""Operations worked out from a configuration are those that PyTorch counts on the model."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llm.core.flops import (
    forward_flops,
    kaplan_training_flops,
    palm_training_flops,
    training_flops,
)
from llm.models import ARCHITECTURES
from llm.models.gpt import GPT2Config, GPTConfig

SHAPES = [
    {},
    {"tie_embeddings": False, "num_layers": 1},
    {"vocab_size": 300, "embed_dim": 48, "num_heads": 4, "max_position_embeddings": 64},
    {"intermediate_dim": 33, "max_position_embeddings": 7},
]


def counted(model, input_ids, *, backward):
    """Operations of a plain forward to logits and, if asked, of the backward of its loss."""
    # the fused attention computes the scores again in its backward, and that would count
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(input_ids)
        if backward:
            F.cross_entropy(logits.flatten(0, 1), input_ids.flatten()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", SHAPES)
def test_they_are_what_pytorch_counts(model_type, tiny, random_ids, shape):
    architecture = ARCHITECTURES[model_type]
    config = architecture.config.from_dict(tiny(model_type, **shape))
    model = architecture.model(config)
    batch_size, length = 3, config.max_position_embeddings - 1
    input_ids = random_ids(config.vocab_size, batch_size, length)
    tokens = batch_size * length
    assert counted(model, input_ids, backward=False) == tokens * forward_flops(config, length)
    assert counted(model, input_ids, backward=True) == pytest.approx(
        tokens * training_flops(config, length), rel=0.01
    )


def test_the_fused_attention_counts_the_same_forward(make_model, random_ids):
    model = make_model("gpt2")
    input_ids = random_ids(model.config.vocab_size, 2, 16)
    fused = FlopCounterMode(display=False)
    with fused, torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        model(input_ids)
    assert fused.get_total_flops() == 32 * forward_flops(model.config, 16)


def test_the_published_formulas_agree_where_they_should():
    config = GPT2Config.gpt2_small()
    exact = training_flops(config, 1024)
    # 6 N + 12 L H Q T, written out: 124,439,808 parameters
    assert palm_training_flops(config, 1024) == 6 * 124_439_808 + 12 * 12 * 12 * 64 * 1024
    assert palm_training_flops(config, 1024) == pytest.approx(exact, rel=0.01)
    # 3 (2 N + 2 L T C) lacks the head and half of attention
    assert kaplan_training_flops(config, 1024) == 6 * 85_056_000 + 6 * 12 * 1024 * 768
    lacking = 6 * 50257 * 768 + 6 * 12 * 1024 * 768
    assert kaplan_training_flops(config, 1024) + lacking == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("length", [0, -1, 2.0, True])
@pytest.mark.parametrize("count", [forward_flops, palm_training_flops, kaplan_training_flops])
def test_a_length_that_is_none_is_named(count, length):
    with pytest.raises(ValueError, match="sequence_length="):
        count(GPTConfig.gpt1(), length)
