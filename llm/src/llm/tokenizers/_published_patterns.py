"""Published patterns of pre-tokenisation, by name."""

from __future__ import annotations

import re

from llm.tokenizers._json_node import Json
from llm.tokenizers._pretokenize import GPT2_PATTERN, Split
from llm.tokenizers._tokenizer_json import BYTE_LEVEL

# In the dialect of tokenizer.json. The first three are tiktoken's encodings of these names, the
# others are from the tokenizer.json of the models.
PUBLISHED_PATTERNS = {
    "gpt2": GPT2_PATTERN,
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++\z|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k_base": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "llama3": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}

# What can be meant for a name: `gpt-4` is a regular expression too, of one word.
_NAME = re.compile(r"[\w./ -]*\w[\w./ -]*")


def find_pattern(name_or_pattern: str) -> str:
    """The published pattern of a name, or the pattern itself.

    Raises:
        ValueError: it looks like a name, but no pattern has it.
        TypeError: it is not a string.
    """
    if not isinstance(name_or_pattern, str):
        raise TypeError(f"pattern has to be a str, not {type(name_or_pattern).__name__}")
    if name_or_pattern in PUBLISHED_PATTERNS:
        return PUBLISHED_PATTERNS[name_or_pattern]
    if _NAME.fullmatch(name_or_pattern):
        raise ValueError(
            f"pattern={name_or_pattern!r} is not the name of a published pattern, which are "
            f"{', '.join(PUBLISHED_PATTERNS)}; to cut at these very characters, give "
            f"'(?:{name_or_pattern})'"
        )
    return name_or_pattern


def pre_tokenizer_section(pattern: str) -> Json:
    """What a `tokenizer.json` says of a pattern.

    Raises:
        ValueError: the pattern is damaged or not supported.
    """
    if Split(pattern).is_gpt2:
        return dict(BYTE_LEVEL)  # which knows this pattern
    return {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": pattern},
                "behavior": "Isolated",
                "invert": False,
            },
            {**BYTE_LEVEL, "use_regex": False},
        ],
    }
