"""Scripts that take a model of ours through HuggingFace's tools."""
