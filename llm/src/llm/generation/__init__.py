"""One generation loop for every architecture."""

from llm.generation.drafters import DraftModel, PromptLookup
from llm.generation.generate import generate, stream
from llm.generation.prepare import prepare
from llm.generation.sampling import SamplingConfig
from llm.generation.text import generate_text, stream_text

__all__ = [
    "DraftModel",
    "PromptLookup",
    "SamplingConfig",
    "generate",
    "generate_text",
    "prepare",
    "stream",
    "stream_text",
]
