"""Texts to token shards: encoded by several processes, and restartable."""

from __future__ import annotations

import codecs
import hashlib
import logging
import multiprocessing
import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from tqdm import tqdm

from llm.core.config import check_count
from llm.core.files import write_json
from llm.data.token_shards import (
    INDEX_FILE,
    Shard,
    ShardIndex,
    ShardWriter,
    TokenShards,
    check_shard,
    read_index,
    token_dtype,
)
from llm.tokenizers import BaseTokenizer

if TYPE_CHECKING:
    Bar = tqdm[NoReturn]

logger = logging.getLogger(__name__)

PROGRESS_FILE = "progress.json"
LOCK_FILE = "shards.lock"

SHARD_FILE = re.compile(r"shard-\d+\.(bin|idx)")

# longer texts are encoded in pieces of this size, shorter ones together
PIECE_CHARACTERS = 1 << 20
# between words or after the end of a line, where byte-level BPE never joins tokens, so
# that the cut changes none: the second is for scripts that put no spaces between words
CUT = re.compile(r"(?<=\w)(?= \w)|(?<=\S\n)(?=\w)")
CUT_WINDOW = 1 << 12

Text = str | Iterable[str]
TokenIds = npt.NDArray[np.int32]


class ShardsInUseError(RuntimeError):
    """Another process writes into the folder."""


@dataclass(frozen=True)
class TextFile:
    """A UTF-8 file as a document: its parts, read as they are asked for.

    A byte-order mark is dropped; line ends stay as they are.

    Args:
        path: of a regular file.
    """

    path: Path

    def __iter__(self) -> Iterator[str]:
        """Parts of about a million characters.

        Raises:
            ValueError: the file is not regular, or not UTF-8; names it and the byte.
        """
        if not self.path.is_file():
            raise ValueError(f"{self.path} is not a regular file")
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        done = 0
        with open(self.path, "rb") as file:
            while True:
                try:
                    content = file.read(PIECE_CHARACTERS)
                except OSError as error:
                    # unlike a failed open it does not say of what
                    raise OSError(error.errno, error.strerror, str(self.path)) from None
                kept = len(decoder.getstate()[0])
                try:
                    part = decoder.decode(content, final=not content)
                except UnicodeDecodeError as error:
                    raise ValueError(
                        f"{self.path} is not UTF-8 text: byte {done - kept + error.start} is "
                        f"0x{error.object[error.start]:02x}; convert it (iconv -t UTF-8), or name "
                        "only the text files"
                    ) from None
                done += len(content)
                yield part
                if not content:
                    return


@dataclass(frozen=True)
class _Piece:
    """A stretch of a document.

    Args:
        text: some of it.
        source_sha256: if the document ends with it, of all texts so far.
    """

    text: str
    source_sha256: str | None


def write_shards(
    documents: Iterable[Text],
    tokenizer: BaseTokenizer,
    folder: str | Path,
    *,
    shard_tokens: int = 100_000_000,
    num_workers: int = 1,
    show_progress: bool = True,
) -> TokenShards:
    """Encode documents into a folder of token shards.

    The files are the same to the byte whatever `num_workers` is. Called again
    after it was stopped, it keeps the shards that are whole and goes on after
    them: it reads the documents again, but encodes only the rest. Memory is
    that of a few pieces of a million characters a process, and of a shard's
    document starts (8 bytes each), if a document larger than that comes in parts.

    A text longer than a million characters is encoded in pieces cut between words
    or lines, which changes none of its tokens; where 4096 characters have no such
    place, the cut may.

    Args:
        documents: texts, or their parts in order (such as a `TextFile`); empty
            ones are left out. With several workers, the module that calls this
            must be importable (`if __name__ == "__main__":` in a script).
        tokenizer: encodes without special tokens.
        folder: new, or with the beginning of the same work.
        shard_tokens: a shard ends with the document that reaches this size.
        num_workers: processes that encode; 1 for this one.
        show_progress: a progress bar on stderr.

    Returns:
        What was written.

    Raises:
        FileExistsError: the folder holds something else.
        ShardsInUseError: another process writes into it.
        ValueError: it holds shards of another tokenizer, size or text; an
            argument is outside its range; or there is no text.
        TypeError: `documents` is a single string.
    """
    if isinstance(documents, str):
        raise TypeError("documents is one string; give an iterable of strings, such as [text]")
    check_count("shard_tokens", shard_tokens)
    check_count("num_workers", num_workers)
    folder = Path(folder)
    index = ShardIndex(
        vocab_size=tokenizer.vocab_size,
        dtype=token_dtype(tokenizer.vocab_size).name,
        tokenizer_sha256=tokenizer.fingerprint(),
        eos_token_id=tokenizer.eos_token_id,
        shard_tokens=shard_tokens,
    )
    with _one_writer(folder):
        earlier = _earlier(folder, index)
        index = replace(index, shards=_kept(folder, index, earlier))
        # of the first shard that is written anew
        replaced = earlier[len(index.shards)] if len(earlier) > len(index.shards) else None
        pieces = _after(_pieces(documents), index.shards, folder)
        encoded = _encode(pieces, tokenizer, num_workers)
        with tqdm(
            desc="tokenizing", unit="token", unit_scale=True, disable=not show_progress
        ) as bar:
            bar.update(sum(shard.tokens for shard in index.shards))
            for shard in _write(folder, encoded, index, bar, replaced):
                index = replace(index, shards=[*index.shards, shard])
                write_json(folder / PROGRESS_FILE, index.to_dict())
        if not index.shards:
            raise ValueError("there is no text to write: every document is empty")
        write_json(folder / INDEX_FILE, index.to_dict())
        (folder / PROGRESS_FILE).unlink(missing_ok=True)
        _remove_others(folder, index)
    return TokenShards(folder)


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Be the one that writes into the folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ShardsInUseError(
            f"another process writes into {folder}: wait for it, or stop it first"
        ) from None
    try:
        yield
    finally:
        # while it is held: filelock does not take one whose file is gone for a lock
        with suppress(OSError):
            (folder / LOCK_FILE).unlink()
        lock.release()


