"""Adapters between llm and HuggingFace transformers."""
