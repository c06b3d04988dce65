"""Text from files, folders and globs, or the text that every machine has."""

from __future__ import annotations

import glob
import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm.core.memory import machine_memory

BUILT_IN = "the Python language reference (built in)"

# shorter paragraphs, such as "Examples:", may well stand in several documents
REPEATABLE_CHARACTERS = 40


@dataclass(frozen=True)
class Document:
    """A text and where it came from."""

    name: str
    text: str


def read_documents(paths: Sequence[str]) -> list[Document]:
    """Read every file that the paths name, in a fixed order, each once.

    Args:
        paths: files, folders (every file below them that is not hidden) and
            globs, in which `**` means any folders; none for the built-in
            corpus.

    Raises:
        FileNotFoundError: a path or glob names nothing.
        ValueError: a file is not UTF-8 (its name and the byte are given), or
            there is no text at all, or too much.
    """
    if not paths:
        return built_in_corpus()
    files = list(find_files(paths))
    check_size_of(files)
    documents = [Document(str(file), read_text(file)) for file in files]
    documents = [document for document in documents if document.text]
    if not documents:
        raise ValueError(f"{', '.join(paths)}: there is no text, only empty files")
    return documents


def check_size_of(files: Sequence[Path]) -> None:
    """Raise before reading what cannot be in memory, as bytes and as text.

    Raises:
        ValueError: the files are too large together; says how large.
    """
    size, memory = sum(file.stat().st_size for file in files if file.is_file()), machine_memory()
    if memory is not None and 2 * size > memory:
        raise ValueError(
            f"the text ({files[0]}{', …' if len(files) > 1 else ''}) has {size / 1e9:,.1f} GB, too "
            f"much for {memory / 1e9:,.1f} GB of memory: prepare_data.py makes --shards of it"
        )


def find_files(paths: Sequence[str]) -> Iterator[Path]:
    """The files that the paths name, in a fixed order, each once.

    Raises:
        FileNotFoundError: a path or glob names nothing.
    """
    seen = set()
    for path in paths:
        for file in _files(path):
            if (resolved := os.path.realpath(file)) not in seen:
                seen.add(resolved)
                yield file


def read_text(path: Path) -> str:
    """The text of a UTF-8 file: a byte-order mark is dropped, line ends stay as they are.

    Raises:
        ValueError: it is a pipe, a device or a broken link, which may never end
            or begin; or it is not UTF-8: names the file and the byte.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file, but a pipe, a device or a broken link")
    try:
        content = path.read_bytes()
    except OSError as error:
        # a failed read, unlike a failed open, does not say of what
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}; "
            "convert it (iconv -t UTF-8), or name only the text files"
        ) from None


def built_in_corpus() -> list[Document]:
    """The Python language reference, which is part of the standard library.

    Its topics repeat each other's paragraphs; a repeated one is dropped, so
    that what is held out for validation was not also trained on.

    Raises:
        FileNotFoundError: this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise FileNotFoundError(
            "this Python has no pydoc_data, the built-in corpus: name your own text with --data"
        ) from None
    seen: set[str] = set()
    documents = []
    for name, text in sorted(topics.items()):
        paragraphs = []
        for paragraph in text.split("\n\n"):
            key = " ".join(paragraph.split())
            if len(key) <= REPEATABLE_CHARACTERS or key not in seen:
                paragraphs.append(paragraph)
            seen.add(key)
        documents.append(Document(name, "\n\n".join(paragraphs)))
    return documents


def split_documents(
    documents: Sequence[Document], *, validation_fraction: float, by: str, seed: int
) -> tuple[list[str], list[str]]:
    """Split texts into those to train on and those to validate on, without overlap.

    Args:
        documents: at least one.
        validation_fraction: share of the characters to validate on, in (0, 1).
        by: "document" takes whole documents, drawn with `seed`; "position"
            takes the end of the corpus; "auto" takes documents if there are
            ten or more.
        seed: equal seeds split equally.

    Returns:
        Texts to train on and texts to validate on, neither empty.

    Raises:
        ValueError: there is too little text for such a split.
    """
    if by == "auto":
        by = "document" if len(documents) >= 10 else "position"
    size = sum(len(document.text) for document in documents) * validation_fraction
    if by == "document":
        train, validation = _split_by_document(documents, size, seed)
    else:
        train, validation = _split_by_position(documents, size)
    if not train or not validation:
        raise ValueError(
            f"{len(documents)} documents cannot be split by {by} with "
            f"validation_fraction={validation_fraction:g}: one side would be empty"
            + ("; split by position instead" if by == "document" else "; use more text")
        )
    return train, validation


def fingerprint(texts: Iterable[str]) -> str:
    """SHA-256 over the texts, their order and their bounds."""
    digest = hashlib.sha256()
    for text in texts:
        content = text.encode("utf-8")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def _raise(error: OSError) -> None:
    raise error


def _files(path: str) -> Iterator[Path]:
    if os.path.isdir(path):
        found = False
        for folder, subfolders, names in os.walk(path, onerror=_raise):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    found = True
                    yield Path(folder, name)
        if not found:
            raise FileNotFoundError(f"the folder {path} has no files in it")
    elif os.path.exists(path):
        yield Path(path)
    elif glob.has_magic(path):
        matches = [name for name in sorted(glob.glob(path, recursive=True)) if os.path.isfile(name)]
        if not matches:
            raise FileNotFoundError(f"no file matches {path}")
        yield from map(Path, matches)
    else:
        raise FileNotFoundError(
            f"{path or 'an empty name'} does not exist: "
            "--data takes files, folders and globs of text"
        )


def _split_by_document(
    documents: Sequence[Document], size: float, seed: int
) -> tuple[list[str], list[str]]:
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    chosen = set()
    for index in order:
        if len(documents[index].text) <= size:
            size -= len(documents[index].text)
            chosen.add(index)
    train = [document.text for i, document in enumerate(documents) if i not in chosen]
    return train, [document.text for i, document in enumerate(documents) if i in chosen]


def _split_by_position(documents: Sequence[Document], size: float) -> tuple[list[str], list[str]]:
    train = [document.text for document in documents]
    validation: list[str] = []
    while train and size >= len(train[-1]):
        size -= len(train[-1])
        validation.insert(0, train.pop())
    if train and size >= 1:
        text = train.pop()
        # the start of a line, if there is one near: a word cut in two is neither's
        cut = len(text) - int(size)
        line = text.find("\n", cut, cut + int(size) // 2) + 1
        cut = line or cut
        train.append(text[:cut])
        validation.insert(0, text[cut:])
    return [text for text in train if text], [text for text in validation if text]
