"""Encode text into token shards, a corpus as large as the disk.

    uv run python experiments/llm_only/prepare_data.py --data books/ --tokenizer RUN --out shards
    uv run python experiments/llm_only/prepare_data.py --help

`train_gpt_bpe.py --shards OUT` trains on them. Called again after it was stopped, this script
goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from experiments.shared.configs import check_texts
from experiments.shared.console import parse_arguments, run_script
from experiments.shared.data import find_files
from experiments.shared.hf_data import stream_texts
from experiments.shared.runs import find_model
from llm.core.config import check_count
from llm.data import DocumentSplit, TextFile, TokenShards, write_shards

SCRIPT = "experiments/llm_only/prepare_data.py"


@dataclass(frozen=True, kw_only=True)
class PrepareScript:
    """Encode text into token shards; each file, or row of a dataset, is a document.

    Args:
        data: Files, folders and globs of UTF-8 text.
        dataset: In place of data, a dataset of the HuggingFace hub by its id, or a
            .json, .jsonl, .parquet or .csv file; read row by row.
        text_field: Its column of text.
        tokenizer: A run, or a folder with a tokenizer.json.
        out: Folder to write tokenizer.json, train/ and, if asked for,
            validation/ into.
        num_workers: Processes that encode.
        shard_tokens: Size at which a shard ends.
        validation_fraction: Share of the documents to hold out, in [0, 1), by the hash of each.
        seed: Of that choice.
    """

    data: tuple[str, ...] = ()
    dataset: str = ""
    text_field: str = "text"
    tokenizer: str = ""
    out: str = ""
    num_workers: int = 1
    shard_tokens: int = 100_000_000
    validation_fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_texts("data", self.data)
        if self.data and self.dataset:
            raise ValueError("--data and --dataset exclude one another")
        check_count("num_workers", self.num_workers)
        check_count("shard_tokens", self.shard_tokens)


def main(arguments: list[str]) -> None:
    """Write the shards, and say what is in them."""
    settings = parse_arguments(PrepareScript, PrepareScript(), arguments, prog=SCRIPT)
    for name in ("data", "tokenizer", "out"):
        if not (getattr(settings, name) or (name == "data" and settings.dataset)):
            raise ValueError(f"--{name} is needed; {SCRIPT} --help lists the options")
    split = DocumentSplit(validation_fraction=settings.validation_fraction, seed=settings.seed)
    from llm.tokenizers import BPETokenizer

    folder = Path(settings.tokenizer)
    if not (folder / "tokenizer.json").is_file():
        folder = find_model(settings.tokenizer, train_command="train_gpt_bpe.py")
    tokenizer = BPETokenizer.load(folder)
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    tokenizer.save(Path(settings.out) / "tokenizer.json")
    sides = {"train": split.train(read_documents(settings))}
    if settings.validation_fraction:
        sides["validation"] = split.validation(read_documents(settings))
    for side, documents in sides.items():
        try:
            shards = write_shards(
                documents,
                tokenizer,
                Path(settings.out) / side,
                shard_tokens=settings.shard_tokens,
                num_workers=settings.num_workers,
            )
        except ValueError as error:
            raise ValueError(f"{side}: {error}") from None
        report(shards)


def read_documents(settings: PrepareScript) -> Iterable[TextFile | str]:
    """The documents, each read when it is its turn."""
    if settings.dataset:
        return stream_texts(settings.dataset, settings.text_field)
    return [TextFile(path) for path in find_files(settings.data)]


def report(shards: TokenShards) -> None:
    """Print what was written."""
    print(
        f"{shards.folder}: {shards.num_documents:,} documents, {shards.num_tokens:,} tokens "
        f"in {len(shards.index.shards)} shards"
    )


if __name__ == "__main__":
    run_script(main)
