"""Padding of batches whose rows are lists, arrays and tensors in any mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase


class MixedBatchPadding(PreTrainedTokenizerBase):
    """`pad` for rows of any kind; transformers takes only the kind of the first row."""

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pad encodings to one length, as in transformers.

        Args:
            encoded_inputs: one encoding, a batch of them, or a list of encodings; what they hold
                may be lists, arrays and tensors, mixed. It is left as it was.
            padding: see transformers, as for the other arguments.
            max_length: likewise.
            pad_to_multiple_of: likewise.
            padding_side: likewise.
            return_attention_mask: likewise.
            return_tensors: "pt" or "np"; by default the kind of the first row of ids.
            verbose: as in transformers.
        """
        columns = _columns(encoded_inputs)
        if columns is not None:
            if return_tensors is None:
                return_tensors = _kind(columns.get(self.model_input_names[0]))
            encoded_inputs = {
                name: column if _is_stack_of_masks(name, column) else _to_lists(column)
                for name, column in columns.items()
            }
        return super().pad(
            encoded_inputs,
            padding=padding,
            max_length=max_length,
            pad_to_multiple_of=pad_to_multiple_of,
            padding_side=padding_side,
            return_attention_mask=return_attention_mask,
            return_tensors=return_tensors,
            verbose=verbose,
        )


def _columns(encoded_inputs: Any) -> dict[str, Any] | None:
    if isinstance(encoded_inputs, Mapping):
        return dict(encoded_inputs)
    if encoded_inputs and isinstance(encoded_inputs[0], Mapping):
        return {name: [row[name] for row in encoded_inputs] for name in encoded_inputs[0]}
    return None  # transformers says what is wrong with it


def _kind(ids: Any) -> str | None:
    """Tensor type of the first row of ids that is not empty."""
    while isinstance(ids, list | tuple):
        ids = next((row for row in ids if not isinstance(row, list | tuple) or row), None)
    if isinstance(ids, torch.Tensor):
        return "pt"
    return "np" if isinstance(ids, np.ndarray) else None


def _is_stack_of_masks(name: str, column: Any) -> bool:
    """Whether transformers will stack the column: attention masks with an axis of their own."""
    return (
        name == "attention_mask"
        and isinstance(column, list)
        and getattr(column[0] if column else None, "ndim", 0) > 1
    )


def _to_lists(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic | torch.Tensor):
        return value.tolist()
    if isinstance(value, list) and not all(isinstance(item, int) for item in value):
        return [_to_lists(item) for item in value]
    return value
