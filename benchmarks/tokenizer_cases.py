"""What benchmarks/tokenizer.py measures: the rows of its table, and how each is timed."""

import gc
import hashlib
import json
import math
import os
import random
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rustbpe
import tiktoken
import tokenizers
from tokenizer_corpora import Corpus

from llm.tokenizers import BPETokenizer

PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# tiktoken's own form of it: the same chunks, 10% slower on usual text, but it never backtracks.
POSSESSIVE_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)
CLOCKS = {"CPU": time.process_time, "wall": time.perf_counter}
# tokenizers encodes a tenth as fast: it is given a part of each slice
PART_FOR_TOKENIZERS = 5

Round = dict[str, float]  # "MB" of text, and the cost of "ours" and of each peer
Target = tuple[float, float] | None  # ratios: at least, aim


class DifferenceError(Exception):
    """Ours and a peer disagree."""


@dataclass(frozen=True)
class Case:
    """A row: what is measured, in which unit, against whom, with which targets."""

    name: str
    unit: str  # "CPU s", "wall s", "MB/s" (its cost is seconds for a MB) or "MB"
    peers: dict[str, Target]
    measure: Callable[["Bench"], Iterator[Round]]

    def figure(self, cost: float) -> str:
        """A cost as the table shows it."""
        return f"{1 / cost if self.unit == 'MB/s' else cost:.3g} {self.unit}"


class Bench:
    """The corpora, and a tokenizer of each language in the form of every library."""

    def __init__(
        self, corpora: dict[str, Corpus], *, rounds: int, quick: bool, all_cores: set[int]
    ) -> None:
        """Take the text.

        Args:
            corpora: by language.
            rounds: how often each row is measured.
            quick: small sizes.
            all_cores: those that rows of several threads may use.
        """
        self.corpora = corpora
        self.rounds = rounds
        self.quick = quick
        self.all_cores = all_cores
        self._folder = tempfile.TemporaryDirectory()
        self._saved: dict[str, Path] = {}
        self._notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep a remark to print below the row, once."""
        if text not in self._notes:
            self._notes.append(text)

    def take_notes(self) -> list[str]:
        """The remarks since the last call."""
        notes, self._notes = self._notes, []
        return notes

    def load(self, language: str) -> BPETokenizer:
        """Our tokenizer, freshly loaded; trained before on the front of the corpus."""
        if language not in self._saved:
            texts = self.corpora[language].front(1 if self.quick else 20)
            tokenizer = train_ours(texts, 4096 if self.quick else 32768)
            self._saved[language] = Path(self._folder.name) / language
            tokenizer.save(self._saved[language])
        return BPETokenizer.load(self._saved[language])

    def path(self, name: str) -> Path:
        """A temporary file."""
        return Path(self._folder.name) / name

    def slices(self, language: str, megabytes: float) -> Iterator[tuple[float, list[str]]]:
        """Documents for each round, and one slice more, the first, to warm up on; each with MB."""
        for documents in self.corpora[language].slices(megabytes, self.rounds + 1):
            yield sum(len(text.encode("utf-8")) for text in documents) / 1e6, documents


def cost(function: Callable[..., Any], *arguments: Any, clock: str = "CPU") -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    gc.collect()
    now = CLOCKS[clock]
    start = now()
    result = function(*arguments)
    return result, now() - start


# --- the libraries ---


def tiktoken_of(tokenizer: BPETokenizer, pattern: str = PATTERN) -> tiktoken.Encoding:
    """The tiktoken encoding with the same merges: a rank is an id, in the order of merges."""
    ranks = {tokenizer.decode_bytes([index]): index for index in range(tokenizer.vocab_size)}
    return tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def tokenizers_of(tokenizer: BPETokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer in the library that our files are for."""
    return tokenizers.Tokenizer.from_str(tokenizer.to_json())


def train_ours(texts: Sequence[str], vocab_size: int, **options: Any) -> BPETokenizer:
    """Train ours."""
    tokenizer = BPETokenizer()
    tokenizer.train(iter(texts), vocab_size, show_progress=False, **options)
    return tokenizer


