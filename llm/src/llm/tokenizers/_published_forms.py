"""Reading the forms that byte-level BPE was published in before, and beside, `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from llm.core.files import read_bytes
from llm.tokenizers._byte_level import BYTE_TO_CHAR, to_printable
from llm.tokenizers._json_node import JsonNode, parse_json
from llm.tokenizers._pretokenize import from_tiktoken_pattern
from llm.tokenizers._published_patterns import pre_tokenizer_section
from llm.tokenizers._special_tokens import AddedToken, conventional_roles
from llm.tokenizers._tokenizer_json import TokenizerData


class TiktokenEncoding(Protocol):
    """What is read of a `tiktoken.Encoding`."""

    name: str
    _pat_str: str
    _mergeable_ranks: dict[bytes, int]
    _special_tokens: dict[str, int]


def read_gpt2_files(encoder_json: Path, vocab_bpe: Path) -> TokenizerData:
    """GPT-2's two files: the ids of all tokens, and the merges in order of rank.

    Tokens that are neither a byte nor spelled by a merge are the special ones.

    Raises:
        ValueError: a file is damaged.
    """
    source = str(encoder_json)
    root = JsonNode({"vocab": parse_json(read_text(encoder_json), source)}, source)
    vocab = {token: node.as_id() for token, node in root.child("vocab").children()}
    merges = []
    for number, line in enumerate(read_text(vocab_bpe).splitlines(), start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise ValueError(f"{vocab_bpe}: line {number} is {line!r}, not a pair of tokens")
        merges.append((left, right))
    ordinary = {*BYTE_TO_CHAR.values(), *(left + right for left, right in merges)}
    for part in (part for merge in merges for part in merge):
        if part in vocab and part not in ordinary:
            raise ValueError(
                f"{vocab_bpe}: a merge has {part!r}, which is neither a byte nor spelled by a "
                "merge: this is not a byte-level vocabulary"
            )
    added = tuple(
        AddedToken(token_id=token_id, content=token)
        for token, token_id in sorted(vocab.items(), key=lambda item: item[1])
        if token not in ordinary
    )
    data = TokenizerData(
        vocab=vocab, merges=tuple(merges), added_tokens=added, roles=conventional_roles(added)
    )
    data.check(f"{encoder_json}, {vocab_bpe}")
    return data


def read_tiktoken(encoding: TiktokenEncoding) -> TokenizerData:
    """A tiktoken encoding.

    tiktoken merges any two neighbours that together are a token; here a merge is a pair. The two
    agree when each token has the one pair that tiktoken's own merging of its bytes ends with:
    merging inside a stretch of text does not depend on what surrounds it.

    Raises:
        ValueError: the encoding has no byte, or its pattern is not supported.
    """
    source = f"tiktoken encoding {encoding.name!r}"
    ranks = encoding._mergeable_ranks
    vocab = {to_printable(token): rank for token, rank in ranks.items()}
    specials = dict(encoding._special_tokens)
    # A tokenizer.json has no holes in its ids: those that the encoding leaves are reserved.
    used = {*ranks.values(), *specials.values()}
    for token_id in range(max(used, default=0)):
        if token_id not in used:
            specials[f"<|reserved_{token_id}|>"] = token_id
    added = tuple(
        AddedToken(token_id=token_id, content=token)
        for token, token_id in sorted(specials.items(), key=lambda item: item[1])
    )
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = _last_pair(token, ranks)
        # A part that is no token is a byte that the encoding lacks. No merge can have it, and no
        # text needs the merge: one with that byte is refused, unless a whole chunk is the token.
        if parts is not None and parts[0] in ranks and parts[1] in ranks:
            merges.append((to_printable(parts[0]), to_printable(parts[1])))
    try:
        pre_tokenizer = pre_tokenizer_section(from_tiktoken_pattern(encoding._pat_str))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    data = TokenizerData(
        vocab={**vocab, **specials},
        merges=tuple(merges),
        added_tokens=added,
        pre_tokenizer=pre_tokenizer,
        # tiktoken looks a whole chunk up before it merges.
        ignore_merges=True,
        roles=conventional_roles(added),
    )
    data.check(source)
    return data


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, or not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def _last_pair(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that merging the bytes of a token ends with, None if it ends with more."""
    parts = [token[index : index + 1] for index in range(len(token))]
    no_rank = 1 << 64
    while len(parts) > 2:
        candidates = [ranks.get(left + right, no_rank) for left, right in pairwise(parts)]
        best = min(candidates)
        if best == no_rank:
            return None
        index = candidates.index(best)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
