"""Text for benchmarks/tokenizer.py: from what this machine has, or from the paths it is given."""

import gettext
import gzip
import random
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

_SITE_PACKAGES = Path(sysconfig.get_paths()["purelib"])
_LARGEST_FILE = 1 << 20  # bytes
_LARGEST_DOCUMENT = 1 << 17  # characters; longer files are cut, at ends of lines


class Corpus:
    """Documents in an order that is random and always the same.

    Training takes them from the front, encoding from the back, so that the two meet only where
    there is too little text.
    """

    def __init__(self, sources: Iterable[Path | str], wanted: float) -> None:
        """Read documents until there are as many megabytes (UTF-8) as wanted.

        Args:
            sources: files, or texts already read.
            wanted: MB.
        """
        shuffled = list(sources)
        random.Random(0).shuffle(shuffled)
        self.documents: list[str] = []
        self.sizes: list[int] = []  # bytes
        size = 0
        for source in shuffled:
            if size >= wanted * 1e6:
                break
            for document in _cut(source if isinstance(source, str) else _read(source)):
                self.documents.append(document)
                self.sizes.append(len(document.encode("utf-8")))
                size += self.sizes[-1]
        # pieces of one long file shall not stand together either
        order = list(range(len(self.documents)))
        random.Random(1).shuffle(order)
        self.documents = [self.documents[index] for index in order]
        self.sizes = [self.sizes[index] for index in order]
        self.truncate(wanted)

    @property
    def megabytes(self) -> float:
        """Size of all documents."""
        return sum(self.sizes) / 1e6

    def truncate(self, megabytes: float) -> None:
        """Forget all but the first documents that make up so much."""
        count = len(self.front(megabytes))
        del self.documents[count:], self.sizes[count:]

    def front(self, megabytes: float) -> list[str]:
        """The first documents that make up so much, or all."""
        size = 0
        for index, more in enumerate(self.sizes):
            if size >= megabytes * 1e6:
                return self.documents[:index]
            size += more
        return self.documents

    def slices(self, megabytes: float, count: int) -> list[list[str]]:
        """As many disjoint slices, from the back: smaller ones where there is too little."""
        size_of_one = min(megabytes * 1e6, sum(self.sizes) / count)
        slices: list[list[str]] = [[] for _ in range(count)]
        size = 0
        for document, more in zip(reversed(self.documents), reversed(self.sizes), strict=True):
            index = int(size // size_of_one)
            if index >= count:
                break
            slices[index].append(document)
            size += more
        return slices


def text_files(path: Path) -> list[Path]:
    """The file, or all files of the folder, in order of name."""
    if not path.exists():
        raise SystemExit(f"{path} does not exist")
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def english_files() -> list[Path]:
    """English text and code: what the installed packages of this environment have."""
    return sorted(
        path
        for path in _SITE_PACKAGES.rglob("*")
        if path.suffix in (".py", ".pyi", ".md", ".rst", ".txt")
        and path.is_file()
        and path.stat().st_size <= _LARGEST_FILE
    )


def russian_documents() -> Iterator[str]:
    """Russian text: translations of programs' messages, and manual pages."""
    catalogues: list[Path] = []
    for root in (Path("/usr/share/locale"), _SITE_PACKAGES):
        catalogues += sorted(root.rglob("ru/LC_MESSAGES/*.mo"))
    for path in catalogues:
        with path.open("rb") as file:
            # the module has no public list of messages
            messages = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        yield "\n".join(message for key, message in messages.items() if key)
    for path in sorted(Path("/usr/share/man").glob("ru*/man*/*.gz")):
        yield gzip.decompress(path.read_bytes()).decode("utf-8", "ignore")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _cut(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + _LARGEST_DOCUMENT
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end
