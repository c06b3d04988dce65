"""Any `BaseTokenizer` as a transformers tokenizer, without Rust."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from transformers import PythonBackend

from hf_proxy._padding import MixedBatchPadding
from llm.tokenizers import BaseTokenizer

_SAVED_NAME = "llm_tokenizer"


class HFPythonTokenizerAdapter(MixedBatchPadding, PythonBackend):
    """A `BaseTokenizer` of your own on transformers' Python backend.

    `HFTokenizerAdapter(tokenizer)` makes one. It has what that backend has: no offsets, no
    `word_ids`. Special tokens that play a part, and tokens added later, are found in the text
    first; what is between them goes through the tokenizer's own `encode`.

    `save_pretrained` writes the tokenizer with its own `save`, and the name of its class. A file
    is never allowed to choose what code is imported: `from_pretrained` takes a class that this
    process has defined or imported already, or the one given as `llm_tokenizer_class`.
    """

    vocab_files_names = {"llm_tokenizer_file": _SAVED_NAME}  # noqa: RUF012  # transformers' name
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, tokenizer: BaseTokenizer, **kwargs: Any) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: a trained tokenizer; it is shared, not copied.
            kwargs: those of transformers' tokenizers, such as `model_max_length`.

        Raises:
            TypeError: it is not a `BaseTokenizer`.
            ValueError: its vocabulary does not name every id exactly once.
        """
        if not isinstance(tokenizer, BaseTokenizer):
            raise TypeError(f"tokenizer has to be a BaseTokenizer, not {type(tokenizer).__name__}")
        self._llm_tokenizer = tokenizer
        vocab = tokenizer.get_vocab()
        if sorted(vocab.values()) != list(range(tokenizer.vocab_size)):
            raise ValueError(
                f"get_vocab() of {type(tokenizer).__name__} does not name each id from 0 to "
                f"{tokenizer.vocab_size - 1} exactly once"
            )
        for role in ("pad", "unk", "bos", "eos"):
            kwargs.setdefault(f"{role}_token", tokenizer.special_token(role))
        kwargs["llm_tokenizer_class"] = _class_name(type(tokenizer))
        super().__init__(**kwargs)
        self._before, self._after = self._find_template()

    def to_llm_tokenizer(self) -> BaseTokenizer:
        """The tokenizer that is wrapped.

        Raises:
            ValueError: tokens were added, or parts changed: it does not know of that.
        """
        tokenizer = self._llm_tokenizer
        added = [token for token in self._added_tokens_encoder if not self._is_own(token)]
        if added:
            raise ValueError(f"{type(tokenizer).__name__} does not have the added tokens {added}")
        for role in ("pad", "unk", "bos", "eos"):
            here, there = getattr(self, f"{role}_token"), tokenizer.special_token(role)
            if here != there:
                raise ValueError(
                    f"{role}_token is {here!r}, that of {type(tokenizer).__name__} is {there!r}"
                )
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids of the tokenizer, without tokens added later."""
        return self._llm_tokenizer.vocab_size

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, tokens added later included."""
        return {**self._llm_tokenizer.get_vocab(), **self._added_tokens_encoder}

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:  # type: ignore[override]
        """Tokens of a text.

        Args:
            text: any string.
            kwargs: `split_special_tokens`: special tokens in the text are text.
        """
        if kwargs.get("split_special_tokens", self.split_special_tokens):
            return self._own_tokens(self._llm_tokenizer.encode(text, add_special_tokens=False))
        return super().tokenize(text, **kwargs)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Text of tokens."""
        return self._decode([self._convert_token_to_id_with_added_voc(token) for token in tokens])

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Ids with what the tokenizer's `encode` puts around each text."""
        ids = [*self._before, *token_ids_0, *self._after]
        return ids if token_ids_1 is None else [*ids, *self._before, *token_ids_1, *self._after]

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for each id that `build_inputs_with_special_tokens` adds, 0 for the others."""
        if already_has_special_tokens:
            return super().get_special_tokens_mask(token_ids_0, token_ids_1, True)
        before, after = [1] * len(self._before), [1] * len(self._after)
        mask = [*before, *([0] * len(token_ids_0)), *after]
        if token_ids_1 is not None:
            mask += [*before, *([0] * len(token_ids_1)), *after]
        return mask

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the tokenizer as its own `save` does.

        Args:
            save_directory: an existing folder.
            filename_prefix: put before the name, with a dash.
        """
        name = f"{filename_prefix}-{_SAVED_NAME}" if filename_prefix else _SAVED_NAME
        path = Path(save_directory) / name
        self._llm_tokenizer.save(path)
        return (str(path),)

    @staticmethod
    def is_saved_in(folder: str | PathLike[str]) -> bool:
        """Whether `save_pretrained` of this class wrote a folder."""
        return Path(folder, _SAVED_NAME).exists()

    @classmethod
    def convert_to_native_format(cls, **kwargs: Any) -> dict[str, Any]:
        """What `__init__` takes, from what `from_pretrained` read."""
        path = kwargs.pop("llm_tokenizer_file", None)
        # transformers finds files; the tokenizer's `save` may have made a folder.
        path = Path(path or Path(kwargs["name_or_path"], _SAVED_NAME))
        if not path.exists():
            raise OSError(f"{kwargs['name_or_path']} has no {_SAVED_NAME}: no saved BaseTokenizer")
        tokenizer_class = _find_class(kwargs.pop("llm_tokenizer_class", None))
        return {**kwargs, "tokenizer": tokenizer_class.load(path)}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        ids = self._llm_tokenizer.encode(text, add_special_tokens=False, allowed_special="all")
        return self._own_tokens(ids)

    def _own_tokens(self, ids: list[int]) -> list[str]:
        return [self._convert_id_to_token(token_id) for token_id in ids]

    def _convert_token_to_id(self, token: str) -> int | None:
        token_id = self._llm_tokenizer.token_to_id(token)
        return self._llm_tokenizer.unk_token_id if token_id is None else token_id

    def _convert_id_to_token(self, index: int) -> str:
        token = self._llm_tokenizer.id_to_token(index)
        if token is None:
            raise ValueError(f"id {index} is not in [0, {len(self)}), the vocabulary")
        return token

    def _decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> str:
        if isinstance(token_ids, dict):
            token_ids = token_ids["input_ids"]
        ids = [token_ids] if isinstance(token_ids, int) else token_ids
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        pieces: list[bytes] = []
        run: list[int] = []  # of ids that the tokenizer itself knows

        def end_run() -> None:
            pieces.append(self._llm_tokenizer.decode_bytes(run, skip_special_tokens))
            run.clear()

        for token_id in ids:
            if token_id in skipped:
                continue
            added = self._added_tokens_decoder.get(token_id)
            if added is None or self._is_own(added.content):
                run.append(token_id)
            else:
                end_run()
                pieces.append(added.content.encode())
        end_run()
        text = b"".join(pieces).decode("utf-8", "replace")
        clean_up = clean_up_tokenization_spaces
        if self.clean_up_tokenization_spaces if clean_up is None else clean_up:
            text = self.clean_up_tokenization(text)
        return text

    def _encode_plus(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("return_offsets_mapping"):
            raise NotImplementedError("a BaseTokenizer has no offsets: return_offsets_mapping")
        return super()._encode_plus(*args, **kwargs)

    def _is_own(self, token: str) -> bool:
        return self._llm_tokenizer.token_to_id(token) is not None

    def _find_template(self) -> tuple[list[int], list[int]]:
        """Ids that `encode` puts before and after a text, seen on a text of one token."""
        tokenizer = self._llm_tokenizer
        for token_id in range(tokenizer.vocab_size):
            text = tokenizer.decode([token_id], skip_special_tokens=True)
            try:
                bare = tokenizer.encode(text, add_special_tokens=False)
            except ValueError:  # text that the tokenizer cannot encode
                continue
            if text and bare == [token_id]:
                ids = tokenizer.encode(text)
                if ids.count(token_id) == 1:
                    place = ids.index(token_id)
                    return ids[:place], ids[place + 1 :]
        raise ValueError(
            f"cannot see what {type(tokenizer).__name__}.encode adds to a text: no token is the "
            "one id of its own text"
        )


def _class_name(tokenizer_class: type[BaseTokenizer]) -> str:
    return f"{tokenizer_class.__module__}:{tokenizer_class.__qualname__}"


def _find_class(wanted: Any) -> type[BaseTokenizer]:
    if isinstance(wanted, type) and issubclass(wanted, BaseTokenizer):
        return wanted
    known: list[type[BaseTokenizer]] = BaseTokenizer.__subclasses__()
    for tokenizer_class in known:  # it grows meanwhile
        known.extend(tokenizer_class.__subclasses__())
    # Of several by that name (a notebook cell run again) the newest.
    for tokenizer_class in reversed(known):
        if _class_name(tokenizer_class) == wanted:
            return tokenizer_class
    raise ValueError(
        f"the tokenizer was saved by the class {wanted!r}, which is not imported: import it "
        "first, or pass it, from_pretrained(..., llm_tokenizer_class=YourTokenizer)"
    )
