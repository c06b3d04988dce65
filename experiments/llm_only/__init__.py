"""Scripts on `llm` alone."""
