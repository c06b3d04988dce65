"""GPT and GPT-2."""

from llm.models.gpt.config import GPT2Config, GPTConfig
from llm.models.gpt.gpt import GPT
from llm.models.gpt.gpt2 import GPT2

__all__ = ["GPT", "GPT2", "GPT2Config", "GPTConfig"]