def _remove_others(folder: Path, index: ShardIndex) -> None:
    """Delete what an earlier, larger work left: shards that the index does not list."""
    listed = {INDEX_FILE, LOCK_FILE}
    listed |= {f"{shard.name}{suffix}" for shard in index.shards for suffix in (".bin", ".idx")}
    for path in folder.iterdir():
        if path.name not in listed:
            path.unlink()


def _earlier(folder: Path, wanted: ShardIndex) -> list[Shard]:
    """The shards of an earlier call; everything in the folder is of such a one.

    Raises:
        FileExistsError: the folder holds something else.
        ValueError: the shards are of another tokenizer or size, or their index is damaged.
    """
    names = rf"{SHARD_FILE.pattern}|{INDEX_FILE}|{PROGRESS_FILE}|{LOCK_FILE}"
    ours = re.compile(rf"\.?({names})(\.\d+)?(\.tmp)?")
    foreign = sorted(path.name for path in folder.iterdir() if not ours.fullmatch(path.name))
    if foreign:
        raise FileExistsError(
            f"{folder} holds {foreign[0]}, which is not of token shards: choose another folder"
        )
    # the progress of a call that mends an earlier one's shards is the newer
    there = [folder / name for name in (PROGRESS_FILE, INDEX_FILE) if (folder / name).exists()]
    if not there:
        return []
    earlier = read_index(there[0])
    for name, value in vars(wanted).items():
        if name != "shards" and value != getattr(earlier, name):
            raise ValueError(
                f"{there[0]} was written with {name}={getattr(earlier, name)!r}, not {value!r}: "
                "choose another folder, or delete this one"
            )
    return earlier.shards


def _kept(folder: Path, wanted: ShardIndex, earlier: list[Shard]) -> list[Shard]:
    """Those of them that are whole."""
    kept: list[Shard] = []
    for shard in earlier:
        # the last may be short, and would not be if the corpus has grown since
        if shard.tokens < wanted.shard_tokens:
            break
        try:
            check_shard(folder, shard, token_dtype(wanted.vocab_size), content=True)
        except ValueError as error:
            logger.warning("%s; it is written again", error)
            break
        kept.append(shard)
    return kept


def _pieces(documents: Iterable[Text]) -> Iterator[_Piece]:
    """The documents, cut at places that depend on their text alone."""
    source = hashlib.sha256()
    for document in documents:
        pieces = text_pieces(document)
        piece = next(pieces)
        for following in pieces:
            source.update(piece.encode("utf-8", "surrogatepass"))
            yield _Piece(piece, None)
            piece = following
        source.update(piece.encode("utf-8", "surrogatepass"))
        source.update(b"\xff")  # in no UTF-8: the bounds of documents count
        yield _Piece(piece, source.hexdigest())


