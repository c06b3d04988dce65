"""Floating-point operations of a model, worked out from its configuration.

A multiplication with the addition that follows it counts as two. Norms,
activations, softmax and biases are left out, some per mille of a model of any
size. Causal attention is counted as if it looked at every pair of tokens, as
the papers below and PyTorch's `FlopCounterMode` do; a kernel may leave out half.
"""

from __future__ import annotations

from llm.core.config import ModelConfig, check_count


def forward_flops(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs of a forward for each token: 2 · matrix entries + 4 · layers · length · width.

    A token is multiplied with every matrix entry once, those of the output
    projection included. Its query meets `sequence_length` keys and its weights as
    many values, each of `num_heads · head_dim` numbers, in each layer.

    Args:
        config: of the model.
        sequence_length: tokens that are attended to, T ≥ 1; of a training
            forward, the length of its examples.

    Raises:
        ValueError: the length is less than 1.
    """
    check_count("sequence_length", sequence_length)
    attention = 4 * config.num_layers * sequence_length * config.embed_dim
    return 2 * config.multiplied_weights + attention


def training_flops(config: ModelConfig, sequence_length: int) -> int:
    """FLOPs of forward and backward for each token: three times those of the forward.

    The backward makes two products for each of the forward's, one for either
    factor's gradient. What gradient checkpointing, or a fused attention, computes a
    second time is not counted: these are the model's operations, not the machine's.

    Reference: Chowdhery et al., "PaLM", arXiv:2204.02311, appendix B.
    """
    return 3 * forward_flops(config, sequence_length)


def palm_training_flops(config: ModelConfig, sequence_length: int) -> int:
    """6 N + 12 · layers · heads · head_dim · length, N all parameters.

    `training_flops` differs by what no token is multiplied with: positions, norms,
    biases, and token embeddings that the head does not share.

    Reference: as `training_flops`.
    """
    check_count("sequence_length", sequence_length)
    attention = 12 * config.num_layers * config.embed_dim * sequence_length
    return 6 * config.num_parameters + attention


def kaplan_training_flops(config: ModelConfig, sequence_length: int) -> int:
    """3 · (2 N + 2 · layers · length · width), N without embeddings and head.

    Of attention one of the two products is counted.

    Reference: Kaplan et al., "Scaling Laws for Neural Language Models",
    arXiv:2001.08361, section 2.1 and table 1.
    """
    check_count("sequence_length", sequence_length)
    attention = 2 * config.num_layers * sequence_length * config.embed_dim
    return 3 * (2 * config.parameters.without_embeddings + attention)
