"""Tokenizers of ours as transformers tokenizers, and back."""

from __future__ import annotations

import copy
import json
import os
from abc import ABCMeta
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, BatchEncoding, PreTrainedConfig, PreTrainedTokenizerFast

from hf_proxy._padding import MixedBatchPadding
from hf_proxy._python_tokenizer import HFPythonTokenizerAdapter
from hf_proxy._surrogates import (
    OriginalEncoding,
    has_surrogate_pair,
    sequences_of,
    valid_unicode,
)
from llm.tokenizers import BaseTokenizer, BPETokenizer

_ROLES = ("pad", "unk", "bos", "eos")
_BYTE_CHARS = frozenset(pre_tokenizers.ByteLevel.alphabet())


class HFTokenizerAdapter(MixedBatchPadding, PreTrainedTokenizerFast, metaclass=ABCMeta):
    """A `BPETokenizer` as a fast transformers tokenizer, run by the tokenizers library.

    Ids are those of `encode(text, allowed_special="all")`: special tokens in the text are tokens,
    as everywhere in transformers; with `split_special_tokens=True` they are text, as in
    `encode(text)`. Text is that of `decode`. Parts (pad, unk, bos, eos) are the tokenizer's; one
    without a pad token has none here either, and no other token is taken for it.

    Padding is on the right, which suits training. To generate from a batch, pad on the left:
    `tokenizer(texts, padding=True, padding_side="left")`.

    `save_pretrained` writes a folder that stock `AutoTokenizer` opens with equal ids where this
    package is not installed.

    Any other `BaseTokenizer` gives an `HFPythonTokenizerAdapter`, and so does a `BPETokenizer`
    whose vocabulary lacks some bytes: tokenizers drops them from the text without a word, while
    encoding such a text here is a `ValueError`. `isinstance(x, HFTokenizerAdapter)` is true of
    both; `x.is_fast` tells them apart.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}  # noqa: RUF012  # transformers' name
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __new__(cls, tokenizer: BaseTokenizer | None = None, **kwargs: Any) -> Any:
        """Choose the backend: Rust for a `BPETokenizer` of all bytes, Python for any other."""
        if isinstance(tokenizer, BaseTokenizer) and not _suits_rust(tokenizer):
            return HFPythonTokenizerAdapter(tokenizer, **kwargs)
        return super().__new__(cls)

    def __init__(self, tokenizer: BaseTokenizer | None = None, **kwargs: Any) -> None:
        """Take over a tokenizer as it is now.

        Args:
            tokenizer: a trained tokenizer. It is copied: later changes here do not reach it.
            kwargs: those of transformers' tokenizers: `model_max_length`, `padding_side`,
                `chat_template`, `pad_token`, `extra_special_tokens`; and, where the pre-tokenizer
                is GPT-2's, `add_prefix_space`.

        Raises:
            TypeError: it is not a tokenizer of ours.
            ValueError: it is not trained, or a part is played by a token that transformers would
                start to match in the text, or a byte-level vocabulary that was read from a folder
                lacks some bytes.
        """
        self._misread: dict[int, AddedToken] = {}
        if tokenizer is not None:
            if not isinstance(tokenizer, BPETokenizer):
                raise TypeError(
                    "HFTokenizerAdapter takes a tokenizer of llm.tokenizers, such as BPETokenizer, "
                    f"not {type(tokenizer).__name__}; HFTokenizerAdapter.from_pretrained takes a "
                    "path"
                )
            kwargs["tokenizer_object"] = Tokenizer.from_str(tokenizer.to_json())
            kwargs.setdefault("clean_up_tokenization_spaces", False)
            added = {
                token.content
                for token in kwargs["tokenizer_object"].get_added_tokens_decoder().values()
            }
            for role in _ROLES:
                if f"{role}_token" in kwargs:
                    continue
                name = tokenizer.special_token(role)
                if name is not None and name not in added:
                    raise ValueError(
                        f"{role}_token={name!r} is an ordinary token of the vocabulary, not a "
                        "special one; transformers would match it in the text and change the ids: "
                        f"pass {role}_token=None, or another token"
                    )
                kwargs[f"{role}_token"] = name
        elif not kwargs.keys() & {"tokenizer_object", "tokenizer_file"}:
            raise TypeError("HFTokenizerAdapter takes a tokenizer, such as a trained BPETokenizer")
        super().__init__(**kwargs)
        self._check_bytes()
        self._note_added_tokens()
        # Those without a part would else be special to the backend and not to transformers.
        named = set(self.all_special_tokens)
        self.extra_special_tokens = [
            *(
                token.content
                for token in self.added_tokens_decoder.values()
                if token.special and token.content not in named
            ),
            *self._extra_special_tokens,
        ]
        self._see_template()
        self._set_prefix_space(kwargs.get("add_prefix_space"))

    def to_llm_tokenizer(self) -> BPETokenizer:
        """A `BPETokenizer` with the same ids, added tokens and parts as they are now.

        What only transformers knows stays behind: chat template, lengths, sides, other parts.

        Raises:
            ValueError: `BPETokenizer` cannot express the tokenizer; the message names the field.
        """
        document = json.loads(self.backend_tokenizer.to_str())
        document["truncation"] = document["padding"] = None  # of the last call
        document["model"]["special_token_roles"] = {
            role: getattr(self, f"{role}_token") for role in _ROLES
        }
        with TemporaryDirectory() as folder:
            path = Path(folder, "tokenizer.json")
            path.write_text(json.dumps(document), encoding="utf-8")
            try:
                return BPETokenizer.load(path)
            except ValueError as error:
                reason = str(error).removeprefix(f"{path}: ")
                raise ValueError(f"BPETokenizer cannot express this tokenizer: {reason}") from None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *inputs: Any, **kwargs: Any
    ) -> Any:
        """Read a folder that `save_pretrained` or `BPETokenizer.save` wrote, or a published one.

        Args:
            pretrained_model_name_or_path: the folder, or a name on the Hub.
            inputs: passed on.
            kwargs: those of transformers, and those of `__init__`. For a tokenizer of your own,
                `llm_tokenizer_class` is its class, if it is not imported yet.

        Raises:
            OSError: there is no tokenizer.
        """
        name = pretrained_model_name_or_path
        if HFPythonTokenizerAdapter.is_saved_in(name):
            return HFPythonTokenizerAdapter.from_pretrained(name, *inputs, **kwargs)
        return super().from_pretrained(name, *inputs, **kwargs)

    @classmethod
    def convert_to_native_format(
        cls, trust_remote_code: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """What `__init__` takes: tokenizer.json as it is, not rebuilt from its vocabulary."""
        if kwargs.get("tokenizer_file") is None:
            raise OSError(f"{kwargs['name_or_path']} has no tokenizer.json")
        return kwargs

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[Any],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: list[str | AddedToken] | None = None,
        special_tokens_map: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """A tokenizer of the same kind with a vocabulary learned from other texts.

        Args:
            text_iterator: texts, or batches of them.
            vocab_size: ids to have in the end.
            length: number of items, for the progress bar.
            new_special_tokens: special tokens that this one does not have.
            special_tokens_map: new names of special tokens.
            kwargs: those of the trainer of the tokenizers library.
        """
        names = special_tokens_map or {}
        template = copy.copy(self)
        # transformers renames the tokens that play a part, and would add these anew.
        template.extra_special_tokens = [
            names.get(token, token) for token in self.extra_special_tokens
        ]
        return super(HFTokenizerAdapter, template).train_new_from_iterator(
            map(valid_unicode, text_iterator),
            vocab_size,
            length=length,
            new_special_tokens=new_special_tokens,
            special_tokens_map=special_tokens_map,
            **kwargs,
        )

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of tokens."""
        texts = {token.content: token.content for token in self._misread.values()}
        return _decode_around(tokens, texts, super().convert_tokens_to_string)

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        if isinstance(token_ids, dict):
            token_ids = token_ids["input_ids"]
        if isinstance(token_ids, int):
            token_ids = [token_ids]
        if skip_special_tokens and self._misread:
            token_ids = [
                token_id
                for token_id in token_ids
                if token_id not in self._misread or not self._misread[token_id].special
            ]
        decode = partial(
            super()._decode,
            skip_special_tokens=skip_special_tokens,
            clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            **kwargs,
        )
        texts = {token_id: token.content for token_id, token in self._misread.items()}
        return _decode_around(token_ids, texts, decode)

    def _encode_plus(
        self, text: Any, text_pair: Any = None, *args: Any, **kwargs: Any
    ) -> BatchEncoding:
        texts = valid_unicode(text), valid_unicode(text_pair)
        output = super()._encode_plus(*texts, *args, **kwargs)
        if output.encodings and (has_surrogate_pair(text) or has_surrogate_pair(text_pair)):
            _restore_offsets(output, text, text_pair, **kwargs)
        return output

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        count: int = super()._add_tokens(new_tokens, special_tokens=special_tokens)
        self._note_added_tokens()
        return count

    def _save_pretrained(self, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        # Settings of the last call, set anew by each; in the file they would be settings to keep.
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        files: tuple[str, ...] = super()._save_pretrained(*args, **kwargs)
        return files

    def _check_bytes(self) -> None:
        """Refuse a byte-level vocabulary with which the backend would lose bytes of the text."""
        model = self.backend_tokenizer.model
        if not isinstance(self.backend_tokenizer.decoder, decoders.ByteLevel):
            return
        lacking = sorted(char for char in _BYTE_CHARS if model.token_to_id(char) is None)
        if lacking and isinstance(model, models.BPE):
            raise ValueError(
                f"the vocabulary has no token for {len(lacking)} bytes, such as {lacking[0]!r}: "
                "tokenizers would leave them out of the text; HFTokenizerAdapter(BPETokenizer.load("
                "folder)) refuses only texts that have them"
            )

    def _note_added_tokens(self) -> None:
        """Find added tokens that the decoder misreads: the é of `<é>` is not the byte 0xE9."""
        is_byte_level = isinstance(self.backend_tokenizer.decoder, decoders.ByteLevel)
        self._misread = {
            token_id: token
            for token_id, token in self.added_tokens_decoder.items()
            if is_byte_level
            and not token.content.isascii()
            and _BYTE_CHARS.issuperset(token.content)
            and (token.special or self.backend_tokenizer.model.token_to_id(token.content) is None)
        }

    def _see_template(self) -> None:
        """Let `add_bos_token` and `add_eos_token` say what the tokenizer's template does."""
        probe = self.backend_tokenizer.encode("a")
        ids = list(zip(probe.ids, probe.special_tokens_mask, strict=True))
        self._add_bos_token = ids[:1] == [(self.bos_token_id, 1)]
        self._add_eos_token = ids[-1:] == [(self.eos_token_id, 1)]

    def _set_prefix_space(self, wanted: bool | None) -> None:
        """Do as `add_prefix_space` asks, or let it say what the pre-tokenizer does."""
        step = self.backend_tokenizer.pre_tokenizer
        if isinstance(step, pre_tokenizers.ByteLevel):
            if wanted is not None:
                step.add_prefix_space = wanted
            self.add_prefix_space = step.add_prefix_space


HFTokenizerAdapter.register(HFPythonTokenizerAdapter)


def register_tokenizer(*config_classes: type[PreTrainedConfig]) -> None:
    """Let `AutoTokenizer` know the adapters by the name that `save_pretrained` writes.

    Args:
        config_classes: configurations of models that have such tokenizers: theirs is the adapter
            where a folder names no class.
    """
    for config_class in (_NoModelConfig, *config_classes):
        for tokenizer_class in (HFPythonTokenizerAdapter, HFTokenizerAdapter):
            AutoTokenizer.register(config_class, tokenizer_class=tokenizer_class, exist_ok=True)


class _NoModelConfig(PreTrainedConfig):
    """What `AutoTokenizer` files classes under, for tokenizers that belong to no model."""

    model_type = "hf_proxy_tokenizer"


def _suits_rust(tokenizer: BaseTokenizer) -> bool:
    # A subclass that encodes in its own way is a tokenizer of its own.
    return isinstance(tokenizer, BPETokenizer) and (
        type(tokenizer).encode is BPETokenizer.encode
        and type(tokenizer).decode_bytes is BPETokenizer.decode_bytes
        and not tokenizer.missing_bytes
    )


def _decode_around(
    pieces: Sequence[Any], texts: Mapping[Any, str], decode: Callable[[list[Any]], str]
) -> str:
    """Text of pieces, ids or tokens: some as `texts` has it, what is between them decoded."""
    if texts.keys().isdisjoint(pieces):
        return decode(list(pieces))
    parts: list[str] = []
    run: list[Any] = []
    for piece in pieces:
        if piece in texts:
            parts += [decode(run), texts[piece]]
            run = []
        else:
            run.append(piece)
    return "".join([*parts, decode(run)])


def _restore_offsets(
    output: BatchEncoding,
    text: Any,
    text_pair: Any,
    *,
    is_split_into_words: bool = False,
    return_tensors: Any = None,
    return_overflowing_tokens: bool = False,
    **_: Any,
) -> None:
    """Make the offsets of an output those in the text as it was given, surrogates and all."""
    samples = sequences_of(text, text_pair, is_split_into_words)
    sample_of = output.get("overflow_to_sample_mapping", range(len(samples)))
    encodings: Any = [
        OriginalEncoding(encoding, samples[int(sample)])
        for encoding, sample in zip(output.encodings or [], sample_of, strict=True)
    ]
    output._encodings = encodings
    if "offset_mapping" in output:
        offsets = [encoding.offsets for encoding in encodings]
        is_batch = isinstance(text, list | tuple) and (
            not is_split_into_words or isinstance(text[0], list | tuple)
        )
        if is_batch or return_tensors is not None or return_overflowing_tokens:
            batch = BatchEncoding({"offset_mapping": offsets}, tensor_type=return_tensors)
            output["offset_mapping"] = batch["offset_mapping"]
        else:
            output["offset_mapping"] = offsets[0]
