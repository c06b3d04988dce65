"""What a training forward keeps for its backward, in bytes, worked out from a configuration."""

from __future__ import annotations

from llm.core.block_attention import BLOCK_SIZE
from llm.core.config import ModelConfig

# of each precision of training
NUMBER_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def block_bytes(
    config: ModelConfig, batch_size: int, length: int, *, precision: str, device: str
) -> int:
    """Bytes that one block keeps of a forward of B = `batch_size` rows of T = `length` tokens.

    Weights, and their copies in 16 bits, are not counted.

    Args:
        config: of the model.
        batch_size: B.
        length: T.
        precision: "fp32", "bf16" or "fp16".
        device: its type; on "cpu" dropout keeps a number where others keep a byte,
            and attention with dropout keeps what each pair of tokens has. Others are
            taken to have PyTorch's fused attention.
    """
    kept, size, tokens = config.kept_numbers, NUMBER_BYTES[precision], batch_size * length
    mask = size if device == "cpu" else 1
    per_token = 4 * kept.residual + size * kept.products + mask * kept.dropped
    return tokens * per_token + _attention_bytes(
        config, batch_size, length, precision=precision, device=device
    )


def outside_bytes(config: ModelConfig, tokens: int, *, device: str) -> int:
    """Bytes that embeddings and a final norm keep of a forward of so many tokens."""
    kept = config.kept_numbers
    mask = 4 if device == "cpu" else 1
    return tokens * (4 * kept.outside + mask * kept.dropped_embeddings)


def _attention_bytes(
    config: ModelConfig, batch_size: int, length: int, *, precision: str, device: str
) -> int:
    """What the attention of a block keeps besides queries, keys, values and heads."""
    rows, dropout = batch_size * config.num_heads, config.kept_numbers.attention_dropout
    # weights; and with dropout what is drawn, and the weights that remain
    copies = 3 if dropout else 1
    if device == "cpu" and precision == "bf16":
        # of a block of queries, the keys up to its last
        ends = [min(start + BLOCK_SIZE, length) for start in range(0, length, BLOCK_SIZE)]
        pairs = sum((end - start) * end for start, end in zip([0, *ends], ends, strict=False))
        return copies * 2 * rows * pairs
    if device == "cpu" and dropout:
        # in float32, queries, keys and values too
        width = config.embed_dim + config.cached_numbers // config.num_layers
        rounded = 4 - NUMBER_BYTES[precision]
        return copies * 4 * rows * length**2 + rounded * batch_size * length * width
    # the logarithm of each query's sum
    return 4 * rows * length
