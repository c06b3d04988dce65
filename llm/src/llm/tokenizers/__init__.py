"""Tokenizers: text to token ids and back."""

from llm.tokenizers.base_tokenizer import BaseTokenizer
from llm.tokenizers.bpe_tokenizer import BPETokenizer

__all__ = ["BPETokenizer", "BaseTokenizer"]
