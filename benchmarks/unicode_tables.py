r"""Write `llm/tokenizers/_unicode_tables.py`: the Unicode classes of the published tokenizers.

    python benchmarks/unicode_tables.py --check    compare the committed table with the libraries
    python benchmarks/unicode_tables.py            write it anew

A pre-tokenisation pattern such as ` ?\p{L}+` means what the Unicode version of the regular
expression engine says it means. tiktoken and tokenizers carry their own versions, `regex` and
Python others; so the classes are asked of tiktoken here, for every code point, compared with
those of tokenizers, and kept as a table.
"""

import argparse
import sys
import textwrap
from pathlib import Path

import tiktoken
import tokenizers
from tokenizers import Regex, pre_tokenizers

TABLE = Path(__file__).parents[1] / "llm/src/llm/tokenizers/_unicode_tables.py"
CATEGORIES = (
    *("Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No"),
    *("Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So"),
)
# Classes that are not tables of ours: `regex` must agree with the libraries as it is.
SAME_EVERYWHERE = (r"\s", *(f"(?i:{letter})" for letter in "abcdefghjklmnopqrstuvwxyz"))

CODE_POINTS = [*range(0xD800), *range(0xE000, 0x110000)]  # every Unicode scalar value
ALL_TEXT = "".join(map(chr, CODE_POINTS))

Ranges = tuple[tuple[int, int], ...]

HEADER = '''\
"""Code points of each Unicode general category, as tiktoken and tokenizers have them.

Written by benchmarks/unicode_tables.py with tiktoken {tiktoken} and tokenizers {tokenizers};
do not edit. Ranges are hexadecimal, both ends included.
"""

'''


def to_ranges(code_points: set[int]) -> Ranges:
    """Merge a set of code points into sorted, inclusive ranges."""
    ranges: list[tuple[int, int]] = []
    for code in sorted(code_points):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1] = (ranges[-1][0], code)
        else:
            ranges.append((code, code))
    return tuple(ranges)


def tiktoken_class(pattern: str) -> Ranges:
    """Code points that tiktoken's engine matches; it drops the text that no match covers."""
    encoding = tiktoken.Encoding(
        "bytes",
        pat_str=pattern,
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    return to_ranges({ord(char) for char in bytes(encoding.encode_ordinary(ALL_TEXT)).decode()})


def tokenizers_class(pattern: str) -> Ranges:
    """Code points that the engine of tokenizers' `Split` matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    rest = {ord(char) for piece, _ in split.pre_tokenize_str(ALL_TEXT) for char in piece}
    return to_ranges(set(CODE_POINTS) - rest)


def tokenizers_digits() -> Ranges:
    """Code points that tokenizers' `Digits` splits off (Rust's own tables, not the engine's)."""
    # Two letters before each character: only what is split off is a piece of one character.
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(
        "".join(f"aa{char}" for char in ALL_TEXT)
    )
    return to_ranges({ord(piece) for piece, _ in pieces if len(piece) == 1})


def table_text() -> str:
    """Ask the libraries for every class; return the source of the table's module."""
    classes = {}
    for category in CATEGORIES:
        classes[category] = tiktoken_class(rf"\p{{{category}}}")
        if tokenizers_class(rf"\p{{{category}}}") != classes[category]:
            raise SystemExit(f"tiktoken and tokenizers disagree about \\p{{{category}}}")
    classes["digits"] = tokenizers_digits()

    versions = {"tiktoken": tiktoken.__version__, "tokenizers": tokenizers.__version__}
    lines = [HEADER.format(**versions), "RANGES = {\n"]
    for name, ranges in classes.items():
        words = " ".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in ranges)
        lines.append(f'    "{name}": """\n')
        lines.extend(f"{line}\n" for line in textwrap.wrap(words, 98, break_on_hyphens=False))
        lines.append('""",\n')
    return "".join([*lines, "}\n"])


def check_shared_classes() -> None:
    """The classes that need no table: `regex`, tiktoken and tokenizers agree on them."""
    import regex

    for pattern in SAME_EVERYWHERE:
        ours = to_ranges({ord(char) for char in regex.findall(pattern, ALL_TEXT)})
        if not ours == tiktoken_class(pattern) == tokenizers_class(pattern):
            raise SystemExit(f"regex, tiktoken and tokenizers disagree about {pattern}")


def main() -> None:
    """Write the table, or with `--check` compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    arguments = parser.parse_args()

    check_shared_classes()
    text = table_text()
    if not arguments.check:
        TABLE.write_text(text, encoding="utf-8")
    elif text.split("RANGES", 1)[1] != TABLE.read_text(encoding="utf-8").split("RANGES", 1)[1]:
        sys.exit(f"{TABLE} differs from what the libraries say; run this without --check")


if __name__ == "__main__":
    main()
