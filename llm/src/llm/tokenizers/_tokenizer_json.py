"""The `tokenizer.json` format of the tokenizers library, for byte-level BPE.

`TokenizerData` is all that such a file says. What would change an id and is not supported here
is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from llm.tokenizers._byte_level import BYTE_TO_CHAR, is_printable
from llm.tokenizers._json_node import Json, JsonNode
from llm.tokenizers._pretokenize import GPT2_PATTERN, Digits, PreTokenizer, Split, prefix_space
from llm.tokenizers._special_tokens import ROLES, AddedToken, conventional_roles
from llm.tokenizers._surrogates import is_unicode

BYTE_LEVEL: Json = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    # a token's offsets cover all of it, the space before a word too, as GPT-2's do
    "trim_offsets": False,
    "use_regex": True,
}
_ADDED_TOKEN_FLAGS = ("special", "normalized", "lstrip", "rstrip")


@dataclass(frozen=True, kw_only=True)
class TokenizerData:
    """Everything that defines a byte-level BPE tokenizer.

    Args:
        vocab: tokens of the model in their printable form, and their ids.
        merges: pairs of tokens, in order of rank.
        added_tokens: special and other tokens matched before the model sees the text.
        normalizer: that section of the file, None for no change.
        pre_tokenizer: that section of the file.
        post_processor: that section of the file, None for nothing added.
        ignore_merges: a chunk that is a token is that token, whatever the merges say.
        unk_token: the model's unknown token; never used: a text with a byte that has no token
            cannot be encoded.
        fuse_unk: kept for the round trip, without effect for the same reason.
        roles: token of each part ("pad", "unk", "bos", "eos"), None where there is none.
    """

    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    added_tokens: tuple[AddedToken, ...] = ()
    normalizer: Json | None = None
    pre_tokenizer: Json = field(default_factory=lambda: dict(BYTE_LEVEL))
    post_processor: Json | None = field(default_factory=lambda: dict(BYTE_LEVEL))
    ignore_merges: bool = False
    unk_token: str | None = None
    fuse_unk: bool = False
    roles: Mapping[str, str | None] = field(default_factory=lambda: dict.fromkeys(ROLES))

    def to_json(self) -> Json:
        """The document, its keys in the order of the tokenizers library."""
        model: Json = {
            "type": "BPE",
            "dropout": None,
            "unk_token": self.unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": self.fuse_unk,
            "byte_fallback": False,
            "ignore_merges": self.ignore_merges,
            "vocab": dict(self.vocab),
            "merges": [list(merge) for merge in self.merges],
        }
        if self.roles != conventional_roles(self.added_tokens):
            # The format has no place for them; the library ignores unknown keys in the model.
            model["special_token_roles"] = dict(self.roles)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [
                {
                    "id": token.token_id,
                    "content": token.content,
                    "single_word": False,
                    "lstrip": token.lstrip,
                    "rstrip": token.rstrip,
                    "normalized": token.normalized,
                    "special": token.special,
                }
                for token in self.added_tokens
            ],
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": self.post_processor,
            "decoder": dict(BYTE_LEVEL),
            "model": model,
        }

    @classmethod
    def from_json(
        cls, document: object, source: str, roles: Mapping[str, str | None] | None = None
    ) -> TokenizerData:
        """Check a document and take what it says.

        Args:
            document: parsed JSON.
            source: name of the file, for messages.
            roles: tokens of some parts, from a file beside it; else what the document says; else
                the special tokens of conventional name.

        Raises:
            ValueError: the document is damaged, is not a byte-level BPE, or needs something that
                is not supported; the message names file and field.
        """
        root = JsonNode(document, source)
        for section in ("truncation", "padding"):
            root.only(section, None)
        decoder = root.child("decoder", None)
        if decoder is not None:
            decoder.only("type", "ByteLevel")
        model = root.child("model")
        for key, allowed in (
            ("type", ("BPE", None)),
            ("dropout", (None, 0, 0.0)),
            ("continuing_subword_prefix", (None, "")),
            ("end_of_word_suffix", (None, "")),
            ("byte_fallback", (False, None)),
        ):
            model.only(key, *allowed)
        added_tokens = _read_added_tokens(root)
        own_roles = model.child("special_token_roles", None)
        data = cls(
            vocab=_read_vocab(model),
            merges=_read_merges(model),
            added_tokens=added_tokens,
            normalizer=root.value("normalizer", dict, None),
            pre_tokenizer=root.value("pre_tokenizer", dict),
            post_processor=root.value("post_processor", dict, None),
            ignore_merges=model.value("ignore_merges", bool, False),
            unk_token=model.value("unk_token", str, None),
            fuse_unk=model.value("fuse_unk", bool, False),
            roles={
                **conventional_roles(added_tokens),
                **({role: own_roles.value(role, str, None) for role in ROLES} if own_roles else {}),
                **(roles or {}),
            },
        )
        data.check(source)
        return data

    def check(self, source: str) -> None:
        """Check that the parts fit together.

        Raises:
            ValueError: they do not; the message names `source` and the field.
        """
        self._check_bytes(source)
        token_ids = dict(self.vocab)
        for index, token in enumerate(self.added_tokens):
            where = f"{source}: added_tokens[{index}]"
            known_id = token_ids.setdefault(token.content, token.token_id)
            if known_id != token.token_id:
                raise ValueError(
                    f"{where}: {token.content!r} has id {token.token_id} and {known_id}"
                )
        tokens: dict[int, str] = {}
        for content, token_id in token_ids.items():
            if not is_unicode(content):
                raise ValueError(f"{source}: the token {content!r} has a lone surrogate")
            if token_id in tokens:
                raise ValueError(
                    f"{source}: id {token_id} is both {tokens[token_id]!r} and {content!r}"
                )
            tokens[token_id] = content
        if tokens and max(tokens) != len(tokens) - 1:
            hole = next(token_id for token_id in range(len(tokens)) if token_id not in tokens)
            raise ValueError(
                f"{source}: model.vocab: ids go up to {max(tokens)}, but id {hole} has no token"
            )
        for role, name in self.roles.items():
            if name is not None and name not in token_ids:
                raise ValueError(f"{source}: {role}_token={name!r} is not in the vocabulary")
        self._check_merges(source)
        # Raises on sections that are not supported.
        make_normalizer(self.normalizer, source)
        make_pre_tokenizer(self.pre_tokenizer, source)
        template_ids(self.post_processor, source, vocab_size=len(tokens))

    def _check_bytes(self, source: str) -> None:
        """Check that the vocabulary is byte-level, if not every byte is a token.

        Then each token is made of bytes, in the printable form, or is an added one.
        """
        lacking = [char for char in BYTE_TO_CHAR.values() if char not in self.vocab]
        if len(lacking) == len(BYTE_TO_CHAR):
            raise ValueError(
                f"{source}: model.vocab has no token for any byte: this is not a byte-level "
                "vocabulary"
            )
        added = {token.content for token in self.added_tokens}
        for token in self.vocab if lacking else ():
            if token not in added and not is_printable(token):
                raise ValueError(
                    f"{source}: model.vocab lacks the byte {lacking[0]!r} and has {token!r}, which "
                    "is not the printable form of bytes: this is not a byte-level vocabulary"
                )

    def _check_merges(self, source: str) -> None:
        special_contents = {token.content for token in self.added_tokens if token.special}
        for char in BYTE_TO_CHAR.values():
            if char in special_contents:
                raise ValueError(f"{source}: the special token {char!r} is also a single byte")
        seen = set()
        for index, (left, right) in enumerate(self.merges):
            where = f"{source}: model.merges[{index}]"
            for part in (left, right, left + right):
                if part not in self.vocab:
                    raise ValueError(f"{where}: {part!r} is not in the vocabulary")
            if (left, right) in seen:
                raise ValueError(f"{where}: {left!r} {right!r} is listed twice")
            seen.add((left, right))
            if left + right in special_contents:
                raise ValueError(
                    f"{where} spells the special token {left + right!r}: any text could forge it"
                )


def template(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> Json:
    """A post-processor that puts bos before, and eos after, each text.

    Args:
        bos: token and id, or None for none.
        eos: likewise.
    """

    def special(token: tuple[str, int], type_id: int) -> Json:
        return {"SpecialToken": {"id": token[0], "type_id": type_id}}

    def around(name: str, type_id: int) -> list[Json]:
        sequence = {"Sequence": {"id": name, "type_id": type_id}}
        return [
            *([special(bos, type_id)] if bos else []),
            sequence,
            *([special(eos, type_id)] if eos else []),
        ]

    return {
        "type": "TemplateProcessing",
        "single": around("A", 0),
        "pair": around("A", 0) + around("B", 1),
        "special_tokens": {
            token[0]: {"id": token[0], "ids": [token[1]], "tokens": [token[0]]}
            for token in (bos, eos)
            if token
        },
    }


def make_normalizer(section: Json | None, source: str) -> str | None:
    """The normal form that the section asks for: "NFC" or None.

    Raises:
        ValueError: it asks for something else.
    """
    if section is None:
        return None
    node = JsonNode(section, source, "normalizer")
    steps = node.steps("normalizers")
    for step in steps:
        step.only("type", "NFC")
    return "NFC" if steps else None


def make_pre_tokenizer(section: Json, source: str) -> PreTokenizer:
    """The steps that cut a text into chunks.

    Raises:
        ValueError: one is not supported, or the last is not `ByteLevel`.
    """
    steps: list[Callable[[str], Iterable[str]]] = []
    nodes = JsonNode(section, source, "pre_tokenizer").steps("pretokenizers")
    for index, node in enumerate(nodes):
        kind = node.value("type", str)
        if (kind == "ByteLevel") != (index == len(nodes) - 1):
            node.fail(f"is {kind!r}: ByteLevel has to be the last step, and only that")
        if kind == "ByteLevel":
            if node.value("add_prefix_space", bool, True):
                steps.append(prefix_space)
            if node.value("use_regex", bool, True):
                steps.append(Split(GPT2_PATTERN))
        elif kind == "Digits":
            steps.append(Digits(individual=node.value("individual_digits", bool, False)))
        elif kind == "Split":
            node.only("behavior", "Isolated")
            node.value("invert", bool, False)  # isolating the matches or the rest is the same
            pattern = node.child("pattern")
            literal = pattern.value("String", str, None)
            source_text = _escape(literal) if literal else pattern.value("Regex", str)
            try:
                steps.append(Split(source_text))
            except ValueError as error:
                node.fail(str(error))
        else:
            node.fail(f"of type {kind!r} is not supported")
    if not nodes:
        raise ValueError(f"{source}: pre_tokenizer is empty: this is not a byte-level tokenizer")
    return PreTokenizer(steps)


def template_ids(
    section: Json | None, source: str, *, vocab_size: int
) -> tuple[list[int], list[int]]:
    """Ids that the post-processor puts before and after a text.

    Raises:
        ValueError: it does something else, or an id is not in [0, vocab_size).
    """
    before: list[int] = []
    after: list[int] = []
    for node in JsonNode(section, source, "post_processor").steps("processors") if section else ():
        kind = node.value("type", str)
        if kind == "TemplateProcessing":
            left, right = _template_sides(node)
        elif kind in ("RobertaProcessing", "BertProcessing"):
            left, right = _token_and_id(node, "cls"), _token_and_id(node, "sep")
        elif kind == "ByteLevel":  # concerns offsets only
            continue
        else:
            node.fail(f"of type {kind!r} is not supported")
        before, after = left + before, after + right
    for token_id in before + after:
        if not 0 <= token_id < vocab_size:
            raise ValueError(
                f"{source}: post_processor: id {token_id} is not in [0, {vocab_size}), the "
                "vocabulary"
            )
    return before, after


def _template_sides(node: JsonNode) -> tuple[list[int], list[int]]:
    sides: list[list[int]] = [[]]
    special_tokens = node.child("special_tokens")
    for piece in node.items("single"):
        sequence = piece.child("Sequence", None)
        if sequence is not None:
            sequence.only("id", "A")
            sides.append([])
            continue
        name = piece.child("SpecialToken").value("id", str)
        ids = special_tokens.child(name).items("ids")
        sides[-1].extend(item.as_id() for item in ids)
    if len(sides) != 2:
        node.fail(f"single holds the sequence {len(sides) - 1} times, not once")
    return sides[0], sides[1]


def _token_and_id(node: JsonNode, key: str) -> list[int]:
    items = node.items(key)
    if len(items) != 2:
        node.fail(f"{key} is not a token and its id")
    return [items[1].as_id()]


def _read_vocab(model: JsonNode) -> dict[str, int]:
    vocab: Json = model.child("vocab").here
    for token, token_id in vocab.items():
        if type(token_id) is not int or token_id < 0:
            model.fail(f"vocab: the id of {token!r} is {token_id!r}, not an integer from 0")
    return vocab


def _read_merges(model: JsonNode) -> tuple[tuple[str, str], ...]:
    merges = []
    for index, merge in enumerate(model.value("merges", list)):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(parts, list)
            or len(parts) != 2
            or not all(isinstance(part, str) and part for part in parts)
        ):
            model.fail(f"merges[{index}] is {merge!r}, not a pair of tokens")
        merges.append((parts[0], parts[1]))
    return tuple(merges)


def _read_added_tokens(root: JsonNode) -> tuple[AddedToken, ...]:
    tokens = []
    contents = set()
    for node in root.items("added_tokens", []):
        node.only("single_word", False, None)
        content = node.value("content", str)
        if not content or content in contents:
            node.fail(f"content {content!r} is empty or occurs twice")
        contents.add(content)
        flags = {flag: node.value(flag, bool, False) for flag in _ADDED_TOKEN_FLAGS}
        tokens.append(AddedToken(token_id=node.value_node("id").as_id(), content=content, **flags))
    return tuple(tokens)


def _escape(text: str) -> str:
    return "".join(f"\\{char}" if not char.isalnum() and char.isascii() else char for char in text)