def text_pieces(document: Text) -> Iterator[str]:
    """A document in pieces of about a million characters, one at least, to be encoded apart.

    It is cut between words or lines, which changes none of the tokens of a
    byte-level BPE; where 4096 characters have no such place, the cut may.
    """
    text = ""
    for part in _slices(document) if isinstance(document, str) else document:
        text += part
        while len(text) > PIECE_CHARACTERS:
            cut = _cut(text)
            yield text[:cut]
            text = text[cut:]
    yield text


def _slices(text: str) -> Iterator[str]:
    starts = range(0, len(text), PIECE_CHARACTERS)
    return (text[start : start + PIECE_CHARACTERS] for start in starts)


def _cut(text: str) -> int:
    """Where the first piece of a text ends: the last such place, if one is near."""
    first = max(0, PIECE_CHARACTERS - CUT_WINDOW)
    places = [place.start() for place in CUT.finditer(text, first, PIECE_CHARACTERS)]
    return places[-1] if places else PIECE_CHARACTERS


def _after(pieces: Iterator[_Piece], shards: list[Shard], folder: Path) -> Iterator[_Piece]:
    """The pieces after those that the shards hold.

    Raises:
        ValueError: the texts do not begin with those of the shards.
    """
    if shards:
        written = shards[-1].source_sha256
        if not any(piece.source_sha256 == written for piece in pieces):
            raise _other_text(folder)
    return pieces


def _other_text(folder: Path) -> ValueError:
    return ValueError(
        f"{folder} was begun with other text: choose another folder, or delete this one"
    )


def _encode(
    pieces: Iterator[_Piece], tokenizer: BaseTokenizer, num_workers: int
) -> Iterator[tuple[_Piece, TokenIds]]:
    """Each piece with its ids, in order, read a little ahead of the workers."""
    if num_workers == 1:
        for piece in pieces:
            yield piece, tokenizer.encode_numpy(piece.text, add_special_tokens=False)
        return
    # spawned: forking a process with threads, such as torch's, can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _set_tokenizer, (tokenizer,)) as workers:
        waiting: deque[tuple[list[_Piece], Future[list[TokenIds]]]] = deque()
        try:
            for batch in _batches(pieces):
                texts = [piece.text for piece in batch]
                waiting.append((batch, workers.submit(_encode_texts, texts)))
                if len(waiting) > 2 * num_workers:
                    batch, encoded = waiting.popleft()
                    yield from zip(batch, encoded.result(), strict=True)
            while waiting:
                batch, encoded = waiting.popleft()
                yield from zip(batch, encoded.result(), strict=True)
        finally:  # after an error, or when nobody wants the rest
            workers.shutdown(wait=False, cancel_futures=True)


def _batches(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that together are worth sending to another process."""
    batch: list[_Piece] = []
    characters = 0
    for piece in pieces:
        batch.append(piece)
        # an empty document takes room too
        characters += len(piece.text) + 100
        if characters >= PIECE_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


_tokenizer: BaseTokenizer


def _set_tokenizer(tokenizer: BaseTokenizer) -> None:
    """Give a worker its tokenizer, once."""
    global _tokenizer
    _tokenizer = tokenizer


def _encode_texts(texts: list[str]) -> list[TokenIds]:
    return [_tokenizer.encode_numpy(text, add_special_tokens=False) for text in texts]


def _write(
    folder: Path,
    encoded: Iterator[tuple[_Piece, TokenIds]],
    index: ShardIndex,
    bar: Bar,
    replaced: Shard | None,
) -> Iterator[Shard]:
    """Write shard after shard, each announced when it is durable.

    Args:
        folder: of the shards.
        encoded: what is in them.
        index: of those that are there.
        bar: shows the tokens.
        replaced: the shard in whose place the first comes; its text has to come again.

    Raises:
        ValueError: it does not.
    """
    for number in count(len(index.shards)):
        source, between = "", True
        with ShardWriter(folder, f"shard-{number:05d}", index.vocab_size) as writer:
            for piece, token_ids in encoded:
                # a document without tokens is none
                if between and token_ids.size:
                    writer.begin_document()
                    between = False
                writer.add(token_ids)
                bar.update(token_ids.size)
                if replaced is not None and piece.source_sha256 == replaced.source_sha256:
                    replaced = None
                if piece.source_sha256 is not None:
                    source, between = piece.source_sha256, True
                    if writer.tokens >= index.shard_tokens:
                        break
            if replaced is not None:
                raise _other_text(folder)
            if not writer.documents:
                return
            yield writer.finish(source_sha256=source)
