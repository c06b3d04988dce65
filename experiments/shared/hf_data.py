"""Text for the HuggingFace scripts: read, split, encoded as a `datasets.Dataset`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.shared.configs import HFDataSettings
from experiments.shared.data import Document, read_documents, split_documents
from experiments.shared.sentences import SENTENCES

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_proxy import HFTokenizerAdapter

_FILE_KINDS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}

BUILT_IN_SENTENCES = "sentences in English and Russian (built in)"


def read_texts(settings: HFDataSettings, seed: int) -> tuple[str, list[str], list[str]]:
    """What the text is, that to train on, and that to validate on.

    Raises:
        FileNotFoundError: a path names nothing.
        ValueError: a file is not UTF-8, the dataset cannot be read, or there is
            too little text.
    """
    if settings.dataset:
        source, documents = settings.dataset, _stream(settings)
    elif settings.data:
        source, documents = ", ".join(settings.data), read_documents(settings.data)
    else:
        source = BUILT_IN_SENTENCES
        documents = [Document(f"sentence {i}", text) for i, text in enumerate(SENTENCES)]
    train, validation = split_documents(
        documents, validation_fraction=settings.validation_fraction, by="auto", seed=seed
    )
    return source, train, validation


def encode(
    texts: list[str], tokenizer: HFTokenizerAdapter, context: int, *, num_proc: int = 1
) -> Dataset:
    """Examples of up to `context` tokens: each text, cut where it must be, and its end.

    Pieces overlap by a token, so that every token but a text's first is a
    target once.
    """
    from datasets import Dataset, disable_progress_bars

    def pieces(batch: dict[str, list[str]]) -> dict[str, Any]:
        ended = [text + tokenizer.eos_token for text in batch["text"]]
        encoded = tokenizer(
            ended, truncation=True, max_length=context, stride=1, return_overflowing_tokens=True
        )
        # a single token has nothing to predict
        kept = [ids for ids in encoded["input_ids"] if len(ids) > 1]
        return {"input_ids": kept, "attention_mask": [[1] * len(ids) for ids in kept]}

    disable_progress_bars()
    examples = Dataset.from_dict({"text": texts})
    num_proc = min(num_proc, len(texts))
    return examples.map(
        *(pieces,),
        batched=True,
        remove_columns=["text"],
        num_proc=num_proc if num_proc > 1 else None,
    )


def stream_texts(dataset: str, text_field: str, config: str = "") -> Iterator[str]:
    """Texts of a dataset, row by row, for `llm.data.write_shards`; nothing is kept.

    Args:
        dataset: an id of the HuggingFace hub, or a .json, .jsonl, .parquet or
            .csv file.
        text_field: its column of text.
        config: its configuration, where it has several.

    Raises:
        ValueError: it cannot be read, or a row has no text in that column; says which.
    """
    for number, row in enumerate(_rows(dataset, config)):
        if not isinstance(row.get(text_field), str):
            raise ValueError(
                f"--dataset {dataset}: row {number} has no text in the column {text_field!r}; it "
                f"has {', '.join(row)}"
            )
        yield row[text_field]


def _stream(settings: HFDataSettings) -> list[Document]:
    first = list(islice(_rows(settings.dataset, settings.dataset_config), settings.max_documents))
    if not first or settings.text_field not in first[0]:
        columns = ", ".join(first[0]) if first else "none"
        raise ValueError(
            f"--dataset {settings.dataset} has no column {settings.text_field!r}; it has {columns}"
        )
    return [
        Document(f"row {i}", row[settings.text_field])
        for i, row in enumerate(first)
        if row[settings.text_field]
    ]


def _rows(dataset: str, config: str = "") -> Iterator[dict[str, Any]]:
    import datasets

    # one line of ours says it, in place of its own and a traceback
    logging.getLogger("datasets").setLevel(logging.ERROR)
    kind = _FILE_KINDS.get(Path(dataset).suffix) if Path(dataset).is_file() else None
    name, files = (kind, dataset) if kind else (dataset, None)
    try:
        yield from datasets.load_dataset(
            name, config or None, data_files=files, split="train", streaming=True
        )
    except Exception as error:
        raise ValueError(f"--dataset {dataset} cannot be read: {error}") from error
