"""Tokens matched in the text as they stand, and the parts that some of them play."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from llm.tokenizers._unicode_classes import WHITE_SPACE

# Parts, and the conventional names of their tokens, in order of preference.
CONVENTIONAL_NAMES = {
    "pad": ("<pad>", "<|pad|>", "[PAD]"),
    "unk": ("<unk>", "[UNK]"),
    "bos": ("<bos>", "<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("<eos>", "</s>", "<|end_of_text|>", "<|endoftext|>"),
}
ROLES = tuple(CONVENTIONAL_NAMES)


@dataclass(frozen=True, kw_only=True)
class AddedToken:
    """A token that is matched before the text is cut into chunks.

    Args:
        token_id: its id.
        content: the text it stands for.
        special: matched only when the caller allows it, and skipped by `skip_special_tokens`.
        normalized: matched in the normalized text, not in the raw one.
        lstrip: takes the white space before it with it.
        rstrip: takes the white space after it with it.
    """

    token_id: int
    content: str
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False


def conventional_roles(added_tokens: Iterable[AddedToken]) -> dict[str, str | None]:
    """The special token of each part, by its conventional name."""
    specials = {token.content for token in added_tokens if token.special}
    return {
        role: next((name for name in names if name in specials), None)
        for role, names in CONVENTIONAL_NAMES.items()
    }


class AddedTokenMatcher:
    """Finds added tokens in text: the leftmost, and of those the longest."""

    def __init__(
        self, tokens: Collection[AddedToken], normalize: Callable[[str], str] | None = None
    ) -> None:
        """Prepare the search.

        Args:
            tokens: what to look for.
            normalize: applied to the content of the tokens first.
        """
        self._by_content = {
            normalize(token.content) if normalize else token.content: token for token in tokens
        }
        longest_first = sorted(self._by_content, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def split(self, text: str) -> Iterator[str | int]:
        """The text in order: ids of the tokens found, and the strings between them."""
        position = 0
        for match in self._pattern.finditer(text):
            token = self._by_content[match[0]]
            start, end = match.span()
            if token.lstrip:
                start = max(position, len(text[:start].rstrip(WHITE_SPACE)))
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip(WHITE_SPACE))
            if position < start:
                yield text[position:start]
            yield token.token_id
            position = end
        if position < len(text):
            yield text[position:]
