"""Surrogates: code points that a Python string can hold and UTF-8 cannot."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def is_unicode(text: str) -> bool:
    """Whether a string is valid Unicode, free of surrogates."""
    return text.isascii() or not _SURROGATE.search(text)


def replace_surrogates(text: str) -> str:
    """Valid Unicode: surrogate pairs as the characters they encode, lone ones as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
