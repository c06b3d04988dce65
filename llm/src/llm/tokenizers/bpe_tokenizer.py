"""Byte-level byte-pair encoding."""

from __future__ import annotations

import hashlib
import json
import logging
import operator
import warnings
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from llm.core.files import write_text
from llm.tokenizers._bpe_train import learn_merges
from llm.tokenizers._byte_level import (
    BYTE_TO_CHAR,
    CHAR_TO_BYTE,
    from_printable,
    is_printable,
    to_printable,
)
from llm.tokenizers._count_chunks import count_chunks
from llm.tokenizers._json_node import Json, JsonNode, parse_json
from llm.tokenizers._pipeline import Pipeline
from llm.tokenizers._published_forms import (
    TiktokenEncoding,
    read_gpt2_files,
    read_text,
    read_tiktoken,
)
from llm.tokenizers._published_patterns import find_pattern, pre_tokenizer_section
from llm.tokenizers._special_tokens import ROLES, AddedToken, conventional_roles
from llm.tokenizers._surrogates import is_unicode
from llm.tokenizers._tokenizer_json import (
    BYTE_LEVEL,
    TokenizerData,
    make_pre_tokenizer,
    template,
)
from llm.tokenizers.base_tokenizer import AllowedSpecial, BaseTokenizer

logger = logging.getLogger(__name__)

_NUM_BYTES = 256


