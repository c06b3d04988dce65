"""Corpora as large as the disk: token shards, the order they are read in, and splits.

Nothing here needs torch, so that a process that only encodes text starts at once.
"""

from llm.data.order import BijectiveOrder, Permutation, rank_positions
from llm.data.shard_texts import ShardsInUseError, Text, TextFile, text_pieces, write_shards
from llm.data.split import DocumentSplit
from llm.data.token_shards import ShardWriter, TokenShards

__all__ = [
    "BijectiveOrder",
    "DocumentSplit",
    "Permutation",
    "ShardWriter",
    "ShardsInUseError",
    "Text",
    "TextFile",
    "TokenShards",
    "rank_positions",
    "text_pieces",
    "write_shards",
]
