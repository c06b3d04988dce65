"""Whether a dataset is one that a model can read, before a long run and not in it."""

from __future__ import annotations

from llm.core.config import ModelConfig
from llm.training.dataset import ExampleSource, TextDataset
from llm.training.packing import PackedDocuments
from llm.training.stream import ExampleStream, Mixture, ShuffledStream


def check_dataset(name: str, dataset: ExampleSource | ExampleStream, config: ModelConfig) -> None:
    """Compare what is known of a dataset with the model's context and vocabulary.

    Args:
        name: of the dataset, for the errors.
        dataset: examples of a kind that is not known here are looked at as they come.
        config: the model's.

    Raises:
        ValueError: it is empty, its blocks are longer than the context, or it has ids
            outside the vocabulary; says which.
    """
    if isinstance(dataset, Mixture):
        for corpus, stream in dataset.streams.items():
            check_dataset(f"{name} {corpus}", stream, config)
    elif isinstance(dataset, ShuffledStream):
        check_dataset(name, dataset.source, config)
    elif isinstance(dataset, PackedDocuments):
        _check_block(name, dataset.block_size, config)
        if dataset.shards.index.vocab_size > config.vocab_size:
            raise ValueError(
                f"the {name} dataset is of a vocabulary of {dataset.shards.index.vocab_size}, "
                f"the model of {config.vocab_size}"
            )
    elif isinstance(dataset, ExampleStream):
        return
    elif len(dataset) == 0:
        raise ValueError(f"the {name} dataset is empty")
    elif isinstance(dataset, TextDataset):
        _check_block(name, len(dataset[0]["input_ids"]), config)
        largest = int(dataset.token_ids.max())
        if largest >= config.vocab_size:
            raise ValueError(
                f"the {name} dataset has token id {largest}, outside the model's vocabulary of "
                f"{config.vocab_size}"
            )


def _check_block(name: str, block_size: int, config: ModelConfig) -> None:
    if block_size > config.max_position_embeddings:
        raise ValueError(
            f"the {name} dataset has blocks of {block_size} tokens, more than the model's "
            f"max_position_embeddings={config.max_position_embeddings}"
        )
