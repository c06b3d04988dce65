"""The table of Unicode classes: what tiktoken and tokenizers have, for every code point."""

import numpy as np
import pytest
import regex
import tiktoken
from tokenizers import Regex, pre_tokenizers

from llm.tokenizers._unicode_classes import CLASS_NAMES, class_members, class_ranges, disputed

CODE_POINTS = np.array([*range(0xD800), *range(0xE000, 0x110000)])
ALL_TEXT = "".join(map(chr, CODE_POINTS.tolist()))


def members_of(characters):
    members = np.zeros(0x110000, dtype=bool)
    members[[ord(character) for character in characters]] = True
    return members


# benchmarks/unicode_tables.py --check asks about the rest, none of which a published pattern has
PUBLISHED = ["L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "Nd", "P", "S"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_classes_are_those_of_tiktoken_on_every_code_point(name):
    encoding = tiktoken.Encoding(
        "bytes",
        pat_str=rf"\p{{{name}}}",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    in_tiktoken = bytes(encoding.encode_ordinary(ALL_TEXT)).decode()
    assert np.array_equal(class_members(name), members_of(in_tiktoken))


@pytest.mark.parametrize("name", ["L", "N"])
def test_classes_are_those_of_tokenizers_on_every_code_point(name):
    removed = pre_tokenizers.Split(Regex(rf"\p{{{name}}}"), "removed")
    rest = "".join(piece for piece, _ in removed.pre_tokenize_str(ALL_TEXT))
    in_tokenizers = set(ALL_TEXT) - set(rest)
    assert np.array_equal(class_members(name), members_of(in_tokenizers))


@pytest.mark.parametrize("name", sorted(CLASS_NAMES))
def test_disputed_code_points_are_those_that_regex_puts_elsewhere(name):
    native = members_of(regex.findall(rf"\p{{{name}}}", ALL_TEXT))
    found = members_of(disputed((name,)).findall(ALL_TEXT))
    assert np.array_equal(found, native != class_members(name))


def test_ranges_written_out_match_the_class_and_its_complement():
    exact = members_of(regex.findall(f"[{class_ranges('Nd')}]", ALL_TEXT))
    assert np.array_equal(exact, class_members("Nd"))
    complement = members_of(regex.findall(f"[{class_ranges('Nd', negated=True)}]", ALL_TEXT))
    assert np.array_equal(complement[CODE_POINTS], ~class_members("Nd")[CODE_POINTS])
