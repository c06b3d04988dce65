"""One generation loop for every architecture."""

from llm.generation.generate import generate, stream
from llm.generation.sampling import SamplingConfig
from llm.generation.text import generate_text, stream_text

__all__ = ["SamplingConfig", "generate", "generate_text", "stream", "stream_text"]
