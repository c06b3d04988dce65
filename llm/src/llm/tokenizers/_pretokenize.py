"""Cutting text into the chunks that merges never cross.

Patterns are those of `tokenizer.json` files, in the dialect of tokenizers' engine (Oniguruma).
They run on `regex`, whose Unicode tables are of another version: a text with a code point on
which the two disagree takes a second, slower pattern, with the classes written out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain

import regex  # type: ignore[import-untyped]

from llm.tokenizers._unicode_classes import CLASS_NAMES, WHITE_SPACE, class_ranges, disputed

# Radford et al. (GPT-2): the pattern of the code released with the paper.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# The same cuts, as tiktoken spells the pattern now and as it did.
_GPT2_SPELLINGS = {
    GPT2_PATTERN,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++\z|\s+(?!\S)|\s",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}

# Up to this many characters, all pieces of a text are found in one call and held at once.
_LONG_TEXT = 1 << 20


class Split:
    """Cut text at the matches of a pattern; what lies between two matches is a piece as well."""

    def __init__(self, pattern: str) -> None:
        """Compile the pattern.

        Raises:
            ValueError: it is damaged, matches the empty string, or uses a construct that is not
                supported (named in the message).
        """
        self.is_gpt2 = pattern in _GPT2_SPELLINGS
        native, self._exact, self._classes = _translate(pattern)
        try:
            self._native = regex.compile(native)
        except regex.error as error:
            raise ValueError(f"pattern {pattern!r} does not compile: {error}") from error
        if self._native.search(""):
            raise ValueError(f"pattern {pattern!r} matches the empty string")

    def __call__(self, text: str) -> Iterable[str]:
        """Pieces of the text, in order (lazily when the text is long)."""
        if self.is_gpt2 and (text.isascii() or not _BEYOND_BMP.search(text)):
            found: list[str] = gpt2_in_bmp().findall(text)
            return found
        compiled = self._native
        if not text.isascii() and disputed(self._classes).search(text):
            compiled = regex.compile(self._exact)
        if len(text) < _LONG_TEXT:
            pieces: list[str] = compiled.findall(text)
            if sum(map(len, pieces)) == len(text):
                return pieces
        return _isolate(compiled, text)


class Digits:
    """Cut out numeric characters, each alone or in runs (tokenizers' `Digits`)."""

    def __init__(self, *, individual: bool) -> None:
        r"""Compile the class, which is Rust's and so another than `\p{N}`."""
        self._pattern = regex.compile(f"[{class_ranges('digits')}]" + ("" if individual else "+"))

    def __call__(self, text: str) -> Iterable[str]:
        """Pieces of the text, in order."""
        return _isolate(self._pattern, text)


def prefix_space(text: str) -> Iterable[str]:
    """The text as one piece that starts with a space, unless it is empty."""
    return [text if not text or text.startswith(" ") else f" {text}"]


class PreTokenizer:
    """Steps, each applied to every piece that the one before it left."""

    def __init__(self, steps: Iterable[Callable[[str], Iterable[str]]]) -> None:
        """Take the steps in order; none means that a text is one chunk."""
        self._steps = tuple(steps)
        # Whether GPT-2's pattern is all there is.
        self.is_gpt2 = [getattr(step, "is_gpt2", False) for step in self._steps] == [True]

    def __call__(self, text: str) -> Iterable[str]:
        """Chunks of a text."""
        pieces: Iterable[str] = [text]
        for step in self._steps:
            pieces = chain.from_iterable(map(step, pieces))
        return pieces


def from_tiktoken_pattern(pattern: str) -> str:
    """A tiktoken pattern in the dialect of `tokenizer.json`.

    Two constructs mean something else there: `$` is the end of a line, not of the text, and
    `{m,n}+` repeats the repetition instead of forbidding to backtrack into it. Nothing
    backtracks into the end of an alternative, so the `+` can go where it stands there.

    Raises:
        ValueError: `{m,n}+` stands elsewhere, or a construct is not supported.
    """
    parts = []
    for construct in _constructs(pattern):
        text = construct.text
        if construct.kind == "end":
            text = r"\z"
        elif construct.kind == "repeat" and text.endswith("+"):
            if construct.group_depth or pattern[construct.end : construct.end + 1] not in ("", "|"):
                raise ValueError(f"pattern {pattern!r}: {text!r} before the end of an alternative")
            text = text[:-1]
        parts.append(text)
    return "".join(parts)


_BEYOND_BMP = re.compile("[\U00010000-\U0010ffff]")


@cache
def gpt2_in_bmp() -> re.Pattern[str]:
    """GPT-2's pattern for texts without code points above U+FFFF.

    The engine of Python is twice as fast as `regex` with classes that it can keep as bitmaps, and
    knows classes only as they are written out: no text is disputed.
    """
    letter, number, space = (
        class_ranges("L", end=0x10000),
        class_ranges("N", end=0x10000),
        WHITE_SPACE,
    )
    other = f"[^{space}{letter}{number}]"
    # Alternatives that begin with a class or a character, not with ` ?`, are passed over at a
    # glance: `findall` takes a tenth less time.
    return re.compile(
        rf"[{letter}]+| [{letter}]+|'(?:[sdmt]|ll|ve|re)|{other}+| {other}+"
        rf"|[{number}]+| [{number}]+|[{space}]+(?![^{space}])|[{space}]+"
    )


def _isolate(compiled: regex.Pattern[str], text: str) -> Iterator[str]:
    position = 0
    for match in compiled.finditer(text):
        start, end = match.span()
        if position < start:
            yield text[position:start]
        if start < end:
            yield text[start:end]
        position = end
    if position < len(text):
        yield text[position:]


# What is not listed here means different things to different engines.
_CONSTRUCT = re.compile(
    r"""
      (?P<property> \\ [pP] \{ \^? \w+ \} | \\ [dD] )
    | (?P<end> \\z | \$ )
    | (?P<escape> \\ (?: [sSrnt] | x[0-7][0-9A-Fa-f] | u[0-9A-Fa-f]{4} | [^\w] ) )
    | (?P<group> \( (?: \? (?: [:=!>] | i: | <= | <! ) | (?!\?) ) )
    | (?P<repeat> \{ \d+ (?: ,\d* )? \} \+? )
    | (?P<set> \[ \^? (?![\]:]) )
    | (?P<literal> [^\\] )
    """,
    re.VERBOSE | re.DOTALL,
)
# Letters with a third form under (?i:...).
_THIRD_CASE = {"k": "\u212a", "s": "\u017f"}
# Letters that together equal one ligature under (?i:...), but only for tokenizers' engine.
_LIGATURES = ("ff", "fi", "fl", "ss", "st")


class _Construct:
    """One construct of a pattern and where it stands."""

    def __init__(self, match: re.Match[str], kind: str, group_depth: int, ignore_case: bool):
        self.kind = kind  # a group of _CONSTRUCT; in a set: "property" or "member"
        self.text = match[0]
        self.end = match.end()
        self.group_depth = group_depth
        self.ignore_case = ignore_case


def _constructs(pattern: str) -> Iterator[_Construct]:
    """The constructs of a pattern, in order.

    Raises:
        ValueError: one is not supported.
    """

    def unsupported(what: str) -> ValueError:
        return ValueError(f"pattern {pattern!r}: {what} at {position} is not supported")

    groups: list[bool] = []  # of each open group: does it ignore case?
    in_set = False
    position = 0
    while position < len(pattern):
        match = _CONSTRUCT.match(pattern, position)
        if match is None:
            raise unsupported(repr(pattern[position : position + 4]))
        text, kind = match[0], str(match.lastgroup)
        ignore_case = any(groups)
        if in_set:
            if pattern.startswith(("[", "&&", "--", "~~", "||"), position):
                raise unsupported(f"{pattern[position : position + 2]!r} in a set")
            if kind not in ("property", "escape"):
                match = re.compile(".", re.DOTALL).match(pattern, position)
                assert match is not None
                text, kind = match[0], "member"
            if text == "]":
                kind, in_set = "set_end", False
        elif kind == "set":
            in_set = True
        elif kind == "group":
            groups.append(text == "(?i:")
        elif text == ")":
            if not groups:
                raise unsupported("an unopened ')'")
            groups.pop()
        elif kind == "literal" and text in "([]^":
            raise unsupported(repr(pattern[position : position + 4]))
        if ignore_case and (
            kind == "property"
            or not text.isascii()
            or (text == "-" and in_set)
            or (not in_set and pattern[position : position + 2].lower() in _LIGATURES)
        ):
            raise unsupported(f"{text!r} within (?i:")
        yield _Construct(match, kind, len(groups), ignore_case)
        position = match.end()


def _translate(pattern: str) -> tuple[str, str, tuple[str, ...]]:
    """A pattern for `regex`: with its own classes, with ours written out, and their names."""
    native, exact = [], []
    classes = set()
    in_set = False
    for construct in _constructs(pattern):
        kind, text = construct.kind, construct.text
        if kind == "property":
            name, negated = _class_name(text, pattern)
            classes.add(name)
            written_out = class_ranges(name, negated)
            native.append(rf"\{'P' if negated else 'p'}{{{name}}}")
            exact.append(written_out if in_set else f"[{written_out}]")
            continue
        if kind == "set":
            in_set = True
        elif kind == "set_end":
            in_set = False
        elif kind == "end":
            text = r"\Z" if text == r"\z" else r"(?=\n|\Z)"
        elif kind == "group" and text in ("(", "(?i:"):
            text = "(?:"
        elif kind == "repeat" and text.endswith("+"):
            raise ValueError(f"pattern {pattern!r}: a repeated repetition {text!r}")
        elif kind == "literal" and text in "{}":
            text = f"\\{text}"
        elif construct.ignore_case and text.isalpha():
            cases = text.lower() + text.upper() + _THIRD_CASE.get(text.lower(), "")
            text = cases if in_set else f"[{cases}]"
        native.append(text)
        exact.append(text)
    return "".join(native), "".join(exact), tuple(sorted(classes))


def _class_name(text: str, pattern: str) -> tuple[str, bool]:
    r"""Name of the class that `\p{L}`, `\P{L}`, `\p{^L}` or `\d` stands for; is it negated?"""
    if text in (r"\d", r"\D"):
        return "Nd", text == r"\D"
    name = text[3:-1].removeprefix("^")
    if name not in CLASS_NAMES:
        raise ValueError(f"pattern {pattern!r}: the class {text} is not supported")
    return name, (text[1] == "P") != ("^" in text)