class BPETokenizer(BaseTokenizer):
    """Byte-level BPE.

    Text is cut into chunks, each chunk into the bytes of its UTF-8, and adjacent pairs of tokens
    are merged by rank. Every byte is a token, so that nothing is unknown and any text round-trips
    exactly (if the file asks for NFC: its normal form, by the tables of the running Python).
    Lone surrogates, which are not valid Unicode, become U+FFFD, as in tiktoken.

    Chunks are those of GPT-2's pattern, which has a fast path, or of another, run by the `regex`
    module: as exact, and slower. A published vocabulary may lack some bytes (`missing_bytes`): a
    text that needs one of them is a `ValueError`, where tokenizers drops the byte.

    Special tokens are text like any other unless `encode` is told to match them.

    Reference: Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2),
    section 2.2.
    """

    def __init__(self) -> None:
        """Make a tokenizer that has still to be trained."""
        self._trained: tuple[TokenizerData, Pipeline] | None = None

    def train(
        self,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Iterable[str] = (),
        *,
        pattern: str = "gpt2",
        add_bos: bool = False,
        add_eos: bool = False,
        pad_token: str | None = None,
        unk_token: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        num_threads: int = 1,
        show_progress: bool = True,
    ) -> None:
        """Learn merges: those of tokenizers' `BpeTrainer` on the same texts.

        Ids are given to the special tokens first, then to the 256 bytes, then to the merges. A
        merge that would spell a special token is passed over: no text can forge one. Training
        again forgets the earlier vocabulary; training that fails keeps it.

        Args:
            texts: read once, one at a time; merges do not cross from one to the next.
            vocab_size: ids to have in the end, at least 256 and the special tokens.
            special_tokens: tokens that are no text, in order of id.
            pattern: where texts are cut into the chunks that merges never cross: the name of a
                published pattern ("gpt2", "cl100k_base", "o200k_base", "llama3", "qwen2"), or a
                regular expression as `tokenizer.json` has it, whose matches and what is between
                them are chunks. Training and encoding are fast with GPT-2's.
            add_bos: `encode` puts the bos token before each text.
            add_eos: `encode` puts the eos token after each text.
            pad_token: which special token is that; by default the one named `<pad>`.
            unk_token: likewise, `<unk>`.
            bos_token: likewise, `<bos>`, or `<s>`, or `<|endoftext|>`.
            eos_token: likewise, `<eos>`, or `</s>`, or `<|endoftext|>`.
            num_threads: how many threads count chunks at a time, each with a table of its own,
                where the pattern is GPT-2's.
            show_progress: draw progress bars.

        Raises:
            ValueError: `vocab_size` is too small, there is no text, a special token is empty, a
                byte, repeated or no valid Unicode, a part is given to what is no special token,
                `pattern` is an unknown name, damaged, or uses what is not supported, or
                `num_threads` is less than 1.
            TypeError: a text is not a string, or a number not an integer.

        Warns:
            UserWarning: the texts have too few pairs to merge; the vocabulary is smaller.
        """
        _check_texts(texts)
        try:
            vocab_size = operator.index(vocab_size)  # of numpy's integers an int
        except TypeError as error:
            raise TypeError(f"vocab_size={vocab_size!r} has to be an int") from error
        added = _check_special_tokens(special_tokens)
        roles = conventional_roles(added)
        given = {"pad": pad_token, "unk": unk_token, "bos": bos_token, "eos": eos_token}
        special_ids = {token.content: token.token_id for token in added}
        for role, name in given.items():
            if name is not None:
                if name not in special_ids:
                    raise ValueError(f"{role}_token={name!r} is not one of special_tokens")
                roles[role] = name
        post_processor: Json = dict(BYTE_LEVEL)
        if add_bos or add_eos:
            ends: dict[str, tuple[str, int] | None] = {"bos": None, "eos": None}
            for role, wanted in (("bos", add_bos), ("eos", add_eos)):
                name = roles[role]
                if wanted and name is None:
                    raise ValueError(f"add_{role}=True, but no special token is the {role} token")
                if wanted and name is not None:
                    ends[role] = (name, special_ids[name])
            post_processor = template(ends["bos"], ends["eos"])
        if vocab_size < _NUM_BYTES + len(added):
            raise ValueError(
                f"vocab_size={vocab_size} is smaller than 256 bytes + {len(added)} special tokens "
                f"= {_NUM_BYTES + len(added)}"
            )

        pre_tokenizer = pre_tokenizer_section(find_pattern(pattern))
        chunks = count_chunks(
            _with_progress(texts, show_progress),
            make_pre_tokenizer(pre_tokenizer, "pre_tokenizer"),
            num_threads,
        )
        if not len(chunks.counts):
            raise ValueError("the corpus is empty: texts hold no character")
        tokens, merges = learn_merges(
            *chunks,
            vocab_size=vocab_size,
            first_id=len(added),
            reserved={from_printable(token) for token in special_ids if is_printable(token)},
            show_progress=show_progress,
        )
        names = [*special_ids, *map(to_printable, tokens)]
        if len(names) < vocab_size:
            warnings.warn(
                f"the corpus has too few pairs to merge: vocab_size={vocab_size} was asked for, "
                f"the vocabulary has {len(names)}",
                stacklevel=2,
            )
        data = TokenizerData(
            vocab={name: token_id for token_id, name in enumerate(names)},
            merges=tuple((names[left], names[right]) for left, right in merges),
            added_tokens=added,
            pre_tokenizer=pre_tokenizer,
            post_processor=post_processor,
            roles=roles,
        )
        self._trained = (data, Pipeline(data))
        logger.info(
            "trained on %d distinct chunks: %d merges, vocabulary of %d",
            *(len(chunks.counts), len(merges), len(names)),
        )

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        allowed_special: AllowedSpecial = (),
    ) -> list[int]:
        """Ids of a text.

        Args:
            text: any string.
            add_special_tokens: put what the tokenizer's template has (a bos token, say) around
                the ids; without a template nothing is added.
            allowed_special: special tokens to match in the text, "all" for every one. By default
                none: the characters `<eos>` in a user's text are five characters, not a token.
                With "all" the ids are those of the tokenizers library.

        Raises:
            TypeError: `text` is not a string.
            ValueError: `allowed_special` names what is no special token, the vocabulary lacks a
                byte that the text needs, or the tokenizer is not trained.
        """
        _, pipeline = self._trained or self._require_trained()
        ids = pipeline.encode(_checked(text), allowed_special)
        if add_special_tokens and pipeline.has_template:
            return [*pipeline.before, *ids, *pipeline.after]
        return ids

    def encode_numpy(
        self,
        text: str,
        add_special_tokens: bool = True,
        allowed_special: AllowedSpecial = (),
    ) -> NDArray[np.int32]:
        """As `encode`, in an int32 array of the caller's own: faster for long texts."""
        pipeline = self._pipeline
        ids = pipeline.encode_numpy(_checked(text), allowed_special)
        if add_special_tokens and pipeline.has_template:
            parts = (pipeline.before, ids, pipeline.after)
            return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])
        return ids

    def encode_batch(
        self,
        texts: Iterable[str],
        add_special_tokens: bool = True,
        allowed_special: AllowedSpecial = (),
        *,
        num_threads: int = 1,
    ) -> list[list[int]]:
        """Ids of each text, as `encode` gives them: faster than one call for each text.

        Args:
            texts: any strings, read once.
            add_special_tokens: as in `encode`.
            allowed_special: as in `encode`.
            num_threads: how many threads encode at a time. It has an effect where the pattern is
                GPT-2's, nothing is normalized and no added token is matched.

        Raises:
            TypeError: `texts` is a single string, or one of them is not a string.
            ValueError: as `encode`, or `num_threads` is less than 1.
        """
        pipeline = self._pipeline
        _check_texts(texts)
        checked = (_checked(text, f"texts[{index}]") for index, text in enumerate(texts))
        batch = pipeline.encode_batch(checked, allowed_special, num_threads)
        if add_special_tokens and pipeline.has_template:
            return [[*pipeline.before, *ids, *pipeline.after] for ids in batch]
        return batch

    def decode_bytes(self, ids: Any, skip_special_tokens: bool = False) -> bytes:
        """UTF-8 that ids stand for; it may begin or end within a character.

        To stream text, give the bytes of each new id to `codecs.getincrementaldecoder("utf-8")`.

        Args:
            ids: as in `decode`.
            skip_special_tokens: leave special tokens out.

        Raises:
            ValueError: an id is out of range, or the tokenizer is not trained.
            TypeError: `ids` are not integers in one dimension.
        """
        return bytes(self._pipeline.decode(ids, skip_special_tokens))

    def decode(self, ids: Any, skip_special_tokens: bool = False, errors: str = "replace") -> str:
        """As `BaseTokenizer.decode`."""
        return str(self._pipeline.decode(ids, skip_special_tokens), "utf-8", errors)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the tokenizer.

        Each file is complete or not there, whatever happens meanwhile.

        Args:
            path: a name that ends in `.json` is the one file, in the format of the tokenizers
                library. Any other is a folder, made if need be, that gets `tokenizer.json` and
                the `tokenizer_config.json` with which transformers' `AutoTokenizer` opens it.
        """
        target = Path(path)
        document = self.to_json()
        if target.suffix == ".json":
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, document)
            return
        target.mkdir(parents=True, exist_ok=True)
        config = {
            # Of transformers' classes the one that takes tokenizer.json as it is; without it a
            # config.json of model_type "gpt2" would bring GPT-2's own pattern.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{f"{role}_token": self._data.roles[role] for role in ROLES},
        }
        write_text(target / "tokenizer.json", document)
        write_text(target / "tokenizer_config.json", _dump(config))

    def to_json(self) -> str:
        """The text of the `tokenizer.json`, as `tokenizers.Tokenizer.from_str` takes it."""
        return _dump(self._data.to_json())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> BPETokenizer:
        """Read a `tokenizer.json`, ours or that of a published byte-level BPE.

        Which token is pad, unk, bos and eos is read from `tokenizer_config.json` or
        `special_tokens_map.json` beside it, where those are; what they leave open is found by
        the conventional names.

        Args:
            path: the file, or its folder.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or needs what is not supported (named in the message).
        """
        source = Path(path)
        if source.is_dir():
            source /= "tokenizer.json"
        document = parse_json(read_text(source), str(source))
        roles = _read_roles(source.parent) if source.name == "tokenizer.json" else {}
        return cls._from_data(TokenizerData.from_json(document, str(source), roles))

    @classmethod
    def from_gpt2_files(
        cls, encoder_json: str | PathLike[str], vocab_bpe: str | PathLike[str]
    ) -> BPETokenizer:
        """Read the files that GPT-2 was released with (elsewhere `vocab.json`, `merges.txt`).

        Args:
            encoder_json: ids of all tokens.
            vocab_bpe: merges, one a line, in order of rank.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a file is damaged.
        """
        return cls._from_data(read_gpt2_files(Path(encoder_json), Path(vocab_bpe)))

    @classmethod
    def from_tiktoken(cls, encoding: TiktokenEncoding) -> BPETokenizer:
        """Take a `tiktoken.Encoding`.

        Ids that the encoding leaves unused become special tokens named `<|reserved_N|>`. If it
        lacks some bytes, tokens with them are for whole chunks only.

        Args:
            encoding: tiktoken's object; tiktoken itself is not needed here.

        Raises:
            ValueError: the encoding has no byte, or its pattern is not supported.
        """
        return cls._from_data(read_tiktoken(encoding))

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, in order of id; bytes in the printable form of the file."""
        return {token: token_id for token_id, token in enumerate(self._pipeline.tokens)}

    def token_to_id(self, token: str) -> int | None:
        """Id of a token in its printable form (a space is `Ġ`), None if there is no such token."""
        return self._pipeline.token_ids.get(token)

    def id_to_token(self, token_id: int) -> str | None:
        """Token of an id in its printable form, None if there is no such id."""
        tokens = self._pipeline.tokens
        return tokens[token_id] if 0 <= token_id < len(tokens) else None

    @property
    def vocab_size(self) -> int:
        """Number of ids, those of special tokens included."""
        return len(self._pipeline.tokens)

    @property
    def missing_bytes(self) -> bytes:
        """Bytes that are no token, in order: none, but in some published vocabularies."""
        vocab = self._data.vocab
        return bytes(byte for byte in range(256) if BYTE_TO_CHAR[byte] not in vocab)

    @property
    def special_tokens(self) -> list[str]:
        """Special tokens, in order of id."""
        return [self._pipeline.tokens[token_id] for token_id in sorted(self._pipeline.special_ids)]

    def special_token(self, role: str) -> str | None:
        """The token that plays a part.

        Args:
            role: "pad", "unk", "bos" or "eos".
        """
        if role not in ROLES:
            raise ValueError(f"role={role!r} is not one of {', '.join(ROLES)}")
        return self._data.roles[role]

    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that makes this tokenizer what it is."""
        content = json.dumps(
            {**self._data.to_json(), "roles": dict(self._data.roles)}, sort_keys=True
        )
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    def __eq__(self, other: object) -> bool:
        """Equal in every respect: vocabulary, merges, special tokens, pattern, template."""
        if not isinstance(other, BPETokenizer):
            return NotImplemented
        ours, theirs = self._trained, other._trained
        return (ours and ours[0]) == (theirs and theirs[0])

    __hash__ = None  # type: ignore[assignment]  # it can be trained anew

    def __repr__(self) -> str:
        """Size and special tokens."""
        if self._trained is None:
            return "BPETokenizer(untrained)"
        return f"BPETokenizer(vocab_size={self.vocab_size}, special_tokens={self.special_tokens})"

    def __getstate__(self) -> dict[str, TokenizerData | None]:
        """The data alone: what is compiled from it is made again."""
        return {"data": None if self._trained is None else self._trained[0]}

    def __setstate__(self, state: dict[str, TokenizerData | None]) -> None:
        """Undo `__getstate__`."""
        data = state["data"]
        self._trained = None if data is None else (data, Pipeline(data))

    @classmethod
    def _from_data(cls, data: TokenizerData) -> BPETokenizer:
        tokenizer = cls()
        tokenizer._trained = (data, Pipeline(data))
        return tokenizer

    @property
    def _data(self) -> TokenizerData:
        return self._require_trained()[0]

    @property
    def _pipeline(self) -> Pipeline:
        return self._require_trained()[1]

    def _require_trained(self) -> tuple[TokenizerData, Pipeline]:
        if self._trained is None:
            raise ValueError("this BPETokenizer has no vocabulary yet: train it, or load one")
        return self._trained


def _check_special_tokens(special_tokens: Iterable[str]) -> tuple[AddedToken, ...]:
    if isinstance(special_tokens, str):
        raise TypeError(f"special_tokens={special_tokens!r} is one string; give a list of strings")
    added: list[AddedToken] = []
    for content in special_tokens:
        if not isinstance(content, str):
            raise TypeError(f"special token {content!r} is not a str")
        if not content or not is_unicode(content):
            raise ValueError(f"special token {content!r} is empty or no valid Unicode")
        if content in CHAR_TO_BYTE:
            raise ValueError(f"special token {content!r} is the name of a byte: any text forges it")
        if any(content == token.content for token in added):
            raise ValueError(f"special token {content!r} is given twice")
        added.append(AddedToken(token_id=len(added), content=content))
    return tuple(added)


def _checked(text: str, name: str = "text") -> str:
    if not isinstance(text, str):
        raise TypeError(f"{name} has to be a str, not {type(text).__name__}")
    return text


def _with_progress(texts: Iterable[str], show_progress: bool) -> Iterator[str]:
    progress = tqdm(texts, desc="chunks", unit=" texts", disable=not show_progress)
    for index, text in enumerate(progress):
        yield _checked(text, f"texts[{index}]")


def _check_texts(texts: Iterable[str]) -> None:
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts is one string; give an iterable of strings, such as [text]")


def _read_roles(folder: Path) -> dict[str, str | None]:
    """Tokens of the parts, as the files beside a tokenizer.json name them."""
    roles: dict[str, str | None] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if path.exists():
            node = JsonNode(parse_json(read_text(path), str(path)), str(path))
            for key, value in node.children():
                role = key.removesuffix("_token")
                if key.endswith("_token") and role in ROLES:
                    # Either the string or an object that describes it.
                    is_object = isinstance(value.here, dict)
                    roles[role] = (
                        value.value("content", str) if is_object else node.value(key, str, None)
                    )
    return roles


def _dump(document: Json) -> str:
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"
