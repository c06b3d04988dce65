"""What must be there at least is never more than what there is."""

import dataclasses

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from llm.models import ARCHITECTURES
from llm.models.gpt import GPT2Config
from llm.preflight import least_forward_bytes, least_weight_bytes, training_memory
from llm.training import TrainingConfig
from llm.training.step_gradient import LossOfBatch


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 40])
def test_a_forward_saves_no_less(model_type, tiny, random_ids, precision, again, max_tokens):
    model = ARCHITECTURES[model_type].model(tiny(model_type, dropout=0.1)).train()
    model.decoder.recompute_blocks = again
    training = TrainingConfig(
        steps=1,
        batch_size=4,
        precision=precision,
        gradient_checkpointing=again,
        max_tokens=max_tokens,
    )
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    length = model.config.max_position_embeddings
    rows = 2 if max_tokens else 4
    ids = random_ids(model.config.vocab_size, rows, length)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        LossOfBatch(model, training)(ids, ids, 1.0)
    most = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert 0 < least_forward_bytes(model.config, training) <= most


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_weights_take_no_less(optimizer, ema_decay):
    config = GPT2Config.gpt2_small()
    training = TrainingConfig(steps=1, batch_size=1, optimizer=optimizer, ema_decay=ema_decay)
    memory = training_memory(config, training)
    held = memory.weights + memory.optimizer + memory.averaged_weights
    assert least_weight_bytes(config, training) == held + 4 * config.num_parameters
    assert least_weight_bytes(config, training) <= memory.total
    assert least_weight_bytes(config, training, num_ranks=4) == held + 4 * config.num_parameters
    shared = dataclasses.replace(training, parallel="fsdp")
    assert least_weight_bytes(config, shared, num_ranks=4) * 4 == held + 4 * config.num_parameters


def test_a_compiler_is_not_told_what_to_keep():
    config = GPT2Config.gpt2_small()
    plain, compiled = (TrainingConfig(steps=1, compile=compile) for compile in (False, True))
    assert least_forward_bytes(config, compiled) < least_forward_bytes(config, plain)
    assert torch.float32.itemsize * config.num_layers <= least_forward_bytes(config, compiled)
