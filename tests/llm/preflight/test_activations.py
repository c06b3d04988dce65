"""What a forward keeps, worked out, is what autograd saves."""

import pytest
from torch.autograd.graph import saved_tensors_hooks

from llm.models import ARCHITECTURES
from llm.preflight.activations import NUMBER_BYTES, block_bytes, outside_bytes
from llm.training import TrainingConfig
from llm.training.step_gradient import LossOfBatch

DROPOUTS = {
    "none": {},
    "all": {"dropout": 0.1},
    "attention": {"attention_dropout": 0.1},
    "residual": {"residual_dropout": 0.1},
    "embedding": {"embedding_dropout": 0.1},
}


def saved_bytes(model, input_ids, precision):
    """Bytes of all that a training forward saves, each storage once, without parameters."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def pack(tensor):
        # held, so that no other gets its address
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    loss_of_batch = LossOfBatch(model, TrainingConfig(steps=1, precision=precision))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of_batch(input_ids, input_ids, 1.0)
    return sum(
        tensor.untyped_storage().nbytes()
        for address, tensor in storages.items()
        if address not in known and tensor.is_floating_point()
    )


@pytest.mark.parametrize(
    ("precision", "activation"), [("fp32", "gelu_tanh"), ("bf16", "silu"), ("fp16", "relu")]
)
@pytest.mark.parametrize("dropout", DROPOUTS)
def test_it_is_what_autograd_saves_to_the_byte(
    model_type, tiny, random_ids, precision, dropout, activation
):
    architecture = ARCHITECTURES[model_type]
    config = architecture.config.from_dict(
        tiny(model_type, max_position_embeddings=150, activation=activation)
        | {"dropout": 0.0, **DROPOUTS[dropout]}
    )
    batch_size, length = 2, 140
    saved = saved_bytes(
        architecture.model(config).train(),
        random_ids(config.vocab_size, batch_size, length),
        precision,
    )
    tokens = batch_size * length
    kept = config.num_layers * block_bytes(
        config, batch_size, length, precision=precision, device="cpu"
    ) + outside_bytes(config, tokens, device="cpu")
    # the loss keeps its gradients: of the rows that predict, and of the head
    loss = 4 * config.embed_dim * (tokens - batch_size + config.vocab_size)
    head = config.vocab_size * config.embed_dim
    copies = 0 if precision == "fp32" else config.multiplied_weights - head
    assert saved == kept + loss + NUMBER_BYTES[precision] * copies


def test_checkpointing_keeps_the_inputs_of_blocks(model_type, tiny, random_ids):
    config = ARCHITECTURES[model_type].config.from_dict(tiny(model_type))
    model = ARCHITECTURES[model_type].model(config).train()
    model.decoder.recompute_blocks = True
    saved = saved_bytes(model, random_ids(config.vocab_size, 2, 16), "fp32")
    inputs = 32 * config.embed_dim * 4 * config.num_layers
    loss = 4 * config.embed_dim * (30 + config.vocab_size)
    assert saved == inputs + loss + outside_bytes(config, 32, device="cpu")
