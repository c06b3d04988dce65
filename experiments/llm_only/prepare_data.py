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
from typing import TYPE_CHECKING

from experiments.shared.configs import check_size
from experiments.shared.console import parse_arguments, run_script
from experiments.shared.data import find_files
from experiments.shared.hf_data import stream_texts
from experiments.shared.runs import find_model, removed_if_empty
from llm.core.config import check_count, check_number, check_seed
from llm.core.files import check_regular
from llm.data import DocumentSplit, TextFile, TokenShards, write_shards

if TYPE_CHECKING:
    from llm.tokenizers import BPETokenizer

SCRIPT = "experiments/llm_only/prepare_data.py"
# what the folder of shards holds
PARTS = {"tokenizer.json", "train", "validation"}


@dataclass(frozen=True, kw_only=True)
class PrepareScript:
    """Encode text into token shards; each file, or row of a dataset, is a document.

    Args:
        data: Files, folders and globs of UTF-8 text.
        dataset: In place of data, a dataset of the HuggingFace hub by its id, or a
            .json, .jsonl, .parquet or .csv file; read row by row.
        dataset_config: Its configuration, where it has several.
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
    dataset_config: str = ""
    text_field: str = "text"
    tokenizer: str = ""
    out: str = ""
    num_workers: int = 1
    shard_tokens: int = 100_000_000
    validation_fraction: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.data and self.dataset:
            raise ValueError("--data and --dataset exclude one another")
        if self.dataset_config and not self.dataset:
            raise ValueError("--dataset-config needs --dataset, which has it")
        # more than any machine has cores
        check_count("num_workers", self.num_workers, maximum=1024)
        check_size("shard_tokens", self.shard_tokens)
        check_number(
            "validation_fraction", self.validation_fraction, low=0, high=1, inclusive=False
        )
        check_seed(self.seed)


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
    sides = {"train": split.train(read_documents(settings))}
    if settings.validation_fraction:
        sides["validation"] = split.validation(read_documents(settings))
    out = make_out(Path(settings.out))
    with removed_if_empty(out):
        for side, documents in sides.items():
            with removed_if_empty(out / side):
                write_side(out / side, documents, tokenizer, settings)
        # last: that of shards which are there already is not to be lost to a mistake
        tokenizer.save(out / "tokenizer.json")


def make_out(out: Path) -> Path:
    """The folder to write into, which is new, empty, or of shards.

    Raises:
        FileExistsError: something else is in it.
        OSError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        foreign = sorted({path.name for path in out.iterdir()} - PARTS)
    except OSError as error:
        raise OSError(
            f"--out {out} cannot be made: {error.strerror}; name another folder"
        ) from None
    if foreign:
        raise FileExistsError(
            f"--out {out} holds {foreign[0]}, which is not of shards: name a new folder"
        )
    return out


def write_side(
    folder: Path,
    documents: Iterable[TextFile | str],
    tokenizer: BPETokenizer,
    settings: PrepareScript,
) -> None:
    """Write the shards of one side, and say what is in them."""
    try:
        shards = write_shards(
            documents,
            tokenizer,
            folder,
            shard_tokens=settings.shard_tokens,
            num_workers=settings.num_workers,
        )
    except ValueError as error:
        raise ValueError(f"{folder.name}: {error}") from None
    report(shards)


def read_documents(settings: PrepareScript) -> Iterable[TextFile | str]:
    """The documents, each read when it is its turn."""
    if settings.dataset:
        return stream_texts(settings.dataset, settings.text_field, settings.dataset_config)
    files = list(find_files(settings.data))
    for path in files:
        # all of them before the work, not each when it is its turn
        check_regular(path)
    return [TextFile(path) for path in files]


def report(shards: TokenShards) -> None:
    """Print what was written."""
    print(
        f"{shards.folder}: {shards.num_documents:,} documents, {shards.num_tokens:,} tokens "
        f"in {len(shards.index.shards)} shards"
    )


if __name__ == "__main__":
    run_script(main)
