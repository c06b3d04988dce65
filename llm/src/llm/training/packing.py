"""Documents joined by `<eos>`, in another order each epoch, and cut into blocks."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from llm.core.config import check_count, check_seed
from llm.data.order import Permutation
from llm.data.token_shards import TokenShards
from llm.training.dataset import IGNORE_INDEX, Batch
from llm.training.stream import ExampleStream

# documents whose lengths are looked up together
GROUP = 1024
# groups that are remembered: 4 MB
REMEMBERED = 256

Group = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class PackedDocuments(ExampleStream):
    """Blocks of a stream of shuffled documents, each followed by `<eos>`.

    Position p is block p mod n of epoch p div n, n = len(self). Blocks overlap
    by one token, so every token but an epoch's first is a target once. An
    epoch begins with a pass over the document index (not the tokens), and
    keeps 8 bytes for every 1024 documents.

    Args:
        shards: whose index names an `eos_token_id`.
        block_size: tokens an example, ≥ 2.
        seed: decides each epoch's order of documents.
        document_mask: examples also carry `position_ids`, which restart with
            each document and block, and `document_ids`, both int64 (T,); a
            document's first token is no target. See
            `document_attention_mask`.

    Raises:
        ValueError: the tokenizer of the shards has no `<eos>`, or an argument
            is outside its range.
    """

    def __init__(
        self, shards: TokenShards, *, block_size: int, seed: int, document_mask: bool = False
    ) -> None:
        check_count("block_size", block_size, minimum=2)
        check_seed(seed)
        if shards.index.eos_token_id is None:
            raise ValueError(f"{shards.folder}: its tokenizer has no <eos> to put after documents")
        self.shards, self.block_size, self.seed = shards, block_size, seed
        self.document_mask = document_mask
        self.eos_token_id = shards.index.eos_token_id
        self.num_tokens = shards.num_tokens + shards.num_documents
        self._epoch = -1
        self._groups: dict[int, Group] = {}
        self._permutation = Permutation(1, (0,))
        self._group_starts: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)

    def __len__(self) -> int:
        """Blocks an epoch."""
        return -(-(self.num_tokens - 1) // (self.block_size - 1))

    def __getitem__(self, position: int) -> Batch:
        epoch, block = divmod(position, len(self))
        self._enter(epoch)
        start = block * (self.block_size - 1)
        stop = min(start + self.block_size, self.num_tokens)
        pieces = self._pieces(start, stop)
        input_ids = torch.from_numpy(np.concatenate(pieces).astype(np.int64))
        example = {"input_ids": input_ids, "labels": input_ids.clone()}
        if self.document_mask:
            lengths = torch.tensor([len(piece) for piece in pieces])
            positions = torch.cat([torch.arange(len(piece)) for piece in pieces])
            example["position_ids"] = positions
            example["document_ids"] = torch.repeat_interleave(torch.arange(len(pieces)), lengths)
            example["labels"][positions == 0] = IGNORE_INDEX
        return example

    def fingerprint(self) -> str:
        """SHA-256 of the shards, and of what makes blocks of them."""
        made = f"{self.shards.fingerprint()} {self.block_size} {self.seed} {self.document_mask}"
        return hashlib.sha256(made.encode()).hexdigest()

    def _enter(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        number = self.shards.num_documents
        self._permutation = Permutation(number, (self.seed, epoch))
        self._groups.clear()
        sizes = [self._group(first)[1].sum() for first in range(0, number, GROUP)]
        self._group_starts = np.cumsum([0, *sizes])
        self._epoch = epoch

    def _group(self, first: int) -> Group:
        """Documents at the places from `first` on, and their lengths with `<eos>`."""
        if first not in self._groups:
            if len(self._groups) >= REMEMBERED:
                self._groups.clear()
            places = np.arange(first, min(first + GROUP, self.shards.num_documents))
            documents = self._permutation.many(places)
            self._groups[first] = documents, self.shards.document_lengths(documents) + 1
        return self._groups[first]

    def _pieces(self, start: int, stop: int) -> list[npt.NDArray[np.int64]]:
        """Tokens `start` to `stop` of the epoch, a piece for each document."""
        pieces = []
        group = int(np.searchsorted(self._group_starts, start, side="right")) - 1
        while start < stop:
            documents, lengths = self._group(group * GROUP)
            ends = self._group_starts[group] + np.cumsum(lengths)
            number = int(np.searchsorted(ends, start, side="right"))
            while start < stop and number < len(documents):
                begins, end = int(ends[number] - lengths[number]), int(ends[number])
                until = min(stop, end)
                ids = self.shards.document(
                    int(documents[number]), start - begins, until - begins
                ).astype(np.int64)
                pieces.append(np.append(ids, self.eos_token_id) if until == end else ids)
                start, number = until, number + 1
            group += 1
        return pieces


def document_attention_mask(document_ids: Tensor) -> Tensor:
    """Causal attention that stays inside documents.

    Args:
        document_ids: int64 (B, T).

    Returns:
        Boolean (B, 1, T, T), True = may attend.
    """
    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]  # (B, 1, T, T)
    return same.tril()


def attention_inputs(batch: Batch, device: torch.device) -> dict[str, Any]:
    """What `hidden_states` needs of a batch beside `input_ids`, by its keywords.

    Nothing, unless the batch keeps its documents apart.
    """
    if "document_ids" not in batch:
        return {}
    return {
        "attention_mask": document_attention_mask(batch["document_ids"].to(device)),
        "position_ids": batch["position_ids"].to(device),
    }
