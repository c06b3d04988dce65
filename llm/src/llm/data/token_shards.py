"""Token shards: a corpus of token ids on disk, memory-mapped.

    index.json          what there is; written last, so it lists only whole files
    shard-00000.bin     token ids of documents end to end, little-endian uint16 or uint32
    shard-00000.idx     where each document begins in it, little-endian uint64

Ids take two bytes each if the vocabulary has at most 65,536 tokens, else four.
Documents are stored without an end: whoever joins them puts `<eos>` between.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from llm.core.config import build, check_count
from llm.core.files import publish, read_json, sha256

FORMAT = 1
INDEX_FILE = "index.json"
START_DTYPE = np.dtype("<u8")

# a mapped page counts as the process's memory as long as it is mapped: mappings
# are let go after this much, and a small read maps its neighbourhood as well
MAPPED_BYTES = 32 << 20
NEIGHBOURHOOD = 128 << 10

TokenIds = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard as the index describes it.

    Args:
        name: of its files, without `.bin` and `.idx`.
        tokens: number of ids, ≥ 1.
        documents: number of documents, ≥ 1, each of at least one token.
        sha256: of the `.bin` file, in hexadecimal.
        index_sha256: of the `.idx` file.
        source_sha256: of the documents' texts up to the end of this shard.
    """

    name: str
    tokens: int
    documents: int
    sha256: str
    index_sha256: str
    source_sha256: str = ""

    def __post_init__(self) -> None:
        for key in ("name", "sha256", "index_sha256", "source_sha256"):
            if not isinstance(getattr(self, key), str):
                raise ValueError(f"{key}={getattr(self, key)!r} must be text")
        # a shard is a file of this folder, whatever the index says
        if Path(self.name).name != self.name:
            raise ValueError(f"name={self.name!r} is not the name of a file")
        check_count("tokens", self.tokens)
        check_count("documents", self.documents)
        if self.documents > self.tokens:
            raise ValueError(f"documents={self.documents} are more than tokens={self.tokens}")


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What `index.json` says.

    Args:
        format: of the files, 1.
        vocab_size: every id is below it.
        dtype: "uint16" or "uint32", as the vocabulary asks for.
        tokenizer_sha256: the fingerprint of the tokenizer that made the ids.
        eos_token_id: what ends a document, or None if the tokenizer has no such token.
        shard_tokens: a shard ended with the document that reached it; 0 if cut otherwise.
        shards: in the order of the corpus.
    """

    format: int = FORMAT
    vocab_size: int
    dtype: str
    tokenizer_sha256: str
    eos_token_id: int | None = None
    shard_tokens: int = 0
    shards: list[Shard] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format={self.format!r} is not {FORMAT}, the one that is known here")
        check_count("vocab_size", self.vocab_size)
        if self.dtype != token_dtype(self.vocab_size).name:
            raise ValueError(f"dtype={self.dtype!r} does not fit vocab_size={self.vocab_size}")
        check_count("shard_tokens", self.shard_tokens, minimum=0)
        if not isinstance(self.tokenizer_sha256, str):
            raise ValueError(f"tokenizer_sha256={self.tokenizer_sha256!r} must be text")
        if self.eos_token_id is not None:
            check_count("eos_token_id", self.eos_token_id, minimum=0)
            if self.eos_token_id >= self.vocab_size:
                raise ValueError(
                    f"eos_token_id={self.eos_token_id} is outside vocab_size={self.vocab_size}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Every field by name; `read_index` reads it back."""
        return asdict(self)


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The smallest type of id, little-endian.

    Raises:
        ValueError: no type is large enough.
    """
    if vocab_size > 2**32:
        raise ValueError(f"vocab_size={vocab_size} is more than 2^32")
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def read_index(path: Path) -> ShardIndex:
    """Read what describes a set of shards.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or of another kind or format.
    """
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}: {path.parent} is no folder of token shards, or its writing was not finished"
        ) from None
    try:
        if not isinstance(content.get("shards"), list):
            raise ValueError("there is no list of shards in it")
        if not all(isinstance(shard, dict) for shard in content["shards"]):
            raise ValueError("a shard in it is not an object")
        shards = [build(Shard, shard) for shard in content["shards"]]
        return build(ShardIndex, {**content, "shards": shards})
    except ValueError as error:
        raise ValueError(f"{path} describes no token shards: {error}") from None


def temporary_name(path: Path) -> Path:
    """Where a file is written before it has its name: beside it."""
    return path.with_name(f".{path.name}.tmp")


def check_shard(folder: Path, shard: Shard, dtype: np.dtype[Any], *, content: bool) -> None:
    """Raise unless a shard's files have their sizes and, if asked, their SHA-256.

    Raises:
        ValueError: a file is missing or is not as it was written; names it.
    """
    files = {
        f"{shard.name}.bin": (shard.tokens * dtype.itemsize, shard.sha256),
        f"{shard.name}.idx": (shard.documents * START_DTYPE.itemsize, shard.index_sha256),
    }
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing, or not a file: write the shards again")
        if path.stat().st_size != size:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes, not the {size} that were written: "
                "write the shards again"
            )
        if content and sha256(path) != digest:
            raise ValueError(f"{path} is damaged: its SHA-256 is not that of the index")


class TokenShards:
    """A corpus on disk, read through memory maps in constant memory.

    Documents and tokens are numbered over all shards. Sizes are checked here,
    contents by `verify`.

    Args:
        folder: what `ShardWriter` or `write_shards` made.

    Raises:
        FileNotFoundError: there is no `index.json`.
        ValueError: the index or a file is damaged; names it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder / INDEX_FILE)
        if not self.index.shards:
            raise ValueError(f"{self.folder / INDEX_FILE} lists no shards")
        self.dtype = token_dtype(self.index.vocab_size)
        for shard in self.index.shards:
            check_shard(self.folder, shard, self.dtype, content=False)
        documents = accumulate((shard.documents for shard in self.index.shards), initial=0)
        self._first_document = np.array(list(documents), dtype=np.int64)
        self._mapped: dict[tuple[int, str], npt.NDArray[Any]] = {}
        self._mapped_bytes = 0

    @property
    def num_tokens(self) -> int:
        """Ids of all documents."""
        return sum(shard.tokens for shard in self.index.shards)

    @property
    def num_documents(self) -> int:
        """Documents of all shards."""
        return int(self._first_document[-1])

    def document(self, index: int, start: int = 0, stop: int | None = None) -> TokenIds:
        """Ids `start` to `stop` of a document, in an array of the caller's own.

        Raises:
            IndexError: there is no such document.
        """
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents}")
        number = int(np.searchsorted(self._first_document, index, side="right")) - 1
        begins, ends = (int(bound[0]) for bound in self._bounds(number, np.array([index])))
        stop = ends - begins if stop is None else min(stop, ends - begins)
        tokens = self._map(number, ".bin", stop - start)
        ids: TokenIds = tokens[begins + start : begins + stop].astype(self.dtype.newbyteorder("="))
        return ids

    def document_lengths(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Tokens of each of these documents, which may be of any shards."""
        lengths = np.empty(len(indices), dtype=np.int64)
        numbers = np.searchsorted(self._first_document, indices, side="right") - 1
        for number in np.unique(numbers):
            here = numbers == number
            begins, ends = self._bounds(int(number), indices[here])
            lengths[here] = ends - begins
        return lengths

    def verify(self) -> None:
        """Read every file, and compare it with its SHA-256.

        Raises:
            ValueError: a file is missing or damaged, or holds ids or documents
                that cannot be; names it.
        """
        for number, shard in enumerate(self.index.shards):
            check_shard(self.folder, shard, self.dtype, content=True)
            self._check_contents(number, shard)

    def fingerprint(self) -> str:
        """SHA-256 of the ids and the bounds of documents, as the index has them."""
        digest = hashlib.sha256()
        for shard in self.index.shards:
            digest.update(f"{shard.sha256} {shard.index_sha256}\n".encode())
        return digest.hexdigest()

    def _bounds(
        self, number: int, indices: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where documents of one shard begin and end in it."""
        shard = self.index.shards[number]
        starts = self._map(number, ".idx", len(indices) * NEIGHBOURHOOD)
        here = indices - self._first_document[number]
        begins = starts[here].astype(np.int64)
        ends = starts[np.minimum(here + 1, shard.documents - 1)].astype(np.int64)
        ends[here == shard.documents - 1] = shard.tokens
        if (begins < 0).any() or (ends <= begins).any() or (ends > shard.tokens).any():
            raise ValueError(
                f"{self.folder / shard.name}.idx is damaged: a document in it ends before it "
                "begins, or outside the shard"
            )
        return begins, ends

    def _map(self, number: int, suffix: str, reading: int) -> npt.NDArray[Any]:
        if self._mapped_bytes > MAPPED_BYTES:
            self._mapped.clear()
            self._mapped_bytes = 0
        self._mapped_bytes += reading + NEIGHBOURHOOD
        if (number, suffix) not in self._mapped:
            path = self.folder / (self.index.shards[number].name + suffix)
            dtype = self.dtype if suffix == ".bin" else START_DTYPE
            self._mapped[number, suffix] = np.memmap(path, dtype=dtype, mode="r")
        return self._mapped[number, suffix]

    def _check_contents(self, number: int, shard: Shard) -> None:
        step = 1 << 20
        for first in range(0, shard.tokens, step):
            largest = int(self._map(number, ".bin", 4 * step)[first : first + step].max())
            if largest >= self.index.vocab_size:
                raise ValueError(
                    f"{self.folder / shard.name}.bin holds token id {largest}, outside the "
                    f"vocabulary of {self.index.vocab_size}"
                )
        for first in range(0, shard.documents, step):
            documents = np.arange(first, min(first + step, shard.documents))
            self._bounds(number, documents + self._first_document[number])
        if int(self._map(number, ".idx", 0)[0]) != 0:
            raise ValueError(f"{self.folder / shard.name}.idx does not begin at the first token")


class ShardWriter:
    """One shard, written as its documents come, in memory of 8 bytes a document.

    As a context manager it leaves nothing behind unless `finish` was called.

    Args:
        folder: an existing one.
        name: of the files.
        vocab_size: every id is below it.
    """

    def __init__(self, folder: Path, name: str, vocab_size: int) -> None:
        self.folder, self.name, self.vocab_size = folder, name, vocab_size
        self.dtype = token_dtype(vocab_size)
        self.tokens = 0
        self._starts = array("Q")
        self._digest = hashlib.sha256()
        self._path = folder / f"{name}.bin"
        self._file: BinaryIO = open(temporary_name(self._path), "wb")  # noqa: SIM115

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        temporary_name(self._path).unlink(missing_ok=True)

    @property
    def documents(self) -> int:
        """Documents begun."""
        return len(self._starts)

    def begin_document(self) -> None:
        """What is added from here on is of another document."""
        self._starts.append(self.tokens)

    def add(self, token_ids: npt.NDArray[np.integer]) -> None:
        """Add ids to the document.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        if not token_ids.size:
            return
        low, high = int(token_ids.min()), int(token_ids.max())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"token id {low if low < 0 else high} is outside the vocabulary of "
                f"{self.vocab_size}"
            )
        content = token_ids.astype(self.dtype).tobytes()
        self._file.write(content)
        self._digest.update(content)
        self.tokens += token_ids.size

    def finish(self, *, source_sha256: str = "") -> Shard:
        """Give both files their names, durably."""
        starts = np.array(self._starts, dtype=START_DTYPE).tobytes()
        path = self.folder / f"{self.name}.idx"
        with open(temporary_name(path), "wb") as file:
            file.write(starts)
            publish(file, temporary_name(path), path)
        publish(self._file, temporary_name(self._path), self._path)
        return Shard(
            name=self.name,
            tokens=self.tokens,
            documents=self.documents,
            sha256=self._digest.hexdigest(),
            index_sha256=hashlib.sha256(starts).hexdigest(),
            source_sha256=source_sha256,
        )
