"""The text that runs are evaluated on, and the text that they were trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.shared.configs import relative
from experiments.shared.data import (
    BUILT_IN,
    find_files,
    fingerprint,
    read_documents,
    split_documents,
)
from llm.core.files import read_json
from llm.data import TextFile, TokenShards

if TYPE_CHECKING:
    from llm.data import Text
    from llm.tokenizers import BPETokenizer


class RunTexts(NamedTuple):
    """What a run was trained on, and what it was validated on; each can be read again."""

    train: Iterable[Text]
    validation: Iterable[Text]


@dataclass(frozen=True, kw_only=True)
class EvaluatedText:
    """A text, and its measure.

    Args:
        name: what it is, for people.
        documents: its texts, which can be read again and again.
        num_documents: how many.
        num_bytes: of their UTF-8.
        sha256: of it, documents apart.
        beginning: of the first document that is not empty, some hundred characters.
    """

    name: str
    documents: Iterable[Text]
    num_documents: int
    num_bytes: int
    sha256: str
    beginning: str

    @classmethod
    def of(cls, name: str, documents: Iterable[Text], *, beginning: int) -> EvaluatedText:
        """Measure a text.

        Args:
            name: what it is.
            documents: its texts.
            beginning: how many characters to keep of it.

        Raises:
            ValueError: it is empty, or is not UTF-8.
        """
        digest, num_documents, num_bytes, kept = hashlib.sha256(), 0, 0, ""
        for document in documents:
            num_documents += 1
            is_first = not kept
            for part in [document] if isinstance(document, str) else document:
                content = part.encode("utf-8")
                digest.update(content)
                num_bytes += len(content)
                if is_first:
                    kept = (kept + part)[:beginning]
            digest.update(b"\xff")  # in no UTF-8: the bounds of documents count
        if not num_bytes:
            raise ValueError(f"{name}: there is no text to evaluate on")
        return cls(
            name=name,
            documents=documents,
            num_documents=num_documents,
            num_bytes=num_bytes,
            sha256=digest.hexdigest(),
            beginning=kept,
        )


class DecodedShards:
    """Shards as texts, decoded as they are asked for."""

    def __init__(self, folder: Path, tokenizer: BPETokenizer) -> None:
        self._shards, self._tokenizer = TokenShards(folder), tokenizer
        if self._shards.index.tokenizer_sha256 != tokenizer.fingerprint():
            raise ValueError(f"{folder} was made with another tokenizer than the run's")

    def __iter__(self) -> Iterator[str]:
        """Each document, without the token that ends it."""
        for index in range(self._shards.num_documents):
            ids = self._shards.document(index)
            yield self._tokenizer.decode(ids, skip_special_tokens=True)


def named_files(paths: Sequence[str]) -> list[TextFile]:
    """The files of --data, as documents that are read a part at a time."""
    return [TextFile(path) for path in find_files(paths)]


def texts_of_run(run_folder: Path, model: Path) -> RunTexts | None:
    """What `run.json` says that a run was trained and validated on, read again.

    Args:
        run_folder: where `run.json` is.
        model: the folder of its model and tokenizer.

    Returns:
        None if it says nothing of it, or there is no such file.

    Raises:
        OSError: a text is no longer there.
        ValueError: it has changed.
    """
    description = description_of(run_folder)
    data = description.get("data")
    if not isinstance(data, dict):
        return None
    if data.get("shards"):
        from llm.tokenizers import BPETokenizer

        shards, tokenizer = Path(data["shards"]), BPETokenizer.load(model)
        return RunTexts(*(DecodedShards(shards / side, tokenizer) for side in RunTexts._fields))
    if "validation_sha256" not in data:
        return None
    texts = RunTexts(
        *split_documents(
            read_documents(data["data"]),
            validation_fraction=data["validation_fraction"],
            by=data["split"],
            seed=description["seed"],
        )
    )
    for side, now in texts._asdict().items():
        if fingerprint(now) != data[f"{side}_sha256"]:
            raise ValueError(
                f"the text that {relative(run_folder)} was trained on has changed since: name one "
                "with --data"
            )
    return texts


def name_of_text(run_folder: Path) -> str:
    """What the validation text of a run is, for people."""
    data = description_of(run_folder)["data"]
    source = data.get("shards") or ", ".join(data["data"]) or BUILT_IN
    return f"the validation text of {run_folder.name}, from {source}"


def description_of(run_folder: Path) -> dict[str, Any]:
    """What `run.json` says; nothing where there is none, as in a published model's folder."""
    path = run_folder / "run.json"
    return read_json(path) if path.is_file() else {}


def trained_on(run_folder: Path, paths: Sequence[str]) -> list[str]:
    """Of the files that the paths name, those that a run was given to train on."""
    data = description_of(run_folder).get("data")
    theirs = data.get("data") if isinstance(data, dict) else None
    try:
        known = {os.path.realpath(file) for file in find_files(theirs or [])}
    except OSError:  # moved since: nothing is known
        return []
    return [str(file) for file in find_files(paths) if os.path.realpath(file) in known]