def train_tokenizers(texts: Sequence[str], vocab_size: int) -> tokenizers.Tokenizer:
    """Train HuggingFace's byte-level BPE."""
    byte_level = tokenizers.pre_tokenizers.ByteLevel
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(iter(texts), trainer)
    return tokenizer


def train_rustbpe(texts: Sequence[str], vocab_size: int) -> rustbpe.Tokenizer:
    """Train Karpathy's BPE."""
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=PATTERN)
    return tokenizer


TRAIN = {"ours": train_ours, "tokenizers": train_tokenizers, "rustbpe": train_rustbpe}


# --- equality ---


def check_same(what: str, ours: Any, theirs: Any, decode: Callable[[Any], str]) -> None:
    """Compare two sequences of ids.

    Raises:
        DifferenceError: with the first place at which they differ.
    """
    if isinstance(ours, np.ndarray) or isinstance(theirs, np.ndarray):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        same = np.array_equal(ours, theirs)
    else:
        same = ours == theirs
    if not same:
        pairs = enumerate(zip(ours, theirs, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        around = decode(ours[max(0, place - 5) : place + 5])
        raise DifferenceError(
            f"{what}: at id {place} ours has {ours[place : place + 5]}, "
            f"theirs {theirs[place : place + 5]}, in {around!r}"
        )


def check_merges(what: str, ours: BPETokenizer, theirs: tokenizers.Tokenizer) -> None:
    """Compare with all that tokenizers learned.

    Raises:
        DifferenceError: with the first merge that differs.
    """
    our_model, their_model = (
        json.loads(document)["model"] for document in (ours.to_json(), theirs.to_str())
    )
    merges = list(map(tuple, our_model["merges"])), list(map(tuple, their_model["merges"]))
    if merges[0] != merges[1]:
        pairs = enumerate(zip(*merges, strict=False))
        place = next((i for i, (a, b) in pairs if a != b), min(map(len, merges)))
        found = [found[place : place + 1] for found in merges]
        raise DifferenceError(f"{what}: merge {place} of ours is {found[0]}, of theirs {found[1]}")
    if our_model["vocab"] != their_model["vocab"]:
        raise DifferenceError(f"{what}: the merges are equal, the ids are not")


def equal_merges(ours: BPETokenizer, theirs: rustbpe.Tokenizer) -> str:
    """How many tokens of merges rustbpe has at the same rank as ours, and how many at any."""
    our_tokens = [ours.decode_bytes([index]) for index in range(256, ours.vocab_size)]
    ranks = {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()}
    at_rank = sum(ranks.get(token) == rank for rank, token in enumerate(our_tokens, 256))
    at_any = sum(token in ranks for token in our_tokens)
    return f"of our {len(our_tokens)} merges rustbpe has {at_any}, {at_rank} at the same rank"


def check_equality(corpora: dict[str, Corpus]) -> None:
    """Compare ids of all the text with tiktoken's, and merges with tokenizers'.

    Raises:
        DifferenceError: there is one.
    """
    for language, corpus in corpora.items():
        for vocab_size in (256, 300, 1000, 8192, 32768):
            texts = corpus.front(5)
            ours = train_ours(texts, vocab_size)
            what = f"train {language}, vocabulary of {vocab_size}"
            check_merges(what, ours, train_tokenizers(texts, vocab_size))
            print(f"{what}: {vocab_size - 256} merges equal", flush=True)
        encoding = tiktoken_of(ours)
        compared = 0.0
        for documents in corpus.slices(5, math.ceil(corpus.megabytes / 5)):
            text = "".join(documents)
            expected = encoding.encode_ordinary(text)
            what = f"{language} after {compared:.1f} MB"
            check_same(f"{what}, encode", ours.encode(text), expected, ours.decode)
            check_same(f"{what}, encode_numpy", ours.encode_numpy(text), expected, ours.decode)
            for index, ids in enumerate(ours.encode_batch(documents)):
                check_same(
                    f"{what}, encode_batch, document {index}",
                    *(ids, encoding.encode_ordinary(documents[index]), ours.decode),
                )
            for given in (expected, np.array(expected)):
                if ours.decode(given) != text:
                    raise DifferenceError(f"{what}: decode of a {type(given)} gives another text")
            compared += len(text.encode("utf-8")) / 1e6
        print(f"{language}: ids of {compared:.1f} MB equal, one by one and as documents")


# --- training ---


def training(language: str, megabytes: float, vocab_size: int, name: str = "") -> Case:
    """Training, against both trainers."""

    def measure(bench: Bench) -> Iterator[Round]:
        texts = bench.corpora[language].front(megabytes)
        size = sum(len(text.encode("utf-8")) for text in texts) / 1e6
        for _ in range(bench.rounds):
            measured: Round = {"MB": size}
            ours, measured["ours"] = cost(train_ours, texts, vocab_size)
            theirs, measured["tokenizers"] = cost(train_tokenizers, texts, vocab_size)
            check_merges(case.name, ours, theirs)
            del theirs
            theirs, measured["rustbpe"] = cost(train_rustbpe, texts, vocab_size)
            bench.note(equal_merges(ours, theirs))
            del theirs
            yield measured

    title = f"train {name}{megabytes:g} MB, {vocab_size // 1024}k"
    case = Case(title, "CPU s", {"tokenizers": None, "rustbpe": None}, measure)
    return case


def training_memory(megabytes: float, vocab_size: int) -> Case:
    """Peak memory of training from a file that is read as it goes, in a process of its own."""

    def measure(bench: Bench) -> Iterator[Round]:
        texts = bench.corpora["english"].front(megabytes)
        path = bench.path("texts.jsonl")
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
        for _ in range(min(2, bench.rounds)):
            measured: Round = {"MB": sum(len(text.encode("utf-8")) for text in texts) / 1e6}
            for library in ("ours", "tokenizers"):
                measured[library] = float(child("memory", library, str(vocab_size), str(path)))
            yield measured

    title = f"peak memory, train {megabytes:g} MB, {vocab_size // 1024}k"
    return Case(title, "MB", {"tokenizers": None}, measure)


def training_threads(megabytes: float, vocab_size: int) -> Case:
    """Training with two threads; the peer is ours with one."""

    def measure(bench: Bench) -> Iterator[Round]:
        texts = bench.corpora["english"].front(megabytes)
        size = sum(len(text.encode("utf-8")) for text in texts) / 1e6

        def train(num_threads: int) -> BPETokenizer:
            return train_ours(texts, vocab_size, num_threads=num_threads)

        with all_cores(bench):
            for _ in range(bench.rounds):
                measured: Round = {"MB": size}
                two, measured["ours"] = cost(train, 2, clock="wall")
                one, measured["1 thread"] = cost(train, 1, clock="wall")
                if one != two:
                    raise DifferenceError("training with two threads learns other merges")
                yield measured

    title = f"train {megabytes:g} MB, {vocab_size // 1024}k, 2 threads"
    return Case(title, "wall s", {"1 thread": None}, measure)


# --- encoding ---


def encode_numpy_tiktoken(encoding: tiktoken.Encoding, text: str) -> Any:
    """Ids of ordinary text as tiktoken's array."""
    return encoding.encode_to_numpy(text, disallowed_special=())


def long_text(title: str, language: str, megabytes: float, peers: Sequence[str]) -> Case:
    """One string to a list."""

    def measure(bench: Bench) -> Iterator[Round]:
        ours = bench.load(language)
        encoding, library = tiktoken_of(ours), tokenizers_of(ours)
        for number, (size, documents) in enumerate(bench.slices(language, megabytes)):
            text = "".join(documents)
            measured: Round = {"MB": size}
            ids, seconds = cost(ours.encode, text)
            measured["ours"] = seconds / size
            expected, seconds = cost(encoding.encode_ordinary, text)
            measured["tiktoken"] = seconds / size
            check_same(f"{title}, slice {number}", ids, expected, ours.decode)
            del ids, expected
            if "tokenizers" in peers:
                part = text[: len(text) // PART_FOR_TOKENIZERS]
                part_size = len(part.encode("utf-8")) / 1e6
                expected = encoding.encode_ordinary(part)
                for peer, function in (
                    ("tokenizers", lambda text: library.encode(text).ids),
                    ("tokenizers fast", lambda text: library.encode_batch_fast([text])[0].ids),
                ):
                    theirs, seconds = cost(function, part)
                    measured[peer] = seconds / part_size
                    check_same(f"{title}, {peer}, slice {number}", expected, theirs, ours.decode)
                    del theirs
                del expected
            if number > 0:
                yield measured

    return Case(title, "MB/s", dict.fromkeys(peers), measure)


def long_text_to_array(megabytes: float) -> Case:
    """One string to an array; tiktoken's list is there because it takes less time."""

    def measure(bench: Bench) -> Iterator[Round]:
        ours = bench.load("english")
        encoding = tiktoken_of(ours)
        for number, (size, documents) in enumerate(bench.slices("english", megabytes)):
            text = "".join(documents)
            measured: Round = {"MB": size}
            ids, seconds = cost(ours.encode_numpy, text)
            measured["ours"] = seconds / size
            for peer, function in (
                ("tiktoken", encoding.encode_ordinary),
                ("tiktoken, array", lambda text: encode_numpy_tiktoken(encoding, text)),
            ):
                expected, seconds = cost(function, text)
                measured[peer] = seconds / size
                check_same(f"encode to an array, slice {number}", ids, expected, ours.decode)
                del expected
            if number > 0:
                yield measured

    peers: dict[str, Target] = {"tiktoken": None, "tiktoken, array": None}
    return Case("encode to an array", "MB/s", peers, measure)


def first_encode(megabytes: float) -> Case:
    """The first text after loading; the loading itself is not timed."""

    def measure(bench: Bench) -> Iterator[Round]:
        for number, (size, documents) in enumerate(bench.slices("english", megabytes)):
            if number == 0:  # a slice for each round is enough: nothing is to be warm
                continue
            text = "".join(documents)
            ours = bench.load("english")
            encoding = tiktoken_of(bench.load("english"))
            ids, seconds = cost(ours.encode, text)
            measured: Round = {"MB": size, "ours": seconds / size}
            expected, seconds = cost(encoding.encode_ordinary, text)
            measured["tiktoken"] = seconds / size
            check_same(f"first encode, slice {number}", ids, expected, ours.decode)
            yield measured

    return Case("encode, first after load", "MB/s", {"tiktoken": None}, measure)


def short_texts(
    title: str, megabytes: float, *, batch: bool, lines: bool, known: bool = False
) -> Case:
    """Many texts, one by one or as a batch, against a loop of tiktoken.

    With `known`, ours has met the words of the texts before: it encodes them once untimed.
    """

    def measure(bench: Bench) -> Iterator[Round]:
        ours = bench.load("english")
        encoding = tiktoken_of(ours)

        def loop(encode: Callable[[str], list[int]], texts: list[str]) -> list[list[int]]:
            return [encode(text) for text in texts]

        for number, (_, documents) in enumerate(bench.slices("english", megabytes)):
            texts = documents
            if lines:
                texts = [line for text in documents for line in text.splitlines() if line]
            size = sum(len(text.encode("utf-8")) for text in texts) / 1e6
            measured: Round = {"MB": size}
            if known:
                loop(ours.encode, texts)
            if batch:
                ids, seconds = cost(ours.encode_batch, texts)
            else:
                ids, seconds = cost(loop, ours.encode, texts)
            measured["ours"] = seconds / size
            expected, seconds = cost(loop, encoding.encode_ordinary, texts)
            measured["tiktoken"] = seconds / size
            check_batches(f"{title}, slice {number}", ids, expected, ours)
            if number > 0:
                yield measured

    return Case(title, "MB/s", {"tiktoken": None}, measure)


def check_batches(
    what: str, ours: list[list[int]], theirs: list[list[int]], tokenizer: BPETokenizer
) -> None:
    """Compare text by text.

    Raises:
        DifferenceError: with the first text that differs.
    """
    if len(ours) != len(theirs):
        raise DifferenceError(f"{what}: {len(ours)} texts, theirs {len(theirs)}")
    for index, (ids, expected) in enumerate(zip(ours, theirs, strict=True)):
        check_same(f"{what}, text {index}", ids, expected, tokenizer.decode)


def batch_threads(megabytes: float) -> Case:
    """A batch of documents with two threads; the peer is ours with one."""

    def measure(bench: Bench) -> Iterator[Round]:
        two, one = bench.load("english"), bench.load("english")
        with all_cores(bench):
            for number, (size, documents) in enumerate(bench.slices("english", megabytes)):
                ids, seconds = cost(
                    lambda texts: two.encode_batch(texts, num_threads=2), documents, clock="wall"
                )
                measured: Round = {"MB": size, "ours": seconds / size}
                expected, seconds = cost(
                    lambda texts: one.encode_batch(texts, num_threads=1), documents, clock="wall"
                )
                measured["1 thread"] = seconds / size
                check_batches(f"two threads, slice {number}", ids, expected, one)
                if number > 0:
                    yield measured

    title = "batch of documents, 2 threads"
    return Case(title, "MB/s", {"1 thread": None}, measure)


@contextmanager
def all_cores(bench: Bench) -> Iterator[None]:
    """Lift the confinement to one core for a while."""
    if not bench.all_cores:
        yield
        return
    one = os.sched_getaffinity(0)
    os.sched_setaffinity(0, bench.all_cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, one)


# --- decoding ---


def decoding(title: str, megabytes: float, *, array: bool) -> Case:
    """Ids to text, from a list or from an array; tiktoken from a list."""

    def measure(bench: Bench) -> Iterator[Round]:
        ours = bench.load("english")
        encoding = tiktoken_of(ours)
        for number, (size, documents) in enumerate(bench.slices("english", megabytes)):
            text = "".join(documents)
            ids = encoding.encode_ordinary(text)
            given = np.array(ids, dtype=np.int32) if array else ids
            decoded, seconds = cost(ours.decode, given)
            measured: Round = {"MB": size, "ours": seconds / size}
            expected, seconds = cost(encoding.decode, ids)
            measured["tiktoken"] = seconds / size
            if not decoded == expected == text:
                raise DifferenceError(f"{title}, slice {number}: the text is another")
            if number > 0:
                yield measured

    return Case(title, "MB/s", {"tiktoken": None}, measure)


# --- the table ---


def cases(*, quick: bool) -> list[Case]:
    """All rows, with their targets."""
    # sizes in MB: three to train on, Russian to train on, a slice to encode, of lines, of Russian
    small, large, russian = (0.5, 1.5, 0.5) if quick else (20, 100, 10)
    slice_size, lines_size, russian_slice = (0.5, 0.2, 0.25) if quick else (20, 8, 5)
    k8, k32 = (1024, 4096) if quick else (8192, 32768)
    all_three = ("tiktoken", "tokenizers", "tokenizers fast")
    table: list[tuple[Case, list[Target]]] = [
        (training("english", small, k8), [(2.7, 4), (0.85, 1.3)]),
        (training("english", small, k32), [(1.9, 3.4), (0.65, 1.05)]),
        (training("english", large, k32), [(3, 5), (1, 1.5)]),
        (training("russian", russian, k8, "Russian "), [(1.8, 3.2), (0.7, 1)]),
        (
            long_text("encode long text", "english", slice_size, all_three),
            [(1.5, 2), (11, 15), None],
        ),
        (long_text_to_array(slice_size), [(1.7, 2.7), None]),
        (long_text("encode Russian", "russian", russian_slice, all_three[:1]), [(1.2, 2)]),
        (first_encode(slice_size), [(0.7, 1)]),
        (
            short_texts(
                "encode, lines of known words", lines_size, batch=False, lines=True, known=True
            ),
            [None],
        ),
        (
            short_texts("encode, new lines", lines_size, batch=False, lines=True),
            [(0.9, 1.2)],
        ),
        (short_texts("encode, batch of lines", lines_size, batch=True, lines=True), [(1.35, 1.8)]),
        (
            short_texts("encode, batch of documents", slice_size, batch=True, lines=False),
            [(1.6, 2.1)],
        ),
        (decoding("decode from a list", slice_size, array=False), [(0.7, 1)]),
        (decoding("decode from an array", slice_size, array=True), [(1.6, 2)]),
        (training_memory(large, k32), [(0.45, 1)]),
        (batch_threads(slice_size), [(1.5, 1.8)]),
        (training_threads(large, k32), [(1.5, 1.8)]),
    ]
    for case, targets in table:
        case.peers.update(zip(case.peers, targets, strict=True))
    return [case for case, _ in table]


# --- processes of their own ---


def child(*arguments: str, limit: float | None = None) -> str:
    """Run one measurement in a fresh process; return the last line that it prints.

    Raises:
        RuntimeError: it failed.
        subprocess.TimeoutExpired: it took longer than the limit.
    """
    script = Path(__file__).with_name("tokenizer.py")
    command = [sys.executable, str(script), "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def run_as_child(kind: str, *arguments: str) -> None:
    """What `child` asks for."""
    print({"memory": _memory, "pathological": _pathological}[kind](*arguments))


def _memory(library: str, vocab_size: str, path: str) -> float:
    """MB by which the peak of memory grows in training on the texts of a file."""

    def texts() -> Iterator[str]:
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    before = _memory_of_process("VmRSS")
    trained = TRAIN[library](texts(), int(vocab_size))  # type: ignore[arg-type]
    growth = _memory_of_process("VmHWM") - before
    del trained
    return growth


def _memory_of_process(field: str) -> float:
    """MB that this process has resident now (VmRSS) or has had at most (VmHWM)."""
    status = Path("/proc/self/status")
    if status.exists():  # a child's ru_maxrss begins at what its parent had
        for line in status.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1e3
    import resource  # not on Windows; it knows the peak only

    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _random_letters(count: int) -> str:
    return "".join(random.Random(0).choices(string.ascii_lowercase, k=count))


# name: (how it is used, the text)
PATHOLOGICAL: dict[str, tuple[str, Callable[[], str]]] = {
    "encode a million 'a'": ("encode", lambda: "a" * 1_000_000),
    "encode a million random letters": ("encode", lambda: _random_letters(1_000_000)),
    "encode a million spaces": ("encode", lambda: " " * 1_000_000),
    "encode a million newlines": ("encode", lambda: "\n" * 1_000_000),
    "encode a million spaces and a word": ("encode", lambda: " " * 1_000_000 + "word"),
    "train on a chunk of 2 MB, random letters": ("train", lambda: _random_letters(2_000_000)),
    "train on a chunk of 2 MB, one letter": ("train", lambda: "a" * 2_000_000),
}


def _pathological(name: str, library: str) -> str:
    """CPU seconds, and a hash of the result."""
    use, make = PATHOLOGICAL[name]
    text = make()
    if use == "train":
        trained, seconds = cost(TRAIN[library], [text], 1024)
        if library == "rustbpe":
            return f"{seconds:.2f} "  # its merges may differ in ties
        document = trained.to_json() if library == "ours" else trained.to_str()
        result = str(json.loads(document)["model"]["merges"])
    else:
        # a vocabulary in which runs of all those characters merge
        sample = [" ".join("a" * n + "\n" * n + " " * n for n in range(1, 60))]
        letters = _random_letters(20_000)
        sample += [letters[start : start + 8] for start in range(0, 20_000, 8)]
        ours = train_ours(sample, 1024)
        library_of_ours = tokenizers_of(ours)
        encode = {
            "ours": ours.encode,
            "tiktoken": tiktoken_of(ours, POSSESSIVE_PATTERN).encode_ordinary,
            "tokenizers": lambda text: library_of_ours.encode(text).ids,
        }[library]
        ids, seconds = cost(encode, text)
        if library == "ours" and ours.decode(ids) != text:
            raise DifferenceError(f"{name}: decode gives another text")
        result = str(list(ids))
    return f"{seconds:.2f} {hashlib.sha256(result.encode()).hexdigest()}"


def run_pathological(name: str, libraries: Sequence[str], limit: int) -> list[str]:
    """Seconds of each library on one input, or what became of it."""
    use, _ = PATHOLOGICAL[name]
    reference = None
    cells = []
    for library in libraries:
        if library == ("tiktoken" if use == "train" else "rustbpe"):
            cells.append("")
            continue
        try:
            seconds, _, digest = child("pathological", name, library, limit=limit).partition(" ")
        except subprocess.TimeoutExpired:
            cells.append(f"> {limit} s")
            continue
        except RuntimeError as error:
            if library == "ours":
                raise
            cells.append("panics" if "PanicException" in str(error) else "fails")
            continue
        if library == "ours":
            reference = digest
        same = not digest or reference in (None, digest)
        cells.append(seconds if same else f"{seconds}, differs")
    return cells
