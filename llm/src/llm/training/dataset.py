"""Blocks of token ids to train and evaluate on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from llm.core.config import check_count
from llm.tokenizers import BaseTokenizer

Batch = dict[str, Tensor]

IGNORE_INDEX = -100


class ExampleSource(Protocol):
    """What the trainer needs of a dataset: its size and examples by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Batch:
        """`input_ids` and `labels`, each int64 (T,)."""
        ...


class TextDataset(Dataset[Batch]):
    """Blocks of consecutive token ids.

    Example i begins at token i · stride and holds the next `block_size` tokens,
    or what is left of them. No token is dropped, but for a last block of a
    single token, which predicts nothing. Labels are the input ids, unshifted:
    the loss shifts them, so the first token of a block is no target.
    `stride = block_size - 1` makes every token but the very first a target
    exactly once.

    Args:
        token_ids: of the whole corpus, in order; each ≥ 0.
        block_size: tokens an example, ≥ 2.
        stride: tokens from the start of one block to that of the next, in
            [1, block_size]; None for `block_size`.

    Raises:
        ValueError: there are fewer than two tokens, or an argument is outside
            its range.
    """

    def __init__(
        self,
        token_ids: Sequence[int] | npt.NDArray[np.integer] | Tensor,
        *,
        block_size: int,
        stride: int | None = None,
    ) -> None:
        check_count("block_size", block_size, minimum=2)
        self.block_size = block_size
        self.stride = block_size if stride is None else stride
        check_count("stride", self.stride)
        if self.stride > block_size:
            raise ValueError(
                f"stride={stride} is more than block_size={block_size}: tokens would be dropped"
            )
        self.token_ids = _compact(np.asarray(token_ids))
        if len(self.token_ids) < 2:
            raise ValueError(
                f"a dataset needs at least 2 tokens, one to predict from the other; "
                f"got {len(self.token_ids)}"
            )

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        tokenizer: BaseTokenizer,
        *,
        block_size: int,
        stride: int | None = None,
        show_progress: bool = True,
    ) -> TextDataset:
        """Encode documents and join them with the tokenizer's `<eos>`.

        Raises:
            ValueError: there are several documents and the tokenizer has no
                `<eos>`, or as the constructor.
            TypeError: `texts` is a single string.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one string; give an iterable of strings, such as [text]")
        documents: list[npt.NDArray[np.integer]] = []
        for text in tqdm(texts, desc="tokenizing", unit="doc", disable=not show_progress):
            if documents:
                if tokenizer.eos_token_id is None:
                    raise ValueError(
                        "the tokenizer has no <eos> to put between documents: train it with one "
                        "of its special_tokens named '<eos>', or join the texts yourself"
                    )
                documents.append(_compact(np.array([tokenizer.eos_token_id])))
            documents.append(_compact(tokenizer.encode_numpy(text, add_special_tokens=False)))
        joined = np.concatenate(documents) if documents else np.array([], dtype=np.int64)
        return cls(joined, block_size=block_size, stride=stride)

    @property
    def num_tokens(self) -> int:
        """Tokens of the corpus."""
        return len(self.token_ids)

    def __len__(self) -> int:
        beyond_first = max(0, len(self.token_ids) - self.block_size)
        further = -(-beyond_first // self.stride)
        # where blocks do not overlap, the last may be a single token
        lonely = self.stride == self.block_size and beyond_first % self.stride == 1
        return 1 + further - lonely

    def __getitem__(self, index: int) -> Batch:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        start = index * self.stride
        block = self.token_ids[start : start + self.block_size].astype(np.int64)
        input_ids = torch.from_numpy(block)
        return {"input_ids": input_ids, "labels": input_ids.clone()}

    def fingerprint(self) -> str:
        """SHA-256 of the examples: equal for equal tokens, block size and stride."""
        digest = hashlib.sha256(f"{self.block_size} {self.stride} ".encode())
        for start in range(0, len(self.token_ids), 1 << 20):
            digest.update(self.token_ids[start : start + (1 << 20)].astype("<u4").tobytes())
        return digest.hexdigest()


def collate(examples: Sequence[Batch], *, pad_token_id: int = 0) -> Batch:
    """Stack examples, shorter ones padded on the right and not predicted there.

    No attention mask is needed: causal attention never looks right.

    Args:
        examples: `input_ids` and `labels`, each (T,), of any lengths; all or
            none also with `position_ids` and `document_ids`.
        pad_token_id: what fills `input_ids`.

    Returns:
        What the examples have, each int64 (B, longest T).
    """
    # padding is a document of its own
    fill = {
        "input_ids": pad_token_id,
        "labels": IGNORE_INDEX,
        "position_ids": 0,
        "document_ids": -1,
    }
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [example[name] for example in examples], batch_first=True, padding_value=value
        )
        for name, value in fill.items()
        if name in examples[0]
    }


def _compact(token_ids: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """The ids in two bytes each where they fit, else four."""
    if token_ids.ndim != 1 or (token_ids.size and token_ids.dtype.kind not in "iu"):
        raise ValueError(
            "token ids must be whole numbers in one dimension, not "
            f"{token_ids.dtype} of shape {token_ids.shape}"
        )
    if token_ids.size and (token_ids.min() < 0 or token_ids.max() >= 2**32):
        raise ValueError(f"token id {token_ids.min()} or {token_ids.max()} is out of range")
    small = token_ids.size == 0 or token_ids.max() < 2**16
    return token_ids.astype(np.uint16 if small else np.uint32)
