r"""Unicode classes as the published tokenizers have them, and where `regex` differs.

`\p{L}` means what an engine's Unicode version says it means. tiktoken and tokenizers agree with
each other; Python's `regex` follows another version. `_unicode_tables` holds their classes.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import regex  # type: ignore[import-untyped]
from numpy.typing import NDArray

from llm.tokenizers._unicode_tables import RANGES

_NUM_CODE_POINTS = 0x110000

# Named as in a pattern: the general categories, and their unions by first letter.
CLASS_NAMES = frozenset({"L", "M", "N", "P", "S", *(name for name in RANGES if len(name) == 2)})


# Unicode's White_Space; Python's str.strip() takes U+001C to U+001F too.
WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


@cache
def class_members(name: str) -> NDArray[np.bool_]:
    """Which code points belong to a class: a boolean array, one entry per code point."""
    members = np.zeros(_NUM_CODE_POINTS, dtype=np.bool_)
    for key, ranges in RANGES.items():
        if key == name or (len(name) == 1 and key.startswith(name)):
            for part in ranges.split():
                first, _, last = part.partition("-")
                members[int(first, 16) : int(last or first, 16) + 1] = True
    members.setflags(write=False)
    return members


@cache
def class_ranges(name: str, negated: bool = False, end: int = _NUM_CODE_POINTS) -> str:
    """A class, its code points below `end`, written out to stand in the brackets of a pattern."""
    members = class_members(name)[:end]
    return _to_ranges(~members if negated else members)


@cache
def disputed(names: tuple[str, ...]) -> re.Pattern[str]:
    """Pattern of the code points on which `regex` and the tables disagree about some class."""
    differing = np.zeros(_NUM_CODE_POINTS, dtype=np.bool_)
    for name in names:
        theirs = np.zeros(_NUM_CODE_POINTS, dtype=np.bool_)
        for match in regex.finditer(rf"\p{{{name}}}+", _every_character()):
            theirs[match.start() : match.end()] = True
        differing |= theirs != class_members(name)
    return re.compile(f"[{_to_ranges(differing)}]" if differing.any() else "(?!)")


@cache
def _every_character() -> str:
    return "".join(map(chr, range(_NUM_CODE_POINTS)))


def _to_ranges(members: NDArray[np.bool_]) -> str:
    edges = np.flatnonzero(np.diff(members, prepend=False, append=False))
    return "".join(
        rf"\U{first:08x}-\U{end - 1:08x}" for first, end in edges.reshape(-1, 2).tolist()
    )
